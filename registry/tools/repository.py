"""Reads and writes `mcp_tools`. The only module that writes it."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne

from packages.database.changes import row_id
from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translated, translates_driver_errors
from packages.models.tools import RegisteredTool
from registry.tools.reconcile import Changes, ToolInsert, ToolUpdate
from registry.tools.values import (
    ExposureState,
    RegistrationState,
    ServedTool,
    StoredTool,
    ToolDefinition,
    ToolRow,
)

SERVED_QUERY: Doc = {
    "registration_state": RegistrationState.SELECTED.value,
    "exposure_state": ExposureState.ACTIVE.value,
}
SERVED_FIELDS = {
    "_id": 0,
    "owner_id": 1,
    "name": 1,
    "title": 1,
    "description": 1,
    "definition": 1,
    "input_schema": 1,
}
ROWS_AT_ONCE = 500
"""Decoding them keeps everything else waiting."""

IN_ORDER = [("position", 1), ("name", 1)]


@translates_driver_errors
class ToolRepository:
    """The canonical rows of MCP servers' tools."""

    def __init__(self, database: Database) -> None:
        self._tools = database.collection(RegisteredTool.Settings.name)

    async def stored(self, owner_id: str, tx: Transaction | None = None) -> dict[str, StoredTool]:
        """Return what reconciling needs of all tools of one server, by name."""
        rows = self._tools.find(
            {"source_type": "mcp", "owner_id": ObjectId(owner_id)},
            {
                "name": 1,
                "registration_state": 1,
                "exposure_state": 1,
                "discovery_hash": 1,
                "pending_hash": 1,
            },
            session=tx,
        )
        return {row["name"]: _stored(row) async for row in rows}

    async def served(self, owner_id: str, tx: Transaction | None = None) -> list[ServedTool]:
        """Return the tools of one server that clients get, in order."""
        rows = self._tools.find(
            {"source_type": "mcp", "owner_id": ObjectId(owner_id), **SERVED_QUERY},
            SERVED_FIELDS,
            sort=IN_ORDER,
            session=tx,
        )
        return [_served(row) async for row in rows]

    async def rows(self, owner_ids: Sequence[str]) -> AsyncIterator[ToolRow]:
        """Yield the tools that clients get, of several servers, in no order.

        Raises:
            DatabaseUnavailable: It is away.
        """
        # One text for each owner, however many tools it has.
        owners = {ObjectId(owner_id): owner_id for owner_id in owner_ids}
        query = {"owner_id": {"$in": list(owners)}, **SERVED_QUERY}
        fields = {"owner_id": 1, "name": 1, "definition": 1}
        async with translated():
            async for row in self._tools.find(query, fields, batch_size=ROWS_AT_ONCE):
                owner_id = owners[row["owner_id"]]
                yield ToolRow(row_id(row["_id"]), owner_id, row["name"], row["definition"])

    async def apply(self, owner_id: str, changes: Changes, now: datetime, tx: Transaction) -> None:
        """Write *changes*. An upstream that did not change costs one write of timestamps."""
        owner = ObjectId(owner_id)
        if changes.inserts:
            rows = [_row(owner, insert, now) for insert in changes.inserts]
            await self._tools.insert_many(rows, session=tx)
        if changes.updates:
            writes = [_write(owner, update, now) for update in changes.updates]
            await self._tools.bulk_write(writes, session=tx)
        if changes.seen:
            await self._tools.update_many(
                {"source_type": "mcp", "owner_id": owner, "name": {"$in": list(changes.seen)}},
                {
                    "$set": {"last_discovered_at": now, "last_synced_at": now},
                    "$unset": {"sync_error": ""},
                },
                session=tx,
            )

    async def delete_of(self, owner_id: str, tx: Transaction) -> None:
        """Remove all tools of one server."""
        await self._tools.delete_many(
            {"source_type": "mcp", "owner_id": ObjectId(owner_id)}, session=tx
        )

    async def count_served(self) -> int:
        """Return how many tools are selected and active, of all owners."""
        return await self._tools.count_documents(SERVED_QUERY)


def _stored(row: dict[str, Any]) -> StoredTool:
    return StoredTool(
        name=row["name"],
        registration_state=RegistrationState(row["registration_state"]),
        exposure_state=ExposureState(row["exposure_state"]),
        discovery_hash=row["discovery_hash"],
        pending_hash=row.get("pending_hash"),
    )


def _served(row: dict[str, Any]) -> ServedTool:
    return ServedTool(
        name=row["name"],
        title=row.get("title"),
        description=row.get("description"),
        definition=row["definition"],
        input_schema=row["input_schema"],
    )


def _row(owner: ObjectId, insert: ToolInsert, now: datetime) -> Doc:
    tool = insert.definition
    return {
        "source_type": "mcp",
        "owner_id": owner,
        "name": tool.name,
        "external_id": tool.name,
        **_definition_fields(tool),
        "tool_metadata": {},
        "registration_state": insert.registration_state.value,
        "exposure_state": insert.exposure_state.value,
        "served_version": 1,
        "position": insert.position,
        "last_discovered_at": now,
        "last_synced_at": now,
        "created_at": now,
        "updated_at": now,
    }


def _definition_fields(tool: ToolDefinition) -> Doc:
    fields: Doc = {
        "definition": tool.definition,
        "input_schema": tool.input_schema,
        "discovery_hash": tool.discovery_hash,
        "title": tool.title,
        "description": tool.description,
        "output_schema": tool.output_schema,
        "annotations": None if tool.annotations is None else json.dumps(tool.annotations),
    }
    return {key: value for key, value in fields.items() if value is not None}


OPTIONAL_DEFINITION_FIELDS = ("title", "description", "output_schema", "annotations")


def _write(owner: ObjectId, update: ToolUpdate, now: datetime) -> UpdateOne:
    changes: Doc = {
        "registration_state": update.registration_state.value,
        "exposure_state": update.exposure_state.value,
        "updated_at": now,
    }
    operations: Doc = {"$set": changes}
    gone: list[str] = []
    if update.serve is not None:
        served = _definition_fields(update.serve)
        changes.update(served)
        gone += [name for name in OPTIONAL_DEFINITION_FIELDS if name not in served]
        operations["$inc"] = {"served_version": 1}
    if update.hold is not None:
        changes["pending_definition"] = update.hold.definition
        changes["pending_hash"] = update.hold.discovery_hash
    else:
        gone += ["pending_definition", "pending_hash"]
    if gone:
        operations["$unset"] = dict.fromkeys(gone, "")
    key = {"source_type": "mcp", "owner_id": owner, "name": update.name}
    return UpdateOne(key, operations)
