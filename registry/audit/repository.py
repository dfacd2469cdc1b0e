"""Repository of `audit_logs` and `audit_seals`. The only module that writes them.

It only inserts: nothing here updates or deletes.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

import structlog
from bson import ObjectId
from bson.errors import InvalidId
from pymongo import DESCENDING
from pymongo.errors import BulkWriteError, DuplicateKeyError, WriteError

from packages.database.batch import WriteBatch
from packages.database.client import Database, Doc, Transaction
from packages.database.documents import parsed
from packages.database.errors import translates_driver_errors
from packages.models.audit import AuditLog, AuditSeal
from registry.audit.chain import AuditKeys, Seal, read_seal, seal_number, sign_record
from registry.audit.errors import AuditUnwritableError
from registry.audit.values import (
    NAMED_FOR_SERVERS,
    NO_SERVERS,
    AuditEvent,
    AuditFilter,
    AuditRecord,
    AuditVisibility,
)
from registry.auth.identity import UserContext
from registry.core.origin import UrlOrigin

log = structlog.get_logger()

NEWEST_FIRST = [("timestamp", DESCENDING), ("_id", DESCENDING)]


@translates_driver_errors
class AuditRepository:
    """Stores records and the seals over them."""

    def __init__(self, database: Database, keys: AuditKeys) -> None:
        # Records and seals are signed as they are stored, so they are written and read as such.
        self._logs = database.document(AuditLog).get_pymongo_collection()
        self._seals = database.document(AuditSeal).get_pymongo_collection()
        self._keys = keys

    def document(
        self, event: AuditEvent, actor: UserContext, origin: UrlOrigin, now: datetime
    ) -> Doc:
        """Return the signed document of a record."""
        fields: Doc = {
            "_id": ObjectId(),
            "timestamp": now,
            "action": event.action.value,
            "entity_type": event.entity_type.value,
            "entity_id": _id(event.entity_id),
            "server_id": _id(event.about_server),
            "user_id": ObjectId(actor.user_id),
            "tenant_id": actor.tenant_id,
            "username": actor.username,
            "role": actor.role.value,
            "token_id": actor.token_id,
            "request_id": origin.request_id,
            "source_address": origin.source_address,
            "outcome": event.outcome.value,
            "reason": event.reason,
            "changes": event.changes or None,
        }
        present = {name: value for name, value in fields.items() if value is not None}
        return sign_record(present, self._keys)

    async def insert(self, document: Doc, tx: Transaction) -> None:
        """Insert a record in the transaction of its change.

        Raises:
            AuditUnwritableError: The database refuses it, so the change must not be written.
        """
        try:
            await self._logs.insert_one(document, session=tx)
        except WriteError as exc:
            raise AuditUnwritableError from exc

    def add(self, document: Doc, batch: WriteBatch) -> None:
        """Add a record to a batch of its transaction's writes."""
        batch.insert(self._logs.name, document, refused=lambda _: AuditUnwritableError())

    async def insert_all(self, documents: Sequence[Doc], tx: Transaction) -> None:
        """Insert records in the transaction of their changes.

        Raises:
            AuditUnwritableError: The database refuses one, so none of the changes must be written.
        """
        try:
            await self._logs.insert_many(documents, session=tx)
        except BulkWriteError as exc:
            raise AuditUnwritableError from exc

    async def insert_alone(self, documents: Sequence[Doc]) -> None:
        """Insert records of events that changed nothing, without a transaction.

        Raises:
            AuditUnwritableError: The database refuses them.
        """
        try:
            await self._logs.insert_many(documents)
        except BulkWriteError as exc:
            raise AuditUnwritableError from exc

    async def page(
        self,
        record_filter: AuditFilter,
        before: tuple[datetime, str] | None,
        limit: int,
        shown: AuditVisibility | None = None,
    ) -> list[AuditRecord]:
        """Return up to *limit* records, newest first, older than the position *before*.

        *shown* limits them to what a caller may see; None means all.
        """
        query = _query(record_filter, before)
        if shown is not None:
            query = {"$and": [query, _shown(shown)]}
        found: list[AuditRecord] = []
        async with self._logs.find(query, sort=NEWEST_FIRST, batch_size=limit + 1) as rows:
            async for row in rows:
                record = parsed(AuditRecord, row, self._logs.name)
                if record is None:
                    continue
                found.append(record)
                if len(found) >= limit:
                    break
        return found

    async def all_records(self) -> AsyncGenerator[Doc, None]:
        """Yield every stored document."""
        async for row in self._logs.find({}, sort=[("_id", 1)]):
            yield row

    async def records(self, ids: Sequence[ObjectId]) -> dict[ObjectId, Doc]:
        """Return the stored records of *ids* that exist."""
        rows = self._logs.find({"_id": {"$in": list(ids)}})
        return {row["_id"]: row async for row in rows}

    async def ids_since(self, moment: datetime | None) -> list[object]:
        """Return the ids of the records from *moment* on, oldest first; None for all.

        Those of this program are ObjectIds; another one may have stored anything.
        """
        query: Doc = {} if moment is None else {"timestamp": {"$gte": moment}}
        rows = self._logs.find(query, {"_id": 1}, sort=[("timestamp", 1), ("_id", 1)])
        return [row["_id"] async for row in rows]

    async def last_seal(self) -> tuple[int, Seal | None, list[object]]:
        """Return what the next seal follows.

        Returns:
            The greatest number in use or 0, the newest seal that can be followed, and the ids of
            newer ones that cannot.
        """
        greatest, passed = 0, list[object]()
        # Ids that are no numbers sort after all numbers.
        rows = self._seals.find({"_id": {"$gte": 1}}, sort=[("_id", DESCENDING)], batch_size=2)
        async with rows:
            async for row in rows:
                greatest = max(greatest, seal_number(row) or 0)
                seal = read_seal(row, self._keys)
                if seal is not None and seal.is_usable:
                    return greatest, seal, passed
                passed.append(row["_id"])
        return greatest, None, passed

    async def all_seals(self) -> AsyncGenerator[Doc, None]:
        """Yield every seal in order, as it is."""
        async for seal in self._seals.find({}, sort=[("_id", 1)]):
            yield seal

    async def sealed_since(self, moment: datetime, after: int) -> list[Seal]:
        """Return the seals after number *after* that were made from *moment* on.

        Those that cannot be followed are left out: what they seal is sealed again.
        """
        query: Doc = {"_id": {"$gt": after}, "sealed_at": {"$gte": moment}}
        rows = self._seals.find(query, sort=[("_id", 1)])
        seals = [read_seal(row, self._keys) async for row in rows]
        return [seal for seal in seals if seal is not None and seal.is_usable]

    async def insert_seal(self, seal: Doc) -> bool:
        """Insert the next seal; return False if another process wrote that number."""
        try:
            await self._seals.insert_one(seal)
        except DuplicateKeyError:
            return False
        return True


