"""Reply to one POST: JSON, or an event stream if messages come before the response."""

import asyncio

from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.protocol.messages import event_text
from registry.gateway.transport.early_stream import STREAM_HEADERS


class Reply:
    """The reply to one request.

    Args:
        exchange: The request.
    """

    __slots__ = ("_exchange", "_is_over", "_permit")

    def __init__(self, exchange: GatewayRequest) -> None:
        self._exchange = exchange
        self._permit = asyncio.Lock()
        self._is_over = False

    async def notice(self, raw: bytes) -> None:
        """Send a message that comes before the response."""
        await self.open()
        await self._send(event_text(raw), is_last=False)

    async def finish(self, raw: bytes, status: int = 200) -> None:
        """Send the response. *status* is used if nothing was sent before."""
        self._is_over = True
        if self._exchange.client.has_started:
            await self._send(event_text(raw), is_last=True)
        else:
            await self._exchange.answer(status, raw)

    async def leave(self) -> None:
        """End without a response."""
        await self.open()
        self._is_over = True
        await self._send(b"", is_last=True)

    async def open(self) -> None:
        """Begin an event stream, unless the reply has begun."""
        client = self._exchange.client
        async with self._permit:
            if client.has_started or self._is_over:
                return
            client.sends_whole_events = True
            await client.start(200, list(STREAM_HEADERS), is_event_stream=True)
            if client.replay is not None:
                await self._write(client.replay.priming(), is_last=False)

    async def _send(self, event: bytes, *, is_last: bool) -> None:
        replay = self._exchange.client.replay
        if replay is not None and event:
            event = replay.add(event)
        async with self._permit:
            await self._write(event, is_last=is_last)

    async def _write(self, body: bytes, *, is_last: bool) -> None:
        await self._exchange.client.send(
            {"type": "http.response.body", "body": body, "more_body": not is_last}
        )
