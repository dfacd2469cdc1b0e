"""The end of this process in two steps, so that nobody notices: say so first, then let go.

First the process is *leaving*: it serves on, but says that it is not ready, so that balancers send
no more. Then the *drain* has begun: what runs may end, nothing new begins, standing streams are
ended so that their clients go elsewhere.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Drain:
    """Where this process stands on its way out.

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
        """Take the first step."""
        self.is_leaving = True

    def begin(self) -> None:
        """Take the second step, and the first if it was left out."""
        self.is_leaving = self.has_begun = True
        self._begun.set()
        for task in self._interruptible:
            task.cancel()

    async def wait(self) -> None:
        """Wait until the drain has begun."""
        await self._begun.wait()

    async def interrupt(self, wait: Callable[[], Awaitable[T]], instead: T) -> T:
        """Await what *wait* returns, but return *instead* as soon as the drain begins.

        Costs no task and no timer, so that thousands of streams can wait here.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be interrupted")
        if self.has_begun:
            return instead
        self._interruptible.add(task)
        try:
            return await wait()
        except asyncio.CancelledError:
            # Another's cancellation, of ours or besides ours, is for whoever awaits this.
            if not self._begun.is_set() or task.uncancel() > 0:
                raise
            return instead
        finally:
            self._interruptible.discard(task)
            # The task keeps the cancellation, that this frame, and the frame would keep the task.
            del task
