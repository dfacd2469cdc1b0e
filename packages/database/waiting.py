"""A repair of the driver's waiting, needed on Python before 3.12.

The driver waits for servers and connections with `asyncio.wait_for` around a condition. Before
Python 3.12 that runs in a task of its own; when the time is up and the caller is cancelled while
that task takes the condition's lock again, nobody ever releases the lock. From then on every
operation of the client waits for ever: seen while a database was away and what waited for it was
given up. Later releases of Python wait in the caller's own task, as is done here.
"""

import asyncio
import sys
from collections.abc import Awaitable
from typing import TypeVar

from pymongo import lock

T = TypeVar("T")


async def wait_for(awaitable: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - its signature
    """Wait in the task of the caller, as `asyncio.wait_for` does from Python 3.12 on.

    Raises:
        TimeoutError: It took too long.
    """
    async with asyncio.timeout(timeout):
        return await awaitable


def repair_driver() -> None:
    """Have the driver wait so that no lock of it can be lost."""
    if sys.version_info < (3, 12) and hasattr(lock, "wait_for"):
        lock.wait_for = wait_for
