"""Real servers on loopback for the tests of the data plane."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

START_SECONDS = 30


class AnnouncingServer(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @override
    async def main_loop(self) -> None:
        await self.stopping.wait()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.close()
        await self.lifespan.shutdown()

    def close(self) -> None:
        """Close all sockets, also of a server that was cancelled while it served."""
        for server in getattr(self, "servers", ()):
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.close()


@asynccontextmanager
async def serve(
    app: ASGIApp, *, lifespan: bool = False, http: Any = "httptools", port: int | None = None
) -> AsyncIterator[str]:
    """Serve *app* on loopback, on a free port unless one is given, and yield its base URL."""
    listener = socket.create_server(("127.0.0.1", port or 0))
    config = uvicorn.Config(
        app,
        loop="none",
        http=http,
        log_config=None,
        access_log=False,
        lifespan="on" if lifespan else "off",
        timeout_graceful_shutdown=1,
    )
    server = AnnouncingServer(config)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server._serve(sockets=[listener]))
            async with asyncio.timeout(START_SECONDS):
                await server.listening.wait()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.stopping.set()
    finally:
        # A test that fails must not leave sockets that are reported in the tests after it.
        server.close()
        listener.close()
