"""Server-sent events: those of an upstream's answer, and those that clients get."""

from collections.abc import AsyncIterator

from registry.upstream.connection import Body
from registry.upstream.events import Event, EventParser


async def read_events(body: Body, max_bytes: int) -> AsyncIterator[Event]:
    """Yield the events of *body*, each of at most *max_bytes*, as they are complete.

    Raises:
        EventTooLargeError: One has no end.
    """
    parser = EventParser(max_bytes)
    async for chunk in body.iter_any():
        for event in parser.feed(chunk):
            yield event


def event_text(raw: bytes) -> bytes:
    """Return a message as one server-sent event."""
    if b"\n" in raw or b"\r" in raw:
        lines = b"".join(b"data: %s\n" % line for line in raw.splitlines())
        return b"event: message\n%s\n" % lines
    return b"event: message\ndata: %s\n\n" % raw
