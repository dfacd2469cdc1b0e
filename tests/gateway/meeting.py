"""Gateways in front of everything servers of each kind, and the official client in each form."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

import httpx2
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from registry.gateway.values import FeatureEntry, Route, ToolEntry, tool_entry
from registry.servers.values import Era, Transport
from tests.fakes.everything.catalog import PROMPTS, RESOURCES, TEMPLATES
from tests.fakes.everything.old import STREAM_PATH, OldEverything
from tests.fakes.everything.serving import RunningEverything, serving_everything
from tests.fakes.everything.state import State
from tests.fakes.everything.tools import TOOLS
from tests.fakes.loopback import NO_CERTIFICATES
from tests.gateway.fakes import make_route
from tests.gateway.serving import serve


class Kind(StrEnum):
    """What a server speaks."""

    LEGACY = "legacy"
    MODERN = "modern"
    OLD = "old"


class Speech(StrEnum):
    """What a client speaks."""

    LEGACY = "legacy"
    MODERN = "2026-07-28"
    AUTO = "auto"
    OLD = "sse"


CAPABILITIES: dict[str, Any] = {
    "completions": {},
    "logging": {},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "tools": {"listChanged": True},
}
ERAS = {Kind.LEGACY: Era.LEGACY, Kind.MODERN: Era.MODERN, Kind.OLD: Era.LEGACY}


@asynccontextmanager
async def everything(kind: Kind) -> AsyncIterator[RunningEverything]:
    """Serve the everything server as one *kind*."""
    if kind is not Kind.OLD:
        async with serving_everything(is_modern=kind is Kind.MODERN) as running:
            yield running
        return
    state = State()
    async with serve(OldEverything(state)) as url:
        yield RunningEverything(url + STREAM_PATH, state)


def route_to(kind: Kind, url: str, **changes: Any) -> Route:
    """Return a route to an everything server, as discovery would have it."""
    facts: dict[str, Any] = {
        "transport": Transport.SSE if kind is Kind.OLD else Transport.STREAMABLE_HTTP,
        "eras": frozenset({ERAS[kind]}),
        "tools": everything_tools(),
        "capabilities": CAPABILITIES,
        "instructions": "Everything, for tests.",
        "prompts": [_feature(prompt.name, prompt) for prompt in PROMPTS],
        "resources": [_feature(str(resource.uri), resource) for resource in RESOURCES],
        "templates": [_feature(template.uri_template, template) for template in TEMPLATES],
        "features_known": True,
    }
    return make_route(url, **facts | changes)


def everything_tools() -> list[ToolEntry]:
    """Return the tools of the everything server."""
    return [
        tool_entry(name, offered.tool.model_dump_json(by_alias=True, exclude_none=True))
        for name, offered in TOOLS.items()
    ]


def _feature(key: str, model: Any) -> FeatureEntry:
    return FeatureEntry(key, model.model_dump_json(by_alias=True, exclude_none=True).encode())


@asynccontextmanager
async def connected(
    url: str, speech: Speech, path: str = "/mcp/demo", user: str = "alice", **options: Any
) -> AsyncIterator[Client]:
    """Connect the official client."""
    headers = {"Authorization": f"Bearer {user}"}
    if speech is Speech.OLD:
        transport = sse_client(url + path, headers)
        async with Client(transport, mode="legacy", **options) as client:
            yield client
        return
    async with httpx2.AsyncClient(verify=NO_CERTIFICATES, headers=headers, timeout=20) as http:
        streamable = streamable_http_client(url + path, http_client=http)
        async with Client(streamable, mode=speech.value, **options) as client:
            yield client


def text(result: Any) -> str:
    """Return the texts of a result's contents."""
    return "\n".join(str(block.text) for block in result.content)
