"""How late the event loop is: every request of the process waits that long."""

from prometheus_client import Histogram

from registry.core.clock import Clock

INTERVAL_SECONDS = 0.5


async def watch_loop(clock: Clock, lag: Histogram) -> None:
    """Observe, for ever, how much longer than asked a sleep takes."""
    while True:
        before = clock.monotonic()
        await clock.sleep(INTERVAL_SECONDS)
        lag.observe(max(clock.monotonic() - before - INTERVAL_SECONDS, 0))
