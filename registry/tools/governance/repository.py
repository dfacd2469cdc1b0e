"""Repository of tools and their versions for people, and the writes of their decisions."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated

from beanie import SortDirection
from bson import ObjectId
from pydantic import AliasPath, Field, PlainValidator

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import read_all, read_one
from packages.database.errors import translated, translates_driver_errors
from packages.database.stored import (
    DocumentId,
    Projection,
    StoredId,
    StoredText,
    StoredTime,
    WholeOrZero,
    moment_of,
    text_of,
    texts_of,
    whole_of,
)
from packages.models import MCPServer
from packages.models.apis import RawApi
from packages.models.states import RegistrationState
from packages.models.syncing import SyncState
from packages.models.tools import RegisteredTool, ToolVersion
from registry.core.json import JsonObject, members
from registry.core.paging import Page, PageRequest
from registry.tools.call_rules import SERVER_MEMBERS
from registry.tools.documents import stored_tool
from registry.tools.exposure import review_of
from registry.tools.governance.decisions import ToolDecisionEffects
from registry.tools.governance.values import ToolVersionRecord, person_of
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
SHARED_SCOPES = frozenset({"shared_app", "shared_user"})
"""Stored scopes of servers that others than their author use."""


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


class ToolServer(Projection):
    """What each tool's record includes about its server."""

    id: Annotated[DocumentId, Field(alias="_id")]
    name: Annotated[
        str, PlainValidator(lambda stored: str(stored or "")), Field(alias="serverName")
    ] = ""
    path: StoredText = None
    scope: StoredText = None
    call_rules: Annotated[
        JsonObject,
        PlainValidator(members),
        Field(default_factory=dict, validation_alias=AliasPath("registry", "call_rules")),
    ]

    @property
    def slug(self) -> str | None:
        """Return the last part of its gateway path."""
        return slug_of(self.path or default_path(self.name))


class _SyncTime(Projection):
    """When a server was last read."""

    id: Annotated[DocumentId, Field(alias="_id")]
    last_synced_at: StoredTime = None


class _ToolOwner(Projection):
    """A tool's server."""

    id: Annotated[DocumentId, Field(alias="_id")]
    owner_id: StoredId = None


class _SyncEvents(Projection):
    """What syncs changed of a tool."""

    events: Annotated[
        tuple[ToolEvent, ...],
        PlainValidator(lambda stored: tuple(_sync_events(stored))),
        Field(alias="sync_events"),
    ] = ()


