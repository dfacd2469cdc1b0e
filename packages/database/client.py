"""The connection to MongoDB, its indexes and validators, and transactions.

Knows the documents of `packages.models`; knows no settings, HTTP or MCP.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import pymongo
from beanie import Document, init_beanie
from pymongo import AsyncMongoClient, IndexModel, ReadPreference, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError
from pymongo.monitoring import CommandListener, ConnectionPoolListener
from pymongo.read_concern import ReadConcern

from packages.database.batch import Batch, Bulk
from packages.database.errors import (
    DUPLICATE_KEY,
    DatabaseUnavailable,
    ReplicaSetNeeded,
    translated,
)
from packages.database.monitoring import SignOfLife
from packages.database.stored import DECODING
from packages.database.waiting import repair_driver

Doc: TypeAlias = dict[str, Any]
Transaction: TypeAlias = AsyncClientSession
R = TypeVar("R")

DEFAULT_DATABASE = "jarvis"
"""Name of the shared database when the connection string has none."""

NOT_THERE_CODES = frozenset({26, 27})
"""There is no such collection; there is no such index."""

TOLD_DUPLICATES = 5
"""Documents, and groups of them, that are named where a unique index cannot be made."""

INDEX_CONFLICT_CODES = frozenset({85, 86})
"""IndexOptionsConflict and IndexKeySpecsConflict: the other application declared it otherwise."""

INDEX_IDENTITY = frozenset(
    {"key", "unique", "sparse", "expireAfterSeconds", "partialFilterExpression", "collation"}
)
"""What makes two indexes differ. A name, a version or `background` does not."""

NAMESPACE_EXISTS = 48

HEARTBEAT_MS = 2_000
"""How often a server must show that it lives; the driver's own ten seconds are long to wait."""

CLOSE_SECONDS = 5
"""Longest time for connections to be closed at the end of a process."""

TRANSACTION_SECONDS = 30
"""Longest time for a transaction with all its retries; the driver's own limit is two minutes."""


class TopologyError(Exception):
    """The server is no replica set, so it has neither transactions nor change streams."""

    def __init__(self) -> None:
        super().__init__(
            "MongoDB runs as a standalone server. Transactions and change streams need a replica "
            "set; one node is enough (start mongod with --replSet and run rs.initiate())."
        )


class MongoAddressError(Exception):
    """The connection string cannot be used. Never quoted: it may hold a password."""

    def __init__(self) -> None:
        super().__init__(
            "MONGO_URI: is no usable MongoDB connection string "
            "(mongodb://user:password@host:port/database, with special characters %-encoded)"
        )


@dataclass(frozen=True, slots=True)
class IndexConflict:
    """An index that exists with other options than we want; it is left as it is."""

    collection: str
    index: str
    message: str


