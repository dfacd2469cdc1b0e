"""MongoDB client: connection, indexes, validators and transactions.

Knows the documents of `packages.models`; knows no settings, HTTP or MCP.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import pymongo
import structlog
from beanie import Document
from pymongo import AsyncMongoClient, IndexModel, ReadPreference, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError
from pymongo.monitoring import CommandListener, ConnectionPoolListener
from pymongo.read_concern import ReadConcern

from packages.database.batch import Bulk, WriteBatch
from packages.database.documents import D, bound
from packages.database.errors import (
    DUPLICATE_KEY,
    LOGIN_CODES,
    DatabaseUnavailable,
    ReplicaSetNeeded,
    is_unreachable,
    translated,
)
from packages.database.monitoring import SignOfLife
from packages.database.stored import DECODING
from packages.database.waiting import repair_driver

Doc: TypeAlias = dict[str, Any]
Transaction: TypeAlias = AsyncClientSession
R = TypeVar("R")

log = structlog.get_logger()

LEAST_RELEASE = "6.0"
LEAST_WIRE_VERSION = 17
"""That release's `maxWireVersion` in `hello`. Source: docs/decisions/0045-mongodb-releases.md."""

ROUTER = "isdbgrid"
"""`msg` in the `hello` of a sharded cluster's router (`mongos`)."""

COMMAND_NOT_FOUND = 59

DEFAULT_DATABASE = "jarvis"
"""Name of the shared database when the connection string has none."""

NOT_THERE_CODES = frozenset({26, 27})
"""NamespaceNotFound, and IndexNotFound."""

TOLD_DUPLICATES = 5
"""Duplicate documents, and groups of them, that are named if a unique index cannot be built."""

DUPLICATES_MS = 10_000
"""Longest time for that search, which reads the whole collection."""

INDEX_IDENTITY = frozenset(
    {"key", "unique", "sparse", "expireAfterSeconds", "partialFilterExpression", "collation"}
)
"""Options that distinguish two indexes. Name, version and `background` do not."""

NAMESPACE_EXISTS = 48

SOCKET_TIMEOUT_MS = 30_000
"""Longest wait for an answer, except to the creation of an index."""

INDEX_BUILD_SECONDS = 86_400
"""Longest time for the indexes of a collection to be built."""

HEARTBEAT_MS = 2_000
"""Interval of the driver's server checks; its default of ten seconds is long."""

CLOSE_SECONDS = 5
"""Longest time for closing connections at shutdown."""

TRANSACTION_SECONDS = 30
"""Longest time for a transaction with all retries; the driver's limit is two minutes."""


class UnsupportedServerError(Exception):
    """The server can be reached but is not supported."""


class TopologyError(UnsupportedServerError):
    """The server is a standalone, so it has neither transactions nor change streams."""

    def __init__(self) -> None:
        super().__init__(
            "MongoDB runs as a standalone server. Transactions and change streams need a replica "
            "set; one node is enough (start mongod with --replSet and run rs.initiate())."
        )


class ShardedClusterError(UnsupportedServerError):
    """The server is a router of a sharded cluster."""

    def __init__(self) -> None:
        super().__init__(
            "MONGO_URI names a sharded cluster (mongos), which is not supported: its change "
            "streams can be many seconds late. Use a replica set; one node is enough."
        )


class ServerVersionError(UnsupportedServerError):
    """The server's release is too old."""

    def __init__(self, version: str | None) -> None:
        release = "MongoDB" if version is None else f"MongoDB {version}"
        super().__init__(f"{release} is too old: release {LEAST_RELEASE} or later is needed.")


class MongoAddressError(Exception):
    """The connection string is invalid. It is never quoted, because it may hold a password."""

    def __init__(self) -> None:
        super().__init__(
            "MONGO_URI: is not a valid MongoDB connection string "
            "(mongodb://user:password@host:port/database, with special characters %-encoded)"
        )


@dataclass(frozen=True, slots=True)
class IndexConflict:
    """An index that cannot be built, or that exists with other options."""

    collection: str
    index: str
    message: str


