"""Memory that was freed, and goes back to the system.

Of what is freed the C library keeps most for what may come next. What was read stands in cycles of
the clients that read it besides, which are hardly ever looked for.
"""

import asyncio
import ctypes
import gc
from collections.abc import Callable
from typing import Final

from registry.core.clock import Clock

MUCH_BYTES: Final = 4 * 1024 * 1024
"""As much text as this, and what was made of it on the way, is worth asking for."""

AFTER_SECONDS: Final = 10.0
"""From when so much was freed until it is given back: it may be one of many, and what is read is
then written. Nor is any given back more often than this."""


def give_back() -> None:
    """Have the C library give back what it holds unused; nothing where it knows no such call."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        # Only glibc has it; others give back by themselves.
        return
    trim(0)


class FreedMemory:
    """Has memory given back some time after much of it was freed.

    Args:
        clock: Waits.
        gives_back: Called in a thread, for it may take some hundredths of a second.
    """

    def __init__(self, clock: Clock, gives_back: Callable[[], None] = give_back) -> None:
        self._clock = clock
        self._gives_back = gives_back
        self._noted = 0
        self._is_much = asyncio.Event()

    def note(self, size: int) -> None:
        """Take note that so many bytes of texts were freed, or soon will be. Cheap."""
        self._noted += size
        if self._noted >= MUCH_BYTES:
            self._is_much.set()

    async def follow(self) -> None:
        """Give back what is freed, for ever."""
        while True:
            await self._is_much.wait()
            await self._clock.sleep(AFTER_SECONDS)
            self._noted = 0
            self._is_much.clear()
            # Here, as what it drops may belong to this loop. 100,000 tools make it 10 ms.
            gc.collect()
            await asyncio.to_thread(self._gives_back)