@translates_driver_errors
class GovernedTools:
    """Tools as people see them and decide about them."""

    def __init__(self, database: Database) -> None:
        self._tools = database.document(RegisteredTool)
        # For whole rows: see registry.tools.documents.
        self._rows = self._tools.get_pymongo_collection()
        self._versions = database.document(ToolVersion)
        self._states = database.document(SyncState)
        self._owners = database.document(MCPServer)
        self._apis = database.document(RawApi)

    async def some(self, tool_ids: Sequence[str]) -> list[StoredTool]:
        """Return the existing ones of some tools, in that order. No access check."""
        wanted = {"_id": {"$in": [ObjectId(tool_id) for tool_id in tool_ids]}}
        rows = await self._rows.find(wanted, WITHOUT_EVENTS).to_list()
        tools = await self._with_servers([stored_tool(row) for row in rows])
        found = {tool.id: tool for tool in tools}
        return [found[tool_id] for tool_id in tool_ids if tool_id in found]

    async def get(self, tool_id: str, tx: Transaction | None = None) -> StoredTool | None:
        """Return one tool. No access check."""
        row = await self._rows.find_one({"_id": ObjectId(tool_id)}, WITHOUT_EVENTS, session=tx)
        tool = stored_tool(row or {})
        return (await self._with_servers([tool], tx))[0] if tool.owner_id else None

    async def several(self, tool_ids: Iterable[str], tx: Transaction) -> dict[str, StoredTool]:
        """Return the existing ones of some tools of one server, by id, without the server."""
        ids = [ObjectId(tool_id) for tool_id in tool_ids]
        rows = self._rows.find({"_id": {"$in": ids}}, WITHOUT_EVENTS, session=tx)
        return {str(row["_id"]): stored_tool(row) async for row in rows}

    async def _with_servers(
        self, tools: Sequence[StoredTool], tx: Transaction | None = None
    ) -> list[StoredTool]:
        """Return tools with what their servers add, as far as they exist."""
        owner_ids = {ObjectId(tool.owner_id) for tool in tools if tool.owner_id}
        wanted = {"_id": {"$in": list(owner_ids)}}
        states = self._states.find(wanted, projection_model=_SyncTime, session=tx)
        read_at = {state.id: state.last_synced_at for state in await read_all(states)}
        found = [
            *await read_all(self._owners.find(wanted, projection_model=ToolServer, session=tx)),
            *await read_all(self._apis.find(wanted, projection_model=ToolServer, session=tx)),
        ]
        servers = {server.id: server for server in found}
        return [
            with_server(tool, servers[tool.owner_id], read_at.get(tool.owner_id))
            if tool.owner_id in servers
            else tool
            for tool in tools
        ]

    async def every(self) -> AsyncIterator[StoredTool]:
        """Yield all tools, unordered.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        async with translated():
            async for row in self._rows.find({}, WITHOUT_EVENTS, batch_size=ROWS_AT_ONCE):
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
        found = self._tools.find({"_id": {"$in": ids}}, projection_model=_ToolOwner)
        return {tool.id: tool.owner_id for tool in await read_all(found) if tool.owner_id}

    async def sync_events(self, tool_id: str) -> list[ToolEvent]:
        """Return what syncs changed of one tool, unordered."""
        query = self._tools.find({"_id": ObjectId(tool_id)}, projection_model=_SyncEvents)
        found = await read_one(query)
        return [] if found is None else list(found.events)

    async def versions(self, tool_id: str, page: PageRequest) -> Page[ToolVersionRecord]:
        """Return one page of the stored versions of one tool, newest first."""
        query = {"tool_id": ObjectId(tool_id)}
        total = await self._versions.find(query).count()
        found = self._versions.find(
            query,
            sort=[("version", SortDirection.DESCENDING)],
            skip=page.offset,
            limit=page.per_page,
            projection_model=ToolVersionRecord,
        )
        return Page(tuple(await read_all(found)), total, page)

    async def version(
        self, tool_id: str, version: int, tx: Transaction
    ) -> ToolVersionRecord | None:
        """Return one version."""
        query = {"tool_id": ObjectId(tool_id), "version": version}
        found = self._versions.find(query, projection_model=ToolVersionRecord, session=tx)
        return await read_one(found)


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


def with_server(tool: StoredTool, server: ToolServer, read_at: datetime | None) -> StoredTool:
    """Return a tool with what its server adds, which was last read at *read_at*."""
    is_stale = tool.registration_state is RegistrationState.STALE
    is_broken = is_stale or tool.sync_error is not None
    return replace(
        tool,
        owner_name=server.name,
        owner_slug=server.slug,
        owner_call_rules={
            name: server.call_rules[name] for name in SERVER_MEMBERS if name in server.call_rules
        },
        is_owner_shared=server.scope in SHARED_SCOPES,
        last_discovered_at=_latest(tool.last_discovered_at, None if is_stale else read_at),
        last_synced_at=_latest(tool.last_synced_at, None if is_broken else read_at),
    )


def _latest(stored: datetime | None, read_at: datetime | None) -> datetime | None:
    """Return a time of a row, or that of its server's last sync, whichever is later."""
    if read_at is None or stored is None:
        return stored or read_at
    return max(stored, read_at)


def _sync_events(stored: object) -> Iterator[ToolEvent]:
    for event in map(members, stored if isinstance(stored, list) else ()):
        at, what = moment_of(event.get("at")), texts_of(event.get("types"))
        if at is not None and what:
            by, version = person_of(event.get("by")), whole_of(event.get("version"))
            yield ToolEvent(str(event.get("_id")), at, what, Actor.SYNC.value, by, version)
