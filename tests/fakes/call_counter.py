"""Counts the calls of tools that reach an MCP server."""

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CallCounter:
    """Passes requests on, and remembers the calls of tools among them.

    Attributes:
        calls: Name and arguments of each, in order.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.calls: list[tuple[str, object]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = bytearray()

        async def counted() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            if message["type"] == "http.request" and not message.get("more_body"):
                self._note(bytes(body))
            return message

        await self._app(scope, counted, send)

    def _note(self, body: bytes) -> None:
        message = orjson.loads(body)
        if message.get("method") == "tools/call":
            params = message["params"]
            self.calls.append((params["name"], params.get("arguments")))
