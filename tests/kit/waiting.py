"""Wait for what sends no event, and run what goes on beside a test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from registry.core.background_tasks import end_all
from registry.core.clock import SystemClock

WAIT_SECONDS = 30.0
"""Longer than anything takes that is awaited in one process, on a busy machine."""

PROCESS_SECONDS = 60.0
"""The same of other processes."""

POLL_SECONDS = 0.01
CLOCK = SystemClock()


async def until(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Return as soon as *condition* holds.

    Raises:
        TimeoutError: It did not in time.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await CLOCK.sleep(POLL_SECONDS)


async def until_async(
    condition: Callable[[], Awaitable[object]], seconds: float = PROCESS_SECONDS
) -> None:
    """Return as soon as *condition*, which has to be awaited, holds.

    Raises:
        TimeoutError: It did not in time.
    """
    async with asyncio.timeout(seconds):
        while not await condition():
            await CLOCK.sleep(POLL_SECONDS)


async def others_ran() -> None:
    """Return once every task that can run has run as far as its next wait."""
    await CLOCK.sleep(0)


@asynccontextmanager
async def in_background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run *work* beside the body, and end it with that."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        yield
        await end_all(tasks)
