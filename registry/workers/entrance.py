"""What a worker serves on its unix socket: requests that others forward, and their messages.

Who can reach that socket is of the same system user. The callers of forwarded requests are
authenticated all the same, by the same application.
"""

from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.workers.relay import restored

log = structlog.get_logger()

MESSAGES = "/message"
COUNTS = "/counts"
CONNECTIONS = "/connections"

Reply = Callable[[bytes], Awaitable[bytes]]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Guards against a mistake of ours, not against strangers."""


class Entrance:
    """The ASGI application of a worker's unix socket.

    Args:
        app: Answers what other workers forward.
        replies: Answers messages, by path.
    """

    def __init__(self, app: ASGIApp, replies: Mapping[str, Reply]) -> None:
        self._app = app
        self._replies = replies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            return
        forwarded = restored(scope)
        if forwarded is not None:
            await self._app(forwarded, receive, send)
            return
        reply = self._replies.get(scope["path"])
        if reply is None:
            await _answer(send, 404, b"")
            return
        try:
            await _answer(send, 200, await reply(await _body(receive)))
        except Exception:
            log.exception("worker_message_failed", path=scope["path"])
            await _answer(send, 500, b"")


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or len(body) > MAX_MESSAGE_BYTES:
            raise ConnectionError("The message broke off, or does not end.")
        if not message.get("more_body"):
            return bytes(body)


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
