"""Repository of `sync_states`. The only module that writes it.

All other modules see these members in a server's `registry`, like those of its document.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from bson import ObjectId
from pymongo import ASCENDING

from packages.database.batch import WriteBatch
from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translates_driver_errors
from packages.database.stored import NotJsonError, id_of, json_of, moment_of, text_of
from packages.models.syncing import SyncState
from registry.servers.values import OURS, SYNC_FIELDS, ServerRecord

FIELDS = frozenset(name.removeprefix(OURS) for name in SYNC_FIELDS)


@translates_driver_errors
class SyncStateRepository:
    """When servers were read, and when they are due."""

    def __init__(self, database: Database) -> None:
        self._states = database.collection(SyncState.Settings.name)

    async def joined(
        self, servers: Iterable[ServerRecord], tx: Transaction | None = None
    ) -> list[ServerRecord]:
        """Return *servers* with their sync states."""
        servers = list(servers)
        if not servers:
            return servers
        keys = [ObjectId(server.id) for server in servers]
        query: Doc = {"_id": keys[0] if len(keys) == 1 else {"$in": keys}}
        found = {str(row["_id"]): row async for row in self._states.find(query, session=tx)}
        return [with_state(server, found.get(server.id, {})) for server in servers]

    async def one(self, server: ServerRecord, tx: Transaction | None = None) -> ServerRecord:
        """Return *server* with its sync state."""
        return (await self.joined([server], tx))[0]

    async def insert(self, server_id: str, fields: Mapping[str, object], tx: Transaction) -> None:
        """Store the sync state of a new server, in names of this collection."""
        row = {"_id": ObjectId(server_id), "source_type": "mcp", **fields}
        await self._states.insert_one(row, session=tx)

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
        operations = _operations(changes, removed)
        result = await self._states.update_one(query, operations, session=tx)
        return result.matched_count == 1

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
        batch.update(
            SyncState.Settings.name, {"_id": ObjectId(server_id)}, operations, upsert=True
        )

    async def due(self, now: datetime, most: int) -> list[str]:
        """Return the ids of servers that are due, the longest due first."""
        rows = self._states.find(
            {"next_sync_at": {"$lte": now}},
            {"_id": 1},
            sort=[("next_sync_at", ASCENDING)],
            limit=most,
        )
        return [one async for row in rows if (one := id_of(row["_id"])) is not None]

    async def schedule_next(self, server: ServerRecord, due_at: datetime | None) -> bool:
        """Set or remove the time of the next sync; return False after a concurrent change."""
        held = {"_id": ObjectId(server.id), "next_sync_at": server.registry.get("next_sync_at")}
        change: Doc = (
            {"$unset": {"next_sync_at": ""}}
            if due_at is None
            else {"$set": {"next_sync_at": due_at}}
        )
        return (await self._states.update_one(held, change)).matched_count == 1

    def unsettle(self, server_id: str, batch: WriteBatch) -> None:
        """Make the next discovery of a server compare all tools, because one was changed.

        Always writes, so that a concurrent discovery with the former tools conflicts and is not
        stored.
        """
        change: Doc = {
            "$inc": {"decisions": 1},
            "$unset": {"settled_digest": "", "settled_at": ""},
        }
        batch.update(SyncState.Settings.name, {"_id": ObjectId(server_id)}, change)

    async def described_digest(self, server_id: str, tx: Transaction | None = None) -> str | None:
        """Return the digest of the tools that a server's rows were made from, if any."""
        row = await self._states.find_one(
            {"_id": ObjectId(server_id)}, {"described_digest": 1}, session=tx
        )
        return text_of((row or {}).get("described_digest"))

    async def note_described(self, server_id: str, digest: str, tx: Transaction) -> None:
        """Store the digest of the described tools that a server's rows are made from."""
        change: Doc = {
            "$set": {"described_digest": digest},
            "$setOnInsert": {"source_type": "mcp"},
        }
        await self._states.update_one(
            {"_id": ObjectId(server_id)}, change, upsert=True, session=tx
        )

    async def server_ids(self) -> set[str]:
        """Return the ids of all servers with a sync state."""
        rows = self._states.find({}, {"_id": 1})
        return {one async for row in rows if (one := id_of(row["_id"])) is not None}

    async def delete_of(self, server_id: str, tx: Transaction) -> bool:
        """Remove a server's sync state; return whether there was one."""
        result = await self._states.delete_one({"_id": ObjectId(server_id)}, session=tx)
        return result.deleted_count == 1


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
    return replace(server, registry=ours, last_connected=max(connected, default=None))


def _operations(changes: Mapping[str, object], removed: Collection[str]) -> Doc:
    operations: Doc = {}
    if changes:
        operations["$set"] = {_stored(name): value for name, value in changes.items()}
    if removed:
        operations["$unset"] = {_stored(name): "" for name in removed}
    return operations


def _stored(name: str) -> str:
    return name.removeprefix(OURS)
