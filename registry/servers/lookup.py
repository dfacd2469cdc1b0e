"""Reads `mcpservers` whoever asks. Callers decide what of it they tell, and whom."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from bson import ObjectId
from pymongo import ASCENDING

from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translates_driver_errors
from packages.database.slices import slices
from packages.models import MCPServer
from registry.access.policy import ServerScope
from registry.core.json import JsonObject, members
from registry.servers.documents import RECORD, SEEN_FIELDS, record_of, scope_of, status_of
from registry.servers.naming import slug_of
from registry.servers.sync_states import SyncStateRepository
from registry.servers.values import ServerCounts, ServerRecord, ServerStatus, Transport

NAMES_AT_ONCE = 50
"""The embedded database compares each document that it finds with all names of a query."""


@translates_driver_errors
class ServerLookup:
    """Registered servers, whoever asks."""

    def __init__(self, database: Database) -> None:
        self._servers = database.collection(MCPServer.Settings.name)
        self._states = SyncStateRepository(database)

    async def get_unchecked(
        self, server_id: str, tx: Transaction | None = None
    ) -> ServerRecord | None:
        """Return a server without its tool functions, whoever asks."""
        document = await self._servers.find_one({"_id": ObjectId(server_id)}, RECORD, session=tx)
        return None if document is None else await self._states.one(record_of(document), tx)

    async def facts_unchecked(
        self, server_id: str, tx: Transaction | None = None
    ) -> ServerRecord | None:
        """Return a server with `SEEN_FIELDS` alone, whoever asks."""
        document = await self._servers.find_one(
            {"_id": ObjectId(server_id)}, SEEN_FIELDS, session=tx
        )
        return None if document is None else record_of(document)

    async def url_unchecked(self, server_id: str) -> object:
        """Return the address of a server as stored, whoever asks; None when there is none."""
        found = await self._servers.find_one({"_id": ObjectId(server_id)}, {"config.url": 1})
        return members((found or {}).get("config")).get("url")

    async def ids_unchecked(self) -> list[str]:
        """Return the ids of all servers; for the gateway's snapshot."""
        cursor = self._servers.find({}, {"_id": 1}).sort("_id", ASCENDING)
        return [str(row["_id"]) for row in await cursor.to_list() if _is_id(row["_id"])]

    async def by_ids_unchecked(self, server_ids: Iterable[str]) -> list[ServerRecord]:
        """Return servers without their tool functions and what is known of their reading.

        What is no id of a server is left out.
        """
        ids = [ObjectId(server_id) for server_id in server_ids if ObjectId.is_valid(server_id)]
        cursor = self._servers.find({"_id": {"$in": ids}}, RECORD)
        return [record_of(document) for document in await cursor.to_list()]

    async def read_state(self, servers: Iterable[ServerRecord]) -> list[ServerRecord]:
        """Return *servers* with what is known of their reading."""
        return await self._states.joined(servers)

    async def tool_functions(self, server_id: str, tx: Transaction | None = None) -> JsonObject:
        """Return the projection of a server's tools, as the other application reads it."""
        document = await self._servers.find_one(
            {"_id": ObjectId(server_id)}, {"config.toolFunctions": 1}, session=tx
        )
        return members(members((document or {}).get("config")).get("toolFunctions"))

    async def by_name(self, server_name: str) -> ServerRecord | None:
        """Return the server of that name, whoever asks."""
        document = await self._servers.find_one({"serverName": server_name}, RECORD)
        return None if document is None else record_of(document)

    async def at_path(self, path: str) -> ServerRecord | None:
        """Return the server at a gateway path, whoever asks."""
        document = await self._servers.find_one({"path": path}, RECORD)
        if document is not None:
            return record_of(document)
        # The other application stores no path: the default follows from the name.
        server = await self.by_name(slug_of(path) or "")
        return None if server is None or server.effective_path != path else server

    async def find(self, reference: str) -> ServerRecord | None:
        """Return the server of that id, name or gateway path, whoever asks."""
        if reference.startswith("/"):
            return await self.at_path(reference.removesuffix("/"))
        found = None
        if ObjectId.is_valid(reference):
            found = await self.get_unchecked(reference)
        return found or await self.by_name(reference)

    async def ids_by_names(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the servers of each of these names that there is, whoever asks."""
        found: dict[str, list[str]] = {}
        for some in slices(names, NAMES_AT_ONCE):
            query = {"serverName": {"$in": some}}
            async for document in self._servers.find(query, {"serverName": 1}, sort=[("_id", 1)]):
                found.setdefault(document["serverName"], []).append(str(document["_id"]))
        return found

    async def path_is_taken(self, path: str) -> bool:
        """Whether a stored server has that gateway path."""
        return await self._servers.find_one({"path": path}, {"_id": 1}) is not None

    async def due_for_sync(self, now: datetime, most: int) -> list[ServerRecord]:
        """Return servers in mode `scheduled` whose time has come, whoever asks."""
        due = await self._states.due(now, most)
        return await self._states.joined(await self.by_ids_unchecked(due)) if due else []

    async def counts(self) -> ServerCounts:
        """Count all servers by one aggregation, so that the numbers agree with each other."""
        is_text = {"$eq": [{"$type": "$config.tools"}, "string"]}
        names = {
            "$size": {
                "$filter": {
                    "input": {"$split": [{"$cond": [is_text, "$config.tools", ""]}, ","]},
                    "cond": {"$ne": [{"$trim": {"input": "$$this"}}, ""]},
                }
            }
        }
        pipeline: list[Doc] = [
            {
                "$group": {
                    "_id": {"scope": "$scope", "status": "$status", "type": "$config.type"},
                    "count": {"$sum": 1},
                    "tools": {"$sum": names},
                }
            }
        ]
        by_scope = dict.fromkeys(ServerScope, 0)
        by_status = dict.fromkeys(ServerStatus, 0)
        by_transport: dict[str, int] = {transport.value: 0 for transport in Transport}
        total = tools = 0
        async for group in await self._servers.aggregate(pipeline):
            count = int(group["count"])
            key = group["_id"]
            total += count
            tools += int(group["tools"])
            by_scope[scope_of(key.get("scope")) or ServerScope.PRIVATE_USER] += count
            by_status[status_of(key.get("status")) or ServerStatus.ACTIVE] += count
            transport = str(key.get("type") or Transport.SSE.value)
            transport = Transport.STREAMABLE_HTTP.value if transport == "http" else transport
            by_transport[transport] = by_transport.get(transport, 0) + count
        return ServerCounts(total, by_scope, by_status, by_transport, tools)


def _is_id(stored: object) -> bool:
    return isinstance(stored, ObjectId)
