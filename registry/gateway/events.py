"""Read server-sent events (WHATWG HTML, 9.2.6) from an upstream's answer."""

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from registry.upstream.connection import Body

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Largest event that is put together in memory."""


MAX_RETRY_DIGITS = 9


class Event(NamedTuple):
    """One event.

    Attributes:
        id: The id that it sets, by which its successors can be fetched; None when it sets none.
        retry_ms: How long to wait before that, when it says.
    """

    name: str
    data: bytes
    id: str | None = None
    retry_ms: int | None = None


class EventTooLargeError(Exception):
    """An event is larger than `MAX_EVENT_BYTES`."""


class EventParser:
    """Puts events together from pieces of a stream, cut anywhere."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._name = "message"
        self._data: list[bytes] = []
        self._id: str | None = None
        self._retry_ms: int | None = None
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yield the events that *piece* completes.

        Raises:
            EventTooLargeError: One has no end.
        """
        for line in self._lines(piece):
            self._size += len(line)
            if self._size > MAX_EVENT_BYTES:
                raise EventTooLargeError
            if line:
                self._field(line)
                continue
            if self._data or self._id is not None or self._retry_ms is not None:
                yield Event(self._name, b"\n".join(self._data), self._id, self._retry_ms)
            self._begin()

    def _lines(self, piece: bytes) -> Iterator[bytes]:
        *complete, rest = piece.split(b"\n")
        if complete:
            # Joined only now, or a long line in many pieces would be copied with each of them.
            complete[0] = b"".join((*self._pending, complete[0]))
            self._pending, self._pending_bytes = [], 0
        if rest:
            self._pending.append(rest)
            self._pending_bytes += len(rest)
            if self._pending_bytes > MAX_EVENT_BYTES:
                raise EventTooLargeError
        for line in complete:
            yield line.removesuffix(b"\r")

    def _field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif field == b"retry" and value.isdigit() and len(value) <= MAX_RETRY_DIGITS:
            self._retry_ms = int(value)


async def read_events(body: Body) -> AsyncIterator[Event]:
    """Yield the events of *body* as they are complete.

    Raises:
        EventTooLargeError: One has no end.
    """
    parser = EventParser()
    async for chunk in body.iter_any():
        for event in parser.feed(chunk):
            yield event


def event_text(raw: bytes) -> bytes:
    """Return a message as one server-sent event."""
    if b"\n" in raw or b"\r" in raw:
        lines = b"".join(b"data: %s\n" % line for line in raw.splitlines())
        return b"event: message\n%s\n" % lines
    return b"event: message\ndata: %s\n\n" % raw
