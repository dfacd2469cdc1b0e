"""Returns freed memory to the operating system.

The C library keeps most freed memory for later allocations. Besides, data that was read is held by
reference cycles of clients, which the garbage collector rarely traverses.
"""

import asyncio
import ctypes
import gc
from collections.abc import Callable
from typing import Final

from registry.core.clock import Clock

RELEASE_BYTES: Final = 4 * 1024 * 1024
"""Freed text from which on a release is worthwhile."""

RELEASE_DELAY_SECONDS: Final = 10.0
"""Delay before memory is released, and minimum time between two releases: a reading may be one of
many, and its result is still to be written."""


def release_memory() -> None:
    """Release unused memory of the C library; does nothing if it has no `malloc_trim`."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        # Only glibc has it; others release memory by themselves.
        return
    trim(0)


class FreedMemory:
    """Releases memory some time after much of it was freed.

    Args:
        clock: Waits.
        gives_back: Called in a thread, for it may take some hundredths of a second.
    """

    def __init__(self, clock: Clock, gives_back: Callable[[], None] = release_memory) -> None:
        self._clock = clock
        self._gives_back = gives_back
        self._noted = 0
        self._is_much = asyncio.Event()

    def note(self, size: int) -> None:
        """Note that *size* bytes of text were freed, or soon will be. Cheap."""
        self._noted += size
        if self._noted >= RELEASE_BYTES:
            self._is_much.set()

    async def follow(self) -> None:
        """Release freed memory, forever."""
        while True:
            await self._is_much.wait()
            await self._clock.sleep(RELEASE_DELAY_SECONDS)
            self._noted = 0
            self._is_much.clear()
            # On the event loop: collected objects may belong to it. 10 ms for 100,000 tools.
            gc.collect()
            await asyncio.to_thread(self._gives_back)
