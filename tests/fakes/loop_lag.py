"""How long the event loop stands still while a test does something."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

INTERVAL_SECONDS = 0.005


@dataclass(slots=True)
class LoopLag:
    """What was measured.

    Attributes:
        longest_seconds: That nothing else could run.
    """

    longest_seconds: float = 0.0


@contextmanager
def loop_lag() -> Iterator[LoopLag]:
    """Measure how late timers are until the block ends."""
    loop = asyncio.get_running_loop()
    measured = LoopLag()
    due = time.monotonic() + INTERVAL_SECONDS
    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal due, timer
        now = time.monotonic()
        measured.longest_seconds = max(measured.longest_seconds, now - due)
        due = now + INTERVAL_SECONDS
        timer = loop.call_later(INTERVAL_SECONDS, look)

    timer = loop.call_later(INTERVAL_SECONDS, look)
    try:
        yield measured
    finally:
        measured.longest_seconds = max(measured.longest_seconds, time.monotonic() - due)
        if timer is not None:
            timer.cancel()
