"""Read one upstream with the official SDK: handshake, capabilities, all tools, goodbye.

Imports the SDK, which is large: import this module only where an upstream is read. A connection
is opened for one reading and closed after it: within the SDK one refused connection takes down
everything else that shares its client.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import mcp_types as types
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp_types.version import LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError
from typing_extensions import override

from registry.core.clock import Clock
from registry.core.json import JsonValue, members
from registry.upstream.errors import (
    UpstreamConnectError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.http import Exchange, guarded_client
from registry.upstream.values import Limits, Reading, Target

MAX_PAGES = 1000
SHOWN_CHARACTERS = 200
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
CLIENT = types.Implementation(name="mcp-gateway-registry", version="1")
HTML = frozenset({"text/html", "application/xhtml+xml"})


class RecordingDispatcher(JSONRPCDispatcher[Any]):
    """Keeps results as they came: typed ones lose members, and one bad tool fails a whole page."""

    def __init__(self, *streams: Any) -> None:
        super().__init__(*streams)
        self.raw: dict[str, Mapping[str, Any]] = {}

    @override
    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,
        **kw: Any,
    ) -> dict[str, Any]:
        """Send a request, keep its result, and pass on one that always fits the types."""
        result = await super().send_raw_request(method, params, opts, **kw)
        self.raw[method] = dict(result)
        if method == "tools/list":
            return {**result, "tools": []}
        return result


async def read_upstream(target: Target, guard: UrlGuard, limits: Limits, clock: Clock) -> Reading:
    """Connect to *target*, read everything a registration needs, and disconnect.

    Raises:
        UpstreamError: It may not be contacted, cannot be reached, or answers badly.
    """
    guard.check_syntax(target.url)
    exchange = Exchange(limits.max_bytes)
    try:
        async with asyncio.timeout(limits.total_timeout_seconds):
            return await _read(target, guard, limits, clock, exchange)
    except TimeoutError:
        raise _timed_out(target, limits) from None
    except Exception as exc:  # noqa: BLE001 - groups of anything; told apart and translated here
        raise _translated(exc, exchange, target, limits) from None


async def _read(
    target: Target, guard: UrlGuard, limits: Limits, clock: Clock, exchange: Exchange
) -> Reading:
    began_at = clock.monotonic()
    async with _session(target, guard, limits, exchange) as (session, dispatcher):
        modern = not target.is_sse and await _adopts_modern(session)
        if not modern:
            await session.initialize()
        init_duration_ms = round((clock.monotonic() - began_at) * 1000)
        handshake = dispatcher.raw["server/discover" if modern else "initialize"]
        capabilities = members(handshake.get("capabilities"))
        tools: tuple[JsonValue, ...] = ()
        if "tools" in capabilities:
            tools = await _all_tools(session, dispatcher, limits)
        version = LATEST_MODERN_VERSION if modern else str(handshake.get("protocolVersion"))
    return Reading(
        protocol_version=version,
        speaks_legacy=not modern or await _speaks_legacy(target, guard, limits),
        speaks_modern=modern,
        capabilities=capabilities,
        instructions=_text(handshake.get("instructions")),
        init_duration_ms=init_duration_ms,
        tools=tools,
    )


@asynccontextmanager
async def _session(
    target: Target, guard: UrlGuard, limits: Limits, exchange: Exchange
) -> AsyncIterator[tuple[ClientSession, RecordingDispatcher]]:
    def client(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,  # noqa: ARG001 - the SDK's signature
        auth: httpx2.Auth | None = None,  # noqa: ARG001 - as above
    ) -> httpx2.AsyncClient:
        return guarded_client(
            guard,
            exchange,
            {**target.headers, **(headers or {})},
            connect_timeout_seconds=limits.connect_timeout_seconds,
            read_timeout_seconds=limits.total_timeout_seconds,
        )

    async with AsyncExitStack() as stack:
        if target.is_sse:
            streams = await stack.enter_async_context(
                sse_client(target.url, httpx_client_factory=client)
            )
        else:
            http_client = await stack.enter_async_context(client())
            streams = await stack.enter_async_context(
                streamable_http_client(
                    target.url, http_client=http_client, max_sse_event_size=limits.max_bytes
                )
            )
        dispatcher = RecordingDispatcher(*streams)
        session = await stack.enter_async_context(
            ClientSession(
                dispatcher=dispatcher,
                client_info=CLIENT,
                read_timeout_seconds=limits.total_timeout_seconds,
            )
        )
        yield session, dispatcher


async def _adopts_modern(session: ClientSession) -> bool:
    """Whether the upstream answers `server/discover` with a version we speak (then adopted)."""
    try:
        raw = await session.send_discover(LATEST_MODERN_VERSION)
        result = types.DiscoverResult.model_validate(raw)
    except (MCPError, ValidationError):
        return False
    if not any(version in result.supported_versions for version in MODERN_PROTOCOL_VERSIONS):
        return False
    session.adopt(result)
    return True


async def _speaks_legacy(target: Target, guard: UrlGuard, limits: Limits) -> bool:
    """Whether an upstream that speaks the newest version takes `initialize` too."""
    try:
        async with _session(target, guard, limits, Exchange(limits.max_bytes)) as (session, _):
            await session.initialize()
    except TimeoutError:
        raise
    except Exception:  # noqa: BLE001 - whatever the reason, it did not take it
        return False
    return True


async def _all_tools(
    session: ClientSession, dispatcher: RecordingDispatcher, limits: Limits
) -> tuple[JsonValue, ...]:
    tools: list[JsonValue] = []
    seen: set[str] = set()
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        params = None if cursor is None else types.PaginatedRequestParams(cursor=cursor)
        await session.send_request(types.ListToolsRequest(params=params), types.ListToolsResult)
        page = dispatcher.raw["tools/list"]
        listed = page.get("tools")
        if not isinstance(listed, list):
            raise UpstreamProtocolError("Its list of tools is no list.")
        tools += listed
        if len(tools) > limits.max_tools:
            raise UpstreamTooLargeError(f"It offers more than {limits.max_tools} tools.")
        following = page.get("nextCursor")
        if not following:
            return tuple(tools)
        cursor = str(following)
        if cursor in seen:
            raise UpstreamProtocolError("Its list of tools goes in circles.")
        seen.add(cursor)
    raise UpstreamTooLargeError(f"Its list of tools has more than {MAX_PAGES} pages.")


def _translated(
    error: BaseException, exchange: Exchange, target: Target, limits: Limits
) -> UpstreamError:
    if exchange.refusal is not None:
        return exchange.refusal
    leaves = _leaves(error)
    for leaf in leaves:
        if isinstance(leaf, UpstreamError):
            return leaf
    told = _told_by_status(exchange, target)
    if told is not None:
        return told
    for leaf in leaves:
        found = _of_leaf(leaf, target, limits)
        if found is not None:
            return found
    return UpstreamProtocolError(f"{_origin(target)} did not answer as an MCP server.")


def _told_by_status(exchange: Exchange, target: Target) -> UpstreamError | None:
    status, origin = exchange.status, _origin(target)
    match status:
        case None:
            return None
        case 401 | 403:
            return UpstreamProtocolError(
                f"{origin} answered {status}: credentials are missing or wrong."
            )
        case _ if 300 <= status < 400:  # noqa: PLR2004 - redirections
            return UpstreamProtocolError(f"{origin} redirects elsewhere, which is not followed.")
        case _ if exchange.content_type in HTML:
            return UpstreamProtocolError(f"{origin} answered {status} with HTML, not MCP.")
        case _ if status >= 400:  # noqa: PLR2004 - errors
            return UpstreamProtocolError(f"{origin} answered {status}.")
        case _:
            return None


def _of_leaf(leaf: BaseException, target: Target, limits: Limits) -> UpstreamError | None:
    match leaf:
        case httpx2.TimeoutException() | TimeoutError():
            return _timed_out(target, limits)
        case httpx2.ConnectError():
            return UpstreamConnectError(f"Could not connect to {_origin(target)}.")
        case httpx2.TransportError():
            return UpstreamConnectError(f"The connection to {_origin(target)} broke.")
        case MCPError():
            text = CONTROL_CHARACTERS.sub(" ", str(leaf))[:SHOWN_CHARACTERS]
            return UpstreamProtocolError(f"{_origin(target)} answered: {text}")
        case ValidationError():
            return UpstreamProtocolError(f"{_origin(target)} answered something that is not MCP.")
        case _:
            return None


def _timed_out(target: Target, limits: Limits) -> UpstreamTimeoutError:
    return UpstreamTimeoutError(
        f"{_origin(target)} did not finish answering within {limits.total_timeout_seconds:g} s."
    )


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _origin(target: Target) -> str:
    parts = urlsplit(target.url)
    return f"{parts.scheme}://{parts.netloc}"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
