"""Small things done in the background, whose failure must cost nobody anything."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import structlog

from registry.core.errors import RegistryError

log = structlog.get_logger()

T = TypeVar("T")


class BackgroundTasks:
    """Keeps hold of tasks until they end, and takes note of what went wrong in them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, errand: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin *errand*; whoever wants its result awaits the task."""
        # Not a TaskGroup: one errand's failure must not end the others.
        task = asyncio.get_running_loop().create_task(errand)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def soon(self, errand: Coroutine[Any, Any, object]) -> None:
        """Begin *errand*, in whose result nobody is interested."""
        task = self.start(errand)
        del task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, RegistryError):
            log.debug("errand_failed", error=type(error).__name__)

    async def close(self, *, grace_seconds: float = 0.0) -> None:
        """Let what is under way end; cancel what takes longer than *grace_seconds*."""
        if self._tasks and grace_seconds:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
