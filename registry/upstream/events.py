"""Read server-sent events from what upstreams send, and write them. Pure.

The one parser of discovery and gateway (https://html.spec.whatwg.org/multipage/server-sent-events.html):
a server that one of them understands the other understands, too.
"""

from collections.abc import Iterator
from typing import NamedTuple

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Largest event that is put together in memory."""

MAX_RETRY_DIGITS = 9
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MESSAGE, ENDPOINT = "message", "endpoint"


class ServerSentEvent(NamedTuple):
    """One event.

    Attributes:
        id: The id that it sets, by which its successors can be fetched; None when it sets none.
        retry_ms: How long to wait before that, when it says.
    """

    name: str
    data: bytes
    id: str | None = None
    retry_ms: int | None = None


SILENT = ServerSentEvent(MESSAGE, b"")
"""Stands for what ends like an event and says nothing: comments, as servers send them to keep a
stream open, and empty lines."""


class EventTooLargeError(Exception):
    """An event is larger than the bound."""


class EventParser:
    """Puts events together from pieces of a stream, cut anywhere.

    What no empty line follows is never given out: it is no event.

    Args:
        max_bytes: Of one event.
    """

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._mark: bytes | None = b""
        self._ended_in_return = False
        self._begin()

    def _begin(self) -> None:
        self._name = MESSAGE
        self._data: list[bytes] = []
        self._id: str | None = None
        self._retry_ms: int | None = None
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that *piece* completes.

        Raises:
            EventTooLargeError: One has no end.
        """
        for event in self.feed_all(piece):
            if event is not SILENT:
                yield event

    def feed_all(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """Yield events, and `SILENT` for each that holds nothing, for callers that count all.

        Raises:
            EventTooLargeError: One has no end.
        """
        for line in self._lines(piece):
            self._size += len(line)
            if self._size > self._max_bytes:
                raise EventTooLargeError
            if line:
                self._field(line)
                continue
            if self._data or self._id is not None or self._retry_ms is not None:
                yield ServerSentEvent(self._name, b"\n".join(self._data), self._id, self._retry_ms)
            else:
                yield SILENT
            self._begin()

    def _lines(self, piece: bytes) -> Iterator[bytes]:
        if self._mark is not None:
            piece = self._without_mark(piece)
        if self._ended_in_return and piece:
            # The line ended with the return; the feed after it belongs to that.
            piece = piece.removeprefix(b"\n")
            self._ended_in_return = False
        if b"\r" in piece:
            self._ended_in_return = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *complete, rest = piece.split(b"\n")
        if complete:
            # Joined only now, or a long line in many pieces would be copied with each of them.
            complete[0] = b"".join((*self._pending, complete[0]))
            self._pending, self._pending_bytes = [], 0
        if rest:
            self._pending.append(rest)
            self._pending_bytes += len(rest)
            if self._pending_bytes > self._max_bytes:
                raise EventTooLargeError
        yield from complete

    def _without_mark(self, piece: bytes) -> bytes:
        """Return what is to be read of the stream so far, whose mark may be cut in two."""
        begun = (self._mark or b"") + piece
        if len(begun) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(begun):
            self._mark = begun
            return b""
        self._mark = None
        return begun.removeprefix(BYTE_ORDER_MARK)

    def _field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace") or MESSAGE
        elif field == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif field == b"retry" and value.isdigit() and len(value) <= MAX_RETRY_DIGITS:
            self._retry_ms = int(value)


def written(event: ServerSentEvent) -> bytes:
    """Return the text of an event whose data is one line."""
    lines = [f"event: {event.name}".encode()]
    if event.id is not None:
        lines.append(f"id: {event.id}".encode())
    if event.retry_ms is not None:
        lines.append(b"retry: %d" % event.retry_ms)
    return b"\n".join([*lines, b"data: " + event.data, b"", b""])
