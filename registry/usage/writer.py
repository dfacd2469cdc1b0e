"""Keep notes of calls until the database has them, in bounded memory.

A call only appends to a queue. Records are of use to people who look back, so losing some is
better than making a call wait: when the database is away for long, the oldest are dropped and
counted.
"""

import asyncio
from collections import deque
from contextlib import suppress

import structlog

from packages.database.client import Doc
from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.usage.documents import DocumentMaker
from registry.usage.repository import UsageRepository
from registry.usage.values import CallNote

log = structlog.get_logger()

GATHER_SECONDS = 1.0
"""How long the first record of a batch waits for others."""

BATCH_RECORDS = 500
"""Records that are written at once. Each command costs as much as a hundred records; encoding so
many holds up the event loop for about 1.5 ms."""

SLICE_RECORDS = 100
"""Documents that are made without letting calls go on: about half a millisecond."""

EAGER_RECORDS = 1_000
"""With so many waiting, nothing is waited for any more."""

AWAY_SECONDS = 2.0
"""Pause before the database is tried again."""

CLOSE_SECONDS = 5.0
"""How long the end of the process may wait for the database."""


class UsageWriter:
    """Notes calls and writes them later.

    Args:
        repository: Where to.
        maker: Makes documents of notes.
        most_records: How many may wait.
        clock: Paces it.
        metrics: Count what was written, waits and was dropped.
    """

    def __init__(
        self,
        repository: UsageRepository,
        maker: DocumentMaker,
        *,
        most_records: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._repository = repository
        self._maker = maker
        self._most_records = most_records
        self._clock = clock
        self._written = metrics.usage_records_written
        self._dropped = metrics.usage_records_dropped
        self._dropped_full = self._dropped.labels("full")
        self._waiting: deque[CallNote] = deque()
        self._batch: list[Doc] = []
        self._has_some = asyncio.Event()
        self._has_many = asyncio.Event()
        self._is_away = False
        metrics.usage_records_waiting.set_function(lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """Return how many records are not known to be written."""
        return len(self._waiting) + len(self._batch)

    def note(self, call: CallNote) -> None:
        """Take note of a call. Never waits, never fails."""
        waiting = self._waiting
        if len(waiting) + len(self._batch) >= self._most_records:
            self._dropped_full.inc()
            if not waiting:
                return
            waiting.popleft()
        waiting.append(call)
        if len(waiting) == EAGER_RECORDS:
            self._has_many.set()
        self._has_some.set()

    async def follow(self) -> None:
        """Write what is noted, for ever."""
        while True:
            await self._has_some.wait()
            if not self._is_away:
                with suppress(TimeoutError):
                    async with asyncio.timeout(GATHER_SECONDS):
                        await self._has_many.wait()
            try:
                await self.flush()
            except DatabaseUnavailable:
                if not self._is_away:
                    log.warning("usage_records_postponed", waiting=self.waiting)
                self._is_away = True
                await self._clock.sleep(AWAY_SECONDS)
            except Exception:
                # The batch may be what it fails on; the next one need not.
                log.exception("usage_records_failed", count=len(self._batch))
                self._drop_batch("failed")

    async def flush(self) -> None:
        """Write all that waits.

        Raises:
            DatabaseUnavailable: The rest waits on; what was sent is sent again with the same ids.
        """
        self._has_many.clear()
        while self._batch or self._waiting:
            if not self._batch:
                await self._fill_batch()
            refused = await self._repository.insert(self._batch)
            self._written.inc(len(self._batch) - refused)
            if refused:
                self._dropped.labels("refused").inc(refused)
                log.warning("usage_records_refused", count=refused)
            self._batch = []
            self._is_away = False
        # Not before: whatever ends this half way leaves the rest to be found.
        self._has_some.clear()

    async def close(self) -> None:
        """Write what waits, or drop it when the database does not take it in `CLOSE_SECONDS`."""
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.flush()
        if self.waiting:
            log.warning("usage_records_dropped", count=self.waiting)
            self._dropped.labels("shutdown").inc(self.waiting)

    async def _fill_batch(self) -> None:
        while self._waiting and len(self._batch) < BATCH_RECORDS:
            take = min(len(self._waiting), SLICE_RECORDS)
            notes = [self._waiting.popleft() for _ in range(take)]
            now, monotonic = self._clock.now(), self._clock.monotonic()
            self._batch += self._maker.documents(notes, now, monotonic)
            await self._clock.sleep(0)

    def _drop_batch(self, reason: str) -> None:
        self._dropped.labels(reason).inc(len(self._batch))
        self._batch = []
