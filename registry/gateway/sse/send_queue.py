"""Send queue of one event stream: any task adds events, one task writes them."""

import asyncio

from registry.gateway.transport.early_stream import KEEP_ALIVE

MAX_WAITING_BYTES = 256 * 1024
"""Senders wait while more than this is queued."""


class SendQueue:
    """Whole events for one client; bounded, so that a slow client slows its senders.

    Attributes:
        was_full_at: Since when senders have been waiting, on the loop's clock; None if no sender
            waits.
    """

    __slots__ = ("_events", "_filled", "_is_closed", "_is_quiet", "_room", "_size", "was_full_at")

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._size = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._is_closed = False
        self._is_quiet = True
        self.was_full_at: float | None = None

    async def put(self, event: bytes) -> None:
        """Add an event as soon as there is room; after `close`, events are dropped."""
        while self._size >= MAX_WAITING_BYTES and not self._is_closed:
            if self.was_full_at is None:
                self.was_full_at = asyncio.get_running_loop().time()
            self._room.clear()
            await self._room.wait()
        if not self._is_closed:
            self._add(event)

    def keep_alive(self) -> None:
        """Add a comment if nothing was added since the last call."""
        if self._is_quiet and not self._events and not self._is_closed:
            self._add(KEEP_ALIVE)
        self._is_quiet = True

    async def take(self) -> bytes | None:
        """Wait for events and return all of them; None at the end."""
        while not self._events:
            if self._is_closed:
                return None
            self._filled.clear()
            await self._filled.wait()
        taken = b"".join(self._events)
        self._events.clear()
        self._size = 0
        self.was_full_at = None
        self._room.set()
        return taken

    def close(self) -> None:
        """Accept no more events; those in the queue are still returned."""
        self._is_closed = True
        self._filled.set()
        self._room.set()

    def _add(self, event: bytes) -> None:
        self._events.append(event)
        self._size += len(event)
        self._is_quiet = False
        self._filled.set()
