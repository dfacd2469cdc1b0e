"""Upstreams on loopback that behave, and others that do not."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

HOST = "127.0.0.1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TOOL = {"name": "echo", "inputSchema": {"type": "object"}}
MODERN = "2026-07-28"


@asynccontextmanager
async def serve(handler: Handler) -> AsyncIterator[str]:
    """Serve *handler* for every path and method on a free port and yield the base URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def mcp(results: Callable[[str, dict[str, Any]], object], *, modern: bool = False) -> Handler:
    """Return a handler that answers JSON-RPC by method and params, in one era."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return web.Response(status=405)
        message = await request.json()
        if "id" not in message:
            return web.Response(status=202)
        result = _handshake(message["method"], modern=modern)
        if result is None:
            result = results(message["method"], message.get("params") or {})
        answer: dict[str, object] = {"jsonrpc": "2.0", "id": message["id"]}
        status = 200
        if result is None:
            answer["error"] = {"code": -32601, "message": "Method not found"}
            status = 404 if modern else 200
        else:
            answer["result"] = result
        return web.Response(
            text=json.dumps(answer), content_type="application/json", status=status
        )

    return handler


def _handshake(method: str, *, modern: bool) -> object:
    if method == "initialize" and not modern:
        return {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "fake", "version": "1"},
            "instructions": "Be kind.",
        }
    if method == "server/discover" and modern:
        return {
            "resultType": "complete",
            "supportedVersions": [MODERN],
            "capabilities": {"tools": {}, "extensions": {"x.example/y": {}}},
            "ttlMs": 0,
            "cacheScope": "private",
        }
    return None


def tools(*items: object, **more: object) -> Callable[[str, dict[str, Any]], object]:
    """Return results that list *items* on one page."""
    extra = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    return lambda method, _: (
        {"tools": list(items), **extra, **more} if method == "tools/list" else None
    )


def pages(*contents: list[object]) -> Callable[[str, dict[str, Any]], object]:
    """Return results that list one page after the other."""

    def results(method: str, params: dict[str, Any]) -> object:
        if method != "tools/list":
            return None
        number = int(params.get("cursor", 0))
        page: dict[str, object] = {"tools": contents[number]}
        if number + 1 < len(contents):
            page["nextCursor"] = str(number + 1)
        return page

    return results


async def hangs(_request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def streams_for_ever(request: web.Request) -> web.StreamResponse:
    """Send comments in an event stream until the other side goes."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(b": " + b"x" * 65536 + b"\n\n")


async def closes_in_the_middle(request: web.Request) -> web.StreamResponse:
    """Begin an event and close the connection."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b'event: message\ndata: {"jsonrpc":')
    assert request.transport is not None
    request.transport.close()
    return response


async def html(_request: web.Request) -> web.StreamResponse:
    """Answer a page for people."""
    return web.Response(text="<html>Welcome!</html>", content_type="text/html")


def redirects(location: str) -> Handler:
    """Return a handler that sends every request elsewhere."""

    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": location})

    return handler


async def unpacks_to_much(_request: web.Request) -> web.StreamResponse:
    """Answer a small body that unpacks to a large one."""
    body = gzip.compress(b" " * 50_000_000)
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    return web.Response(body=body, headers=headers)


def wants(name: str, value: str, inner: Handler) -> Handler:
    """Return a handler that answers 401 unless a header has a value."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.headers.get(name) != value:
            return web.Response(status=401)
        return await inner(request)

    return handler
