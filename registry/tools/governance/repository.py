"""Repository of tools and their versions for people, and the writes of their decisions."""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any

from bson import ObjectId
from pydantic import AliasPath, Field, PlainValidator
from pymongo import DESCENDING

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import read_all
from packages.database.errors import translated, translates_driver_errors
from packages.database.stored import (
    DocumentId,
    NotJsonError,
    Projection,
    StoredText,
    StoredTime,
    WholeOrZero,
    id_of,
    json_of,
    moment_of,
    text_of,
    texts_of,
    whole_of,
)
from packages.models import MCPServer
from packages.models.states import RegistrationState
from packages.models.syncing import SyncState
from packages.models.tools import RegisteredTool, ToolVersion
from registry.core.json import JsonObject, members
from registry.core.paging import Page, PageRequest
from registry.tools.documents import fields_of, stored_tool
from registry.tools.exposure import review_of
from registry.tools.governance.decisions import ToolDecisionEffects
from registry.tools.governance.values import ToolVersionRecord
from registry.tools.lifecycle import Actor
from registry.tools.metadata import refiled
from registry.tools.naming import default_path, slug_of
from registry.tools.repository import (
    OPTIONAL_DEFINITION_FIELDS,
    definition_fields,
    effect_fields,
)
from registry.tools.tool_events import ToolEvent
from registry.tools.values import StoredTool

WITHOUT_EVENTS = {"sync_events": 0}
ROWS_AT_ONCE = 200


def _names(stored: object) -> tuple[str, ...]:
    listed = stored.split(",") if isinstance(stored, str) else []
    return tuple(name.strip() for name in listed if name.strip())


class ProjectedTools(Projection):
    """What the other application reads of a server's tools.

    Attributes:
        tools: Their names.
    """

    id: Annotated[DocumentId, Field(alias="_id")]
    name: Annotated[
        str, PlainValidator(lambda stored: text_of(stored) or ""), Field(alias="serverName")
    ] = ""
    tools: Annotated[
        tuple[str, ...],
        PlainValidator(_names),
        Field(validation_alias=AliasPath("config", "tools")),
    ] = ()
    num_tools: Annotated[WholeOrZero, Field(alias="numTools")] = 0


@dataclass(frozen=True, slots=True)
class ToolServer:
    """What each tool's record includes about its server.

    Attributes:
        slug: The last part of its gateway path.
        read_at: Time of its last sync.
    """

    name: str | None
    slug: str | None
    read_at: datetime | None


