"""Waiting for facts about other processes, which send no events."""

from collections.abc import Awaitable, Callable

from registry.core.clock import SystemClock

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.01


async def until(fact: Callable[[], bool]) -> None:
    """Return as soon as *fact* holds.

    Raises:
        TimeoutError: It did not in time.
    """

    async def asked() -> bool:
        return fact()

    await until_async(asked)


async def until_async(fact: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as *fact*, which has to be awaited, holds.

    Raises:
        TimeoutError: It did not in time.
    """
    clock = SystemClock()
    deadline = clock.monotonic() + WAIT_SECONDS
    while not await fact():
        if clock.monotonic() > deadline:
            raise TimeoutError
        await clock.sleep(POLL_SECONDS)
