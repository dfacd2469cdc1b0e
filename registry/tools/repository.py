"""Repository of `mcp_tools`. The only module that writes it."""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated

import structlog
from bson import ObjectId
from pydantic import Field
from pymongo import DeleteMany, InsertOne, UpdateOne

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import read_all
from packages.database.errors import translated, translates_driver_errors
from packages.database.slices import slices
from packages.database.stored import Projection, id_of, text_of
from packages.models.states import ExposureState, RegistrationState, SourceType, VersionState
from packages.models.tools import RegisteredTool, ToolVersion
from registry.core.json import JsonObject
from registry.tools.differences import DefinitionChange
from registry.tools.documents import (
    call_members,
    problems_of,
    served_tool,
    stored_tool,
    tool_row,
)
from registry.tools.exposure import review_of
from registry.tools.metadata import (
    known,
    metadata_fields,
    refiled,
    said_in,
)
from registry.tools.presentation import NO_OVERRIDES, Overrides, presented
from registry.tools.reconcile import Changes, ToolInsert, ToolRowUpdate
from registry.tools.tool_events import happened
from registry.tools.values import (
    StoredTool,
    ToolDefinition,
    ToolEditor,
    ToolRow,
)
from registry.tools.versions import NewVersion, VersionMove, versions_of

log = structlog.get_logger()

SERVED_QUERY: Doc = {
    "registration_state": RegistrationState.SELECTED.value,
    "exposure_state": ExposureState.ACTIVE.value,
}
SERVED_FIELDS = {
    "_id": 0,
    "owner_id": 1,
    "name": 1,
    "title": 1,
    "display_name": 1,
    "description": 1,
    "description_override": 1,
    "definition": 1,
    "presented": 1,
    "input_schema": 1,
    "discovery_hash": 1,
}
STORED_FIELDS = {
    "name": 1,
    "registration_state": 1,
    "exposure_state": 1,
    "discovery_hash": 1,
    "pending_hash": 1,
    "pending_version": 1,
    "seen_hash": 1,
    "rejected_hashes": 1,
    "reviewed": 1,
    "served_version": 1,
    "versions": 1,
    "blocked": 1,
    "sync_error": 1,
    "facets": 1,
}
WHOLE_FIELDS = {
    "definition": 1,
    "created_at": 1,
    "display_name": 1,
    "description_override": 1,
    "tool_metadata": 1,
    "tags": 1,
}
ROW_FIELDS = (
    *("owner_id", "name", "definition", "presented", "pending_hash", "seen_hash", "facets"),
    *("source_type", "registration_state", "exposure_state"),
    *("title", "display_name", "tags", "description", "description_override", "tool_metadata"),
    "served_version",
)
SYNC_EVENTS_KEPT = 100
"""Maximum number of kept versions of a tool. They are part of its row, and of the same write."""

CURRENT = (VersionState.SERVED.value, VersionState.PENDING.value)

ROWS_AT_ONCE = 500
"""Rows that are decoded before other tasks get a turn."""

STATE_FIELDS = {"registration_state": 1, "exposure_state": 1}
IN_ORDER = [("position", 1), ("name", 1)]

CHECKED_AT_ONCE = 200


class _ToolName(Projection):
    """The name of a tool alone."""

    name: Annotated[str, Field(strict=True)]


