"""Read `mcpservers` without an access check. Callers decide what to show, and to whom."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

import structlog
from bson import ObjectId
from bson.errors import InvalidBSON
from pymongo import ASCENDING

from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translated, translates_driver_errors
from packages.database.slices import slices
from packages.database.stored import id_of, text_of
from packages.models import MCPServer
from registry.auth.identity import ALL_TENANTS, Tenants
from registry.auth.repository import of_tenants
from registry.core.json import JsonObject, members
from registry.servers.naming import slug_of
from registry.servers.storage.documents import (
    FUNCTIONS,
    RECORD,
    SEEN_FIELDS,
    NotAServerError,
    functions_of,
    record_of,
    records_of,
)
from registry.servers.storage.sync_states import SyncStateRepository
from registry.servers.values import ServerRecord, names_in
from registry.tools.projection import restore

log = structlog.get_logger()

NAMES_AT_ONCE = 50
"""The embedded database compares each document that it finds with all names of a query."""


@translates_driver_errors
class ServerLookup:
    """Registered servers, without an access check."""

    def __init__(self, database: Database) -> None:
        self._servers = database.collection(MCPServer.Settings.name)
        self._states = SyncStateRepository(database)

    async def get_unchecked(
        self, server_id: str, tx: Transaction | None = None
    ) -> ServerRecord | None:
        """Return a server without its tool functions. No access check."""
        document = await self._servers.find_one({"_id": ObjectId(server_id)}, RECORD, session=tx)
        return None if document is None else await self._states.one(record_of(document), tx)

    async def facts_unchecked(
        self, server_id: str, tx: Transaction | None = None
    ) -> ServerRecord | None:
        """Return a server with only `SEEN_FIELDS`. No access check."""
        document = await self._servers.find_one(
            {"_id": ObjectId(server_id)}, SEEN_FIELDS, session=tx
        )
        return None if document is None else record_of(document)

    async def url_unchecked(self, server_id: str) -> object:
        """Return the URL of a server as stored, or None. No access check."""
        found = await self._servers.find_one({"_id": ObjectId(server_id)}, {"config.url": 1})
        return members((found or {}).get("config")).get("url")

    async def ids_unchecked(self) -> list[str]:
        """Return the ids of all servers; an id that is not an ObjectId belongs to none."""
        cursor = self._servers.find({}, {"_id": 1}).sort("_id", ASCENDING)
        found = [id_of(row["_id"]) for row in await cursor.to_list()]
        return [server_id for server_id in found if server_id is not None]

    async def warn_of_odd_ids(self) -> None:
        """Log the documents that are no servers, because of their ids."""
        query: Doc = {"_id": {"$not": {"$type": "objectId"}}}
        async for row in self._servers.find(query, {"_id": 1}):
            reason = str(NotAServerError(row["_id"]))
            log.warning("server_invalid", server_id=str(row["_id"]), reason=reason)

    async def by_ids_unchecked(self, server_ids: Iterable[str]) -> list[ServerRecord]:
        """Return servers without their tool functions and sync states.

        Invalid ids are ignored.
        """
        ids = [ObjectId(server_id) for server_id in server_ids if ObjectId.is_valid(server_id)]
        cursor = self._servers.find({"_id": {"$in": ids}}, RECORD)
        return records_of(await cursor.to_list())

    async def read_state(self, servers: Iterable[ServerRecord]) -> list[ServerRecord]:
        """Return *servers* with their sync states."""
        return await self._states.joined(servers)

    async def tool_functions(self, server_id: str, tx: Transaction | None = None) -> JsonObject:
        """Return the projection of a server's tools, as the other application reads it."""
        document = await self._servers.find_one(
            {"_id": ObjectId(server_id)}, {"config.toolFunctions": 1}, session=tx
        )
        return functions_of(members((document or {}).get("config")).get(FUNCTIONS), [])

    async def by_name(
        self, server_name: str, tenants: Tenants = ALL_TENANTS
    ) -> ServerRecord | None:
        """Return the server of that name in *tenants*. No access check."""
        query = {"serverName": server_name, **of_tenants(tenants)}
        documents = self._servers.find(query, RECORD)
        return next(iter(records_of(await documents.to_list())), None)

    async def name_is_taken(self, server_name: str, tenant_id: str | None) -> bool:
        """Whether a server of a tenant has that name."""
        query = {"serverName": server_name, **of_tenants(Tenants(tenant_id))}
        return await self._servers.find_one(query, {"_id": 1}) is not None

    async def at_path(self, path: str, tenants: Tenants = ALL_TENANTS) -> ServerRecord | None:
        """Return the server at a gateway path of *tenants*. No access check."""
        where = of_tenants(tenants)
        found = records_of(await self._servers.find({"path": path, **where}, RECORD).to_list())
        if not found:
            # The other application stores no path: the default follows from the name.
            named = {"serverName": slug_of(path) or "", **where}
            found = records_of(await self._servers.find(named, RECORD).to_list())
        return next((server for server in found if server.effective_path == path), None)

    async def find(self, reference: str) -> ServerRecord | None:
        """Return the server of that id, name or gateway path. No access check."""
        if reference.startswith("/"):
            return await self.at_path(reference.removesuffix("/"))
        found = None
        if ObjectId.is_valid(reference):
            found = await self.get_unchecked(reference)
        return found or await self.by_name(reference)

    async def ids_by_names(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the existing servers of each of these names. No access check."""
        found: dict[str, list[str]] = {}
        for some in slices(names, NAMES_AT_ONCE):
            query = {"serverName": {"$in": some}}
            async for document in self._servers.find(query, {"serverName": 1}, sort=[("_id", 1)]):
                name, server_id = text_of(document["serverName"]), id_of(document["_id"])
                if name is not None and server_id is not None:
                    found.setdefault(name, []).append(server_id)
        return found

    async def path_is_taken(self, path: str, tenant_id: str | None) -> bool:
        """Whether a stored server of a tenant has that gateway path."""
        query = {"path": path, **of_tenants(Tenants(tenant_id))}
        return await self._servers.find_one(query, {"_id": 1}) is not None

    async def due_for_sync(self, now: datetime, most: int) -> list[ServerRecord]:
        """Return servers in mode `scheduled` that are due. No access check."""
        due = await self._states.due(now, most)
        return await self._states.joined(await self.by_ids_unchecked(due)) if due else []

    async def unreadable(self) -> AsyncIterator[tuple[str, list[str]]]:
        """Yield the ids of the servers with unreadable values, and the problems.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        async with translated():
            ids = [row["_id"] async for row in self._servers.find({}, {"_id": 1})]
            for server_id in ids:
                # One at a time: a document may be megabytes, or impossible to decode.
                try:
                    problems = await self._problems_of(server_id)
                except InvalidBSON as exc:
                    problems = [f"cannot be decoded: {exc}"]
                if problems:
                    yield str(server_id), problems

    async def _problems_of(self, server_id: object) -> list[str]:
        document = await self._servers.find_one({"_id": server_id})
        if document is None:
            return []
        try:
            server = record_of(document)
        except NotAServerError as exc:
            return [str(exc)]
        problems = list(server.problems)
        if server.is_described_elsewhere:
            functions, named = (server.config.get(name) for name in (FUNCTIONS, "tools"))
            found = restore(members(functions), server.server_name, names_in(named))
            problems += [f"the tool {tool.name!r} {tool.reason}" for tool in found.rejected]
        return problems
