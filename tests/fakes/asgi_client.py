"""A client of the gateway without a socket: the two ends of one ASGI exchange."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.types import Message

from registry.gateway.edge.requests import GatewayRequest
from registry.upstream.events import EventParser


class AsgiClient:
    """One request, and what came back of it.

    Args:
        message: The JSON-RPC message that was sent.
        headers: Of the request, by lower-case name.

    Attributes:
        on_first_body: Awaited once the first part of the body has come.
    """

    def __init__(self, message: Any = None, **headers: str) -> None:
        self.message = message or {}
        self.sent: list[Message] = []
        self.on_first_body: Callable[[], Awaitable[None]] | None = None
        self._gone = asyncio.Event()
        self._came = asyncio.Event()
        self.exchange = GatewayRequest(
            {"type": "http", "method": "POST", "path": "/mcp", "headers": []},
            self._receive,
            self._send,
        )
        self.exchange.headers = {name.replace("_", "-"): text for name, text in headers.items()}
        self.exchange.request_id = self.message.get("id")
        self.exchange.params = self.message.get("params", {})

    def leave(self) -> None:
        """Disconnect."""
        self._gone.set()

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        self._came.set()
        if message.get("body") and self.on_first_body is not None:
            hook, self.on_first_body = self.on_first_body, None
            await hook()

    @property
    def status(self) -> int | None:
        """Return the status; None before the head of the response."""
        return self.sent[0]["status"] if self.sent else None

    @property
    def text(self) -> bytes:
        """Return the body so far."""
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def messages(self) -> list[Any]:
        """Return the messages so far, of an event stream or a whole response."""
        if self.text.startswith(b"{"):
            return [orjson.loads(self.text)]
        events = EventParser().feed(self.text)
        return [orjson.loads(event.data) for event in events if event.data]

    async def received(self, count: int) -> list[Any]:
        """Wait for *count* messages, and return all so far."""
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                self._came.clear()
                await self._came.wait()
        return self.messages
