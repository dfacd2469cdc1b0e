"""Keep notes of calls until the database has them, in bounded memory.

A call only appends to a queue. Records are of use to people who look back, so losing some is
better than making a call wait: when the database is away for long, the oldest are dropped and
counted.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import NamedTuple

import structlog

from packages.database.client import Doc
from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.usage.batches import BatchPacker, UsageBatch
from registry.usage.repository import UsageRepository
from registry.usage.values import Course, Facts

log = structlog.get_logger()

GATHER_SECONDS = 1.0
"""How long a batch waits for more calls, unless it is full before."""

BATCH_RECORDS = 500
"""Calls of a full batch. Packing it holds up the event loop for about half a millisecond."""

LEAST_BATCHES = 4
"""So many batches fit into what may wait at least, so that dropping the oldest leaves most."""

AWAY_SECONDS = 2.0
"""Pause before the database is tried again."""

CLOSE_SECONDS = 5.0
"""How long the end of the process may wait for the database."""


class UsageWriter:
    """Notes calls and writes them later.

    Args:
        repository: Where to.
        packer: Makes documents of batches.
        most_records: How many may wait.
        clock: Paces it.
        metrics: Count what was written, waits and was dropped.
    """

    def __init__(
        self,
        repository: UsageRepository,
        packer: BatchPacker,
        *,
        most_records: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._repository = repository
        self._packer = packer
        self._most_records = most_records
        self._batch_records = max(1, min(BATCH_RECORDS, most_records // LEAST_BATCHES))
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
        metrics.usage_records_waiting.set_function(lambda: self._waiting)

    @property
    def waiting(self) -> int:
        """Return how many records are not known to be written."""
        return self._waiting

    def note(self, facts: Facts, course: Course) -> None:
        """Take note of a call. Never waits, never fails."""
        if self._waiting >= self._most_records:
            self._drop_oldest()
        self._waiting += 1
        count = self._open.add(facts, course)
        if count == self._batch_records:
            self._close_batch()
            self._has_full.set()
        if count == 1:
            self._has_some.set()

    async def follow(self) -> None:
        """Write what is noted, for ever."""
        while True:
            await self._has_some.wait()
            try:
                if not self._is_away:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(GATHER_SECONDS):
                            await self._has_full.wait()
                if not self._has_full.is_set():
                    self._close_batch()
                await self._write()
            except DatabaseUnavailable:
                if not self._is_away:
                    log.warning("usage_records_postponed", waiting=self._waiting)
                self._is_away = True
                await self._clock.sleep(AWAY_SECONDS)
            except Exception:
                # The batch may be what it fails on; the next one need not.
                log.exception(
                    "usage_records_failed", count=self._sent.records if self._sent else 0
                )
                self._let_go("failed")
            if not self._waiting:
                self._has_some.clear()

    async def flush(self) -> None:
        """Write all that waits.

        Raises:
            DatabaseUnavailable: The rest waits on; what was sent is sent again with the same id.
        """
        self._close_batch()
        await self._write()

    async def close(self) -> None:
        """Write what waits, or drop it when the database does not take it in `CLOSE_SECONDS`."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.flush()
        except (DatabaseUnavailable, TimeoutError):
            pass
        except Exception:
            # What else must be closed is closed all the same.
            log.exception("usage_records_failed")
        if self._waiting:
            log.warning("usage_records_dropped", count=self._waiting)
            self._dropped.labels("shutdown").inc(self._waiting)

    def _close_batch(self) -> None:
        if self._open.rows:
            self._closed.append(self._open)
            self._open = UsageBatch()

    async def _write(self) -> None:
        """Write the batches that are closed."""
        self._has_full.clear()
        await self._pack()
        while self._sent or self._packed:
            if self._sent is None:
                self._sent = self._packed.popleft()
            if await self._repository.insert(self._sent.document):
                self._let_go(None)
            else:
                log.warning("usage_records_refused", count=self._sent.records)
                self._let_go("refused")
            self._is_away = False
            await self._pack()

    async def _pack(self) -> None:
        """Make documents of closed batches: they need a tenth of the memory."""
        while self._closed:
            batch = self._closed.popleft()
            try:
                document = self._packer.document(batch, self._clock.now(), self._clock.monotonic())
            except Exception:
                log.exception("usage_records_failed")
                self._drop("failed", len(batch.rows))
                continue
            self._packed.append(_Packed(document, len(batch.rows)))
            await self._clock.sleep(0)

    def _let_go(self, reason: str | None) -> None:
        """Forget the batch that was sent last: it was written, or dropped for *reason*."""
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
