"""Writer of usage records: asynchronous, batched, in bounded memory.

A call only appends to a queue. Losing records is better than making a call wait: if the database
is unavailable for long, the oldest are dropped and counted.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

import structlog

from packages.database.client import Doc
from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.usage.batches import BatchPacker, UsageBatch
from registry.usage.repository import UsageRepository
from registry.usage.totals import MonthKey, totals_of, writes_of
from registry.usage.values import Facts, Measurements

log = structlog.get_logger()

GATHER_SECONDS = 1.0
"""How long a batch waits for more calls, unless it is full earlier."""

BATCH_RECORDS = 500
"""Calls of a full batch. Packing it blocks the event loop for about half a millisecond."""

MIN_BATCHES = 4
"""Minimum number of batches in a full queue, so that dropping the oldest keeps most records."""

DATABASE_RETRY_SECONDS = 2.0
"""Pause before the database is tried again."""

TOTALS_KEPT = timedelta(days=400)
"""How long totals are kept: a year can be compared with the one before."""

CLOSE_SECONDS = 5.0
"""How long shutdown may wait for the database."""


class UsageWriter:
    """Queues records of calls and writes them later.

    Args:
        repository: Where to.
        packer: Makes documents of batches.
        max_records: How many may wait.
        keep_totals: How long after their day totals are kept.
        clock: Paces it.
        metrics: Count what was written, waits and was dropped.
    """

    def __init__(
        self,
        repository: UsageRepository,
        packer: BatchPacker,
        *,
        max_records: int,
        keep_totals: timedelta = TOTALS_KEPT,
        clock: Clock,
        metrics: Metrics,
        gather_seconds: float = GATHER_SECONDS,
        retry_seconds: float = DATABASE_RETRY_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._gather_seconds = gather_seconds
        self._retry_seconds = retry_seconds
        self._close_seconds = close_seconds
        self._repository = repository
        self._packer = packer
        self._writer = repository.writer
        self._keep_totals = keep_totals
        self._max_records = max_records
        self._batch_records = max(1, min(BATCH_RECORDS, max_records // MIN_BATCHES))
        self._clock = clock
        self._written = metrics.usage_records_written
        self._dropped = metrics.usage_records_dropped
        # From the newest calls to the oldest.
        self._open = UsageBatch()
        self._closed: deque[UsageBatch] = deque()
        self._packed: deque[_Packed] = deque()
        self._sent: _Packed | None = None
        self._waiting = 0
        self._has_some = asyncio.Event()
        self._has_full = asyncio.Event()
        self._is_away = False
        metrics.usage_records_pending.set_function(lambda: self._waiting)

    @property
    def waiting(self) -> int:
        """Return the number of records that are not known to be written."""
        return self._waiting

    def note(self, facts: Facts, measurements: Measurements) -> None:
        """Queue the record of a call. Never waits, never fails."""
        if self._waiting >= self._max_records:
            self._drop_oldest()
        self._waiting += 1
        count = self._open.add(facts, measurements)
        if count == self._batch_records:
            self._close_batch()
            self._has_full.set()
        if count == 1:
            self._has_some.set()

    async def follow(self) -> None:
        """Write queued records, forever."""
        while True:
            await self._has_some.wait()
            try:
                if not self._is_away:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._gather_seconds):
                            await self._has_full.wait()
                if not self._has_full.is_set():
                    self._close_batch()
                await self._write()
            except DatabaseUnavailable:
                if not self._is_away:
                    log.warning("usage_writes_delayed", pending=self._waiting)
                self._is_away = True
                await self._clock.sleep(self._retry_seconds)
            except Exception:
                # Perhaps only this batch fails.
                log.exception("usage_write_failed", count=self._sent.records if self._sent else 0)
                self._discard_sent("failed")
            if not self._waiting:
                self._has_some.clear()

    async def flush(self) -> None:
        """Write all queued records.

        Raises:
            DatabaseUnavailable: The rest waits on; what was sent is sent again with the same id.
        """
        self._close_batch()
        await self._write()

    async def close(self) -> None:
        """Write queued records, or drop them if that takes longer than *close_seconds*."""
        try:
            async with asyncio.timeout(self._close_seconds):
                await self.flush()
        except (DatabaseUnavailable, TimeoutError):
            pass
        except Exception:
            # Closing must continue with the other parts.
            log.exception("usage_write_failed")
        if self._waiting:
            log.warning("usage_records_dropped", count=self._waiting)
            self._dropped.labels("shutdown").inc(self._waiting)

    def _close_batch(self) -> None:
        if self._open.rows:
            self._closed.append(self._open)
            self._open = UsageBatch()

    async def _write(self) -> None:
        """Write the closed batches."""
        self._has_full.clear()
        await self._pack()
        while self._sent or self._packed:
            if self._sent is None:
                self._sent = self._packed.popleft()
            if await self._repository.insert(self._sent.document, self._sent.writes):
                self._discard_sent(None)
            else:
                log.warning("usage_records_rejected", count=self._sent.records)
                self._discard_sent("rejected")
            self._is_away = False
            await self._pack()

    async def _pack(self) -> None:
        """Pack closed batches, which reduces their memory to a tenth."""
        while self._closed:
            batch = self._closed.popleft()
            try:
                now, monotonic = self._clock.now(), self._clock.monotonic()
                document = self._packer.document(batch, now, monotonic)
                totals = totals_of(batch, now, monotonic)
                writes = writes_of(totals, self._writer, self._keep_totals)
                packed = _Packed(document, len(batch.rows), writes, totals.spent)
            except Exception:
                log.exception("usage_write_failed")
                self._drop("failed", len(batch.rows))
                continue
            self._packed.append(packed)
            await self._clock.sleep(0)

    def _discard_sent(self, reason: str | None) -> None:
        """Remove the batch that was sent last: it was written, or dropped for *reason*."""
        if self._sent is None:
            return
        if reason is None:
            self._waiting -= self._sent.records
            self._written.inc(self._sent.records)
        else:
            self._drop(reason, self._sent.records)
        self._sent = None

    def _drop(self, reason: str, count: int) -> None:
        self._waiting -= count
        self._dropped.labels(reason).inc(count)

    def _drop_oldest(self) -> None:
        if self._packed:
            count = self._packed.popleft().records
        elif self._closed:
            count = len(self._closed.popleft().rows)
        else:
            count, self._open = len(self._open.rows), UsageBatch()
        self._drop("full", count)


class _Packed(NamedTuple):
    document: Doc
    records: int
    writes: Sequence[tuple[str, Doc]]
    spent: Mapping[MonthKey, int]
