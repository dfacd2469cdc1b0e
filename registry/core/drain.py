"""Graceful shutdown of this process in two steps: leaving, then draining.

First the process is *leaving*: it still serves, but reports that it is not ready, so that load
balancers stop sending requests. Then the *drain* begins: running requests may end, new ones are
refused, and open streams are ended so that their clients reconnect elsewhere.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Drain:
    """State of this process's shutdown.

    Attributes:
        is_leaving: Whether it should not be sent anything any more.
        has_begun: Whether nothing new may begin. A plain attribute: each request looks at it.
    """

    __slots__ = ("_begun", "_interruptible", "has_begun", "is_leaving")

    def __init__(self) -> None:
        self.is_leaving = False
        self.has_begun = False
        self._begun = asyncio.Event()
        self._interruptible: set[asyncio.Task[object]] = set()

    def leave(self) -> None:
        """Start leaving."""
        self.is_leaving = True

    def begin(self) -> None:
        """Start the drain, and leaving if it was skipped."""
        self.is_leaving = self.has_begun = True
        self._begun.set()
        for task in self._interruptible:
            task.cancel()

    async def wait(self) -> None:
        """Wait until the drain has begun."""
        await self._begun.wait()

    async def interrupt(self, wait: Callable[[], Awaitable[T]], instead: T) -> T:
        """Await what *wait* returns, or return *instead* as soon as the drain begins.

        Costs no task and no timer, so that thousands of streams can wait here.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("Only a task can be interrupted.")
        if self.has_begun:
            return instead
        self._interruptible.add(task)
        try:
            return await wait()
        except asyncio.CancelledError:
            # A cancellation by another caller, alone or besides ours, is propagated.
            if not self._begun.is_set() or task.uncancel() > 0:
                raise
            return instead
        finally:
            self._interruptible.discard(task)
            # Breaks a reference cycle: the task holds the exception, which holds this frame.
            del task
