"""An MCP server on loopback whose lists are JSON text, sent as it is, in every way there is."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from aiohttp import web

from tests.fakes.upstreams import MODERN, serve

METHODS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
CAPABILITIES = '{"tools":{},"prompts":{},"resources":{}}'
EVENT_STREAM = {"Content-Type": "text/event-stream"}
PIECE_BYTES = 4096


class Way(Enum):
    """How it answers."""

    LEGACY_JSON = "legacy, JSON"
    LEGACY_EVENTS = "legacy, events"
    MODERN_JSON = "modern, JSON"
    MODERN_EVENTS = "modern, events"
    SSE = "HTTP+SSE of 2024-11-05"


@dataclass(slots=True)
class ListingUpstream:
    """Answers with *lists*, by the member of the result; it may be given others at any time."""

    way: Way
    lists: Mapping[str, bytes]
    _stream: web.StreamResponse | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if self.way is Way.SSE and request.method == "GET":
            return await self._open(request)
        if request.method != "POST":
            return web.Response(status=405)
        message = await request.json()
        if "id" not in message:
            return web.Response(status=202)
        body = b'{"jsonrpc":"2.0","id":%s,%s}' % (
            json.dumps(message["id"]).encode(),
            self._outcome(message["method"]),
        )
        if self._stream is not None:
            await self._send(self._stream, body)
            return web.Response(status=202)
        if self.way in {Way.LEGACY_JSON, Way.MODERN_JSON}:
            return web.Response(body=body, content_type="application/json")
        response = web.StreamResponse(headers=EVENT_STREAM)
        await response.prepare(request)
        await self._send(response, body)
        return response

    async def _open(self, request: web.Request) -> web.StreamResponse:
        self._stream = web.StreamResponse(headers=EVENT_STREAM)
        await self._stream.prepare(request)
        await self._stream.write(b"event: endpoint\ndata: /messages\n\n")
        await asyncio.Event().wait()
        return self._stream

    async def _send(self, stream: web.StreamResponse, body: bytes) -> None:
        # A comment, an event without data and a message of many lines, in small pieces.
        lines = b"".join(b"data: %s\r\n" % line for line in body.split(b"\n"))
        event = b": hello\n\nid: 1\ndata:\n\nevent: message\r\nid: 2\r\n" + lines + b"\r\n"
        for begin in range(0, len(event), PIECE_BYTES):
            await stream.write(event[begin : begin + PIECE_BYTES])

    def _outcome(self, method: str) -> bytes:
        is_modern = self.way in {Way.MODERN_JSON, Way.MODERN_EVENTS}
        if method == "initialize" and not is_modern:
            return (
                '"result":{"protocolVersion":"2025-11-25","serverInfo":{"name":"x","version":"1"},'
                f'"capabilities":{CAPABILITIES}}}'
            ).encode()
        complete = '"resultType":"complete","ttlMs":0,"cacheScope":"private"'
        if method == "server/discover" and is_modern:
            return (
                f'"result":{{{complete},"supportedVersions":["{MODERN}"],'
                f'"capabilities":{CAPABILITIES}}}'
            ).encode()
        member = METHODS.get(method, "")
        if member in self.lists:
            return b'"result":{%s,"%s":%s}' % (
                complete.encode(),
                member.encode(),
                self.lists[member],
            )
        return b'"error":{"code":-32601,"message":"Method not found"}'


@asynccontextmanager
async def listing(way: Way, **lists: bytes) -> AsyncIterator[tuple[ListingUpstream, str]]:
    """Serve one with *lists*, and give it with its URL."""
    upstream = ListingUpstream(way, lists)
    async with serve(upstream.answer) as url:
        yield upstream, f"{url}/{'sse' if way is Way.SSE else 'mcp'}"
