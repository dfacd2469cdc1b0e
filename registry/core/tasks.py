"""Ending of background tasks."""

import asyncio
from collections.abc import Iterable

PATIENCE_SECONDS = 3.0
"""Between two cancellations of a task. What it does to wind up after the first, such as giving a
job back, is not broken off by the second."""


async def end(task: asyncio.Task[None]) -> None:
    """Cancel *task* until it has ended."""
    await end_all([task])


async def end_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel *tasks* until they have ended.

    Once is not enough: the MongoDB driver can lose a cancellation that arrives while it opens a
    connection, and a task that loops would then go on for ever.
    """
    left = {task for task in tasks if not task.done()}
    for task in left:
        # A group whose other task failed has told it already.
        if not task.cancelling():
            task.cancel()
    while left:
        _, left = await asyncio.wait(left, timeout=PATIENCE_SECONDS)
        for task in left:
            task.cancel()
