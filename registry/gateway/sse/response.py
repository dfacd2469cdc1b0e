"""Response to one message of an HTTP+SSE client: sends its messages to the client's stream."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.types import Message

from registry.gateway.protocol.envelope import RequestId
from registry.gateway.transport.call_watch import ClientGone
from registry.gateway.transport.forwarder import EVENT_STREAM
from registry.upstream.events import EventParser, EventTooLargeError

SendMessage = Callable[[bytes], Awaitable[None]]
"""Sends a JSON-RPC message to the client."""


class RelayedResponse:
    """Receives the response to one request, in place of an HTTP client.

    Args:
        gone: Set when the response is no longer needed.
        send_message: Called with each message of an event stream, including the response itself.
        request_id: The id of the JSON-RPC request; None for other messages.
        max_bytes: Limit of a response that is collected in memory.

    Attributes:
        status: HTTP status; 0 until there is one.
        headers: Those of the response.
        body: The body of a response that is not a stream.
        answer: The message that answers the request; None until it came.
        has_messages: Whether an event stream carried any message.
        last_event_id: The event id from which the stream can be resumed.
        retry_ms: How long the server wants the client to wait before that.
    """

    __slots__ = (
        "_gone",
        "_max_bytes",
        "_parser",
        "_request_id",
        "_send_message",
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
        gone: asyncio.Event,
        send_message: SendMessage,
        request_id: RequestId | None,
        *,
        max_bytes: int,
    ) -> None:
        self._gone = gone
        self._send_message = send_message
        self._request_id = request_id
        self._max_bytes = max_bytes
        self._parser: EventParser | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()
        self.answer: dict[str, Any] | None = None
        self.has_messages = False
        self.last_event_id: str | None = None
        self.retry_ms: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the answer is an event stream."""
        return self._parser is not None

    async def receive(self) -> Message:
        """Return the client's disconnect, when the response is no longer needed."""
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Receive a part of the response.

        Raises:
            ClientGone: It is over the limit.
        """
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
            if not message.get("more_body"):
                self.answer = self._as_answer(self.body)
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
                await self._send_message(event.data)

    def _as_answer(self, raw: bytes | bytearray) -> dict[str, Any] | None:
        if self._request_id is None:
            return None
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None
        is_answer = type(body) is dict and "method" not in body
        return body if is_answer and body.get("id") == self._request_id else None
