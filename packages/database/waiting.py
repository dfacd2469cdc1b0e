"""Repairs of what the driver does when who waits for it is cancelled.

Needed on Python before 3.12: the driver waits for servers and connections with `asyncio.wait_for`
around a condition, which runs in a task of its own there; when the time is up and the caller is
cancelled while that task takes the condition's lock again, nobody ever releases the lock. From
then on every operation of the client waits for ever: seen while a database was away and what
waited for it was given up. Later releases of Python wait in the caller's own task, as is done
here.

Needed on every Python: a socket is left to the collector, which warns of it, when the task that
connects it is cancelled. A program that ends soon after it began does that.
"""

import asyncio
import socket
import sys
import traceback
from collections.abc import Awaitable
from functools import wraps
from typing import Any, TypeVar

from pymongo import lock, pool_shared

T = TypeVar("T")

CONNECT = "_async_create_connection"
"""What opens a socket for the driver. Nothing is repaired in releases that have none."""


async def wait_for(awaitable: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - its signature
    """Wait in the task of the caller, as `asyncio.wait_for` does from Python 3.12 on.

    Raises:
        TimeoutError: It took too long.
    """
    async with asyncio.timeout(timeout):
        return await awaitable


def repair_driver() -> None:
    """Have the driver lose no lock and no socket when who waits for it is cancelled."""
    if sys.version_info < (3, 12) and hasattr(lock, "wait_for"):
        lock.wait_for = wait_for
    connect = getattr(pool_shared, CONNECT, None)
    if connect is not None and not hasattr(connect, "__wrapped__"):
        setattr(pool_shared, CONNECT, _closing(connect))


def _closing(connect: Any) -> Any:
    """Return *connect*, closing what it opened when it is cancelled."""

    @wraps(connect)
    async def connected(*arguments: Any) -> socket.socket:
        try:
            return await connect(*arguments)  # type: ignore[no-any-return]  # the driver's own
        except asyncio.CancelledError as exc:
            # Nobody but the frame that was left has the socket.
            for frame, _ in traceback.walk_tb(exc.__traceback__):
                if frame.f_code is connect.__code__:
                    _close_all(frame.f_locals.values())
            raise

    return connected


def _close_all(values: Any) -> None:
    for value in values:
        if isinstance(value, socket.socket):
            value.close()
