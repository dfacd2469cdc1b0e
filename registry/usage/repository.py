"""Repository of `usage_records` and `usage_totals`. The only module that writes them."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pymongo
import structlog
from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, WriteError
from pymongo.read_concern import ReadConcern

from packages.database.client import Database, Doc, Transaction
from packages.database.errors import (
    DUPLICATE_KEY,
    ReplicaSetNeeded,
    translates_driver_errors,
)
from packages.database.stored import id_of, moment_of, text_of
from packages.models.usage import DAY, MONTH, PACKED, UsageLog, UsageTotal
from registry.usage.batches import BatchUnreadableError, records_of, texts_of
from registry.usage.totals import SUMMED, MonthKey
from registry.usage.values import SEPARATOR, GroupBy, UsageFilter, UsageGroup, UsageRecord

log = structlog.get_logger()

INSERT_SECONDS = 5.0
"""Longest time for writing one batch."""

LONGEST_WRITE = timedelta(seconds=2 * INSERT_SECONDS)
"""A total is visible when its transaction is committed, and was changed before."""


GROUPED: Mapping[GroupBy, Sequence[str]] = {
    GroupBy.CALLER: ("user_id",),
    GroupBy.SERVER: ("server_id",),
    GroupBy.TOOL: ("server_id", "tool"),
    GroupBy.TAG: ("billing_tags",),
    GroupBy.DAY: ("at",),
}
"""The members of totals that tell groups apart. Tools of two servers are two, whatever their
names."""


@translates_driver_errors
class UsageRepository:
    """Stores records of calls.

    Attributes:
        writer: Names this start of the process in totals.
    """

    def __init__(self, database: Database) -> None:
        self.writer = str(ObjectId())
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
            # Unpacking takes some milliseconds, and the next batches may be here already.
            await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, not a time
            try:
                records = list(records_of(batch, record_filter))
            except BatchUnreadableError:
                log.warning("usage_batch_unreadable", batch_id=str(batch["_id"]))
                continue
            pending += [record for record in records if before is None or _age(record) < before]
            pending.sort(key=_age)
        return [*found, *reversed(pending)][:limit]

    async def spending(self, month: datetime) -> Counter[MonthKey]:
        """Return what was spent in a month, by tenant, caller, role and tags."""
        spent: Counter[MonthKey] = Counter()
        async for row in self._totals.find({"period": MONTH, "at": month}):
            spent[_month_key(row)] += row["cost"]
        return spent

    async def refresh(self, stored: "StoredSpending") -> list[tuple[MonthKey, int]]:
        """Read what other processes spent since the last time, and return what was added."""
        query: Doc = {"writer": {"$ne": stored.writer}}
        if stored.updated_at is None:
            query |= {"period": MONTH, "at": stored.month}
        else:
            query["updated_at"] = {"$gte": stored.updated_at - LONGEST_WRITE}
        added: list[tuple[MonthKey, int]] = []
        rows = [row async for row in self._totals.find(query)]
        for row in rows:
            updated_at = moment_of(row.get("updated_at"))
            if updated_at is not None:
                stored.updated_at = max(stored.updated_at or updated_at, updated_at)
            key = _month_key(row)
            more = row["cost"] - stored.costs.get(row["_id"], 0)
            if more > 0 and key[0] == stored.month:
                stored.costs[row["_id"]] = row["cost"]
                stored.spending[key] += more
                added.append((key, more))
        return added

    async def groups(
        self, record_filter: UsageFilter, group_by: Sequence[GroupBy]
    ) -> AsyncGenerator[UsageGroup]:
        """Yield the groups of totals, in the order of what they are grouped by.

        All of it is of one moment. *since* and *until* are the beginnings of days.
        """
        if await self._database.is_standalone():
            # There are none.
            return
        rows = self._totals.with_options(read_concern=ReadConcern("snapshot"))
        found = await rows.aggregate(_grouping(record_filter, group_by), allowDiskUse=True)
        key: Doc | None = None
        parts: list[Doc] = []
        async for row in found:
            if key is not None and row["_id"]["group"] != key:
                yield group_of(key, parts)
                parts = []
            key = row["_id"]["group"]
            parts.append(row)
        if key is not None:
            yield group_of(key, parts)


@dataclass(slots=True)
class StoredSpending:
    """What other processes spent in a month, as it was read last.

    Attributes:
        writer: This start of this process, whose own totals are left out.
        updated_at: Of the total that was changed last, by the database's clock.
        costs: By the id of the total.
    """

    month: datetime
    writer: str
    updated_at: datetime | None = None
    costs: dict[str, int] = field(default_factory=dict)
    spending: Counter[MonthKey] = field(default_factory=Counter)


def _month_key(row: Doc) -> MonthKey:
    month = moment_of(row["at"])
    assert month is not None  # noqa: S101 - the validator demands it
    return (
        month,
        text_of(row.get("tenant_id")),
        str(row["user_id"]),
        text_of(row.get("role")) or "",
        texts_of(row.get("billing_tags")),
    )


def _grouping(record_filter: UsageFilter, group_by: Sequence[GroupBy]) -> list[Doc]:
    """Return the stages that add totals and the buckets of their latencies.

    Each total becomes a part with its sums, and one part for each bucket.
    """
    query: Doc = {"period": DAY, **_facts_query(record_filter)}
    if record_filter.tool is not None:
        prefix, _, own = record_filter.tool.partition(SEPARATOR)
        combined: Doc = {"tool": own, "server": prefix}
        query["$and"] = [{"$or": [{"tool": record_filter.tool}, combined]}]
    at: Doc = {}
    if record_filter.since is not None:
        at["$gte"] = record_filter.since
    if record_filter.until is not None:
        at["$lt"] = record_filter.until
    if at:
        query["at"] = at
    shown = record_filter.shown
    if shown is not None:
        query["$or"] = [
            {"server_id": {"$in": [ObjectId(one) for one in shown.server_ids]}},
            {"user_id": ObjectId(shown.user_id)},
        ]
    group = {name: f"${name}" for one in group_by for name in GROUPED[one]}
    sums = {
        "outcome": "$outcome",
        "username": "$username",
        "server": "$server",
        **{name: f"${name}" for name in SUMMED},
    }
    return [
        {"$match": query},
        {
            "$project": {
                "group": group or {"$literal": {}},
                "parts": {"$concatArrays": [[sums], {"$objectToArray": "$latency"}]},
            }
        },
        {"$unwind": "$parts"},
        {
            "$group": {
                "_id": {
                    "group": "$group",
                    "outcome": "$parts.outcome",
                    "bucket": "$parts.k",
                },
                "in_bucket": {"$sum": "$parts.v"},
                "username": {"$max": "$parts.username"},
                "server": {"$max": "$parts.server"},
                **{name: {"$sum": f"$parts.{name}"} for name in SUMMED},
            }
        },
        {"$sort": {"_id.group": 1}},
    ]


def group_of(key: Doc, parts: Sequence[Doc]) -> UsageGroup:
    """Return one group from the parts that the database added."""
    outcomes: Counter[str] = Counter()
    latency: Counter[int] = Counter()
    sums = dict.fromkeys(SUMMED, 0)
    username = server = None
    for part in parts:
        bucket = part["_id"].get("bucket")
        if bucket is not None:
            latency[int(bucket)] += part["in_bucket"]
            continue
        outcomes[str(part["_id"].get("outcome"))] += part["calls"]
        username = max(username or "", part["username"] or "")
        server = max(server or "", part["server"] or "") or None
        for name in SUMMED:
            sums[name] += part[name]
    tags = key.get("billing_tags")
    return UsageGroup(
        day=moment_of(key.get("at")),
        user_id=id_of(key.get("user_id")),
        username=username if "user_id" in key else None,
        server_id=None if key.get("server_id") is None else str(key["server_id"]),
        server=server if "server_id" in key else None,
        tool=text_of(key.get("tool")),
        billing_tags=texts_of(tags),
        sent=sums["sent"],
        outcomes=outcomes,
        request_bytes=sums["request_bytes"],
        response_bytes=sums["response_bytes"],
        cost=sums["cost"],
        duration_us=sums["duration_us"],
        latency=latency,
    )


def _age(record: UsageRecord) -> tuple[datetime, str]:
    return record.started_at, record.id


def _facts_query(record_filter: UsageFilter) -> Doc:
    """Return the filter for what calls have in common."""
    facts: Doc = {}
    for name in ("method", "outcome"):
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


def _called(tool: str) -> list[Doc]:
    """Return what calls of a tool may be recorded as; which are is decided when they are read."""
    _, separator, own = tool.partition(SEPARATOR)
    names = [tool, own] if separator else [tool]
    return [
        {"tool": {"$in": names}},
        {"own_tool": {"$in": names}},
        # Earlier releases recorded only the name on the combined server.
        {"tool": {"$regex": SEPARATOR}, "own_tool": {"$exists": False}},
    ]


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
    if record_filter.tool is not None:
        calls = [{**facts, **named} for named in _called(record_filter.tool)]
        query["$and"] = [{"$or": [{"calls": {"$elemMatch": one}} for one in calls]}]
    elif facts:
        query["calls"] = {"$elemMatch": facts}
    if record_filter.trace_id is not None:
        query["trace_ids"] = record_filter.trace_id
    if record_filter.since is not None:
        query["last_at"] = {"$gte": record_filter.since}
    ends = [end for end in (record_filter.until, before[0] if before else None) if end is not None]
    if ends:
        query["first_at"] = {"$lte": min(ends)}
    return query