@translates_driver_errors
class ToolRepository:
    """The canonical rows of MCP servers' tools.

    Servers are identified by their ids alone: with one more condition, the embedded database uses
    no index for a sorted list, and reads all tools.

    Args:
        versions_kept: The number of kept versions of each tool.
    """

    def __init__(self, database: Database, *, versions_kept: int) -> None:
        self._versions_kept = versions_kept
        self._tools = database.document(RegisteredTool)
        self._versions = database.document(ToolVersion)
        # For what concerns all tools of a server: a model for each of a thousand rows, and an
        # encoder over their definitions, would take longer than the database.
        self._rows = self._tools.get_pymongo_collection()
        self._version_rows = self._versions.get_pymongo_collection()
        self._source_types: dict[str, str] = {}

    async def _key(self, owner_id: str, tx: Transaction | None = None) -> Doc:
        """Return the query for the tools of a server, as the index over their names needs it.

        With several source types in the query the embedded database reads the whole index.
        """
        source_type = self._source_types.get(owner_id)
        if source_type is None:
            owned = {"owner_id": ObjectId(owner_id)}
            row = await self._rows.find_one(owned, {"source_type": 1}, session=tx)
            if row is None:
                return {"source_type": SourceType.MCP.value, **owned}
            source_type = text_of(row.get("source_type")) or SourceType.MCP.value
            self._source_types[owner_id] = source_type
        return {"source_type": source_type, "owner_id": ObjectId(owner_id)}

    async def stored(self, owner_id: str, tx: Transaction | None = None) -> dict[str, StoredTool]:
        """Return what reconciliation needs of all tools of one server, by name."""
        rows = self._rows.find(
            {"owner_id": ObjectId(owner_id)},
            STORED_FIELDS,
            session=tx,
        )
        tools = [stored_tool(row) async for row in rows]
        return {tool.name: tool for tool in tools if tool.name}

    async def with_definitions(
        self,
        owner_id: str,
        stored: Mapping[str, StoredTool],
        names: Collection[str],
        tx: Transaction | None = None,
    ) -> dict[str, StoredTool]:
        """Return *stored*, with everything that a change needs for the tools of these *names*."""
        found = dict(stored)
        key = await self._key(owner_id, tx)
        fields = {**STORED_FIELDS, **WHOLE_FIELDS}
        for some in slices(names):
            rows = self._rows.find({**key, "name": {"$in": some}}, fields, session=tx)
            async for row in rows:
                tool = stored_tool(row)
                found[tool.name] = tool
        return found

    async def served(self, owner_id: str, tx: Transaction | None = None) -> list[ToolDefinition]:
        """Return the tools of one server that clients get, in order."""
        rows = self._rows.find(
            {"owner_id": ObjectId(owner_id), **SERVED_QUERY},
            SERVED_FIELDS,
            sort=IN_ORDER,
            session=tx,
        )
        return [tool async for row in rows if (tool := served_tool(row)) is not None]

    async def rows(self, owner_ids: Sequence[str]) -> AsyncIterator[ToolRow]:
        """Yield the tools of several servers, in any state, unordered.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        # One shared text for each server, however many tools it has.
        owners = {ObjectId(owner_id): owner_id for owner_id in owner_ids}
        query = {"owner_id": {"$in": list(owners)}}
        fields = dict.fromkeys(ROW_FIELDS, 1)
        async with translated():
            async for row in self._rows.find(query, fields, batch_size=ROWS_AT_ONCE):
                key = row["owner_id"]
                # An array that contains the id is found by it too.
                owner_id = owners[key] if isinstance(key, ObjectId) else str(key)
                found = tool_row(row, owner_id) if isinstance(key, ObjectId) else None
                if found is None:
                    log.warning("tool_invalid", tool_id=str(row["_id"]), server_id=owner_id)
                else:
                    yield found

    async def get(self, owner_id: str, name: str) -> StoredTool | None:
        """Return a tool of a server: its states and its effects; None if there is none."""
        row = await self._rows.find_one(
            {**await self._key(owner_id), "name": name},
            {**STATE_FIELDS, "name": 1, "definition": 1, "facets": 1},
        )
        return None if row is None else stored_tool(row)

    async def stated(self, owner_id: str, name: str) -> JsonObject:
        """Return what people stated of a tool that its call rules are made from."""
        key = {**await self._key(owner_id), "name": name}
        row = await self._rows.find_one(key, {"tool_metadata": 1})
        return {} if row is None else dict(call_members(row.get("tool_metadata")))

    async def names_among(
        self, owner_ids: Collection[str] | None, names: Sequence[str]
    ) -> set[str]:
        """Return those of *names* that are tools of one of these servers; None for any server."""
        query: Doc = {"name": {"$in": list(names)}}
        if owner_ids is not None:
            query["owner_id"] = {"$in": [ObjectId(owner_id) for owner_id in owner_ids]}
        found: set[str] = set()
        for source_type in SourceType:
            one = {"source_type": source_type.value, **query}
            tools = await read_all(self._tools.find(one, projection_model=_ToolName))
            found.update(tool.name for tool in tools)
        return found

    async def effects_among(
        self,
        owner_ids: Collection[str] | None,
        limit: int,
        *,
        names: Collection[str] | None = None,
    ) -> dict[str, list[StoredTool]]:
        """Return names and effects of at most *limit* tools of these servers; None for all.

        Args:
            owner_ids: The servers; None for all.
            limit: How many at most, of all servers together.
            names: Only tools of these names; None for all.
        """
        query: Doc = {}
        if names is not None:
            query["name"] = {"$in": list(names)}
        if owner_ids is not None:
            query["owner_id"] = {"$in": [ObjectId(owner_id) for owner_id in owner_ids]}
        fields = {**STATE_FIELDS, "owner_id": 1, "name": 1, "facets": 1}
        found: dict[str, list[StoredTool]] = {}
        left = limit
        for source_type in SourceType:
            if not left:
                break
            one = {"source_type": source_type.value, **query}
            async for row in self._rows.find(one, fields, limit=left):
                found.setdefault(str(row["owner_id"]), []).append(stored_tool(row))
                left -= 1
        return found

    async def apply(
        self,
        owner_id: str,
        changes: Changes,
        now: datetime,
        tx: Transaction,
        *,
        reader: ToolEditor | None = None,
        seen_at: datetime | None = None,
        source_type: SourceType = SourceType.MCP,
    ) -> None:
        """Write *changes*.

        Nothing is written of unchanged tools, not even the time of this sync, which the server's
        own document has.

        Args:
            owner_id: The server's id.
            changes: What to write.
            now: The time of the change.
            tx: The transaction.
            reader: The user who started the sync; None if there is none.
            seen_at: The time of the sync before; missing tools were offered then.
            source_type: Whether the server is an MCP server or a REST API.
        """
        key: Doc = {"source_type": source_type.value, "owner_id": ObjectId(owner_id)}
        for some in slices(changes.inserts):
            await self._rows.insert_many([_row(key, one, now) for one in some], session=tx)
        for part in slices(changes.updates):
            writes = [_write(key, update, now, seen_at, reader) for update in part]
            await self._rows.bulk_write(writes, session=tx)
            versions = [version for update in part for version in versions_of(update, now)]
            await self.write_versions(owner_id, versions, now, tx, person=reader)
        for names in slices(changes.mended):
            mended = {**key, "name": {"$in": names}}
            await self._tools.find(mended).update({"$unset": {"sync_error": ""}}, session=tx)
        for broken in slices(changes.broken):
            writes = [
                UpdateOne(
                    {**key, "name": tool.name},
                    {"$set": {"last_discovered_at": now, "sync_error": tool.reason}},
                )
                for tool in broken
            ]
            await self._rows.bulk_write(writes, session=tx)

    async def change(self, changes: Mapping[str, Doc], tx: Transaction) -> None:
        """Set fields of tools, by their ids; those with the value None are removed."""
        writes = [
            UpdateOne({"_id": ObjectId(tool_id)}, set_and_unset(fields))
            for tool_id, fields in changes.items()
        ]
        for some in slices(writes):
            await self._rows.bulk_write(some, session=tx)

    async def write_versions(
        self,
        owner_id: str,
        versions: Sequence[NewVersion | VersionMove],
        now: datetime,
        tx: Transaction,
        *,
        person: ToolEditor | None,
    ) -> None:
        """Store new versions and states of others, on behalf of *person*."""
        writes: list[InsertOne[Doc] | UpdateOne] = [
            _version_row(ObjectId(owner_id), version, person)
            if isinstance(version, NewVersion)
            else _version_move(version, now, person)
            for version in versions
        ]
        if writes:
            await self._version_rows.bulk_write(writes, session=tx)
        last = {
            ObjectId(version.tool_id): version.version - self._versions_kept
            for version in versions
            if isinstance(version, NewVersion) and version.version > self._versions_kept
        }
        if last:
            await self._drop_versions(last, tx)

    async def _drop_versions(self, last: Mapping[ObjectId, int], tx: Transaction) -> None:
        """Remove unneeded versions of tools, up to the *last* of each.

        Kept are the served version, the pending one, and those that were served when these came,
        to which a rollback would return.
        """
        needed: dict[ObjectId, set[int]] = {tool_id: set() for tool_id in last}
        current = self._version_rows.find(
            {"tool_id": {"$in": list(last)}, "state": {"$in": list(CURRENT)}},
            {"_id": 0, "tool_id": 1, "version": 1, "compared_with": 1},
            session=tx,
        )
        async for row in current:
            needed[row["tool_id"]] |= {row["version"], row.get("compared_with", 0)}
        await self._version_rows.bulk_write(
            [
                DeleteMany(
                    {
                        "tool_id": tool_id,
                        "version": {"$lte": number, "$nin": sorted(needed[tool_id])},
                    }
                )
                for tool_id, number in last.items()
            ],
            session=tx,
        )

    async def delete_of(self, owner_id: str, tx: Transaction) -> int:
        """Remove all tools of one server, with their versions; return the number of documents."""
        owned = {"owner_id": ObjectId(owner_id)}
        removed = [
            await self._versions.find(owned).delete(session=tx),
            await self._tools.find(owned).delete(session=tx),
        ]
        return sum(one.deleted_count for one in removed if one is not None)

    async def owner_ids(self) -> set[str]:
        """Return the ids of all owners of tools, or of versions of tools."""
        found = [
            *await self._tools.distinct("owner_id"),
            *await self._versions.distinct("owner_id"),
        ]
        return {one for stored in found if (one := id_of(stored)) is not None}

    async def has_rows(self, owner_id: str, tx: Transaction | None = None) -> bool:
        """Whether there are tools of a server, in any state."""
        return await self._tools.find({"owner_id": ObjectId(owner_id)}, session=tx).exists()

    async def unreadable(self) -> AsyncIterator[tuple[str, list[str]]]:
        """Yield the ids of the rows with unexpected forms, and the problems.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        async with translated():
            async for row in self._rows.find({}, batch_size=CHECKED_AT_ONCE):
                problems = problems_of(row)
                if problems:
                    yield str(row["_id"]), problems


