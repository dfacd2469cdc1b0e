"""End a call whose client has gone, that takes too long, or that is not allowed any more.

ASGI tells of a disconnect through `receive()` only, which takes a task to wait on; see
`LatencyWatcher` for when that task, and the timer for the total, are started.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self

from starlette.types import Receive

PATIENCE_SECONDS = 0.02


class Watched(Protocol):
    """Something that should be over soon."""

    def late(self) -> None:
        """Set up whatever guards against it never being over; called in the loop, once."""


class LatencyWatcher:
    """Calls back for what is not over in time; one timer serves everything.

    It holds what is awaited rather than callbacks of it: those would make reference cycles, and
    each call would leave work to the garbage collector.

    Args:
        seconds: How long nothing is done, and up to twice that.
    """

    def __init__(self, seconds: float = PATIENCE_SECONDS) -> None:
        self._seconds = seconds
        # Which began since the last tick, and which before it: nobody asks for the time.
        self._young: dict[Watched, None] = {}
        self._old: dict[Watched, None] = {}
        self._is_ticking = False

    def begin(self, awaited: Watched) -> None:
        """Call `late` of *awaited* unless `end` is called in time."""
        self._young[awaited] = None
        if not self._is_ticking:
            self._is_ticking = True
            loop = asyncio.get_running_loop()
            loop.call_later(self._seconds, self._tick, loop)

    def end(self, awaited: Watched) -> None:
        """Note that *awaited* is over; doing so twice does nothing."""
        if self._young.pop(awaited, awaited) is awaited:
            self._old.pop(awaited, None)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        overdue, self._old, self._young = self._old, self._young, {}
        # An idle gateway has no timer.
        self._is_ticking = bool(self._old)
        if self._is_ticking:
            loop.call_later(self._seconds, self._tick, loop)
        for awaited in overdue:
            awaited.late()


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