@translates_driver_errors
class GovernedTools:
    """Tools as people see them and decide about them."""

    def __init__(self, database: Database) -> None:
        # Whole rows, and each field as far as it can be read: see registry.tools.documents.
        self._tools = database.document(RegisteredTool).get_pymongo_collection()
        self._versions = database.document(ToolVersion).get_pymongo_collection()
        self._states = database.document(SyncState)
        self._owners = database.document(MCPServer)

    async def some(self, tool_ids: Sequence[str]) -> list[StoredTool]:
        """Return the existing ones of some tools, in that order. No access check."""
        wanted = {"_id": {"$in": [ObjectId(tool_id) for tool_id in tool_ids]}}
        rows = await self._tools.find(wanted, WITHOUT_EVENTS).to_list()
        found = {str(row["_id"]): row for row in rows}
        owners = await self._known({id_of(row.get("owner_id")) or "" for row in rows})
        return [
            with_server(stored_tool(row), owners.get(id_of(row.get("owner_id")) or ""))
            for tool_id in tool_ids
            if (row := found.get(tool_id)) is not None
        ]

    async def get(self, tool_id: str, tx: Transaction | None = None) -> StoredTool | None:
        """Return one tool. No access check."""
        row = await self._tools.find_one({"_id": ObjectId(tool_id)}, WITHOUT_EVENTS, session=tx)
        owner_id = id_of((row or {}).get("owner_id"))
        if row is None or owner_id is None:
            return None
        return with_server(stored_tool(row), (await self._known({owner_id}, tx)).get(owner_id))

    async def several(self, tool_ids: Iterable[str], tx: Transaction) -> dict[str, StoredTool]:
        """Return the existing ones of some tools of one server, by id, without the server."""
        ids = [ObjectId(tool_id) for tool_id in tool_ids]
        rows = self._tools.find({"_id": {"$in": ids}}, WITHOUT_EVENTS, session=tx)
        return {str(row["_id"]): stored_tool(row) async for row in rows}

    async def _known(
        self, owner_ids: Collection[str], tx: Transaction | None = None
    ) -> dict[str, ToolServer]:
        """Return the existing ones of these servers, as included in their tools."""
        wanted = {"_id": {"$in": [ObjectId(one) for one in owner_ids if one]}}
        states = self._states.find(wanted, projection_model=_SyncTime, session=tx)
        read_at = {state.id: state.last_synced_at for state in await read_all(states)}
        servers = self._owners.find(wanted, projection_model=_ServerPath, session=tx)
        return {
            server.id: ToolServer(server.name, server.slug, read_at.get(server.id))
            for server in await read_all(servers)
        }

    async def every(self) -> AsyncIterator[StoredTool]:
        """Yield all tools, unordered.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        async with translated():
            async for row in self._tools.find({}, WITHOUT_EVENTS, batch_size=ROWS_AT_ONCE):
                yield stored_tool(row)

    async def owners(self) -> AsyncIterator[ProjectedTools]:
        """Yield what the other application reads of each server's tools.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        async with translated():
            servers = self._owners.find(
                {}, projection_model=ProjectedTools, batch_size=ROWS_AT_ONCE
            )
            async for server in servers:
                yield server

    async def owners_of(self, tool_ids: Iterable[str]) -> dict[str, str]:
        """Return the server ids of the existing ones of the tools."""
        ids = [ObjectId(tool_id) for tool_id in tool_ids]
        rows = self._tools.find({"_id": {"$in": ids}}, {"owner_id": 1})
        return {
            str(row["_id"]): owner_id
            async for row in rows
            if (owner_id := id_of(row.get("owner_id"))) is not None
        }

    async def sync_events(self, tool_id: str) -> list[ToolEvent]:
        """Return what syncs changed of one tool, unordered."""
        row = await self._tools.find_one({"_id": ObjectId(tool_id)}, {"sync_events": 1})
        stored = (row or {}).get("sync_events")
        events = stored if isinstance(stored, list) else []
        return [event for one in events if (event := _sync_event(one)) is not None]

    async def versions(self, tool_id: str, page: PageRequest) -> Page[ToolVersionRecord]:
        """Return one page of the stored versions of one tool, newest first."""
        query = {"tool_id": ObjectId(tool_id)}
        total = await self._versions.count_documents(query)
        rows = self._versions.find(
            query, sort=[("version", DESCENDING)], skip=page.offset, limit=-page.per_page
        )
        return Page(tuple(_version(row) for row in await rows.to_list()), total, page)

    async def version(
        self, tool_id: str, version: int, tx: Transaction
    ) -> ToolVersionRecord | None:
        """Return one version."""
        row = await self._versions.find_one(
            {"tool_id": ObjectId(tool_id), "version": version}, session=tx
        )
        return None if row is None else _version(row)


class _SyncTime(Projection):
    """When a server was last read."""

    id: Annotated[DocumentId, Field(alias="_id")]
    last_synced_at: StoredTime = None


class _ServerPath(Projection):
    """A server's name and gateway path."""

    id: Annotated[DocumentId, Field(alias="_id")]
    name: Annotated[
        str, PlainValidator(lambda stored: str(stored or "")), Field(alias="serverName")
    ] = ""
    path: StoredText = None

    @property
    def slug(self) -> str | None:
        return slug_of(self.path or default_path(self.name))


