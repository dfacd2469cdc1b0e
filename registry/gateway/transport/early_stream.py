"""Event stream to a client that begins before the answer is known.

The gateway itself has something to say during a call: a question, or how it goes on. What answers
the call later does not know of that: it sends an ASGI response as always, which becomes the rest
of the stream.
"""

from starlette.types import Message, Send

from registry.gateway.errors import UpstreamAnswered
from registry.gateway.protocol.envelope import RequestId
from registry.gateway.protocol.messages import event_text
from registry.gateway.protocol.response_classification import Answer, read_handshake
from registry.upstream.messages import error_text

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
KEEP_ALIVE = b": keep-alive\n\n"
EVENT_STREAM = b"text/event-stream"
OK = 200

MAX_ERROR_BYTES = 64 * 1024
"""Longer answers with another status than 200 are no JSON-RPC errors."""

BETWEEN_TOKENS = bytes.maketrans(b"\r\n", b"  ")
"""JSON has line ends only between tokens; within an event they would end a line of it."""


class EarlyStream:
    """Sends the rest of an answer on an event stream that has begun.

    The HTTP status of the answer is lost. One that is no JSON-RPC message would be lost on the
    client, which would wait for ever, so an error takes its place.

    Args:
        send: The client's ASGI channel.
        request_id: The id of the request that is answered.
    """

    __slots__ = (
        "_held",
        "_is_inside",
        "_is_over",
        "_is_stream",
        "_request_id",
        "_send",
        "_status",
    )

    def __init__(self, send: Send, request_id: RequestId | None) -> None:
        self._send = send
        self._request_id = request_id
        self._status = OK
        self._is_stream = True
        self._is_inside = False
        self._is_over = False
        self._held = bytearray()

    async def begin(self, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Send the head of the stream.

        Args:
            headers: Sent besides those of a stream.
        """
        await self._send(
            {
                "type": "http.response.start",
                "status": OK,
                "headers": [*STREAM_HEADERS, *headers],
            }
        )

    async def message(self, raw: bytes) -> None:
        """Send a message that comes before the answer."""
        await self._write(event_text(raw))

    async def keep_alive(self) -> None:
        """Send a comment, so that nothing between here and the client ends the stream."""
        await self._write(KEEP_ALIVE)

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._is_stream = kind.startswith(EVENT_STREAM)
            self._status = message["status"]
            return
        if self._is_stream:
            await self._send(message)
            return
        if self._is_over:
            return
        body: bytes = message.get("body", b"")
        has_more: bool = message.get("more_body", False)
        if self._status == OK:
            await self._piece(body, has_more=has_more)
        else:
            await self._error(body, has_more=has_more)

    async def _piece(self, body: bytes, *, has_more: bool) -> None:
        """Send a piece of an answer as a part of one event."""
        event = body.translate(BETWEEN_TOKENS)
        if not self._is_inside:
            event = b"event: message\ndata: " + event
            self._is_inside = True
        if not has_more:
            event += b"\n\n"
        await self._write(event, is_last=not has_more)

    async def _error(self, body: bytes, *, has_more: bool) -> None:
        self._held += body
        is_long = len(self._held) > MAX_ERROR_BYTES
        if has_more and not is_long:
            return
        self._is_over = True
        raw = bytes(self._held)
        if is_long or read_handshake(raw) not in {Answer.RESULT, Answer.ERROR}:
            said = f"The server answered HTTP {self._status} without a JSON-RPC response."
            raw = error_text(self._request_id, UpstreamAnswered.code, said)
        await self._write(event_text(raw), is_last=True)

    async def _write(self, body: bytes, *, is_last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": not is_last})
