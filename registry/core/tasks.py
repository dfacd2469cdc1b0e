"""Ending of background tasks."""

import asyncio

PATIENCE_SECONDS = 0.2


async def end(task: asyncio.Task[None]) -> None:
    """Cancel *task* until it has ended.

    Once is not enough: the MongoDB driver can lose a cancellation that arrives while it opens a
    connection, and a task that loops would then go on for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
