"""Batches of usage records: common facts are stored once, the rest is packed.

Recording runs on the processor that serves calls, so its cost is part of the cost of a call.
Hundreds of calls share few callers, tools and outcomes: each call is stored as the number of
such a combination, and its times. See docs/decisions/0012-packed-usage.md.
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
    SEPARATOR,
    CallFacts,
    Charge,
    Facts,
    Measurements,
    UsageFilter,
    UsageRecord,
    clean_name,
)

FASTEST = 1
"""Compression level: a record takes some 15 bytes; higher levels save a tenth of that."""

ERAS = ("legacy", "modern")
PARTS = 3


class BatchUnreadableError(Exception):
    """A stored batch is malformed."""


class UsageBatch:
    """Calls that are being collected.

    Attributes:
        facts: Number of each set of facts, by their order.
        rows: For each call the number of its facts, and its course.
    """

    __slots__ = ("facts", "rows")

    def __init__(self) -> None:
        self.facts: dict[Facts, int] = {}
        self.rows: list[tuple[int, Measurements]] = []

    def add(self, facts: Facts, measurements: Measurements) -> int:
        """Add one call, and return the number of calls."""
        number = self.facts.get(facts)
        if number is None:
            number = self.facts[facts] = len(self.facts)
        self.rows.append((number, measurements))
        return len(self.rows)


class BatchPacker:
    """Converts batches to documents.

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
        began = [measurements[0] for _, measurements in rows]
        base = min(began)
        first_ms = round((now.timestamp() - monotonic + base) * 1000)
        last_ms = first_ms + _microseconds(max(began) - base) // 1000
        counts = Counter([number for number, _ in rows])
        text = orjson.dumps([_row(number, measurements, base) for number, measurements in rows])
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
        trace_ids = {measurements[6] for _, measurements in rows} - {None}
        if trace_ids:
            document["trace_ids"] = list(trace_ids)
        return document


def records_of(document: Doc, record_filter: UsageFilter) -> Iterator[UsageRecord]:
    """Yield the matching records of a stored batch, in the order in which they ended.

    Raises:
        BatchUnreadableError: It is not as it should be.
    """
    try:
        wanted = {
            number: facts
            for number, facts in enumerate(document["calls"])
            if _is_wanted(facts, record_filter)
        }
        if not wanted:
            return
        first_at = document["first_at"].astimezone(UTC)
        for place, row in enumerate(orjson.loads(zlib.decompress(document["rows"]))):
            facts = wanted.get(row[0])
            if facts is not None:
                record = _record(document, facts, place, first_at, row)
                if _is_in_time(record, record_filter):
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


def _row(number: int, measurements: Measurements, base: float) -> tuple[object, ...]:
    """Return one call. Its last members are the durations of its three parts, or of all of it."""
    began_at, decided_at, head_at, ended_at, request_bytes, response_bytes, trace_id = measurements
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
        # The URI of a resource may contain a key.
        document["tool"] = clean_name(without_secrets(target) if "://" in target else target)
    if facts.tool is not None and facts.tool != target:
        document["own_tool"] = clean_name(facts.tool)
    if facts.error_code:
        document["error_code"] = facts.error_code
    if facts.charge is not None:
        document |= _charge(facts.charge)
    return document


def _charge(charge: Charge) -> Doc:
    document: Doc = {}
    if charge.cost_tier is not None:
        document["cost_tier"] = charge.cost_tier
    if charge.billing_tags:
        document["billing_tags"] = list(charge.billing_tags)
    if charge.price_per_call:
        document["price_per_call"] = charge.price_per_call
    if charge.price_per_kib:
        document["price_per_kib"] = charge.price_per_kib
    return document


def _object_id(text: str) -> ObjectId | str:
    try:
        return ObjectId(text)
    except InvalidId:
        return text


def _microseconds(seconds: float) -> int:
    """Return whole microseconds; `round` would take three times as long."""
    return int(seconds * 1_000_000 + 0.5)


def _is_wanted(facts: dict[str, Any], record_filter: UsageFilter) -> bool:
    if record_filter.tool is not None and not _is_named(facts, record_filter.tool):
        return False
    for name in ("method", "outcome"):
        wanted = getattr(record_filter, name)
        if wanted is not None and facts.get(name) != wanted:
            return False
    tag = record_filter.tag
    if tag is not None and tag not in texts_of(facts.get("billing_tags")):
        return False
    for name in ("server_id", "user_id"):
        wanted = getattr(record_filter, name)
        if wanted is not None and str(facts.get(name)) != wanted.lower():
            return False
    shown = record_filter.shown
    return (
        shown is None
        or str(facts.get("server_id")) in shown.server_ids
        or str(facts.get("user_id")) == shown.user_id
    )


def _is_named(facts: dict[str, Any], wanted: str) -> bool:
    """Whether calls are of what has that name: its own, on the combined server, in a toolset."""
    called_as, own = text_of(facts.get("tool")), text_of(facts.get("own_tool"))
    if wanted in {called_as, own}:
        return True
    server = text_of(facts.get("server"))
    if server is None or called_as is None:
        return False
    # A record of an earlier release, or of a prompt, has only the name that the client used.
    is_combined = own is None and called_as == f"{server}{SEPARATOR}{wanted}"
    return is_combined or wanted == f"{server}{SEPARATOR}{own or called_as}"


def _is_in_time(record: UsageRecord, record_filter: UsageFilter) -> bool:
    if record_filter.trace_id is not None and record.trace_id != record_filter.trace_id:
        return False
    if record_filter.since is not None and record.started_at < record_filter.since:
        return False
    return record_filter.until is None or record.started_at < record_filter.until


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
    charge = Charge(
        text_of(facts.get("cost_tier")),
        texts_of(facts.get("billing_tags")),
        whole_of(facts.get("price_per_call")) or 0,
        whole_of(facts.get("price_per_kib")) or 0,
    )
    return UsageRecord(
        id=f"{_batch_id(document)}{place:04x}",
        # Truncated to milliseconds, like all times in the database.
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
        cost_tier=charge.cost_tier,
        billing_tags=charge.billing_tags,
        # Only what was sent upstream costs.
        cost=charge.cost_of(request_bytes + response_bytes) if len(times) == PARTS else 0,
        own_tool=text_of(facts.get("own_tool")),
    )


def texts_of(value: object) -> tuple[str, ...]:
    """Return the texts of a stored list."""
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
