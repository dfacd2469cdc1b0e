"""Connections that tell no database, and what stands in for one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from packages.database.errors import DatabaseUnavailable
from registry.connections.tracker import ConnectionTracker
from registry.connections.writer import ConnectionWriter
from registry.core.clock import Clock, SystemClock
from registry.core.metrics import Metrics


@dataclass
class RecordedHealth:
    """Implements `registry.connections.ports.HealthRecords`.

    Attributes:
        told: What was noted: `connected` or `failed`, of which server, with what.
        is_away: Whether it fails as a database does that is away.
        problem: Called before each note; may raise.
        attempts: How often it was asked to note something.
    """

    told: list[tuple[object, ...]] = field(default_factory=list)
    is_away: bool = False
    problem: Callable[[], None] | None = None
    attempts: int = 0

    async def connected(self, server_id: str, at: datetime) -> bool:
        """Remember it."""
        self._check()
        self.told.append(("connected", server_id, at))
        return True

    async def failed(
        self, server_id: str, at: datetime, message: str, *, failures: int, is_after_success: bool
    ) -> bool:
        """Remember it."""
        self._check()
        self.told.append(("failed", server_id, at, message, failures, is_after_success))
        return True

    def _check(self) -> None:
        self.attempts += 1
        if self.is_away:
            raise DatabaseUnavailable
        if self.problem is not None:
            self.problem()


@dataclass(frozen=True)
class Connections:
    """A tracker with all that belongs to it."""

    tracker: ConnectionTracker
    writer: ConnectionWriter
    health: RecordedHealth
    metrics: Metrics


def connections_of(
    clock: Clock,
    *,
    remembered_seconds: float = 300.0,
    max_entries: int = 1000,
    interval_seconds: float = 60.0,
    **times: float,
) -> Connections:
    """Return connections of a process of its own."""
    health, metrics = RecordedHealth(), Metrics()
    writer = ConnectionWriter(
        health,
        interval_seconds=interval_seconds,
        max_servers=max_entries,
        clock=clock,
        metrics=metrics,
        **times,
    )
    tracker = ConnectionTracker(
        writer,
        remembered_seconds=remembered_seconds,
        max_entries=max_entries,
        failures_until_error=3,
        clock=clock,
        metrics=metrics,
    )
    return Connections(tracker, writer, health, metrics)


def quiet_tracker() -> ConnectionTracker:
    """Return a tracker that tells nobody, for tests that are about something else."""
    return connections_of(SystemClock()).tracker
