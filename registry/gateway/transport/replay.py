"""Answers that clients may fetch the rest of when their connection broke off (2025-11-25).

Each event of such an answer has an id that names the worker which keeps it; a `GET` with
`Last-Event-ID` gets what came after it, and what still comes. Kept in memory, for a short while.
"""

import asyncio
import secrets
from collections import OrderedDict
from contextlib import suppress

from registry.core.clock import Clock

KEPT_SECONDS = 120.0
"""How long an answer that is whole can be fetched; clients come back within seconds."""

MAX_ANSWERS = 1_000
MAX_BYTES = 64 * 1024 * 1024
"""In one worker. The oldest answers are dropped first."""


class Replay:
    """The events of one answer.

    Args:
        name: Begins the ids of its events.
        nonce: Of the session that it belongs to.

    Attributes:
        size: Bytes of all events.
        is_over: Whether nothing comes any more.
        ends_at: When it is dropped; monotonic seconds. None while it grows.
    """

    __slots__ = ("_events", "_moved", "ends_at", "is_over", "name", "nonce", "size")

    def __init__(self, name: str, nonce: str) -> None:
        self.name = name
        self._events: list[bytes] = []
        self._moved = asyncio.Event()
        self.nonce = nonce
        self.size = 0
        self.is_over = False
        self.ends_at: float | None = None

    def priming(self) -> bytes:
        """Return an event that says nothing but where to go on."""
        return self.add(b"data: \n\n")

    def add(self, event: bytes) -> bytes:
        """Keep an event, and return it with its id."""
        numbered = b"id: %s-%d\n" % (self.name.encode(), len(self._events) + 1) + event
        self._events.append(numbered)
        self.size += len(numbered)
        self._move()
        return numbered

    def end(self) -> None:
        """Say that nothing comes any more."""
        self.is_over = True
        self._move()

    async def after(self, number: int) -> list[bytes]:
        """Return the events after the one of that *number*, once there are any; [] at the end."""
        while len(self._events) <= number and not self.is_over:
            await self._moved.wait()
        return self._events[number:]

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


class Replays:
    """The answers that this worker keeps.

    Args:
        own: Id of this worker.
    """

    def __init__(self, own: str, clock: Clock) -> None:
        self._own = own
        self._clock = clock
        self._kept: OrderedDict[str, Replay] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, nonce: str) -> Replay:
        """Return where the events of an answer in the session with *nonce* are to be kept."""
        name = f"{self._own}-{secrets.token_hex(12)}"
        replay = self._kept[name] = Replay(name, nonce)
        return replay

    def end(self, replay: Replay) -> None:
        """Keep a whole answer for a while, and drop those that were kept for long."""
        replay.end()
        if not replay.size:
            # The answer was no stream.
            self._kept.pop(replay.name, None)
            return
        now = self._clock.monotonic()
        replay.ends_at = now + KEPT_SECONDS
        size = sum(one.size for one in self._kept.values())
        for name, one in tuple(self._kept.items()):
            is_old = one.ends_at is not None and one.ends_at <= now
            if not is_old and len(self._kept) <= MAX_ANSWERS and size <= MAX_BYTES:
                return
            del self._kept[name]
            size -= one.size

    def forget(self, nonce: str) -> None:
        """Drop what belongs to a session that has ended."""
        for name in [name for name, one in self._kept.items() if one.nonce == nonce]:
            del self._kept[name]

    def find(self, event_id: str, nonce: str) -> tuple[Replay, int] | None:
        """Return the answer that an event is of, and the event's number in it, if it is kept."""
        name, _, number = event_id.rpartition("-")
        replay = self._kept.get(name)
        if replay is None or replay.nonce != nonce:
            return None
        with suppress(ValueError):
            return replay, int(number[:9])
        return None


def worker_of(event_id: str) -> str | None:
    """Return the worker that keeps the answer which an event is of, if the id says one."""
    parts = event_id.split("-")
    return parts[0] if len(parts) == 3 else None  # noqa: PLR2004 - worker, answer, number
