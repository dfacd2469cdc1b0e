"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


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
