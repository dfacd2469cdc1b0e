"""Writes and reads `usage_records`. The only module that writes them; it inserts."""

from datetime import datetime

import pymongo
import structlog
from bson import ObjectId

from packages.database.client import Database, Doc
from packages.database.errors import DUPLICATE_KEY, translates_driver_errors
from packages.database.stored import moment_of
from packages.models.usage import PACKED, UsageLog
from registry.usage.batches import BatchUnreadableError, records_of
from registry.usage.values import UsageFilter, UsageRecord

log = structlog.get_logger()

INSERT_SECONDS = 5.0
"""Longest time for one batch; what waits longer is held back for the next one."""


@translates_driver_errors
class UsageRepository:
    """Records of calls."""

    def __init__(self, database: Database) -> None:
        self._database = database.db
        self._rows = database.collection(UsageLog.Settings.name)

    async def insert(self, batch: Doc) -> bool:
        """Write a batch; False when the database refuses it.

        It may be given again when it is not known whether it was written.

        Raises:
            DatabaseUnavailable: Perhaps it was not written, perhaps it was.
        """
        with pymongo.timeout(INSERT_SECONDS):
            # Retries are the caller's, with the same id.
            answer = await self._database.command(
                "insert",
                UsageLog.Settings.name,
                documents=[batch],
                # No call waits for it: a batch that a step-down of the primary loses is worth
                # less than the majority's round trips.
                writeConcern={"w": 1},
            )
        return all(error.get("code") == DUPLICATE_KEY for error in answer.get("writeErrors", []))

    async def page(
        self, narrowed: UsageFilter, before: tuple[datetime, str] | None, limit: int
    ) -> list[UsageRecord]:
        """Return up to *limit* records, newest first, older than the place *before*."""
        found: list[UsageRecord] = []
        pending: list[UsageRecord] = []
        batches = self._rows.find(_query(narrowed, before), sort=[("last_at", pymongo.DESCENDING)])
        async for batch in batches:
            last_at = moment_of(batch.get("last_at"))
            if last_at is None:
                log.warning("usage_batch_unreadable", batch_id=str(batch["_id"]))
                continue
            # What is newer than all that is still to come has its place.
            while pending and pending[-1].started_at > last_at:
                found.append(pending.pop())
            if len(found) >= limit:
                return found[:limit]
            try:
                records = list(records_of(batch, narrowed))
            except BatchUnreadableError:
                log.warning("usage_batch_unreadable", batch_id=str(batch["_id"]))
                continue
            pending += [record for record in records if before is None or _age(record) < before]
            pending.sort(key=_age)
        return [*found, *reversed(pending)][:limit]


def _age(record: UsageRecord) -> tuple[datetime, str]:
    return record.started_at, record.id


def _query(narrowed: UsageFilter, before: tuple[datetime, str] | None) -> Doc:
    """Return which batches may hold such records."""
    query: Doc = {"packed": PACKED}
    facts: Doc = {}
    for name in ("tool", "method", "outcome"):
        value = getattr(narrowed, name)
        if value is not None:
            facts[name] = value
    for name in ("server_id", "user_id"):
        value = getattr(narrowed, name)
        if value is not None:
            facts[name] = ObjectId(value)
    if narrowed.shown is not None:
        servers = [ObjectId(one) for one in narrowed.shown.server_ids]
        query["$or"] = [
            {"calls.server_id": {"$in": servers}},
            {"calls.user_id": ObjectId(narrowed.shown.user_id)},
        ]
    if facts:
        query["calls"] = {"$elemMatch": facts}
    if narrowed.trace_id is not None:
        query["trace_ids"] = narrowed.trace_id
    if narrowed.since is not None:
        query["last_at"] = {"$gte": narrowed.since}
    ends = [end for end in (narrowed.until, before[0] if before else None) if end is not None]
    if ends:
        query["first_at"] = {"$lte": min(ends)}
    return query
