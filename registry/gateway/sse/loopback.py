"""Loopback requests: requests of the gateway to itself, on behalf of HTTP+SSE clients."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Scope

from registry.gateway.protocol.envelope import RequestId
from registry.gateway.transport.call_watch import ClientGone
from registry.gateway.transport.forwarder import EVENT_STREAM
from registry.upstream.events import EventParser, EventTooLargeError

Tell = Callable[[bytes], Awaitable[None]]
"""Receives a JSON-RPC message for the client."""


class LoopbackRequest:
    """One request to this gateway, in this process, whose messages are passed on.

    Args:
        scope: The request's head.
        body: Its body.
        gone: Set when the response is no longer needed.
        tell: Called with each message of an event stream, including the response itself.
        request_id: The id of the JSON-RPC request; None for other messages.
        max_bytes: Limit of a response that is collected in memory.

    Attributes:
        status: HTTP status; 0 until there is one.
        headers: Of the answer.
        body: The body of a response that is not a stream.
        answer: The message that answers the request; None until it came.
        last_event_id: The event id from which the stream can be resumed.
    """

    __slots__ = (
        "_gone",
        "_is_read",
        "_max_bytes",
        "_parser",
        "_request_body",
        "_request_id",
        "_scope",
        "_tell",
        "answer",
        "body",
        "has_messages",
        "headers",
        "last_event_id",
        "retry_ms",
        "status",
    )

    def __init__(
        self,
        scope: Scope,
        body: bytes,
        gone: asyncio.Event,
        tell: Tell,
        request_id: RequestId | None = None,
        *,
        max_bytes: int,
    ) -> None:
        self._scope = scope
        self._request_body = body
        self._gone = gone
        self._tell = tell
        self._request_id = request_id
        self._is_read = False
        self._max_bytes = max_bytes
        self._parser: EventParser | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()
        self.answer: dict[str, Any] | None = None
        self.has_messages = False
        self.last_event_id: str | None = None
        self.retry_ms: int | None = None

    async def run(self, serve: ASGIApp) -> None:
        """Process the request with *serve*."""
        await serve(self._scope, self._receive, self._send)
        if self._parser is None:
            self.answer = self._as_answer(self.body)

    @property
    def is_stream(self) -> bool:
        """Whether the answer is an event stream."""
        return self._parser is not None

    async def _receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": self._request_body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
            if self.headers.get(b"content-type", b"").startswith(EVENT_STREAM.encode()):
                self._parser = EventParser(self._max_bytes)
        elif self._parser is None:
            self.body += message.get("body", b"")
            if len(self.body) > self._max_bytes:
                self.body.clear()
                raise ClientGone
        else:
            try:
                await self._read(self._parser, message.get("body", b""))
            except EventTooLargeError:
                raise ClientGone from None

    async def _read(self, parser: EventParser, piece: bytes) -> None:
        for event in parser.feed(piece):
            if event.id is not None:
                self.last_event_id = event.id
            if event.retry_ms is not None:
                self.retry_ms = event.retry_ms
            if event.name == "message" and event.data:
                self.has_messages = True
                self.answer = self.answer or self._as_answer(event.data)
                await self._tell(event.data)

    def _as_answer(self, raw: bytes | bytearray) -> dict[str, Any] | None:
        if self._request_id is None:
            return None
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None
        is_answer = type(body) is dict and "method" not in body
        return body if is_answer and body.get("id") == self._request_id else None
