"""An MCP server on loopback that remembers the headers of every call of its tool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.upstreams import mcp, serve

ECHO = {
    "name": "echo",
    "description": "Says it again.",
    "inputSchema": {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    },
}


@dataclass(slots=True)
class RecordingUpstream:
    """A running server.

    Attributes:
        calls: The headers of every `tools/call`, names in lower case.
    """

    url: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)


def _results(method: str, params: dict[str, Any]) -> object:
    match method:
        case "tools/list":
            return {"tools": [ECHO]}
        case "tools/call":
            return {"content": [{"type": "text", "text": params["arguments"]["text"]}]}
        case _:
            return None


@asynccontextmanager
async def recording_upstream() -> AsyncIterator[RecordingUpstream]:
    """Serve one on a free port."""
    upstream = RecordingUpstream()
    answer = mcp(_results)

    async def handler(request: web.Request) -> web.StreamResponse:
        if b'"tools/call"' in await request.read():
            upstream.calls.append({name.lower(): text for name, text in request.headers.items()})
        return await answer(request)

    async with serve(handler) as base_url:
        upstream.url = f"{base_url}/mcp"
        yield upstream
