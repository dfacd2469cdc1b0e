"""Answer one POST: as JSON, or as an event stream if something comes before the answer."""

from registry.gateway.events import event_text
from registry.gateway.requests import Exchange

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Reply:
    """The answer to one request.

    Args:
        exchange: The request.
    """

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def notice(self, raw: bytes) -> None:
        """Send a message that comes before the answer."""
        await self._open()
        await self._send(event_text(raw), is_last=False)

    async def finish(self, raw: bytes, status: int = 200) -> None:
        """Send the answer. *status* counts if nothing was sent before."""
        if self._exchange.client.has_started:
            await self._send(event_text(raw), is_last=True)
        else:
            await self._exchange.answer(status, raw)

    async def leave(self) -> None:
        """End without an answer."""
        await self._open()
        await self._send(b"", is_last=True)

    async def _open(self) -> None:
        client = self._exchange.client
        if not client.has_started:
            client.sends_whole_events = True
            await client.start(200, list(STREAM_HEADERS), is_event_stream=True)

    async def _send(self, body: bytes, *, is_last: bool) -> None:
        await self._exchange.client.send(
            {"type": "http.response.body", "body": body, "more_body": not is_last}
        )