def _row(key: Doc, insert: ToolInsert, now: datetime) -> Doc:
    tool = insert.definition
    review = review_of((insert.registration_state, insert.exposure_state), has_pending=False)
    return {
        **key,
        "name": tool.name,
        "external_id": tool.external_id or tool.name,
        **definition_fields(tool, NO_OVERRIDES, review),
        "tool_metadata": {},
        "registration_state": insert.registration_state.value,
        "exposure_state": insert.exposure_state.value,
        **({} if review is None else {"review": review}),
        "served_version": 1,
        "versions": 1,
        "position": insert.position,
        "last_discovered_at": now,
        "last_synced_at": now,
        "created_at": now,
        "updated_at": now,
    }


def definition_fields(
    tool: ToolDefinition, overrides: Overrides, review: str | None, offered: str | None = None
) -> Doc:
    """Return the fields that follow from the served definition and the overrides.

    Args:
        tool: The served definition.
        overrides: The changes by people.
        review: The reason for being in the review queue, if it is.
        offered: JSON text of the definition that the upstream offers, if it is another.
    """
    fields: Doc = {
        "definition": tool.definition,
        "input_schema": tool.input_schema,
        "discovery_hash": tool.discovery_hash,
        "title": tool.title,
        "description": tool.description,
        "output_schema": tool.output_schema,
        "annotations": None if tool.annotations is None else json.dumps(tool.annotations),
        **effect_fields(tool.name, tool.definition, overrides, review, offered),
    }
    return {key: value for key, value in fields.items() if value is not None}


