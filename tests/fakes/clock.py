"""Clocks for tests: one that stands still until it is moved, and one that is wrong."""

from datetime import UTC, datetime, timedelta

from typing_extensions import override

from registry.core.clock import SystemClock

NOON = datetime(2096, 3, 1, 12, tzinfo=UTC)
"""Later than any test is run: what is stored to expire after it is not removed by a real database,
whose clock no test moves."""


class FakeClock:
    """Implements registry.core.clock.Clock. Sleeping moves it."""

    def __init__(self, start: datetime = NOON) -> None:
        self._start = start
        self._seconds = 0.0

    def now(self) -> datetime:
        """Return the time it was set to."""
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """Return the seconds it was moved."""
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        """Move on at once."""
        self.move(seconds)

    def move(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self._seconds += seconds


class SkewedClock(SystemClock):
    """The clock of a machine whose time is set wrong."""

    def __init__(self, ahead: timedelta) -> None:
        self._ahead = ahead

    @override
    def now(self) -> datetime:
        return super().now() + self._ahead
