"""Callbacks for what takes long, and none for what does not."""

import asyncio
import gc
import weakref

from registry.core.clock import SystemClock
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.transport.call_watch import CallWatch

SECONDS = 0.02


class Waiting:
    """Counts how often it is told to be late."""

    def __init__(self) -> None:
        self.told = 0

    def late(self) -> None:
        """Note one more."""
        self.told += 1


async def test_only_what_is_not_over_is_told_and_only_once() -> None:
    patience = LatencyWatcher(SECONDS)
    over, lasting = Waiting(), Waiting()
    patience.begin(over)
    patience.begin(lasting)

    patience.end(over)
    await SystemClock().sleep(5 * SECONDS)

    assert (over.told, lasting.told) == (0, 1)


async def test_what_begins_later_is_told_too() -> None:
    patience = LatencyWatcher(SECONDS)
    patience.begin(Waiting())
    await SystemClock().sleep(SECONDS / 2)
    second = Waiting()

    patience.begin(second)
    await SystemClock().sleep(5 * SECONDS)

    assert second.told == 1


async def test_a_call_leaves_nothing_for_the_garbage_collector() -> None:
    patience = LatencyWatcher(SECONDS)

    class Traced(CallWatch):
        """A watch that can be referred to weakly."""

        __slots__ = ("__weakref__",)

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    gc.disable()
    try:
        watch = Traced(patience, receive, 1.0)
        with watch:
            pass
        left = weakref.ref(watch)
        del watch
        assert left() is None
    finally:
        gc.enable()
