"""Totals of calls: what a batch adds to the sums of its days and months, and how groups are read.

A total of a day is of the calls with the same caller, server, tool, method, outcome, cost tier and
billing tags, so that every grouping adds the same documents. A total of a month says what a caller
spent on tools with the same tags; budgets are compared with these. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from operator import itemgetter
from typing import Any

import orjson
from bson import ObjectId
from bson.errors import InvalidId

from packages.database.client import Doc
from packages.models.usage import DAY, MONTH
from registry.usage.batches import UsageBatch
from registry.usage.values import CallFacts, Charge, Measurements, clean_name

SUB_BUCKETS = 16
"""Buckets for each doubling of a duration. A percentile is the middle of its bucket, so it is
wrong by at most 1/32 (3.1 %) of the value. Source: docs/decisions/0061-cost-and-usage.md."""

DECISION_BITS = SUB_BUCKETS.bit_length() - 1
EXACT = 2 * SUB_BUCKETS
"""Durations below so many microseconds have a bucket each."""

SUMMED = ("calls", "sent", "request_bytes", "response_bytes", "cost", "duration_us")
REQUEST_BYTES, RESPONSE_BYTES = itemgetter(4), itemgetter(5)
NO_CHARGE = Charge(None, (), 0, 0)
KEY_BYTES = 16

DayKey = tuple[datetime, str, str | None, str | None, str, str, str | None, tuple[str, ...]]
MonthKey = tuple[datetime, str | None, str, str, tuple[str, ...]]


@dataclass(slots=True)
class Sums:
    """Sums over calls.

    Attributes:
        sent: How many were sent upstream.
        cost: Millionths of the currency unit.
        duration_us: Of all of them.
        latency: Number of calls by bucket.
    """

    username: str = ""
    server: str | None = None
    calls: int = 0
    sent: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    cost: int = 0
    duration_us: int = 0
    latency: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """What a batch adds to the totals.

    Attributes:
        spent: Cost by month, tenant, caller, role and tags.
    """

    days: Mapping[DayKey, Sums]
    spent: Mapping[MonthKey, int]


NO_TOTALS = BatchTotals({}, {})


def bucket_of(microseconds: int) -> int:
    """Return the bucket of a duration: linear within each doubling."""
    if microseconds < EXACT:
        return max(0, microseconds)
    shift = microseconds.bit_length() - 1 - DECISION_BITS
    return shift * SUB_BUCKETS + (microseconds >> shift)


def middle_of(bucket: int) -> float:
    """Return the duration that stands for a bucket, in microseconds."""
    if bucket < EXACT:
        return bucket
    shift = bucket // SUB_BUCKETS - 1
    least = (bucket - shift * SUB_BUCKETS) << shift
    return least + ((1 << shift) - 1) / 2


def percentile(latency: Mapping[int, int], share: float) -> float | None:
    """Return a percentile in microseconds, by the nearest rank; None without calls."""
    rest = share * sum(latency.values())
    for bucket in sorted(latency):
        rest -= latency[bucket]
        if rest <= 0:
            return middle_of(bucket)
    return None


def day_of(moment: datetime) -> datetime:
    """Return the beginning of its day, UTC."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def month_of(moment: datetime) -> datetime:
    """Return the beginning of its month, UTC."""
    return day_of(moment).replace(day=1)


def month_after(month: datetime) -> datetime:
    """Return the beginning of the next month."""
    return month_of(month + timedelta(days=32))