class Database:
    """One client and one database. Every write waits for the majority.

    Args:
        uri: Connection string; its path names the database.
        timeout_ms: Longest wait for a server to be found, and for a connection.
        socket_timeout_ms: Longest wait for an answer, if that is longer.
        listeners: PyMongo command and pool listeners.

    Raises:
        MongoAddressError: The connection string cannot be used.
    """

    def __init__(
        self,
        uri: str,
        *,
        timeout_ms: int,
        socket_timeout_ms: int = SOCKET_TIMEOUT_MS,
        listeners: Sequence[CommandListener | ConnectionPoolListener] = (),
    ) -> None:
        repair_driver()
        self._sign_of_life = SignOfLife()
        self._socket_timeout_ms = max(timeout_ms, socket_timeout_ms)
        try:
            client: AsyncMongoClient[Doc] = AsyncMongoClient(
                uri,
                **DECODING,
                appname="mcp-gateway-registry",
                serverSelectionTimeoutMS=timeout_ms,
                connectTimeoutMS=timeout_ms,
                # A silent primary is abandoned after this plus the connect timeout.
                heartbeatFrequencyMS=HEARTBEAT_MS,
                socketTimeoutMS=self._socket_timeout_ms,
                event_listeners=[*listeners, self._sign_of_life],
            )
            database = client.get_default_database(
                DEFAULT_DATABASE,
                write_concern=WriteConcern("majority"),
                # Overrides the connection string: a secondary may still lack the withdrawal of a
                # right or the revocation of a token.
                read_preference=ReadPreference.PRIMARY,
            )
        except (PyMongoError, ValueError):
            raise MongoAddressError from None
        self.client = client
        self.db: AsyncDatabase[Doc] = database
        self._is_standalone = False
        self._bulk = Bulk(client)
        self._documents: dict[type[Document], type[Document]] = {}

    def document(self, model: type[D]) -> type[D]:
        """Return *model* bound to this database: reads, writes and instances go through it."""
        found = self._documents.get(model)
        if found is None:
            found = self._documents[model] = bound(model, self.db)
        return cast("type[D]", found)

    def collection(self, name: str) -> AsyncCollection[Doc]:
        """Return a collection of this database."""
        return self.db[name]

    async def ping(self) -> None:
        """Check that the primary answers.

        Raises:
            DatabaseUnavailable: It gave none in time.
        """
        async with translated():
            await self.db.command("ping")

    async def is_standalone(self) -> bool:
        """Whether the server has neither transactions nor change streams. The answer is cached.

        Raises:
            UnsupportedServerError: It is too old, or a router of a sharded cluster.
            MongoLoginError: It refuses our user.
            MongoAddressError: The name in the connection string leads nowhere.
            DatabaseUnavailable: It cannot be asked.
        """
        try:
            await self.require_replica_set()
        except TopologyError:
            self._is_standalone = True
        return self._is_standalone

    async def require_replica_set(self) -> None:
        """Check that transactions are possible.

        Raises:
            TopologyError: The server is a standalone one.
            UnsupportedServerError: It is too old, or a router of a sharded cluster.
            MongoLoginError: It refuses our user.
            MongoAddressError: The name in the connection string leads nowhere.
            DatabaseUnavailable: It cannot be asked.
        """
        if "setName" not in await self.require_supported():
            raise TopologyError

    async def require_supported(self) -> Doc:
        """Check that the server is supported, at least for reading; return its `hello`.

        Raises:
            UnsupportedServerError: It is too old, or a router of a sharded cluster.
            MongoLoginError: It refuses our user.
            MongoAddressError: The name in the connection string leads nowhere.
            DatabaseUnavailable: It cannot be asked.
        """
        async with translated():
            try:
                hello = await self.client.admin.command("hello")
            except ConfigurationError:
                # The server is too old even for the driver.
                if self._knows_old_server():
                    raise ServerVersionError(None) from None
                raise MongoAddressError from None
            except OperationFailure as exc:
                if exc.code != COMMAND_NOT_FOUND:
                    raise
                hello = {}
            if hello.get("maxWireVersion", 0) < LEAST_WIRE_VERSION:
                build = await self.client.admin.command("buildInfo")
                raise ServerVersionError(str(build["version"]))
        if hello.get("msg") == ROUTER:
            raise ShardedClusterError
        return hello

    def _knows_old_server(self) -> bool:
        servers = self.client.topology_description.server_descriptions().values()
        return any(
            server.is_server_type_known and server.max_wire_version < LEAST_WIRE_VERSION
            for server in servers
        )

    async def validators(self) -> dict[str, Any]:
        """Return the validators of all collections, by name; None for those without."""
        async with translated():
            found = await self.db.list_collections()
            return {one["name"]: one.get("options", {}).get("validator") async for one in found}

    async def ensure_collection(self, name: str, validator: Mapping[str, object]) -> None:
        """Create one of our collections with its validator, or update the validator."""
        async with translated():
            try:
                # The creation itself shows whether it exists, also if another process is quicker.
                await self.db.create_collection(name, check_exists=False, validator=validator)
            except OperationFailure as exc:
                if exc.code != NAMESPACE_EXISTS:
                    raise
                # Changing options locks the collection, so not at each start of each worker.
                found = await self.db.list_collections(filter={"name": name})
                options = [item.get("options") or {} async for item in found]
                if [item.get("validator") for item in options] != [validator]:
                    await self.db.command("collMod", name, validator=validator)

    async def ensure_indexes(
        self, name: str, indexes: Sequence[IndexModel]
    ) -> list[IndexConflict]:
        """Create missing indexes, and wait until they are built, without a limit.

        Existing indexes are never dropped or changed. Several processes may do this at once: the
        server builds each index once, and answers all of them when it is built.

        Returns:
            Those that cannot be made: one with other options stands in their place, documents do
            not fit, or the server has no such indexes.
        """
        conflicts: list[IndexConflict] = []
        async with translated():
            if not indexes:
                return conflicts
            try:
                await self._build_indexes(name, indexes)
            except OperationFailure as exc:
                if not _is_of_one_index(exc):
                    raise
            else:
                return conflicts
            # One by one, so that a failing index does not prevent the others.
            for index in indexes:
                try:
                    await self._build_indexes(name, [index])
                except OperationFailure as exc:
                    if not _is_of_one_index(exc):
                        raise
                    existing = await self.db[name].list_indexes()
                    if _identity(index.document) in [_identity(one) async for one in existing]:
                        continue
                    problem = str(exc.details or exc)
                    if exc.code == DUPLICATE_KEY:
                        problem = await self._duplicates(name, index) or problem
                    label = str(index.document["name"])
                    conflicts.append(IndexConflict(name, label, problem))
        return conflicts

    async def _build_indexes(self, name: str, indexes: Sequence[IndexModel]) -> None:
        """Create indexes of a collection, and log if it takes long.

        Raises:
            OperationFailure: One of them cannot be made.
            DatabaseUnavailable: The server went away.
        """

        async def create() -> None:
            # A build may take longer than any other command: with the usual timeout no caller
            # would see it end.
            with pymongo.timeout(INDEX_BUILD_SECONDS):
                await self.db[name].create_indexes(indexes)

        loop = asyncio.get_running_loop()
        began_at, is_reported = loop.time(), False
        names = [str(index.document["name"]) for index in indexes]
        task = loop.create_task(create())
        try:
            while not (await asyncio.wait({task}, timeout=self._socket_timeout_ms / 1000))[0]:
                # During the build, only this detects that the server has become unreachable.
                await self.ping()
                is_reported = True
                seconds = round(loop.time() - began_at)
                log.info("index_build_running", collection=name, indexes=names, seconds=seconds)
        finally:
            task.cancel()
            await asyncio.wait({task})
        task.result()
        if is_reported:
            seconds = round(loop.time() - began_at)
            log.info("index_build_finished", collection=name, indexes=names, seconds=seconds)

    async def _duplicates(self, name: str, index: IndexModel) -> str | None:
        """Return which documents prevent a unique index; None if the search takes too long."""
        keys = {key.replace(".", "_"): f"${key}" for key in index.document["key"]}
        some = {"$firstN": {"input": "$_id", "n": TOLD_DUPLICATES}}
        stages: list[Doc] = [
            {"$match": index.document.get("partialFilterExpression") or {}},
            {"$group": {"_id": keys, "ids": some, "count": {"$sum": 1}}},
            {"$match": {"count": {"$gt": 1}}},
            {"$limit": TOLD_DUPLICATES},
        ]
        try:
            found = await self.db[name].aggregate(stages, maxTimeMS=DUPLICATES_MS)
            groups = await found.to_list()
        except OperationFailure:
            return None
        ids = [" and ".join(map(str, group["ids"])) for group in groups]
        fields = ", ".join(index.document["key"])
        return f"documents have the same {fields}: {'; '.join(ids)}"

    async def drop_indexes(self, name: str, indexes: Sequence[str]) -> None:
        """Drop those of *indexes* that a collection of ours has."""
        async with translated():
            for index in indexes:
                try:
                    await self.db[name].drop_index(index)
                except OperationFailure as exc:
                    if exc.code not in NOT_THERE_CODES:
                        raise

    async def transaction(
        self,
        work: Callable[[Transaction], Awaitable[R]],
        *,
        seconds: float = TRANSACTION_SECONDS,
    ) -> R:
        """Run *work* in one transaction: all of it or nothing. May run it again on a conflict.

        *work* must do nothing but database operations, each with the session it is given.

        Args:
            work: What to do.
            seconds: Longest time for all of it, and for conflicts to end.

        Raises:
            ReplicaSetNeeded: `is_standalone` found that there are none.
            DatabaseUnavailable: The database is unreachable; nothing was written, or, when the
                answer to the commit was lost, everything was.
        """
        if self._is_standalone:
            raise ReplicaSetNeeded
        # Within its own limit a transaction looks for a server until TRANSACTION_SECONDS are up,
        # which is too long for callers to learn that there is none.
        if not self._sign_of_life.is_fresh:
            try:
                await self.ping()
            except DatabaseUnavailable:
                # Perhaps only a pooled connection died; the second look is through a new one.
                await self.ping()
        async with translated(), self.client.start_session() as session:
            with pymongo.timeout(seconds):
                return await session.with_transaction(
                    work,
                    read_concern=ReadConcern("snapshot"),
                    write_concern=WriteConcern("majority"),
                    read_preference=ReadPreference.PRIMARY,
                )

    def batch(self, tx: Transaction) -> WriteBatch:
        """Return a way to send several writes of a transaction in one round trip."""
        return WriteBatch(self.db, self._bulk, tx)

    async def close(self) -> None:
        """Close all connections, as far as that can be done in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.client.close()


def index_keys(index: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the fields of an index in their order, as they are given when it is made.

    Servers name those of a text index in its weights alone.
    """
    keys = dict(index["key"])
    text = {name for name, kind in keys.items() if kind == "text"}
    text |= {*(index.get("weights") or ())}
    found: Doc = {}
    for name, kind in keys.items():
        if kind == "text":
            # Their relative order has no meaning, and servers do not preserve it.
            found |= dict.fromkeys(sorted(text - {"_fts"}), kind)
        elif name != "_ftsx":
            found[name] = kind
    return list(found.items())


def _is_of_one_index(error: OperationFailure) -> bool:
    """Whether an error concerns one index, rather than the server as a whole."""
    return not is_unreachable(error) and error.code not in LOGIN_CODES


def _identity(index: Mapping[str, Any]) -> list[tuple[str, object]]:
    # The order of the key's fields counts, and a plain dictionary would not compare it.
    values = {
        name: index_keys(index) if name == "key" else value
        for name, value in index.items()
        if name in INDEX_IDENTITY and value is not False
    }
    return sorted(values.items())
