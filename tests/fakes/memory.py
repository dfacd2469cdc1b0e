"""Stands in for what gives memory back to the system."""

import asyncio


class GivenBack:
    """Counts how often it is called, from whatever thread.

    Attributes:
        times: How often that was.
    """

    def __init__(self) -> None:
        self.times = 0
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()

    def __call__(self) -> None:
        """Count."""
        self._loop.call_soon_threadsafe(self._count)

    async def came(self) -> None:
        """Wait until it is called again."""
        await self._came.wait()
        self._came.clear()

    def _count(self) -> None:
        self.times += 1
        self._came.set()
