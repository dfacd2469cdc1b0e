"""Background tasks whose failure is logged and affects nothing else."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import structlog

from registry.core.errors import RegistryError

log = structlog.get_logger()

T = TypeVar("T")


class BackgroundTasks:
    """Holds references to tasks until they end, and logs their failures."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task; callers may await it for its result."""
        # Not a TaskGroup: one task's failure must not cancel the others.
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def soon(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Start a task whose result is not needed."""
        task = self.start(coroutine)
        del task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, RegistryError):
            log.debug("background_task_failed", error=type(error).__name__)

    async def close(self, *, grace_seconds: float = 0.0) -> None:
        """Wait for running tasks; cancel those that take longer than *grace_seconds*."""
        if self._tasks and grace_seconds:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


CANCEL_INTERVAL_SECONDS = 3.0
"""Time between two cancellations of a task, so that the second does not interrupt its cleanup
after the first, such as releasing a job."""


async def end(task: asyncio.Task[None]) -> None:
    """Cancel *task* repeatedly until it has ended."""
    await end_all([task])


async def end_all(
    tasks: Iterable[asyncio.Task[None]], *, interval_seconds: float = CANCEL_INTERVAL_SECONDS
) -> None:
    """Cancel *tasks* repeatedly until they have ended.

    Once is not enough: the MongoDB driver can swallow a cancellation that arrives while it opens a
    connection, and a task that loops would then run forever.
    """
    left = {task for task in tasks if not task.done()}
    for task in left:
        # If another task of its group failed, the group has already reported that.
        if not task.cancelling():
            task.cancel()
    while left:
        _, left = await asyncio.wait(left, timeout=interval_seconds)
        for task in left:
            task.cancel()