def effect_fields(
    name: str, definition: str, overrides: Overrides, review: str | None, offered: str | None
) -> Doc:
    """Return the presented definition and the metadata; None means to remove the field."""
    newest = None if offered is None else said_in(offered)
    counts = known(name, said_in(definition), overrides.metadata, newest)
    return {
        "presented": presented(definition, overrides, offered),
        **metadata_fields(counts, overrides.tags, review),
    }


OPTIONAL_DEFINITION_FIELDS = ("presented", "title", "description", "output_schema", "annotations")


def _write(
    owner: Doc,
    update: ToolRowUpdate,
    now: datetime,
    seen_at: datetime | None,
    reader: ToolEditor | None,
) -> UpdateOne:
    tool, number = update.tool, _number(update)
    review = _review(update)
    fields: Doc = {
        "registration_state": update.registration_state.value,
        "exposure_state": update.exposure_state.value,
        "versions": max(number, tool.versions),
        "updated_at": now,
        "review": review,
        "blocked": update.blocked or None,
    }
    offered_at = seen_at if update.registration_state is RegistrationState.STALE else now
    if offered_at is not None:
        fields |= {"last_discovered_at": offered_at, "last_synced_at": offered_at}
    if tool.facets is not None:
        fields["facets"] = refiled(tool.facets, review)
    if _is_back(update):
        fields["reviewed"] = None
    fields |= _served_fields(update, review, number)
    if not update.keeps_pending:
        fields |= _offered_fields(update, number)
    key = {**owner, "name": update.name}
    operations = set_and_unset(fields)
    event = _event_row(update, number, now, reader)
    if event is not None:
        operations["$push"] = {"sync_events": {"$each": [event], "$slice": -SYNC_EVENTS_KEPT}}
    return UpdateOne(key, operations)


def set_and_unset(fields: Mapping[str, object]) -> Doc:
    """Return the update that sets *fields*, and removes those that are None."""
    operations: Doc = {
        "$set": {name: value for name, value in fields.items() if value is not None}
    }
    gone = [name for name, value in fields.items() if value is None]
    if gone:
        operations["$unset"] = dict.fromkeys(gone, "")
    return operations