def _id(text: str | None) -> ObjectId | str | None:
    if text is None:
        return None
    try:
        return ObjectId(text)
    except InvalidId:
        return text


def _query(record_filter: AuditFilter, before: tuple[datetime, str] | None) -> Doc:
    query: Doc = {}
    for name in ("action", "entity_type", "outcome"):
        value = getattr(record_filter, name)
        if value is not None:
            query[name] = value.value
    if record_filter.entity_id is not None:
        query["entity_id"] = _id(record_filter.entity_id)
    if record_filter.user_id is not None:
        query["user_id"] = ObjectId(record_filter.user_id)
    times: Doc = {}
    if record_filter.since is not None:
        times["$gte"] = record_filter.since
    if record_filter.until is not None:
        times["$lt"] = record_filter.until
    if times:
        query["timestamp"] = times
    if before is None:
        return query
    moment, record_id = before
    older: Doc = {
        "$or": [
            {"timestamp": {"$lt": moment}},
            {"timestamp": moment, "_id": {"$lt": ObjectId(record_id)}},
        ]
    }
    # Stated twice, because an index is used only for the plain condition.
    return {"$and": [{"timestamp": {"$lte": moment}}, older, query]}


def _shown(shown: AuditVisibility) -> Doc:
    servers = [ObjectId(one) for one in shown.server_ids]
    of_tenant: Doc = {"tenant_id": shown.tenant_id}
    if not shown.whole_tenant:
        of_tenant["entity_type"] = {"$in": sorted(NO_SERVERS)}
    return {
        "$or": [
            {"user_id": ObjectId(shown.user_id)},
            of_tenant,
            {"server_id": {"$in": servers}},
            # Earlier releases wrote no server_id.
            {
                "entity_type": {"$in": sorted(NAMED_FOR_SERVERS)},
                "entity_id": {"$in": servers},
            },
        ]
    }
