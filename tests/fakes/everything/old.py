"""The everything server over the HTTP+SSE transport (2024-11-05)."""

from mcp.server.sse import SseServerTransport
from starlette.types import Receive, Scope, Send

from tests.fakes.everything.server import everything_server
from tests.fakes.everything.state import State

STREAM_PATH = "/sse"
MESSAGES_PATH = "/messages/"


class OldEverything:
    """Serves its event stream at `/sse`, and takes messages at `/messages/`.

    Attributes:
        streams: How many are open.
        opened: How many were ever opened.
        seen: The `Authorization` of every request.
    """

    def __init__(self, state: State) -> None:
        self._server = everything_server(state)
        self._transport = SseServerTransport(MESSAGES_PATH)
        self.streams = 0
        self.opened = 0
        self.seen: list[str | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append(headers.get("authorization"))
        if scope["path"] != STREAM_PATH:
            await self._transport.handle_post_message(scope, receive, send)
            return
        self.streams += 1
        self.opened += 1
        try:
            async with self._transport.connect_sse(scope, receive, send) as (read, write):
                await self._server.run(read, write, self._server.create_initialization_options())
        finally:
            self.streams -= 1
