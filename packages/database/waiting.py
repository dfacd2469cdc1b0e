"""Workarounds for the MongoDB driver's handling of cancellation.

Needed on Python before 3.12, whose `asyncio.wait_for` runs what it waits for in a separate task:

* The driver waits for servers and connections with it, around a condition. If the timeout expires
  and the caller is cancelled while that task acquires the condition's lock again, the lock is
  never released. From then on every operation of the client blocks forever: seen while a database
  was unavailable and waiting operations were cancelled.
* It connects and writes with it. If the caller is cancelled when that task has just ended, the
  cancellation is lost: a background task then goes on as if nothing had happened, and the end of
  the process waits until it is cancelled again.

Later releases of Python wait in the caller's own task, as is done here, which also saves a task
for each command.

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

from pymongo import lock, network_layer, pool_shared

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


class Asyncio312:
    """The module `asyncio`, with `wait_for` as from Python 3.12 on."""

    wait_for = staticmethod(wait_for)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


def repair_driver() -> None:
    """Patch the driver, so that no cancellation is lost, nor costs a lock or a socket."""
    if sys.version_info < (3, 12):
        if hasattr(lock, "wait_for"):
            lock.wait_for = wait_for
        for module in (pool_shared, network_layer):
            if vars(module).get("asyncio") is asyncio:
                vars(module)["asyncio"] = Asyncio312()
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
