"""Requests that the gateway makes of itself, for clients whose transport has no such requests."""

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
"""Takes a JSON-RPC message for the client."""


class LoopbackRequest:
    """One request to this gateway, in this process; the answer's messages are handed on.

    Args:
        scope: The request's head.
        body: Its body.
        gone: Set when nobody wants the answer any more.
        tell: Gets each message of an answer that is an event stream; the answer itself, too.
        request_id: Of the JSON-RPC request, if it is one.
        max_bytes: Of an answer that is put together in memory.

    Attributes:
        status: HTTP status; 0 until there is one.
        headers: Of the answer.
        body: Of an answer that is no stream.
        answer: The message that answers the request; None until there is one.
        last_event_id: By which what comes after the stream's end can be fetched.
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
        "has_told",
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
        self.has_told = False
        self.last_event_id: str | None = None
        self.retry_ms: int | None = None

    async def run(self, serve: ASGIApp) -> None:
        """Have *serve* answer the request."""
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
                self.has_told = True
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
