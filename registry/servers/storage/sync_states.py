"""Repository of `sync_states`. The only module that writes it.

All other modules see these members in a server's `registry`, like those of its document.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated

from bson import ObjectId
from pydantic import Field
from pymongo.results import UpdateResult

from packages.database.batch import WriteBatch
from packages.database.client import Database, Doc, Transaction
from packages.database.documents import read_all
from packages.database.errors import translates_driver_errors
from packages.database.stored import (
    NotJsonError,
    Projection,
    RequiredId,
    StoredText,
    json_of,
    moment_of,
)
from packages.models.states import SourceType
from packages.models.syncing import SyncState
from registry.servers.values import OURS, SYNC_FIELDS, ServerRecord

FIELDS = frozenset(name.removeprefix(OURS) for name in SYNC_FIELDS)


@translates_driver_errors
class SyncStateRepository:
    """When servers were read, and when they are due."""

    def __init__(self, database: Database) -> None:
        self._states = database.document(SyncState)
        self._name = self._states.get_collection_name()

    async def joined(
        self, servers: Iterable[ServerRecord], tx: Transaction | None = None
    ) -> list[ServerRecord]:
        """Return *servers* with their sync states."""
        servers = list(servers)
        if not servers:
            return servers
        keys = [ObjectId(server.id) for server in servers]
        query: Doc = {"_id": keys[0] if len(keys) == 1 else {"$in": keys}}
        # As they are stored: a member of a server may have any value.
        rows = self._states.get_pymongo_collection().find(query, session=tx)
        found = {str(row["_id"]): row async for row in rows}
        return [with_state(server, found.get(server.id, {})) for server in servers]

    async def one(self, server: ServerRecord, tx: Transaction | None = None) -> ServerRecord:
        """Return *server* with its sync state."""
        return (await self.joined([server], tx))[0]

    async def insert(
        self,
        server_id: str,
        fields: Mapping[str, object],
        tx: Transaction,
        source_type: SourceType = SourceType.MCP,
    ) -> None:
        """Store the sync state of a new server, in names of this collection."""
        state = self._states(id=ObjectId(server_id), source_type=source_type, **fields)
        await state.insert(session=tx)

    async def write(
        self,
        server_id: str,
        changes: Mapping[str, object],
        removed: Collection[str],
        tx: Transaction,
        *,
        settled_as: str | None = None,
    ) -> bool:
        """Change single fields; return whether there was a document to change.

        Args:
            server_id: The server's id.
            changes: Members of a server, with new values.
            removed: Members to remove.
            tx: The transaction to change them in.
            settled_as: Change it only if its tools agree with the content of this digest.
        """
        query: Doc = {"_id": ObjectId(server_id)}
        if settled_as is not None:
            query["settled_digest"] = settled_as
        return await self._update(query, _operations(changes, removed), tx)

    async def _update(self, query: Doc, operations: Doc, tx: Transaction | None = None) -> bool:
        result = await self._states.find_one(query).update(operations, session=tx)
        return isinstance(result, UpdateResult) and result.matched_count == 1

    def add(
        self,
        server_id: str,
        changes: Mapping[str, object],
        removed: Collection[str],
        batch: WriteBatch,
    ) -> None:
        """Change single fields, with other writes of a transaction; create a missing document.

        Only used where the server itself is written too, so that nothing is left of a server that
        is removed at the same time.
        """
        operations = _operations(changes, removed) | {"$setOnInsert": {"source_type": "mcp"}}
        batch.update(self._name, {"_id": ObjectId(server_id)}, operations, upsert=True)

    async def due(self, now: datetime, most: int) -> list[str]:
        """Return the ids of servers that are due, the longest due first."""
        due = self._states.find({"next_sync_at": {"$lte": now}}, projection_model=_StateId)
        return [state.id for state in await read_all(due.sort("next_sync_at").limit(most))]

    async def schedule_next(self, server: ServerRecord, due_at: datetime | None) -> bool:
        """Set or remove the time of the next sync; return False after a concurrent change."""
        held = {"_id": ObjectId(server.id), "next_sync_at": server.registry.get("next_sync_at")}
        change: Doc = (
            {"$unset": {"next_sync_at": ""}}
            if due_at is None
            else {"$set": {"next_sync_at": due_at}}
        )
        return await self._update(held, change)

    def unsettle(self, server_id: str, batch: WriteBatch) -> None:
        """Make the next discovery of a server compare all tools, because one was changed.

        Always writes, so that a concurrent discovery with the former tools conflicts and is not
        stored.
        """
        change: Doc = {
            "$inc": {"decisions": 1},
            "$unset": {"settled_digest": "", "settled_at": ""},
        }
        batch.update(self._name, {"_id": ObjectId(server_id)}, change)

    async def described_digest(self, server_id: str, tx: Transaction | None = None) -> str | None:
        """Return the digest of the tools that a server's rows were made from, if any."""
        state = await self._states.find_one(
            {"_id": ObjectId(server_id)}, projection_model=_DescribedState, session=tx
        )
        return None if state is None else state.described_digest

    async def note_described(self, server_id: str, digest: str, tx: Transaction) -> None:
        """Store the digest of the described tools that a server's rows are made from."""
        change: Doc = {
            "$set": {"described_digest": digest},
            "$setOnInsert": {"source_type": "mcp"},
        }
        await self._states.find_one({"_id": ObjectId(server_id)}).update(
            change, upsert=True, session=tx
        )

    async def server_ids(self) -> set[str]:
        """Return the ids of all servers with a sync state."""
        states = await read_all(self._states.find({}, projection_model=_StateId))
        return {state.id for state in states}

    async def delete_of(self, server_id: str, tx: Transaction) -> bool:
        """Remove a server's sync state; return whether there was one."""
        result = await self._states.find_one({"_id": ObjectId(server_id)}).delete(session=tx)
        return result is not None and result.deleted_count == 1


class _StateId(Projection):
    """The id of a server with a sync state."""

    id: Annotated[RequiredId, Field(alias="_id")]


class _DescribedState(Projection):
    """The digest of the tools that the other application described."""

    described_digest: StoredText = None


def with_state(server: ServerRecord, row: Mapping[str, object]) -> ServerRecord:
    """Return *server* with a stored row, which takes precedence over its document.

    A discovery connects to the server, so it is a connection too.
    """
    known: dict[str, object] = {}
    for name in FIELDS & row.keys():
        with suppress(NotJsonError):
            known[name] = moment_of(row[name]) or json_of(row[name])
    ours = {**server.registry, **known}
    connected = [
        moment
        for moment in (server.last_connected, known.get("last_synced_at"))
        if isinstance(moment, datetime)
    ]
    return server.model_copy(
        update={"registry": ours, "last_connected": max(connected, default=None)}
    )


def _operations(changes: Mapping[str, object], removed: Collection[str]) -> Doc:
    operations: Doc = {}
    if changes:
        operations["$set"] = {_stored(name): value for name, value in changes.items()}
    if removed:
        operations["$unset"] = {_stored(name): "" for name in removed}
    return operations


def _stored(name: str) -> str:
    return name.removeprefix(OURS)
