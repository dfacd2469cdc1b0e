"""Tell the events of a stream apart, and give them other data. Pure."""

import re
from collections.abc import Iterator

END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
"""The end of a line and an empty one. Of the latter, a line feed may be still to come, which then
is another empty line."""

LONGEST_END = 4
MESSAGE, ENDPOINT = b"message", b"endpoint"


class EventSplitter:
    """Takes the pieces of a stream and gives out its events, each as it came.

    What no empty line follows is never given out: it is no event
    (https://html.spec.whatwg.org/multipage/server-sent-events.html).
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the events that *piece* completes."""
        buffer = self._buffer
        searched = max(0, len(buffer) - LONGEST_END)
        buffer += piece
        begin = 0
        for end in END.finditer(bytes(buffer), searched):
            yield bytes(buffer[begin : end.end()])
            begin = end.end()
        del buffer[:begin]


def message_of(event: bytes) -> bytes | None:
    """Return the data of an event that is a message; None of others, and when there is none."""
    kind, data = _kind_and_data(event)
    return data if kind in {b"", MESSAGE} else None


def endpoint_of(event: bytes) -> bytes | None:
    """Return where messages go, of the event that says so; None of others."""
    kind, data = _kind_and_data(event)
    return data if kind == ENDPOINT else None


def is_silent(event: bytes) -> bool:
    """Whether there is nothing in an event but comments, as servers send to keep a stream open."""
    return all(not line or line.startswith(b":") for line in event.splitlines())


def with_data(event: bytes, data: bytes) -> bytes:
    """Return *event* with *data*, which is one line, in place of its own."""
    others = [line for line in event.splitlines() if line and _field(line)[0] != b"data"]
    return b"\n".join([*others, b"data: " + data, b"", b""])


def _kind_and_data(event: bytes) -> tuple[bytes, bytes | None]:
    fields = [_field(line) for line in event.splitlines()]
    kinds = [value for name, value in fields if name == b"event"]
    data = b"\n".join(value for name, value in fields if name == b"data")
    return kinds[-1] if kinds else b"", data or None


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")
