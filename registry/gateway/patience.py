"""Tell of what takes longer than most things do.

Nearly all calls end within milliseconds, and what guards against the others (timers, tasks that
wait for a disconnect) would cost each call more than its forwarding. So the guards are set up
only for what is not over after a short while.
"""

import asyncio
from typing import Protocol

PATIENCE_SECONDS = 0.02


class Awaited(Protocol):
    """Something that should be over soon."""

    def late(self) -> None:
        """Set up whatever guards against it never being over; called in the loop, once."""


class Patience:
    """Calls back for what is not over in time; one timer serves everything.

    It holds what is awaited rather than callbacks of it: those would make reference cycles, and
    each call would leave work to the garbage collector.

    Args:
        seconds: How long nothing is done, and up to twice that.
    """

    def __init__(self, seconds: float = PATIENCE_SECONDS) -> None:
        self._seconds = seconds
        # Which began since the last tick, and which before it: nobody asks for the time.
        self._young: dict[Awaited, None] = {}
        self._old: dict[Awaited, None] = {}
        self._is_ticking = False

    def begin(self, awaited: Awaited) -> None:
        """Call `late` of *awaited* unless `end` is called in time."""
        self._young[awaited] = None
        if not self._is_ticking:
            self._is_ticking = True
            loop = asyncio.get_running_loop()
            loop.call_later(self._seconds, self._tick, loop)

    def end(self, awaited: Awaited) -> None:
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
