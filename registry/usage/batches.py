"""Batches of records: what calls have in common is said once, the rest is packed.

A record is made on the processor that serves the next call, so what it costs is a part of what a
call costs. Hundreds of calls share few callers, tools and outcomes: a call is a number that stands
for these, and its times. docs/decisions/0012-packed-usage.md says why.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from bson import Binary, ObjectId
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidId

from packages.database.client import Doc
from packages.database.stored import id_of, text_of, whole_of
from packages.models.usage import PACKED
from registry.core.logs import without_secrets
from registry.usage.values import (
    CallFacts,
    Course,
    Facts,
    UsageFilter,
    UsageRecord,
    clean_name,
)

FASTEST = 1
"""Level of compression: a record comes to some 15 bytes; higher levels save a tenth of that."""

ERAS = ("legacy", "modern")
PARTS = 3


class BatchUnreadableError(Exception):
    """A stored batch is not as this release writes it."""


class UsageBatch:
    """Calls that are being gathered.

    Attributes:
        facts: Number of each set of facts, by their order.
        rows: For each call the number of its facts, and its course.
    """

    __slots__ = ("facts", "rows")

    def __init__(self) -> None:
        self.facts: dict[Facts, int] = {}
        self.rows: list[tuple[int, Course]] = []

    def add(self, facts: Facts, course: Course) -> int:
        """Take one call, and return how many there are."""
        number = self.facts.get(facts)
        if number is None:
            number = self.facts[facts] = len(self.facts)
        self.rows.append((number, course))
        return len(self.rows)


class BatchPacker:
    """Makes documents of batches.

    Args:
        worker: Names this process.
        retention: How long a record is kept.
    """

    def __init__(self, *, worker: str, retention: timedelta) -> None:
        self._worker = worker
        self._retention_ms = int(retention.total_seconds() * 1000)

    def document(self, batch: UsageBatch, now: datetime, monotonic: float) -> Doc:
        """Return the document of a batch that is not empty.

        Args:
            batch: In this process's monotonic time.
            now: The present moment, UTC.
            monotonic: The same moment by the monotonic clock.
        """
        rows = batch.rows
        began = [course[0] for _, course in rows]
        base = min(began)
        first_ms = round((now.timestamp() - monotonic + base) * 1000)
        last_ms = first_ms + _microseconds(max(began) - base) // 1000
        counts = Counter([number for number, _ in rows])
        text = orjson.dumps([_row(number, course, base) for number, course in rows])
        document: Doc = {
            "_id": ObjectId(),
            "packed": PACKED,
            "worker": self._worker,
            "first_at": DatetimeMS(first_ms),
            "last_at": DatetimeMS(last_ms),
            "expires_at": DatetimeMS(last_ms + self._retention_ms),
            "calls": [
                _facts(CallFacts._make(facts), counts[number])
                for facts, number in batch.facts.items()
            ],
            "rows": Binary(zlib.compress(text, FASTEST)),
        }
        trace_ids = {course[6] for _, course in rows} - {None}
        if trace_ids:
            document["trace_ids"] = list(trace_ids)
        return document


def records_of(document: Doc, narrowed: UsageFilter) -> Iterator[UsageRecord]:
    """Yield the records of a stored batch that are wanted, in the order in which they ended.

    Raises:
        BatchUnreadableError: It is not as it should be.
    """
    try:
        wanted = {
            number: facts
            for number, facts in enumerate(document["calls"])
            if _is_wanted(facts, narrowed)
        }
        if not wanted:
            return
        first_at = document["first_at"].astimezone(UTC)
        for place, row in enumerate(orjson.loads(zlib.decompress(document["rows"]))):
            facts = wanted.get(row[0])
            if facts is not None:
                record = _record(document, facts, place, first_at, row)
                if _is_in_time(record, narrowed):
                    yield record
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        zlib.error,
    ) as exc:
        raise BatchUnreadableError from exc


def _row(number: int, course: Course, base: float) -> tuple[object, ...]:
    """Return one call. The times that end it are the three parts of a call, or all of it."""
    began_at, decided_at, head_at, ended_at, request_bytes, response_bytes, trace_id = course
    offset = _microseconds(began_at - base)
    if not decided_at:
        whole = _microseconds(ended_at - began_at)
        return number, offset, request_bytes, response_bytes, trace_id, whole
    head_at = head_at or ended_at
    return (
        number,
        offset,
        request_bytes,
        response_bytes,
        trace_id,
        _microseconds(decided_at - began_at),
        _microseconds(head_at - decided_at),
        _microseconds(ended_at - head_at),
    )


def _facts(facts: CallFacts, count: int) -> Doc:
    document: Doc = {
        "user_id": _object_id(facts.user_id),
        "username": clean_name(facts.username),
        "method": facts.method,
        "era": ERAS[facts.is_modern],
        "outcome": str(facts.outcome),
        "count": count,
    }
    if facts.token_id is not None:
        document["token_id"] = facts.token_id
    if facts.server_id is not None:
        document["server_id"] = _object_id(facts.server_id)
        document["server"] = facts.slug
    target = facts.target
    if target is not None:
        # The address of a resource may carry a key.
        document["tool"] = clean_name(without_secrets(target) if "://" in target else target)
    if facts.error_code:
        document["error_code"] = facts.error_code
    return document


def _object_id(text: str) -> ObjectId | str:
    try:
        return ObjectId(text)
    except InvalidId:
        return text


def _microseconds(seconds: float) -> int:
    """Return whole microseconds; `round` would take three times as long."""
    return int(seconds * 1_000_000 + 0.5)


def _is_wanted(facts: dict[str, Any], narrowed: UsageFilter) -> bool:
    for name in ("tool", "method", "outcome"):
        wanted = getattr(narrowed, name)
        if wanted is not None and facts.get(name) != wanted:
            return False
    for name in ("server_id", "user_id"):
        wanted = getattr(narrowed, name)
        if wanted is not None and str(facts.get(name)) != wanted.lower():
            return False
    shown = narrowed.shown
    return (
        shown is None
        or str(facts.get("server_id")) in shown.server_ids
        or str(facts.get("user_id")) == shown.user_id
    )


def _is_in_time(record: UsageRecord, narrowed: UsageFilter) -> bool:
    if narrowed.trace_id is not None and record.trace_id != narrowed.trace_id:
        return False
    if narrowed.since is not None and record.started_at < narrowed.since:
        return False
    return narrowed.until is None or record.started_at < narrowed.until


def _batch_id(document: Doc) -> str:
    batch_id = id_of(document["_id"])
    if batch_id is None:
        raise BatchUnreadableError
    return batch_id


def _record(
    document: Doc, facts: dict[str, Any], place: int, first_at: datetime, row: list[Any]
) -> UsageRecord:
    _, offset, request_bytes, response_bytes, trace_id, *times = row
    parts = [time / 1000 for time in times] if len(times) == PARTS else [None] * PARTS
    server_id, user_id = facts.get("server_id"), id_of(facts.get("user_id"))
    if user_id is None:
        raise BatchUnreadableError
    return UsageRecord(
        id=f"{_batch_id(document)}{place:04x}",
        # Cut, like all times of the database.
        started_at=first_at + timedelta(milliseconds=offset // 1000),
        user_id=user_id,
        username=text_of(facts.get("username")) or "",
        token_id=text_of(facts.get("token_id")),
        server_id=None if server_id is None else str(server_id),
        server=text_of(facts.get("server")),
        method=text_of(facts.get("method")) or "",
        tool=text_of(facts.get("tool")),
        era=text_of(facts.get("era")) or "",
        outcome=text_of(facts.get("outcome")) or "",
        error_code=whole_of(facts.get("error_code")),
        duration_ms=sum(times) / 1000,
        admission_ms=parts[0],
        upstream_ms=parts[1],
        relay_ms=parts[2],
        request_bytes=request_bytes,
        response_bytes=response_bytes,
        trace_id=trace_id,
        worker=text_of(document.get("worker")) or "",
    )
