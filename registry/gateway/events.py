"""Read server-sent events (WHATWG HTML, 9.2.6) from an upstream's answer."""

from collections.abc import AsyncIterator
from typing import NamedTuple

from aiohttp.streams import StreamReader

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Largest event that is put together in memory."""


class Event(NamedTuple):
    """One event."""

    name: str
    data: bytes


class EventTooLargeError(Exception):
    """An event is larger than `MAX_EVENT_BYTES`."""


async def read_events(body: StreamReader) -> AsyncIterator[Event]:
    """Yield the events of *body* as they are complete.

    Raises:
        EventTooLargeError: One has no end.
    """
    name, size = "message", 0
    data: list[bytes] = []
    async for line in _lines(body):
        size += len(line)
        if size > MAX_EVENT_BYTES:
            raise EventTooLargeError
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                yield Event(name, b"\n".join(data))
            name, data, size = "message", [], 0
        elif field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"data":
            data.append(value)


async def _lines(body: StreamReader) -> AsyncIterator[bytes]:
    pending = b""
    async for chunk in body.iter_any():
        *complete, pending = (pending + chunk).split(b"\n")
        if len(pending) > MAX_EVENT_BYTES:
            raise EventTooLargeError
        for line in complete:
            yield line.removesuffix(b"\r")