def _is_back(update: ToolRowUpdate) -> bool:
    """Whether a tool is offered again, with another definition, which must be reviewed."""
    was_stale = update.tool.registration_state is RegistrationState.STALE
    return was_stale and update.offered is not None


def _review(update: ToolRowUpdate) -> str | None:
    tool, keeps = update.tool, update.keeps_pending
    return review_of(
        (update.registration_state, update.exposure_state),
        has_pending=update.hold is not None or (keeps and tool.has_pending),
        is_reviewed=tool.is_reviewed and not _is_back(update),
        has_drifted=update.drift is not None or (keeps and tool.has_drifted),
    )


def _served_fields(update: ToolRowUpdate, review: str | None, number: int) -> Doc:
    """Return the changes of the served definition, and of the fields that follow from it."""
    tool, serve = update.tool, update.serve
    if serve is not None:
        fields = dict.fromkeys(OPTIONAL_DEFINITION_FIELDS) | definition_fields(
            serve, tool.overrides, review
        )
        if serve.discovery_hash in tool.rejected_hashes:
            kept = [one for one in tool.rejected_hashes if one != serve.discovery_hash]
            fields["rejected_hashes"] = kept or None
        return {**fields, "served_version": number}
    if update.keeps_pending or tool.definition is None:
        return {}
    offered = None if update.offered is None else update.offered.definition
    return effect_fields(tool.name, tool.definition, tool.overrides, review, offered)


def _offered_fields(update: ToolRowUpdate, number: int) -> Doc:
    """Return the stored fields of an offered definition that is not served; None for nothing."""
    hold, drift = update.hold, update.drift
    return {
        "pending_definition": None if hold is None else hold.definition,
        "pending_hash": None if hold is None else hold.discovery_hash,
        "pending_version": None if hold is None else number,
        "seen_definition": None if drift is None else drift.definition,
        "seen_hash": None if drift is None else drift.discovery_hash,
    }


def _event_row(
    update: ToolRowUpdate, number: int, now: datetime, reader: ToolEditor | None
) -> Doc | None:
    """Return the history entry of an update; None if there is none."""
    what = [happening.value for happening in happened(update)]
    if not what:
        return None
    event: Doc = {"_id": ObjectId(), "at": now, "types": what}
    if reader is not None:
        event["by"] = reader._asdict()
    if update.serve is not None or update.hold is not None:
        event["version"] = number
    return event


def _number(update: ToolRowUpdate) -> int:
    """Return the number of the definition that is served or pending after the update."""
    tool, offered = update.tool, update.serve or update.hold
    if offered is None:
        return tool.versions
    if offered.discovery_hash == tool.pending_hash and tool.pending_version is not None:
        return tool.pending_version
    return tool.versions + 1


def _version_row(
    owner: ObjectId, version: NewVersion, person: ToolEditor | None
) -> InsertOne[Doc]:
    difference = version.difference
    fields: Doc = {
        "tool_id": ObjectId(version.tool_id),
        "owner_id": owner,
        "name": version.name,
        "version": version.version,
        "definition": version.definition,
        "discovery_hash": version.discovery_hash,
        "state": version.state.value,
        "origin": version.origin.value,
        "weight": None if difference is None else difference.weight.name.lower(),
        "compatibility": None if difference is None else difference.compatibility.value,
        "changes": []
        if difference is None
        else [_change_row(change) for change in difference.changes],
        "compared_with": version.compared_with,
        "created_at": version.created_at,
        # For the first version, the user who started the sync is not known any more.
        "created_by": None if difference is None or person is None else person._asdict(),
    }
    return InsertOne({key: value for key, value in fields.items() if value is not None})


def _change_row(change: DefinitionChange) -> Doc:
    row: Doc = {
        "weight": change.weight.name.lower(),
        "compatibility": change.compatibility.value,
        "path": change.path,
        "summary": change.summary,
        "before": change.before,
        "after": change.after,
    }
    return {key: value for key, value in row.items() if value is not None}


def _version_move(move: VersionMove, now: datetime, person: ToolEditor | None) -> UpdateOne:
    changes: Doc = {"state": move.state.value}
    if move.is_decision:
        changes["decided_at"] = now
        if person is not None:
            changes["decided_by"] = person._asdict()
    return UpdateOne(
        {"tool_id": ObjectId(move.tool_id), "version": move.version}, {"$set": changes}
    )