def decided_change(tool: StoredTool, decision: ToolDecisionEffects, now: datetime) -> Doc:
    """Return the fields of a tool's row that a decision sets; None means to remove one."""
    registration, exposure = decision.state
    fields: Doc = {
        "registration_state": registration.value,
        "exposure_state": exposure.value,
        "updated_at": now,
    }
    is_reviewed = tool.is_reviewed if decision.reviewed is None else decision.reviewed
    pending, seen = _offered_later(tool, decision)
    review = review_of(
        decision.state,
        has_pending=pending is not None,
        is_reviewed=is_reviewed,
        has_drifted=seen is not None,
    )
    fields |= {"review": review, "reviewed": is_reviewed or None}
    if tool.facets is not None:
        fields["facets"] = refiled(tool.facets, review)
    fields |= _served_fields(tool, decision, review, pending or seen)
    if decision.overrides is not None:
        overrides = decision.overrides
        fields |= {
            "display_name": overrides.display_name,
            "description_override": overrides.description,
            "tool_metadata": dict(overrides.metadata),
            "tags": list(overrides.tags) or None,
        }
    if decision.ends_pending:
        fields |= dict.fromkeys(("pending_definition", "pending_hash", "pending_version"))
    if decision.serve is not None or decision.ends_pending:
        seen_hash, seen_definition = decision.seen or (None, None)
        fields |= {"seen_hash": seen_hash, "seen_definition": seen_definition}
    if decision.rejected_hashes is not None:
        fields["rejected_hashes"] = list(decision.rejected_hashes) or None
    if decision.ends_block:
        fields["blocked"] = None
    return fields


def _offered_later(
    tool: StoredTool, decision: ToolDecisionEffects
) -> tuple[str | None, str | None]:
    """Return the pending and the rejected definitions after a decision."""
    pending = None if decision.ends_pending else tool.pending_definition
    if decision.serve is None and not decision.ends_pending:
        return pending, tool.seen_definition
    return pending, None if decision.seen is None else decision.seen[1]


def _served_fields(
    tool: StoredTool, decision: ToolDecisionEffects, review: str | None, offered: str | None
) -> Doc:
    """Return the changes of the served definition, and of the fields that follow from it."""
    overrides = decision.overrides or tool.overrides
    if decision.serve is not None:
        return {
            **dict.fromkeys(OPTIONAL_DEFINITION_FIELDS),
            **definition_fields(decision.serve, overrides, review, offered),
            "served_version": decision.served_version,
        }
    if decision.overrides is None and not decision.ends_pending:
        return {}
    return effect_fields(tool.name, tool.definition or "{}", overrides, review, offered)


def with_server(tool: StoredTool, server: ToolServer | None) -> StoredTool:
    """Return a tool with what its server adds; of no server, the tool alone."""
    if server is None:
        return tool
    is_stale = tool.registration_state is RegistrationState.STALE
    is_broken = is_stale or tool.sync_error is not None
    return replace(
        tool,
        owner_name=server.name,
        owner_slug=server.slug,
        last_discovered_at=_latest(tool.last_discovered_at, None if is_stale else server.read_at),
        last_synced_at=_latest(tool.last_synced_at, None if is_broken else server.read_at),
    )


def _latest(stored: datetime | None, read_at: datetime | None) -> datetime | None:
    """Return a time of a row, or that of its server's last sync, whichever is later."""
    if read_at is None or stored is None:
        return stored or read_at
    return max(stored, read_at)


def _sync_event(stored: object) -> ToolEvent | None:
    event = members(stored)
    at, what = moment_of(event.get("at")), texts_of(event.get("types"))
    if at is None or not what:
        return None
    by, version = _person(event.get("by")), whole_of(event.get("version"))
    return ToolEvent(str(event.get("_id")), at, what, Actor.SYNC.value, by, version)


def _person(stored: object) -> dict[str, str] | None:
    named = {name: one for name, one in members(stored).items() if isinstance(one, str)}
    return named or None


def _version(row: dict[str, Any]) -> ToolVersionRecord:
    fields, _ = fields_of(row)
    return ToolVersionRecord(
        version=fields.get("version", 0),
        state=fields.get("state", ""),
        origin=fields.get("origin", ""),
        discovery_hash=fields.get("discovery_hash", ""),
        definition=fields.get("definition", "{}"),
        weight=fields.get("weight"),
        changes=tuple(_changes(row.get("changes"))),
        compared_with=fields.get("compared_with"),
        created_at=fields.get("created_at") or row["_id"].generation_time,
        created_by=_person(fields.get("created_by")),
        decided_at=fields.get("decided_at"),
        decided_by=_person(fields.get("decided_by")),
    )


def _changes(stored: object) -> Iterator[JsonObject]:
    for change in stored if isinstance(stored, list) else ():
        with suppress(NotJsonError):
            yield members(json_of(change))
