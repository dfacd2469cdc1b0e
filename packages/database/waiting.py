"""Workarounds for the MongoDB driver's handling of cancellation.

Needed on Python before 3.12: the driver waits for servers and connections with `asyncio.wait_for`
around a condition, which runs in a separate task there. If the timeout expires and the caller is
cancelled while that task acquires the condition's lock again, the lock is never released. From
then on every operation of the client blocks forever: seen while a database was unavailable and
waiting operations were cancelled. Later releases of Python wait in the caller's own task, as is
done here.

Needed on every Python: if the task that connects a socket is cancelled, the socket is left to the
garbage collector, which warns of it. A program that ends soon after its start does that.
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
"""The driver's function that opens a socket. Releases without it are left unchanged."""


async def wait_for(awaitable: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - its signature
    """Wait in the task of the caller, as `asyncio.wait_for` does from Python 3.12 on.

    Raises:
        TimeoutError: It took too long.
    """
    async with asyncio.timeout(timeout):
        return await awaitable


def repair_driver() -> None:
    """Patch the driver, so that a cancellation loses no lock and no socket."""
    if sys.version_info < (3, 12) and hasattr(lock, "wait_for"):
        lock.wait_for = wait_for
    connect = getattr(pool_shared, CONNECT, None)
    if connect is not None and not hasattr(connect, "__wrapped__"):
        setattr(pool_shared, CONNECT, _closing(connect))


def _closing(connect: Any) -> Any:
    """Wrap *connect*, so that a cancellation closes the socket that it opened."""

    @wraps(connect)
    async def connected(*arguments: Any) -> socket.socket:
        try:
            return await connect(*arguments)  # type: ignore[no-any-return]  # the driver's own
        except asyncio.CancelledError as exc:
            # Only the frame that was left holds the socket.
            for frame, _ in traceback.walk_tb(exc.__traceback__):
                if frame.f_code is connect.__code__:
                    _close_all(frame.f_locals.values())
            raise

    return connected


def _close_all(values: Any) -> None:
    for value in values:
        if isinstance(value, socket.socket):
            value.close()
