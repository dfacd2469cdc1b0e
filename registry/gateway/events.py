"""Read server-sent events (WHATWG HTML, 9.2.6) from an upstream's answer."""

from collections.abc import AsyncIterator
from typing import NamedTuple

from aiohttp.streams import StreamReader

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Largest event that is put together in memory."""


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


async def read_events(body: StreamReader) -> AsyncIterator[Event]:
    """Yield the events of *body* as they are complete.

    Raises:
        EventTooLargeError: One has no end.
    """
    name, size = "message", 0
    data: list[bytes] = []
    event_id: str | None = None
    retry_ms: int | None = None
    async for line in _lines(body):
        size += len(line)
        if size > MAX_EVENT_BYTES:
            raise EventTooLargeError
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data or event_id is not None or retry_ms is not None:
                yield Event(name, b"\n".join(data), event_id, retry_ms)
            name, data, size = "message", [], 0
            event_id = retry_ms = None
        elif field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"data":
            data.append(value)
        elif field == b"id" and b"\0" not in value:
            event_id = value.decode("utf-8", "replace")
        elif field == b"retry" and value.isdigit():
            retry_ms = int(value)


async def _lines(body: StreamReader) -> AsyncIterator[bytes]:
    pending = b""
    async for chunk in body.iter_any():
        *complete, pending = (pending + chunk).split(b"\n")
        if len(pending) > MAX_EVENT_BYTES:
            raise EventTooLargeError
        for line in complete:
            yield line.removesuffix(b"\r")
