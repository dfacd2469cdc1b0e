"""A host that answers what it was told to, path by path."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.upstreams import HOST, Handler


@dataclass
class Documents:
    """What is answered, and what was asked.

    Attributes:
        url: Of the host.
        answers: By path: a status, a JSON document, a text, or a handler; 404 for other paths.
        seen: Methods and paths of the requests, in order.
        bodies: Their bodies.
        headers: Their headers, by lower-case name.
    """

    url: str = ""
    answers: dict[str, int | dict[str, Any] | list[Any] | str | bytes | Handler] = field(
        default_factory=dict
    )
    seen: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.seen.append(f"{request.method} {request.path_qs}")
        self.bodies.append(await request.text())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        found = self.answers.get(request.path, 404)
        if isinstance(found, int):
            return web.Response(status=found)
        if isinstance(found, str):
            return web.Response(text=found, content_type="text/html")
        if isinstance(found, bytes):
            return web.Response(body=found)
        if callable(found):
            return await found(request)
        return web.json_response(found)


@asynccontextmanager
async def serving_documents() -> AsyncIterator[Documents]:
    """Serve a host that answers 404 until it is told otherwise."""
    host = Documents()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", host.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        listener = socket.create_server((HOST, 0))
        await web.SockSite(runner, listener).start()
        host.url = f"http://{HOST}:{listener.getsockname()[1]}"
        yield host
    finally:
        await runner.cleanup()
