"""Repository of `usage_records` and `usage_totals`. The only module that writes them."""

from collections.abc import Sequence
from datetime import datetime

import pymongo
import structlog
from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, WriteError

from packages.database.client import Database, Doc, Transaction
from packages.database.errors import (
    DUPLICATE_KEY,
    ReplicaSetNeeded,
    translates_driver_errors,
)
from packages.database.stored import moment_of
from packages.models.usage import PACKED, UsageLog, UsageTotal
from registry.usage.batches import BatchUnreadableError, records_of
from registry.usage.values import UsageFilter, UsageRecord

log = structlog.get_logger()

INSERT_SECONDS = 5.0
"""Longest time for writing one batch."""


@translates_driver_errors
class UsageRepository:
    """Stores records of calls."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Batches are packed rows, which no model describes further.
        self._rows = database.document(UsageLog).get_pymongo_collection()
        self._totals = database.document(UsageTotal).get_pymongo_collection()

    async def insert(self, batch: Doc, totals: Sequence[tuple[str, Doc]] = ()) -> bool:
        """Insert a batch and add it to the totals; return False if the database refuses it.

        One transaction: either all of it is there or nothing. It may be inserted again if it is
        unknown whether it was written: a batch that is there has been added. A standalone server
        has no transactions; there only the batch is written.

        Args:
            batch: What to insert.
            totals: Ids of totals, and what to do to them, from `totals.writes_of`.

        Raises:
            DatabaseUnavailable: Perhaps it was not written, perhaps it was.
        """
        if not totals:
            return await self._insert_alone(batch)
        updates = [UpdateOne({"_id": key}, write, upsert=True) for key, write in totals]

        async def write(tx: Transaction) -> None:
            await self._rows.insert_one(batch, session=tx)
            await self._totals.bulk_write(updates, ordered=False, session=tx)

        try:
            await self._database.transaction(write, seconds=INSERT_SECONDS)
        except ReplicaSetNeeded:
            return await self._insert_alone(batch)
        except DuplicateKeyError:
            # An earlier attempt wrote it.
            return True
        except (WriteError, BulkWriteError):
            return False
        return True

    async def _insert_alone(self, batch: Doc) -> bool:
        with pymongo.timeout(INSERT_SECONDS):
            # Retries are the caller's, with the same id.
            answer = await self._database.db.command(
                "insert",
                self._rows.name,
                documents=[batch],
                # A batch that is lost by a step-down of the primary matters less than the round
                # trips of a majority write.
                writeConcern={"w": 1},
            )
        return all(error.get("code") == DUPLICATE_KEY for error in answer.get("writeErrors", []))

    async def page(
        self, record_filter: UsageFilter, before: tuple[datetime, str] | None, limit: int
    ) -> list[UsageRecord]:
        """Return up to *limit* records, newest first, older than the position *before*."""
        found: list[UsageRecord] = []
        pending: list[UsageRecord] = []
        batches = self._rows.find(
            _query(record_filter, before), sort=[("last_at", pymongo.DESCENDING)]
        )
        async for batch in batches:
            last_at = moment_of(batch.get("last_at"))
            if last_at is None:
                log.warning("usage_batch_unreadable", batch_id=str(batch["_id"]))
                continue
            # Records newer than all batches still to come are final.
            while pending and pending[-1].started_at > last_at:
                found.append(pending.pop())
            if len(found) >= limit:
                return found[:limit]
            try:
                records = list(records_of(batch, record_filter))
            except BatchUnreadableError:
                log.warning("usage_batch_unreadable", batch_id=str(batch["_id"]))
                continue
            pending += [record for record in records if before is None or _age(record) < before]
            pending.sort(key=_age)
        return [*found, *reversed(pending)][:limit]


def _age(record: UsageRecord) -> tuple[datetime, str]:
    return record.started_at, record.id


def _facts_query(record_filter: UsageFilter) -> Doc:
    """Return the filter for what calls have in common."""
    facts: Doc = {}
    for name in ("tool", "method", "outcome"):
        value = getattr(record_filter, name)
        if value is not None:
            facts[name] = value
    if record_filter.tag is not None:
        facts["billing_tags"] = record_filter.tag
    for name in ("server_id", "user_id"):
        value = getattr(record_filter, name)
        if value is not None:
            facts[name] = ObjectId(value)
    return facts


def _query(record_filter: UsageFilter, before: tuple[datetime, str] | None) -> Doc:
    """Return the filter for batches that may contain matching records."""
    query: Doc = {"packed": PACKED}
    facts = _facts_query(record_filter)
    if record_filter.shown is not None:
        servers = [ObjectId(one) for one in record_filter.shown.server_ids]
        query["$or"] = [
            {"calls.server_id": {"$in": servers}},
            {"calls.user_id": ObjectId(record_filter.shown.user_id)},
        ]
    if facts:
        query["calls"] = {"$elemMatch": facts}
    if record_filter.trace_id is not None:
        query["trace_ids"] = record_filter.trace_id
    if record_filter.since is not None:
        query["last_at"] = {"$gte": record_filter.since}
    ends = [end for end in (record_filter.until, before[0] if before else None) if end is not None]
    if ends:
        query["first_at"] = {"$lte": min(ends)}
    return query
