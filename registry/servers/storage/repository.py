"""Repository of `mcpservers`, which is shared with jarvis-api, and of `raw_apis`.

It checks no access. What is said of servers holds for REST APIs too.

Callers decide what to show, and to whom (`registry.servers.storage.visible`). Nothing else writes
it, except `registry.ciphertexts` when the key of credentials changes. What changes with every
discovery of a server is stored apart, in `sync_states`.

Updates set single fields, so that fields of the other application stay unchanged.
"""

import zlib
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime

import structlog
from beanie import Document, PydanticObjectId
from bson import ObjectId
from bson.errors import InvalidBSON
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError, OperationFailure, WriteError

from packages.database.batch import WriteBatch
from packages.database.client import Database, Doc, Transaction
from packages.database.documents import deleted, matched, parsed, read_all
from packages.database.errors import translated, translates_driver_errors
from packages.database.slices import slices
from packages.database.stored import EARLIEST, LATEST, id_of, moment_of, text_of
from packages.models import MCPConfig, MCPServer
from packages.models.states import Effect, SourceType
from registry.access.policy import ServerScope
from registry.access.ports import Resource
from registry.auth.identity import ALL_TENANTS, Tenants
from registry.auth.repository import of_tenants
from registry.core.json import JsonObject, members
from registry.servers.errors import PathTakenError, ServerExistsError, ServerUnusableError
from registry.servers.storage.sync_states import SyncStateRepository
from registry.servers.storage.tables import OwnerTable, OwnerTables
from registry.servers.values import (
    FUNCTIONS,
    OURS,
    SYNC_FIELDS,
    ApiRecord,
    ServerRecord,
    ServerStatus,
    functions_of,
    names_in,
)
from registry.tools.naming import normalized_server_name, slug_of
from registry.tools.projection import restore

log = structlog.get_logger()

ODD_ID = "has an _id that is not an ObjectId"

NAMES_AT_ONCE = 50
"""The embedded database compares each document that it finds with all names of a query."""

PATH_INDEX = "registry_own_path"
LINK, LINKED_NAME = "registry.registry_server_id", "registry.registry_server_name"
LINKED_DESCRIPTION = "registry.registry_server_description"
INDEXES = [
    IndexModel([("serverName", ASCENDING), ("tenantId", ASCENDING)], unique=True, background=True),
    IndexModel([("scope", ASCENDING), ("status", ASCENDING)], name="registry_scope_status"),
    IndexModel([("path", ASCENDING)], name="registry_by_path"),
    IndexModel(
        [(LINK, ASCENDING)],
        name="registry_catalog_link",
        partialFilterExpression={LINK: {"$type": "objectId"}},
    ),
    IndexModel(
        [("registry.path", ASCENDING), ("tenantId", ASCENDING)],
        name=PATH_INDEX,
        unique=True,
        partialFilterExpression={"registry.path": {"$type": "string"}},
    ),
]
"""The first is jarvis-api's since 0.0.51, unchanged; it makes names unique in each tenant.
Paths are unique among those that we wrote: jarvis-api may write any, twice and null."""

MAX_DESCRIPTION_BYTES = 64 * 1024 * 1024

WITHOUT_DOCUMENT = {"document": 0}
"""The description of an API may be megabytes."""

OWN_PATH = "registry.path"
"""The path again, for documents that we wrote."""

FAILURES = "registry.consecutive_failures"
TROUBLE = ("lastError", "errorMessage", FAILURES)
"""Stored facts about failures, removed by a success."""


def is_news(known: Doc, quiet_since: datetime) -> bool:
    """Whether a connection now says more than what is stored of a server."""
    registry = known.get("registry")
    has_failed = isinstance(registry, dict) and FAILURES.removeprefix("registry.") in registry
    connected = moment_of(known.get("lastConnected"))
    is_known = connected is not None and connected > quiet_since
    return has_failed or not known.keys().isdisjoint(TROUBLE) or not is_known


NO_PLACE = frozenset({2, 14, 28})
"""BadValue, TypeMismatch and PathNotViable: a member was to be set in a value that is not an
object, or incremented in one that is not a number."""


