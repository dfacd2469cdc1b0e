"""End a call whose client has gone, or that takes too long.

ASGI tells of a disconnect through `receive()` only, which takes a task to wait on. Most calls end
within milliseconds, so the task, and the timer for the total, are started for those that do not.
"""

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

PATIENCE_SECONDS = 0.02
"""How long a call runs before it is watched: watching every call would cost a tenth of its CPU."""


class ClientGone(Exception):  # noqa: N818 - an event, not an error
    """The client went away before it had its answer."""


class CallWatch:
    """Cancels the body of its `with` block, and leaves it with the reason as an exception.

    Args:
        receive: The client's ASGI channel; its request has been read.
        total_seconds: Longest time for the block; None for no limit.

    Raises (on leaving):
        ClientGone: The client disconnected.
        TimeoutError: The block took too long.
    """

    __slots__ = ("_reason", "_receive", "_task", "_timer", "_total_seconds", "_watcher")

    def __init__(self, receive: Receive, total_seconds: float | None) -> None:
        self._receive = receive
        self._total_seconds = total_seconds
        self._reason: type[Exception] | None = None
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle = loop.call_later(PATIENCE_SECONDS, self._begin, loop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._reason is not None and kind is asyncio.CancelledError and self._task is not None:
            self._task.uncancel()
            raise self._reason from None

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not in a TaskGroup: entering one for each call is what this class exists to save.
        self._watcher = loop.create_task(self._watch())
        if self._total_seconds is not None:
            left = max(self._total_seconds - PATIENCE_SECONDS, 0)
            self._timer = loop.call_later(left, self._end, TimeoutError)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(ClientGone)

    def _end(self, reason: type[Exception]) -> None:
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()
