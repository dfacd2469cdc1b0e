"""Batched writes of one transaction, in one round trip where the server supports it.

MongoDB supports it from release 8.0 on, with `bulkWrite`, described at
https://www.mongodb.com/docs/manual/reference/command/bulkWrite/. Earlier releases, and deployments
whose feature compatibility version is an earlier one, get the same writes one by one.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from bson import encode
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, OperationFailure, WriteError

from packages.database.errors import DUPLICATE_KEY

BULK_WRITE_WIRE_VERSION = 25
"""Of MongoDB 8.0, the first release with writes to several collections in one command."""

REFUSING_CODES = frozenset({59, 115})
"""CommandNotFound, and CommandNotSupported: the feature compatibility version is too low."""

WRITE_CONFLICT = 112
TRANSIENT = "TransientTransactionError"

MAX_BYTES = 12_000_000
"""Maximum bytes of writes in one command, which is one document of at most 16 MiB."""

Unmatched: TypeAlias = Callable[[], Awaitable[None]]
"""Called when an update matched nothing. May use the transaction; raises to abort it."""
Refused: TypeAlias = Callable[[WriteError], Exception]
"""Translates a write error of the database for callers, or returns it unchanged."""


@dataclass(frozen=True, slots=True)
class _Write:
    collection: str
    document: Mapping[str, Any] | None
    query: Mapping[str, Any]
    operations: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    upsert: bool
    unmatched: Unmatched | None
    refused: Refused | None


class Bulk:
    """Whether a deployment supports `bulkWrite`; shared by all batches of one client."""

    def __init__(self, client: AsyncMongoClient[dict[str, Any]]) -> None:
        self._client = client
        self._is_refused = False

    @property
    def is_possible(self) -> bool:
        """Whether all known servers support `bulkWrite`."""
        versions = self._client.topology_description.common_wire_version
        return not self._is_refused and (versions or 0) >= BULK_WRITE_WIRE_VERSION

    def refuse(self) -> None:
        """Send writes one by one from now on."""
        self._is_refused = True


class WriteBatch:
    """Collects writes of a transaction; `send` sends them in order.

    Get it from `Database.batch`. Without `send` nothing is written.
    """

    def __init__(
        self, database: AsyncDatabase[dict[str, Any]], bulk: Bulk, tx: AsyncClientSession
    ) -> None:
        self.tx = tx
        self._database = database
        self._bulk = bulk
        self._writes: list[_Write] = []

    def insert(
        self, collection: str, document: Mapping[str, Any], *, refused: Refused | None = None
    ) -> None:
        """Insert a document, which must have an `_id`."""
        self._writes.append(_Write(collection, document, {}, {}, False, None, refused))

    def update(
        self,
        collection: str,
        query: Mapping[str, Any],
        operations: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        upsert: bool = False,
        unmatched: Unmatched | None = None,
        refused: Refused | None = None,
    ) -> None:
        """Update the first document that matches.

        Args:
            collection: Where.
            query: Which one.
            operations: Update operators, or a pipeline.
            upsert: Whether it is inserted where there is none.
            unmatched: Called after all writes when there was none.
            refused: Turns a refusal into what callers know.
        """
        write = _Write(collection, None, query, operations, upsert, unmatched, refused)
        self._writes.append(write)

    async def send(self) -> None:
        """Write everything, and call `unmatched` for updates that matched nothing.

        Raises:
            OperationFailure: The database refuses a write, or the transaction has to be tried
                again, as the error's labels say.
        """
        writes, self._writes = self._writes, []
        if not writes:
            return
        found: list[bool] = []
        if _is_starting(self.tx):
            # The first statement carries the read concern, which not every compatible server
            # accepts with such a command.
            found.append(await self._write(writes[0]))
        found += await self._write_all(writes[len(found) :])
        for write, is_found in zip(writes, found, strict=True):
            if not is_found and write.unmatched is not None:
                await write.unmatched()

    async def _write_all(self, writes: list[_Write]) -> list[bool]:
        """Write everything; return which writes matched."""
        if len(writes) > 1 and self._bulk.is_possible:
            packed = self._packed(writes)
            if packed is not None:
                return await self._write_together(writes, *packed)
        return [await self._write(write) for write in writes]

    async def _write(self, write: _Write) -> bool:
        collection = self._database[write.collection]
        try:
            if write.document is not None:
                await collection.insert_one(dict(write.document), session=self.tx)
                return True
            updated = await collection.update_one(
                write.query, write.operations, upsert=write.upsert, session=self.tx
            )
        except WriteError as exc:
            error = exc if write.refused is None else write.refused(exc)
            if error is exc:
                raise
            raise error from exc
        return updated.matched_count == 1 or updated.upserted_id is not None

    def _packed(self, writes: list[_Write]) -> tuple[list[RawBSONDocument], list[str]] | None:
        """Return the operations of a command and its namespaces; None if it would be too long."""
        places: dict[str, int] = {}
        operations: list[RawBSONDocument] = []
        size = 0
        for write in writes:
            place = places.setdefault(write.collection, len(places))
            operation: dict[str, Any]
            if write.document is not None:
                operation = {"insert": place, "document": write.document}
            else:
                operation = {
                    "update": place,
                    "filter": write.query,
                    "updateMods": write.operations,
                    "upsert": write.upsert,
                }
            encoded = encode(operation, codec_options=self._database.codec_options)
            size += len(encoded)
            if size > MAX_BYTES:
                return None
            operations.append(RawBSONDocument(encoded))
        return operations, [f"{self._database.name}.{name}" for name in places]

    async def _write_together(
        self, writes: list[_Write], operations: list[RawBSONDocument], namespaces: list[str]
    ) -> list[bool]:
        command = {
            "bulkWrite": 1,
            "ops": operations,
            "nsInfo": [{"ns": namespace} for namespace in namespaces],
        }
        try:
            reply = await self._database.client.admin.command(command, session=self.tx)
        except OperationFailure as exc:
            if exc.code not in REFUSING_CODES:
                raise
            self._bulk.refuse()
            # The failed command has aborted the transaction; the next attempt writes one by one.
            raise _to_be_tried_again(str(exc), exc.code, exc.details or {}) from exc
        # A few numbers for each of a few writes: never more than the first batch.
        results = reply["cursor"]["firstBatch"]
        for result in results:
            if not result["ok"]:
                raise _refusal(writes[result["idx"]], result)
        return [result["n"] > 0 for result in results]


def _is_starting(tx: AsyncClientSession) -> bool:
    """Whether a transaction has sent nothing yet, or its state is unknown."""
    return bool(getattr(tx, "_starting_transaction", True))


def _refusal(write: _Write, result: Mapping[str, Any]) -> Exception:
    """Return the error that the driver raises for a single write, translated for the caller."""
    code, message = result.get("code"), str(result.get("errmsg", ""))
    if code == WRITE_CONFLICT:
        # Some servers report a conflict like any other write error.
        return _to_be_tried_again(message, code, result)
    kind = DuplicateKeyError if code == DUPLICATE_KEY else WriteError
    error = kind(message, code, dict(result))
    return error if write.refused is None else write.refused(error)


def _to_be_tried_again(
    message: str, code: int | None, details: Mapping[str, Any]
) -> OperationFailure:
    return OperationFailure(message, code, {**details, "errorLabels": [TRANSIENT]})
