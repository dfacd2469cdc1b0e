"""Clock: the only source of time and sleep, so that tests can replace it."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time, a monotonic counter, and sleep."""

    def now(self) -> datetime:
        """Return the current time: aware, UTC, whole milliseconds (what MongoDB keeps)."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait *seconds*."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current time in UTC, cut to milliseconds."""
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    monotonic = staticmethod(time.monotonic)
    """`time.monotonic` itself, without a wrapper's cost."""

    async def sleep(self, seconds: float) -> None:
        """Wait *seconds* on the event loop."""
        await asyncio.sleep(seconds)