@translates_driver_errors
class ServerRepository:
    """Registered servers, without an access check."""

    def __init__(self, database: Database) -> None:
        self._tables = OwnerTables(database)
        self._states = SyncStateRepository(database)

    async def get_unchecked(
        self, server_id: str, tx: Transaction | None = None
    ) -> ServerRecord | None:
        """Return a server without its tool functions. No access check."""
        record = await self.record_unchecked(server_id, tx)
        return None if record is None else await self._states.one(record, tx)

    async def record_unchecked(
        self, server_id: str, tx: Transaction | None = None, *, whole: bool = False
    ) -> ServerRecord | None:
        """Return a server without its sync state. No access check.

        Args:
            server_id: The server's id.
            tx: The transaction to read it in.
            whole: With its tool functions, which may be megabytes.
        """
        for table in self._tables.ordered(server_id):
            found: ServerRecord | None = await table.documents.find_one(
                {"_id": ObjectId(server_id)},
                projection_model=table.whole if whole else table.record,
                session=tx,
            )
            if found is not None:
                self._tables.note(table, server_id)
                return found
        return None

    async def url_unchecked(self, server_id: str) -> object:
        """Return the URL of a server as stored, or None. No access check."""
        found = await self._members(server_id, "config.url")
        return members(found.get("config")).get("url")

    async def _members(self, server_id: str, name: str, tx: Transaction | None = None) -> Doc:
        """Return one member of a stored server, as it is stored; empty if there is none."""
        for table in self._tables.ordered(server_id):
            key = {"_id": ObjectId(server_id)}
            found = await table.collection.find_one(key, {name: 1}, session=tx)
            if found is not None:
                return found
        return {}

    async def description(self, server_id: str) -> bytes | None:
        """Return the description of an API; None if there is none, or it cannot be read."""
        if not ObjectId.is_valid(server_id):
            return None
        key = {"_id": ObjectId(server_id)}
        found = await self._tables.apis.collection.find_one(key, {"document": 1}) or {}
        stored = found.get("document")
        if not isinstance(stored, bytes):
            return None
        unpacked = zlib.decompressobj()
        try:
            document = unpacked.decompress(stored, MAX_DESCRIPTION_BYTES)
        except zlib.error:
            return None
        return document if unpacked.eof else None

    async def ids_unchecked(self) -> list[str]:
        """Return the ids of all servers; an id that is not an ObjectId belongs to none."""
        found: list[str] = []
        for table in self._tables.all:
            cursor = table.collection.find({}, {"_id": 1}).sort("_id", ASCENDING)
            ids = [id_of(row["_id"]) for row in await cursor.to_list()]
            found += [server_id for server_id in ids if server_id is not None]
        return found

    async def closed_by_default_unchecked(self) -> set[str]:
        """Return the ids of the servers that refuse tools that no policy allows."""
        query = {"registry.default_effect": {"$nin": [None, Effect.ALLOW.value]}}
        found = [
            id_of(row["_id"])
            for table in self._tables.all
            async for row in table.collection.find(query, {"_id": 1})
        ]
        return {server_id for server_id in found if server_id is not None}

    async def recently_connected_unchecked(self, limit: int) -> list[str]:
        """Return ids of servers that are not turned off, the one connected to last first."""
        query: Doc = {
            "lastConnected": {"$type": "date"},
            "status": {"$ne": ServerStatus.INACTIVE.value},
        }
        rows: list[Doc] = []
        for table in self._tables.all:
            cursor = table.collection.find(query, {"lastConnected": 1})
            rows += await cursor.sort("lastConnected", DESCENDING).limit(limit).to_list()
        rows.sort(key=lambda row: moment_of(row["lastConnected"]) or EARLIEST, reverse=True)
        found = [id_of(row["_id"]) for row in rows[:limit]]
        return [server_id for server_id in found if server_id is not None]

    async def with_oauth_unchecked(self) -> list[ServerRecord]:
        """Return the servers that take access tokens of OAuth."""
        return await self._records({"config.requiresOAuth": True})

    async def warn_of_odd_ids(self) -> None:
        """Log the documents that are no servers, because of their ids."""
        query: Doc = {"_id": {"$not": {"$type": "objectId"}}}
        for table in self._tables.all:
            async for row in table.collection.find(query, {"_id": 1}):
                log.warning("server_invalid", server_id=str(row["_id"]), reason=ODD_ID)

    async def by_ids_unchecked(self, server_ids: Iterable[str]) -> list[ServerRecord]:
        """Return servers without their tool functions and sync states.

        Invalid ids are ignored.
        """
        missing = {server_id for server_id in server_ids if ObjectId.is_valid(server_id)}
        apis = {one for one in missing if self._tables.ordered(one)[0] is self._tables.apis}
        records: list[ServerRecord] = []
        # Each is looked for where it is as far as is known, and in the other if it is not there.
        for table, wanted in (
            (self._tables.apis, apis),
            (self._tables.servers, missing),
            (self._tables.apis, missing),
        ):
            if wanted:
                ids = [ObjectId(one) for one in wanted]
                found = await self._records_in(table, {"_id": {"$in": ids}})
                records += found
                missing -= {record.id for record in found}
        return records

    async def with_state(self, server: ServerRecord) -> ServerRecord:
        """Return *server* with its sync state."""
        return await self._states.one(server)

    async def read_state(self, servers: Iterable[ServerRecord]) -> list[ServerRecord]:
        """Return *servers* with their sync states."""
        return await self._states.joined(servers)

    async def tool_functions(self, server_id: str, tx: Transaction | None = None) -> JsonObject:
        """Return the projection of a server's tools, as the other application reads it."""
        found = await self._members(server_id, f"config.{FUNCTIONS}", tx)
        return functions_of(members(found.get("config")).get(FUNCTIONS), [])

    async def by_name(
        self, server_name: str, tenants: Tenants = ALL_TENANTS
    ) -> ServerRecord | None:
        """Return the server of that name in *tenants*. No access check."""
        query = {"serverName": server_name, **of_tenants(tenants)}
        return next(iter(await self._records(query)), None)

    async def name_is_taken(self, server_name: str, tenant_id: str | None) -> bool:
        """Whether a server of a tenant has that name."""
        return await self._exists({"serverName": server_name, **of_tenants(Tenants(tenant_id))})

    async def _exists(self, query: Doc) -> bool:
        for table in self._tables.all:
            if await table.documents.find(query).exists():
                return True
        return False

    async def at_path(self, path: str, tenants: Tenants = ALL_TENANTS) -> ServerRecord | None:
        """Return the server at a gateway path of *tenants*. No access check."""
        where = of_tenants(tenants)
        found = await self._records({"path": path, **where})
        if not found:
            # The other application stores no path: the default follows from the name.
            found = await self._records({"serverName": slug_of(path) or "", **where})
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
            for table in self._tables.all:
                rows = table.collection.find(query, {"serverName": 1}, sort=[("_id", ASCENDING)])
                async for document in rows:
                    name, server_id = text_of(document["serverName"]), id_of(document["_id"])
                    if name is not None and server_id is not None:
                        found.setdefault(name, []).append(server_id)
        return found

    async def path_is_taken(self, path: str, tenant_id: str | None) -> bool:
        """Whether a stored server of a tenant has that gateway path."""
        return await self._exists({"path": path, **of_tenants(Tenants(tenant_id))})

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
            for table in self._tables.all:
                ids = [row["_id"] async for row in table.collection.find({}, {"_id": 1})]
                for server_id in ids:
                    # One at a time: a document may be megabytes, or impossible to decode.
                    try:
                        problems = await self._problems_of(table, server_id)
                    except InvalidBSON as exc:
                        problems = [f"cannot be decoded: {exc}"]
                    if problems:
                        yield str(server_id), problems

    async def _problems_of(self, table: OwnerTable, server_id: object) -> list[str]:
        if not isinstance(server_id, ObjectId):
            return [ODD_ID]
        document = await table.collection.find_one({"_id": server_id}, WITHOUT_DOCUMENT)
        if document is None:
            return []
        server = table.whole.model_validate(document)
        problems = list(server.problems)
        if server.is_described_elsewhere:
            functions, named = (server.config.get(name) for name in (FUNCTIONS, "tools"))
            found = restore(members(functions), server.server_name, names_in(named))
            problems += [f"the tool {tool.name!r} {tool.reason}" for tool in found.rejected]
        return problems

    async def insert(
        self, fields: Doc, tx: Transaction, source_type: SourceType = SourceType.MCP
    ) -> str:
        """Store a new server and return its id.

        Args:
            fields: Root fields in stored spelling, `author` as 24 hexadecimal characters.
            tx: The transaction to store it in.
            source_type: Whether it is an MCP server or a REST API.

        Raises:
            ServerExistsError: The name is taken.
            PathTakenError: The path is taken.
        """
        ours: Mapping[str, object] = fields.get("registry") or {}
        states = {name: value for name, value in ours.items() if OURS + name in SYNC_FIELDS}
        table = self._tables.of(source_type)
        await self._require_free(fields, table, tx)
        document = new_document(
            table.documents, {**fields, "registry": {**ours, "path": fields["path"]}}, states
        )
        try:
            # As it is: the document's own insert would leave out members that it does not know.
            await table.collection.insert_one(document, session=tx)
        except DuplicateKeyError as exc:
            is_api = source_type is SourceType.OPENAPI
            raise _taken(exc, fields["serverName"], fields["path"], is_api=is_api) from exc
        server_id = str(document["_id"])
        self._tables.note(table, server_id)
        await self._states.insert(server_id, states, tx, source_type)
        return server_id

    async def _require_free(self, fields: Doc, table: OwnerTable, tx: Transaction) -> None:
        """Refuse what the other collection has taken; its own has an index for that.

        Raises:
            ServerExistsError: The name is taken.
            PathTakenError: The path is taken.
        """
        is_api = table is self._tables.apis
        other = self._tables.servers if is_api else self._tables.apis
        tenant = of_tenants(Tenants(fields.get("tenantId")))
        named = {"serverName": fields["serverName"], **tenant}
        if await other.documents.find(named, session=tx).exists():
            raise ServerExistsError("serverName", fields["serverName"], is_api=is_api)
        if await other.documents.find({"path": fields["path"], **tenant}, session=tx).exists():
            raise PathTakenError(fields["path"], is_api=is_api)

    def update(
        self,
        server_id: str,
        expected_updated_at: datetime | None,
        changes: Mapping[str, object],
        removed: tuple[str, ...],
        batch: WriteBatch,
        outdated: Callable[[], Exception],
    ) -> None:
        """Change single fields if nothing changed since, with other writes of a transaction.

        Args:
            server_id: The server's id.
            expected_updated_at: The `updatedAt` that the change is based on.
            changes: Dotted field names in stored spelling, with new values.
            removed: Dotted names of fields to remove.
            batch: The writes of the transaction. `send` raises PathTakenError if the new path is
                taken, and ServerUnusableError if the stored document has no place for the
                fields.
            outdated: The error that `send` raises after a concurrent change.
        """
        states = {name: value for name, value in changes.items() if name in SYNC_FIELDS}
        gone_states = [name for name in removed if name in SYNC_FIELDS]
        operations: Doc = {
            "$set": {name: value for name, value in changes.items() if name not in states}
        }
        if "path" in changes:
            operations["$set"][OWN_PATH] = changes["path"]
        gone = [name for name in removed if name not in SYNC_FIELDS]
        if gone:
            operations["$unset"] = dict.fromkeys(gone, "")

        def refused(error: WriteError) -> Exception:
            if isinstance(error, DuplicateKeyError):
                return _taken(error, "", str(changes.get("path")))
            return ServerUnusableError() if error.code in NO_PLACE else error

        async def unmatched() -> None:
            raise outdated()

        batch.update(
            self._tables.ordered(server_id)[0].name,
            {"_id": ObjectId(server_id), **unchanged_since(expected_updated_at)},
            operations,
            unmatched=unmatched,
            refused=refused,
        )
        if states or gone_states:
            self._states.add(server_id, states, gone_states, batch)

    async def note_read(
        self,
        server_id: str,
        expected_updated_at: datetime | None,
        changes: Mapping[str, object],
        removed: Sequence[str],
        tx: Transaction,
        *,
        settled_as: str | None = None,
    ) -> bool:
        """Record a discovery without news of a server that has not changed since.

        Its document stays as it is. Returns False if the server was changed, was never read, or
        its tools are not known to agree with the content that has the digest *settled_as*.
        """
        query = {"_id": ObjectId(server_id), **unchanged_since(expected_updated_at)}
        if not await self._found(server_id, query, tx):
            return False
        return await self._states.write(server_id, changes, removed, tx, settled_as=settled_as)

    async def read_ids(self) -> set[str]:
        """Return the ids of the servers that were ever registered or read here."""
        return await self._states.server_ids()

    async def forget_reading(self, server_id: str, tx: Transaction) -> bool:
        """Remove a server's sync state; return whether there was one."""
        return await self._states.delete_of(server_id, tx)

    async def described_digest(self, server_id: str, tx: Transaction | None = None) -> str | None:
        """Return the digest of the described tools that a server's rows were made from, if any."""
        return await self._states.described_digest(server_id, tx)

    async def note_described(self, server_id: str, digest: str, tx: Transaction) -> None:
        """Store the digest of the described tools that a server's rows are made from."""
        await self._states.note_described(server_id, digest, tx)

    def unsettle(self, server_id: str, batch: WriteBatch) -> None:
        """Make the next discovery of a server compare all tools, because one was changed."""
        self._states.unsettle(server_id, batch)

    async def note_connected(self, server_id: str, at: datetime, *, quiet_since: datetime) -> bool:
        """Record that a server was connected to; return whether anything was written.

        Neither its `updatedAt` nor anything that people change is touched. Nothing is written for
        a server that is off or in error, that failed after *at*, or for which this is already
        stored since *quiet_since*.
        """
        # Read first: as an alternative in the update's own query it would keep compatible
        # servers from finding the document by its id.
        key = {"_id": ObjectId(server_id)}
        fields = dict.fromkeys(("lastConnected", *TROUBLE), 1)
        known = None
        for table in self._tables.ordered(server_id):
            known = known or await table.collection.find_one(key, fields)
        if known is None or not is_news(known, quiet_since):
            return False
        query = {
            **key,
            "status": {"$nin": [ServerStatus.INACTIVE.value, ServerStatus.ERROR.value]},
            "lastError": {"$not": {"$gt": at}},
        }
        change = {"$max": {"lastConnected": at}, "$unset": dict.fromkeys(TROUBLE, "")}
        return await self._change(query, change)

    async def is_in_error(self, server_id: str) -> bool:
        """Whether a server's status is `error`."""
        query = {"_id": ObjectId(server_id), "status": ServerStatus.ERROR.value}
        return await self._found(server_id, query)

    async def _found(self, server_id: str, query: Doc, tx: Transaction | None = None) -> bool:
        for table in self._tables.ordered(server_id):
            if await table.documents.find(query, session=tx).exists():
                return True
        return False

    async def recover(self, server_id: str, at: datetime, tx: Transaction) -> bool:
        """Make a server active that is in error, not since *at*; return whether it was changed."""
        query = {
            "_id": ObjectId(server_id),
            "status": ServerStatus.ERROR.value,
            "lastError": {"$not": {"$gt": at}},
        }
        change = {
            "$set": {"status": ServerStatus.ACTIVE.value},
            "$max": {"lastConnected": at},
            "$unset": dict.fromkeys(TROUBLE, ""),
        }
        return await self._change(query, change, tx)

    async def note_failed(
        self, server_id: str, at: datetime, message: str, *, failures: int, is_after_success: bool
    ) -> int:
        """Record failed attempts; return how many failed in a row, or 0 if nothing was written.

        Nothing is written for a server that is off, or was connected to after *at*.

        Args:
            server_id: The server's id.
            at: When the last of them failed.
            message: The error message.
            failures: The number of attempts.
            is_after_success: Whether the already counted failures were before a success.

        Raises:
            ServerUnusableError: The stored document has no place for it.
        """
        operations: Doc = {"$set": {"lastError": at, "errorMessage": message}}
        if is_after_success:
            operations["$set"][FAILURES] = failures
        else:
            operations["$inc"] = {FAILURES: failures}
        query: Doc = {
            "_id": ObjectId(server_id),
            "status": {"$ne": ServerStatus.INACTIVE.value},
            "lastConnected": {"$not": {"$gt": at}},
        }
        document: Doc | None = None
        try:
            for table in self._tables.ordered(server_id):
                document = document or await table.collection.find_one_and_update(
                    query,
                    operations,
                    projection={FAILURES: 1},
                    return_document=ReturnDocument.AFTER,
                )
        except OperationFailure as exc:
            if exc.code not in NO_PLACE:
                raise
            raise ServerUnusableError from exc
        return 0 if document is None else int(document["registry"]["consecutive_failures"])

    async def give_up(self, server_id: str, failures: int, tx: Transaction) -> bool:
        """Set an active server with that many failures to error; return whether it was active."""
        query = {
            "_id": ObjectId(server_id),
            "status": {"$in": [ServerStatus.ACTIVE.value, None]},
            FAILURES: {"$gte": failures},
        }
        return await self._change(query, {"$set": {"status": ServerStatus.ERROR.value}}, tx)

    async def schedule_next(self, server: ServerRecord, due_at: datetime | None) -> bool:
        """Set or remove the time of the next sync; return False after a concurrent change."""
        return await self._states.schedule_next(server, due_at)

    async def set_webhook_secret(
        self, server_id: str, sealed: str | None, tx: Transaction
    ) -> ServerRecord | None:
        """Store or remove the sealed secret of a webhook; return the server before the change."""
        name = "registry.webhook_secret"
        change = {"$unset": {name: ""}} if sealed is None else {"$set": {name: sealed}}
        return await self._change_and_return(server_id, change, tx)

    async def delete(
        self, server_id: str, expected_updated_at: datetime | None, tx: Transaction
    ) -> bool:
        """Remove a server if it was not changed since; return whether it was removed."""
        query = {"_id": ObjectId(server_id), **unchanged_since(expected_updated_at)}
        for table in self._tables.ordered(server_id):
            if await deleted(table.documents.find_one(query).delete(session=tx)):
                await self._states.delete_of(server_id, tx)
                return True
        return False

    async def touch(self, server_id: str, tx: Transaction) -> ServerRecord | None:
        """Return a server in a transaction, and lock out concurrent changes of it.

        Raises:
            ServerUnusableError: The stored document has no place for the touched field.
        """
        try:
            return await self._change_and_return(
                server_id, {"$inc": {"registry.access_version": 1}}, tx
            )
        except OperationFailure as exc:
            if exc.code not in NO_PLACE:
                raise
            raise ServerUnusableError from exc

    async def shared(self, resource_id: str, tx: Transaction | None = None) -> Resource | None:
        """Return the facts of a server for sharing, without an access check."""
        record = await self.record_unchecked(resource_id, tx)
        if record is None:
            return None
        return Resource(
            record.id, record.server_name, record.author, record.scope, record.tenant_id
        )

    async def follow_sharing(
        self, resource: Resource, scope: ServerScope | None, now: datetime, tx: Transaction
    ) -> None:
        """Write the scope that follows from a server's entries; always touch the server."""
        operations: Doc = {"$inc": {"registry.access_version": 1}}
        if scope is not None and scope is not resource.scope:
            # Not before the stored time, which may be ahead of our clock.
            operations["$set"] = {"scope": scope.value}
            operations["$max"] = {"updatedAt": now}
        await self._change({"_id": ObjectId(resource.id)}, operations, tx)

    async def follow_entry(
        self, entry_id: str, name: str, description: str | None, now: datetime, most: int
    ) -> int:
        """Write the name of a server of the catalog to up to *most* servers that are linked to it.

        Returns:
            How many had another one.
        """
        differs: list[Doc] = [{LINKED_NAME: {"$ne": name}}]
        differs.append({LINKED_DESCRIPTION: {"$ne": description}})
        changes: Doc = {"$set": {LINKED_NAME: name}, "$max": {"updatedAt": now}}
        if description is None:
            changes["$unset"] = {LINKED_DESCRIPTION: ""}
        else:
            changes["$set"][LINKED_DESCRIPTION] = description
        return await self._change_linked(entry_id, {"$or": differs}, changes, most)

    async def unlink(self, entry_id: str, now: datetime, most: int) -> int:
        """Remove the links of up to *most* servers to a server that the catalog has no more."""
        gone = dict.fromkeys((LINK, LINKED_NAME, LINKED_DESCRIPTION), "")
        changes: Doc = {"$unset": gone, "$max": {"updatedAt": now}}
        return await self._change_linked(entry_id, {}, changes, most)

    async def _change_linked(self, entry_id: str, query: Doc, changes: Doc, most: int) -> int:
        linked: Doc = {LINK: ObjectId(entry_id)}
        servers = self._tables.servers.collection
        rows = await servers.find({**linked, **query}, {"_id": 1}).limit(most).to_list()
        if rows:
            ids = [row["_id"] for row in rows]
            await servers.update_many({"_id": {"$in": ids}, **linked}, changes)
        return len(rows)

    async def linked_unchecked(self, entry_id: str) -> list[str]:
        """Return the ids of the servers that are linked to a server of the catalog."""
        rows = self._tables.servers.collection.find({LINK: ObjectId(entry_id)}, {"_id": 1})
        found = [id_of(row["_id"]) async for row in rows]
        return [server_id for server_id in found if server_id is not None]

    async def links_unchecked(self) -> list[ServerRecord]:
        """Return all MCP servers that are linked to the catalog, with the links alone."""
        rows = self._tables.servers.collection.find(
            {LINK: {"$type": "objectId"}}, {LINK: 1, LINKED_NAME: 1}
        )
        found = [parsed(ServerRecord, row, "mcpservers") async for row in rows]
        return [one for one in found if one is not None]

    async def identities_unchecked(self) -> list[ServerRecord]:
        """Return all MCP servers with what links them to the catalog, and nothing else."""
        fields = dict.fromkeys(("serverName", "config.url", "registry.package", LINK), 1)
        rows = self._tables.servers.collection.find({}, fields)
        found = [parsed(ServerRecord, row, "mcpservers") async for row in rows]
        return [one for one in found if one is not None]

    async def _records(self, query: Doc) -> list[ServerRecord]:
        return [
            record for table in self._tables.all for record in await self._records_in(table, query)
        ]

    async def _records_in(self, table: OwnerTable, query: Doc) -> list[ServerRecord]:
        records = await read_all(table.documents.find(query, projection_model=table.record))
        for record in records:
            self._tables.note(table, record.id)
        return records

    async def _change(self, query: Doc, change: Doc, tx: Transaction | None = None) -> bool:
        """Change a server; return whether the query found one."""
        for table in self._tables.ordered(str(query["_id"])):
            if await matched(table.documents.find_one(query).update(change, session=tx)):
                return True
        return False

    async def _change_and_return(
        self, server_id: str, change: Doc, tx: Transaction
    ) -> ServerRecord | None:
        """Change a server; return it as it was before."""
        for table in self._tables.ordered(server_id):
            document = await table.collection.find_one_and_update(
                {"_id": ObjectId(server_id)},
                change,
                projection={f"config.{FUNCTIONS}": 0, **WITHOUT_DOCUMENT},
                session=tx,
            )
            if document is not None:
                self._tables.note(table, server_id)
                return table.record.model_validate(document)
        return None