class Database:
    """One client and one database. Every write waits for the majority.

    Args:
        uri: Connection string; its path names the database.
        timeout_ms: Longest wait for a server to be found, and for a connection.
        listeners: PyMongo command and pool listeners.

    Raises:
        MongoAddressError: The connection string cannot be used.
    """

    def __init__(
        self,
        uri: str,
        *,
        timeout_ms: int,
        listeners: Sequence[CommandListener | ConnectionPoolListener] = (),
    ) -> None:
        repair_driver()
        self._sign_of_life = SignOfLife()
        try:
            client: AsyncMongoClient[Doc] = AsyncMongoClient(
                uri,
                **DECODING,
                appname="mcp-gateway-registry",
                serverSelectionTimeoutMS=timeout_ms,
                connectTimeoutMS=timeout_ms,
                # A primary that is silent is given up after this and the connect timeout together.
                heartbeatFrequencyMS=HEARTBEAT_MS,
                socketTimeoutMS=max(timeout_ms, 30_000),
                event_listeners=[*listeners, self._sign_of_life],
            )
            database = client.get_default_database(
                DEFAULT_DATABASE,
                write_concern=WriteConcern("majority"),
                # Whatever the connection string says: a secondary may not know yet of a right
                # that was withdrawn, or of a token that was revoked.
                read_preference=ReadPreference.PRIMARY,
            )
        except (PyMongoError, ValueError):
            raise MongoAddressError from None
        self.client = client
        self.db: AsyncDatabase[Doc] = database
        self._is_standalone = False
        self._bulk = Bulk(client)

    def collection(self, name: str) -> AsyncCollection[Doc]:
        """Return a collection of this database."""
        return self.db[name]

    async def ping(self) -> None:
        """Ask the primary for a sign of life.

        Raises:
            DatabaseUnavailable: It gave none in time.
        """
        async with translated():
            await self.db.command("ping")

    async def is_standalone(self) -> bool:
        """Whether the server has neither transactions nor change streams; remembered.

        Raises:
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
            MongoLoginError: It refuses our user.
            MongoAddressError: The name in the connection string leads nowhere.
            DatabaseUnavailable: It cannot be asked.
        """
        async with translated():
            try:
                hello = await self.client.admin.command("hello")
            except ConfigurationError:
                raise MongoAddressError from None
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise TopologyError

    async def bind(self, documents: Sequence[type[Document]]) -> None:
        """Bind Beanie documents to this database. Creates no index: `ensure_indexes` does."""
        async with translated():
            await init_beanie(database=self.db, document_models=list(documents), skip_indexes=True)

    async def ensure_collection(self, name: str, validator: Mapping[str, object]) -> None:
        """Create a collection of ours with its validator, or bring the validator up to date."""
        async with translated():
            try:
                # The server says whether there is one; asked before, it lists all of them.
                await self.db.create_collection(name, check_exists=False, validator=validator)
            except OperationFailure as exc:
                if exc.code != NAMESPACE_EXISTS:
                    raise
                # A change of options locks the collection: not at each start of each worker.
                found = await self.db.list_collections(filter={"name": name})
                options = [item.get("options") or {} async for item in found]
                if [item.get("validator") for item in options] != [validator]:
                    await self.db.command("collMod", name, validator=validator)

    async def ensure_indexes(
        self, name: str, indexes: Sequence[IndexModel]
    ) -> list[IndexConflict]:
        """Create what is missing. Existing indexes are never dropped or changed.

        Returns:
            Those that cannot be made because one with other options stands in their place.
        """
        conflicts: list[IndexConflict] = []
        collection = self.db[name]
        async with translated():
            if not indexes:
                return conflicts
            try:
                await collection.create_indexes(indexes)
            except OperationFailure as exc:
                if exc.code not in {*INDEX_CONFLICT_CODES, DUPLICATE_KEY}:
                    raise
            else:
                return conflicts
            # One by one, so that the one that cannot be made keeps none of the others away.
            for index in indexes:
                try:
                    await collection.create_indexes([index])
                except OperationFailure as exc:
                    if exc.code not in {*INDEX_CONFLICT_CODES, DUPLICATE_KEY}:
                        raise
                    label = str(index.document["name"])
                    if exc.code == DUPLICATE_KEY:
                        problem = await self._duplicates(name, index)
                        conflicts.append(IndexConflict(name, label, problem))
                        continue
                    existing = [_identity(item) async for item in await collection.list_indexes()]
                    if _identity(index.document) in existing:
                        continue
                    conflicts.append(IndexConflict(name, label, str(exc.details or exc)))
        return conflicts

    async def _duplicates(self, name: str, index: IndexModel) -> str:
        """Say which documents keep a unique index from being made."""
        keys = {key.replace(".", "_"): f"${key}" for key in index.document["key"]}
        stages: list[Doc] = [
            {"$match": index.document.get("partialFilterExpression") or {}},
            {"$group": {"_id": keys, "ids": {"$push": "$_id"}, "count": {"$sum": 1}}},
            {"$match": {"count": {"$gt": 1}}},
            {"$limit": TOLD_DUPLICATES},
        ]
        groups = await (await self.db[name].aggregate(stages)).to_list()
        ids = [" and ".join(map(str, group["ids"][:TOLD_DUPLICATES])) for group in groups]
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
            DatabaseUnavailable: The database is away; nothing was written, or, when the answer to
                the commit was lost, everything was.
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

    def batch(self, tx: Transaction) -> Batch:
        """Return a way to send several writes of a transaction in one round trip."""
        return Batch(self.db, self._bulk, tx)

    async def close(self) -> None:
        """Close all connections, as far as that can be done in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.client.close()


def _identity(index: Mapping[str, Any]) -> list[tuple[str, object]]:
    # The order of the key's fields counts, and a plain dictionary would not compare it.
    values = {
        name: list(value.items()) if name == "key" else value
        for name, value in index.items()
        if name in INDEX_IDENTITY and value is not False
    }
    return sorted(values.items())