def totals_of(batch: UsageBatch, now: datetime, monotonic: float) -> BatchTotals:
    """Return what a batch adds to the totals.

    Args:
        batch: In this process's monotonic time.
        now: The present moment, UTC.
        monotonic: The same moment by the monotonic clock.
    """
    facts = [CallFacts._make(one) for one in batch.facts]
    moments = [row[1][0] for row in batch.rows]
    first, last = (
        day_of(now + timedelta(seconds=began - monotonic))
        for began in (min(moments), max(moments))
    )
    # Grouped first and then added by functions in C: a third of the time of adding each by itself.
    groups: dict[tuple[int, datetime], list[Measurements]] = {}
    for number, row in batch.rows:
        day = first if first == last else day_of(now + timedelta(seconds=row[0] - monotonic))
        groups.setdefault((number, day), []).append(row)
    days: dict[DayKey, Sums] = {}
    spent: Counter[MonthKey] = Counter()
    for (number, day), rows in groups.items():
        about = facts[number]
        sums = days.setdefault(_key(about, day), Sums())
        sums.username, sums.server = about.username, about.slug
        durations = [int((row[3] - row[0]) * 1_000_000 + 0.5) for row in rows]
        sums.calls += len(rows)
        sums.request_bytes += sum(map(REQUEST_BYTES, rows))
        sums.response_bytes += sum(map(RESPONSE_BYTES, rows))
        sums.duration_us += sum(durations)
        sums.latency.update(map(bucket_of, durations))
        sent = [row for row in rows if row[1]]
        sums.sent += len(sent)
        if about.charge is not None:
            cost = sum([about.charge.cost_of(row[4] + row[5]) for row in sent])
            sums.cost += cost
            if cost:
                spent[spender(about, month_of(day))] += cost
    return BatchTotals(days, spent)


def spender(facts: CallFacts, month: datetime) -> MonthKey:
    """Return the total of a month that a call adds its cost to."""
    tags = () if facts.charge is None else facts.charge.billing_tags
    return month, facts.tenant_id, facts.user_id, str(facts.role), tags


def writes_of(totals: BatchTotals, writer: str, keep: timedelta) -> list[tuple[str, Doc]]:
    """Return the id and the update operators of each total that a batch changes, by id.

    Args:
        totals: Of the batch.
        writer: Names this start of a process: no two write the same total, so that their
            transactions never wait for each other.
        keep: How long after their day, or month, totals are kept.
    """
    writes = [_day_write(key, sums, writer, keep) for key, sums in totals.days.items()]
    writes += [_month_write(key, cost, writer, keep) for key, cost in totals.spent.items()]
    return sorted(writes, key=lambda one: one[0])


def _key(facts: CallFacts, day: datetime) -> DayKey:
    charge = facts.charge or NO_CHARGE
    # Names that nobody serves are the callers' inventions, of which there is no end.
    tool = None if facts.tool is None or facts.server_id is None else clean_name(facts.tool)
    return (
        *(day, facts.user_id, facts.server_id, tool, facts.method, str(facts.outcome)),
        *(charge.cost_tier, charge.billing_tags),
    )


def _day_write(key: DayKey, sums: Sums, writer: str, keep: timedelta) -> tuple[str, Doc]:
    day, user_id, server_id, tool, method, outcome, cost_tier, tags = key
    named: Doc = {
        "period": DAY,
        "writer": writer,
        "at": day,
        "user_id": _object_id(user_id),
        "server_id": None if server_id is None else _object_id(server_id),
        "tool": tool,
        "method": method,
        "outcome": outcome,
        "cost_tier": cost_tier,
        "billing_tags": list(tags) or None,
        "expires_at": day + timedelta(days=1) + keep,
    }
    added: Doc = {name: getattr(sums, name) for name in SUMMED}
    added |= {f"latency.{bucket}": count for bucket, count in sums.latency.items()}
    latest: Doc = {"username": clean_name(sums.username)}
    if server_id is not None and sums.server is not None:
        latest["server"] = sums.server
    return _total_id(DAY, writer, key), {
        "$setOnInsert": _present(named),
        "$inc": added,
        "$set": latest,
    }


def _month_write(key: MonthKey, cost: int, writer: str, keep: timedelta) -> tuple[str, Doc]:
    month, tenant_id, user_id, role, tags = key
    named: Doc = {
        "period": MONTH,
        "writer": writer,
        "at": month,
        "tenant_id": tenant_id,
        "user_id": _object_id(user_id),
        "role": role,
        "billing_tags": list(tags) or None,
        "expires_at": month_after(month) + keep,
    }
    return _total_id(MONTH, writer, key), {
        "$setOnInsert": _present(named),
        "$inc": {"cost": cost},
        # By the database's clock: other processes read what changed since they last did.
        "$currentDate": {"updated_at": True},
    }


def _total_id(period: str, writer: str, key: Iterable[object]) -> str:
    text = orjson.dumps([period, writer, *key])
    return blake2b(text, digest_size=KEY_BYTES).hexdigest()


def _present(document: Doc) -> Doc:
    return {name: value for name, value in document.items() if value is not None}


def _object_id(text: str) -> Any:
    try:
        return ObjectId(text)
    except InvalidId:
        return text
