"""Call back for what exceeds a latency threshold, at the cost of one timer for everything."""

import asyncio
from typing import Protocol

THRESHOLD_SECONDS = 0.02


class TimedWork(Protocol):
    """Something that should be over soon."""

    def late(self) -> None:
        """Set up whatever guards against it never being over; called in the loop, once."""


class LatencyWatcher:
    """Calls back for what is not over in time; one timer serves everything.

    It holds what is awaited rather than callbacks of it: those would make reference cycles, and
    each call would leave work to the garbage collector.

    Args:
        seconds: How long nothing is done, and up to twice that.
    """

    def __init__(self, seconds: float = THRESHOLD_SECONDS) -> None:
        self._seconds = seconds
        # Work that began since the last tick, and before it: no clock is read for each.
        self._young: dict[TimedWork, None] = {}
        self._old: dict[TimedWork, None] = {}
        self._is_ticking = False

    def begin(self, awaited: TimedWork) -> None:
        """Call `late` of *awaited* unless `end` is called in time."""
        self._young[awaited] = None
        if not self._is_ticking:
            self._is_ticking = True
            loop = asyncio.get_running_loop()
            loop.call_later(self._seconds, self._tick, loop)

    def end(self, awaited: TimedWork) -> None:
        """Note that *awaited* is over; doing so twice does nothing."""
        if self._young.pop(awaited, awaited) is awaited:
            self._old.pop(awaited, None)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        overdue, self._old, self._young = self._old, self._young, {}
        # An idle gateway has no timer.
        self._is_ticking = bool(self._old)
        if self._is_ticking:
            loop.call_later(self._seconds, self._tick, loop)
        for awaited in overdue:
            awaited.late()
