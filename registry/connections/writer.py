"""Writer of health events: coalesced, rate limited, off the path of calls, in bounded memory.

While the database is unavailable the latest event of each server waits. Events of more servers
than may wait are dropped and counted: losing some is better than making a call wait.
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

MIN_CHANGE_SECONDS = 5.0
"""Minimum time between two writes that the same server began to fail, or recovered."""


def merge_reports(waiting: HealthReport | None, report: HealthReport) -> HealthReport:
    """Return what is written when a new report arrives while another is waiting."""
    if report.event is HealthEvent.CONNECTED or waiting is None:
        return report
    if waiting.event is HealthEvent.CONNECTED:
        return replace(report, is_after_success=True)
    return replace(
        report,
        failures=waiting.failures + report.failures,
        is_after_success=waiting.is_after_success,
        is_at_threshold=waiting.is_at_threshold or report.is_at_threshold,
    )


def trigger_of(report: HealthReport, last_event: HealthEvent | None) -> HealthTrigger:
    """Return why *report* is written, given the event that was written last."""
    if report.is_at_threshold:
        return HealthTrigger.THRESHOLD
    if last_event is None or last_event is report.event:
        return HealthTrigger.REPEAT
    return (
        HealthTrigger.RECOVERY if report.event is HealthEvent.CONNECTED else HealthTrigger.FAILURE
    )


def due_at(
    trigger: HealthTrigger,
    written_at: Mapping[HealthTrigger, float],
    now: float,
    interval_seconds: float,
) -> float:
    """Return when an event may be written; times in monotonic seconds.

    Args:
        trigger: Why it is written.
        written_at: The time of the last write, by trigger.
        now: The current time.
        interval_seconds: How long a repetition waits after any other write. A change waits
            `MIN_CHANGE_SECONDS`, if that is less, after the last write of the same trigger.
    """
    if trigger is HealthTrigger.REPEAT:
        last, wait = max(written_at.values(), default=None), interval_seconds
    else:
        last, wait = written_at.get(trigger), min(interval_seconds, MIN_CHANGE_SECONDS)
    return now if last is None else max(now, last + wait)


log = structlog.get_logger()

DATABASE_RETRY_SECONDS = 2.0
"""Pause before the database is tried again."""

CLOSE_SECONDS = 5.0
"""How long shutdown may wait for the database."""


@dataclass(frozen=True, slots=True)
class _WriteHistory:
    """What was written about one server within the last interval."""

    last_event: HealthEvent | None = None
    written_at: Mapping[HealthTrigger, float] = field(default_factory=dict)


class ConnectionWriter:
    """Queues health events of servers and writes them when due.

    Args:
        records: Where they are written.
        interval_seconds: Minimum time between two writes of one trigger for one server.
        max_servers: How many servers' events may wait.
        clock: The time source.
        metrics: Count written, coalesced and dropped events.
    """

    def __init__(
        self,
        records: HealthRecords,
        *,
        interval_seconds: float,
        max_servers: int,
        clock: Clock,
        metrics: Metrics,
        retry_seconds: float = DATABASE_RETRY_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._retry_seconds = retry_seconds
        self._close_seconds = close_seconds
        self._records = records
        self._interval_seconds = interval_seconds
        self._max_servers = max_servers
        self._clock = clock
        self._writes = metrics.connection_writes
        self._coalesced = metrics.connection_writes_coalesced
        self._dropped = metrics.connection_writes_dropped
        self._waiting: dict[str, tuple[HealthReport, float]] = {}
        self._histories: TTLCache[str, _WriteHistory] = TTLCache(
            max_servers, interval_seconds, timer=clock.monotonic
        )
        self._next_at = float("inf")
        self._sooner = asyncio.Event()
        self._is_unavailable = False

    @property
    def waiting(self) -> int:
        """Return the number of servers with an event that waits."""
        return len(self._waiting)

    def note(self, server_id: str, report: HealthReport) -> None:
        """Queue *report* to be written when due. Never waits, never fails."""
        waiting = self._waiting.get(server_id)
        if waiting is None:
            if len(self._waiting) >= self._max_servers:
                self._dropped.labels("full").inc()
                return
        else:
            self._coalesced.inc()
        report = merge_reports(None if waiting is None else waiting[0], report)
        history = self._histories.get(server_id)
        now = self._clock.monotonic()
        due = now
        if history is not None:
            trigger = trigger_of(report, history.last_event)
            due = due_at(trigger, history.written_at, now, self._interval_seconds)
        self._waiting[server_id] = (report, due)
        if due < self._next_at:
            self._next_at = due
            self._sooner.set()

    def was_written(self, server_id: str, event: HealthEvent) -> None:
        """Note that another part of the process has just written an event of a server."""
        self._waiting.pop(server_id, None)
        self._record_write(server_id, event, HealthTrigger.REPEAT)

    def forget(self, server_id: str) -> None:
        """Drop everything about a server that was removed."""
        self._waiting.pop(server_id, None)
        self._histories.pop(server_id, None)

    async def follow(self) -> None:
        """Write due events, forever. Survives an unavailable database."""
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
                if not self._is_unavailable:
                    log.warning("connection_writes_delayed", pending=len(self._waiting))
                self._is_unavailable = True
                await self._clock.sleep(self._retry_seconds)

    async def write_due(self) -> None:
        """Write the events that are due.

        Raises:
            DatabaseUnavailable: Events that were not written stay queued.
        """
        now = self._clock.monotonic()
        due = [server_id for server_id, (_, at) in self._waiting.items() if at <= now]
        try:
            for server_id in due:
                await self._write(server_id)
            self._is_unavailable = False
        finally:
            moments = (at for _, at in self._waiting.values())
            self._next_at = min(moments, default=float("inf"))

    async def close(self) -> None:
        """Write events that must not be lost, as far as possible within the time for that.

        That a server still works is not among them.
        """
        urgent = [
            server_id
            for server_id, (report, _) in self._waiting.items()
            if self._trigger(server_id, report) is not HealthTrigger.REPEAT
            or report.event is HealthEvent.FAILED
        ]
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(self._close_seconds):
                for server_id in urgent:
                    await self._write(server_id)
        lost = sum(server_id in self._waiting for server_id in urgent)
        if lost:
            log.warning("connection_writes_dropped", count=lost)
            self._dropped.labels("shutdown").inc(lost)

    def _trigger(self, server_id: str, report: HealthReport) -> HealthTrigger:
        history = self._histories.get(server_id)
        return trigger_of(report, None if history is None else history.last_event)

    async def _write(self, server_id: str) -> None:
        waiting = self._waiting.pop(server_id, None)
        if waiting is None:
            return
        report, due = waiting
        # Recorded before the write: an event that arrives during it must not be written directly
        # after it.
        former = self._record_write(server_id, report.event, self._trigger(server_id, report))
        try:
            is_written = await self._record(server_id, report)
        except (DatabaseUnavailable, asyncio.CancelledError):
            self._histories[server_id] = former
            later = self._waiting.get(server_id)
            kept = report if later is None else merge_reports(report, later[0])
            self._waiting[server_id] = (kept, due)
            raise
        except Exception as exc:
            # Perhaps only this document cannot be written.
            if isinstance(exc, RegistryError):
                log.warning("connection_write_rejected", server_id=server_id, error=exc.message)
            else:
                log.exception("connection_write_failed", server_id=server_id)
            self._dropped.labels("failed").inc()
            is_written = False
        if is_written:
            self._writes.labels(report.event).inc()

    async def _record(self, server_id: str, report: HealthReport) -> bool:
        if report.event is HealthEvent.CONNECTED:
            return await self._records.connected(server_id, report.at)
        return await self._records.failed(
            server_id,
            report.at,
            report.message or "",
            failures=report.failures,
            is_after_success=report.is_after_success,
        )

    def _record_write(
        self, server_id: str, event: HealthEvent, trigger: HealthTrigger
    ) -> _WriteHistory:
        """Record a write for a server; return the history before it."""
        former = self._histories.get(server_id, _WriteHistory())
        written_at = {**former.written_at, trigger: self._clock.monotonic()}
        # Set again, it is kept for another interval.
        self._histories[server_id] = _WriteHistory(event, written_at)
        return former
