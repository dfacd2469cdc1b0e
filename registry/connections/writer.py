"""Tell the database of connections, seldom, off the path of calls, and in bounded memory.

While the database is away the last word about each server waits; more servers than may wait are
dropped and counted. Losing some is better than making a call wait.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog
from cachetools import TTLCache

from packages.database.errors import DatabaseUnavailable
from registry.connections.ports import HealthRecords
from registry.connections.values import HealthEvent, HealthReport, HealthTrigger
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.core.metrics import Metrics

TURN_SECONDS = 5.0
"""Least time between two writes that the same server began to fail, or recovered."""


def added(waiting: HealthReport | None, news: HealthReport) -> HealthReport:
    """Return what is to be said when *news* come while something waits to be said."""
    if news.word is HealthEvent.CONNECTED or waiting is None:
        return news
    if waiting.word is HealthEvent.CONNECTED:
        return replace(news, is_anew=True)
    return replace(
        news,
        failures=waiting.failures + news.failures,
        is_anew=waiting.is_anew,
        is_last_straw=waiting.is_last_straw or news.is_last_straw,
    )


def occasion_of(news: HealthReport, said: HealthEvent | None) -> HealthTrigger:
    """Return why *news* are said, after *said* was the last word."""
    if news.is_last_straw:
        return HealthTrigger.LAST_STRAW
    if said is None or said is news.word:
        return HealthTrigger.REPEAT
    return HealthTrigger.RECOVERY if news.word is HealthEvent.CONNECTED else HealthTrigger.FAILURE


def due_at(
    occasion: HealthTrigger,
    written_at: Mapping[HealthTrigger, float],
    now: float,
    interval_seconds: float,
) -> float:
    """Return when it may be written; times in monotonic seconds.

    Args:
        occasion: Why it is written.
        written_at: When something was written last, by occasion.
        now: The time.
        interval_seconds: How long a repetition waits after every other write. A turn waits
            `TURN_SECONDS`, if that is less, after the last of the same kind.
    """
    if occasion is HealthTrigger.REPEAT:
        last, wait = max(written_at.values(), default=None), interval_seconds
    else:
        last, wait = written_at.get(occasion), min(interval_seconds, TURN_SECONDS)
    return now if last is None else max(now, last + wait)


log = structlog.get_logger()

AWAY_SECONDS = 2.0
"""Pause before the database is tried again."""

CLOSE_SECONDS = 5.0
"""How long the end of the process may wait for the database."""


@dataclass(frozen=True, slots=True)
class _Course:
    """What was written about one server within the last interval."""

    said: HealthEvent | None = None
    written_at: Mapping[HealthTrigger, float] = field(default_factory=dict)


class ConnectionWriter:
    """Notes what is to be said of servers, and says it when it is due.

    Args:
        records: Where to.
        interval_seconds: The least time between two writes of one occasion about one server.
        most_servers: How many may wait.
        clock: Paces it.
        metrics: Count what was written, left out and dropped.
    """

    def __init__(
        self,
        records: HealthRecords,
        *,
        interval_seconds: float,
        most_servers: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._records = records
        self._interval_seconds = interval_seconds
        self._most_servers = most_servers
        self._clock = clock
        self._writes = metrics.connection_writes
        self._coalesced = metrics.connection_writes_coalesced
        self._dropped = metrics.connection_writes_dropped
        self._waiting: dict[str, tuple[HealthReport, float]] = {}
        self._courses: TTLCache[str, _Course] = TTLCache(
            most_servers, interval_seconds, timer=clock.monotonic
        )
        self._next_at = float("inf")
        self._sooner = asyncio.Event()
        self._is_away = False

    @property
    def waiting(self) -> int:
        """Return of how many servers something is still to be said."""
        return len(self._waiting)

    def note(self, server_id: str, news: HealthReport) -> None:
        """Have *news* written when they are due. Never waits, never fails."""
        waiting = self._waiting.get(server_id)
        if waiting is None:
            if len(self._waiting) >= self._most_servers:
                self._dropped.labels("full").inc()
                return
        else:
            self._coalesced.inc()
        news = added(None if waiting is None else waiting[0], news)
        course = self._courses.get(server_id)
        now = self._clock.monotonic()
        due = now
        if course is not None:
            occasion = occasion_of(news, course.said)
            due = due_at(occasion, course.written_at, now, self._interval_seconds)
        self._waiting[server_id] = (news, due)
        if due < self._next_at:
            self._next_at = due
            self._sooner.set()

    def was_written(self, server_id: str, word: HealthEvent) -> None:
        """Note that somebody else wrote the last word about a server just now."""
        self._waiting.pop(server_id, None)
        self._said(server_id, word, HealthTrigger.REPEAT)

    def forget(self, server_id: str) -> None:
        """Say nothing more of a server that is gone."""
        self._waiting.pop(server_id, None)
        self._courses.pop(server_id, None)

    async def follow(self) -> None:
        """Write what is due, for ever. Survives the database going away."""
        while True:
            seconds = self._next_at - self._clock.monotonic()
            if seconds > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if seconds == float("inf") else seconds):
                        await self._sooner.wait()
            self._sooner.clear()
            try:
                await self.write_due()
            except DatabaseUnavailable:
                if not self._is_away:
                    log.warning("connection_writes_postponed", waiting=len(self._waiting))
                self._is_away = True
                await self._clock.sleep(AWAY_SECONDS)

    async def write_due(self) -> None:
        """Write what is due by now.

        Raises:
            DatabaseUnavailable: What was not written waits on.
        """
        now = self._clock.monotonic()
        due = [server_id for server_id, (_, at) in self._waiting.items() if at <= now]
        try:
            for server_id in due:
                await self._write(server_id)
            self._is_away = False
        finally:
            moments = (at for _, at in self._waiting.values())
            self._next_at = min(moments, default=float("inf"))

    async def close(self) -> None:
        """Write what must not be lost, as far as the database takes it in `CLOSE_SECONDS`.

        That a server worked before and works still is not among it.
        """
        urgent = [
            server_id
            for server_id, (news, _) in self._waiting.items()
            if self._occasion(server_id, news) is not HealthTrigger.REPEAT
            or news.word is HealthEvent.FAILED
        ]
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                for server_id in urgent:
                    await self._write(server_id)
        lost = sum(server_id in self._waiting for server_id in urgent)
        if lost:
            log.warning("connection_writes_dropped", count=lost)
            self._dropped.labels("shutdown").inc(lost)

    def _occasion(self, server_id: str, news: HealthReport) -> HealthTrigger:
        course = self._courses.get(server_id)
        return occasion_of(news, None if course is None else course.said)

    async def _write(self, server_id: str) -> None:
        waiting = self._waiting.pop(server_id, None)
        if waiting is None:
            return
        news, due = waiting
        # Before it is: what comes meanwhile must not be written right after it.
        former = self._said(server_id, news.word, self._occasion(server_id, news))
        try:
            is_written = await self._tell(server_id, news)
        except (DatabaseUnavailable, asyncio.CancelledError):
            self._courses[server_id] = former
            later = self._waiting.get(server_id)
            kept = news if later is None else added(news, later[0])
            self._waiting[server_id] = (kept, due)
            raise
        except Exception as exc:
            # It may be this one document that cannot take it; the others can.
            if isinstance(exc, RegistryError):
                log.warning("connection_not_written", server_id=server_id, problem=exc.message)
            else:
                log.exception("connection_write_failed", server_id=server_id)
            self._dropped.labels("failed").inc()
            is_written = False
        if is_written:
            self._writes.labels(news.word).inc()

    async def _tell(self, server_id: str, news: HealthReport) -> bool:
        if news.word is HealthEvent.CONNECTED:
            return await self._records.connected(server_id, news.at)
        return await self._records.failed(
            server_id,
            news.at,
            news.message or "",
            failures=news.failures,
            is_anew=news.is_anew,
        )

    def _said(self, server_id: str, word: HealthEvent, occasion: HealthTrigger) -> _Course:
        """Note the last word about a server; return what was known before."""
        former = self._courses.get(server_id, _Course())
        written_at = {**former.written_at, occasion: self._clock.monotonic()}
        # Set again, it is kept for another interval.
        self._courses[server_id] = _Course(word, written_at)
        return former