def _taken(
    error: DuplicateKeyError, server_name: str, path: str, *, is_api: bool = False
) -> Exception:
    details = error.details or {}
    pattern = details.get("keyPattern") or {}
    if OWN_PATH in pattern or PATH_INDEX in str(details.get("errmsg", "")):
        return PathTakenError(path, is_api=is_api)
    return ServerExistsError("serverName", server_name, is_api=is_api)


def new_document(model: type[Document], fields: Doc, apart: Container[str]) -> Doc:
    """Return the document of a new server.

    Args:
        model: The class of servers or of APIs, bound to the database.
        fields: Root fields in stored spelling, `author` as 24 hexadecimal characters.
        apart: Members of `registry` that are stored elsewhere.
    """
    ours = fields.get("registry") or {}
    server = model(
        **{
            **fields,
            "registry": {name: value for name, value in ours.items() if name not in apart},
            "config": (
                MCPConfig.model_validate(fields["config"])
                if issubclass(model, MCPServer)
                else fields["config"]
            ),
            "author": PydanticObjectId(fields["author"]),
        }
    )
    document: Doc = server.model_dump(by_alias=True, exclude_none=True)
    document["_id"] = ObjectId()
    if isinstance(server, MCPServer):
        # jarvis-api 0.0.71 queries it, and refuses servers without it.
        document["normalizedServerName"] = normalized_server_name(server.server_name)
    return document


def new_record(
    server_id: str, fields: Doc, source_type: SourceType = SourceType.MCP
) -> ServerRecord:
    """Return the record of a new server, with *fields* as for `new_document`."""
    key, author = ObjectId(server_id), ObjectId(fields["author"])
    model = ApiRecord if source_type is SourceType.OPENAPI else ServerRecord
    return model.model_validate({**fields, "_id": key, "author": author})


def unchanged_since(known: datetime | None) -> Doc:
    """Return the query for a server whose `updatedAt` is unchanged since it was read.

    A value that is not a date was read as None, and a date out of range as the earliest or latest
    time: compared as it was read, such a server could never be changed again.
    """
    if known is None:
        is_no_date: Doc = {"$not": {"$gte": EARLIEST}}
        return {"$or": [{"updatedAt": is_no_date}, {"updatedAt": {"$type": "array"}}]}
    if known >= LATEST:
        return {"updatedAt": {"$gte": known}}
    return {"updatedAt": {"$lte": known} if known <= EARLIEST else known}
