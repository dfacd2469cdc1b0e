"""End a call whose client has gone, that takes too long, or that is not allowed any more.

ASGI tells of a disconnect through `receive()` only, which takes a task to wait on; see
`LatencyWatcher` for when that task, and the timer for the total, are started.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from starlette.types import Receive

from registry.core.latency_watcher import LatencyWatcher


class ClientGone(Exception):  # noqa: N818 - an event, not an error
    """The client went away before it had its answer."""


class TookTooLong(TimeoutError):  # noqa: N818 - as its base
    """The whole took longer than it may."""


class CallWatch:
    """Cancels the body of its `with` block, and leaves it with the reason as an exception.

    Args:
        latency_watcher: Says when a call is worth watching.
        receive: The client's ASGI channel; None while its request is still being read from it.
        total_seconds: Longest time for the block; None for no limit.
        until: Waits for what else may end the block, and returns it.

    Raises (on leaving):
        ClientGone: The client disconnected.
        TookTooLong: The block did.
        Exception: What *until* returned.
    """

    __slots__ = (
        "_latency_watcher",
        "_reason",
        "_receive",
        "_task",
        "_timer",
        "_total_seconds",
        "_until",
        "_watchers",
    )

    def __init__(
        self,
        latency_watcher: LatencyWatcher,
        receive: Receive | None,
        total_seconds: float | None,
        until: Callable[[], Awaitable[Exception]] | None = None,
    ) -> None:
        self._latency_watcher = latency_watcher
        self._receive = receive
        self._total_seconds = total_seconds
        self._until = until
        self._reason: Exception | None = None
        self._task: asyncio.Task[Any] | None = None
        self._watchers: tuple[asyncio.Task[None], ...] = ()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._latency_watcher.begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._latency_watcher.end(self)
        if self._timer is not None:
            self._timer.cancel()
        for watcher in self._watchers:
            watcher.cancel()
        task, reason = self._task, self._reason
        # Errors hold the frames that they passed through, and those hold this: what it keeps of
        # them would be left to the garbage collector.
        self._task = self._reason = None
        self._watchers = ()
        try:
            if reason is not None and kind is asyncio.CancelledError and task is not None:
                task.uncancel()
                raise reason from None
        finally:
            del reason, error

    def late(self) -> None:
        """Start to watch; see `LatencyWatcher`."""
        loop = asyncio.get_running_loop()
        if self._receive is not None:
            # Not in a TaskGroup: entering one for each call is what this class exists to save.
            self._watchers = (loop.create_task(self._watch(self._receive)),)
        if self._until is not None:
            self._watchers += (loop.create_task(self._wait(self._until)),)
        if self._total_seconds is not None:
            self._timer = loop.call_later(self._total_seconds, self.end, TookTooLong())

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end(ClientGone())

    async def _wait(self, until: Callable[[], Awaitable[Exception]]) -> None:
        self.end(await until())

    def end(self, reason: Exception) -> None:
        """Leave the block with *reason*."""
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()
