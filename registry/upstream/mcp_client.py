"""Read one upstream with the official SDK: handshake, capabilities, all tools, goodbye.

Imports the SDK, which is large: import this module only where an upstream is read. A connection
is opened for one reading and closed after it: within the SDK one refused connection takes down
everything else that shares its client.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import mcp_types as types
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)
from pydantic import BaseModel, ValidationError
from typing_extensions import override

from registry.core.clock import Clock
from registry.core.definitions import Listed
from registry.core.errors import leaves
from registry.core.json import JsonObject, load_text, members
from registry.upstream.aiohttp_transport import AiohttpTransport, UntrustedError
from registry.upstream.errors import (
    UpstreamConnectError,
    UpstreamError,
    UpstreamLoopError,
    UpstreamOAuthError,
    UpstreamProtocolError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.http import ExchangeRecord, Rewriting, carrying, guarded_client
from registry.upstream.loops import LOOP_DETECTED
from registry.upstream.messages import Kept, without_lists
from registry.upstream.oauth import RESOURCE_METADATA
from registry.upstream.values import ReadingLimits, SpokenEras, UpstreamReading, UpstreamTarget

T = TypeVar("T")

MAX_PAGES = 1000
SHOWN_CHARACTERS = 200
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
CLIENT = types.Implementation(name="mcp-gateway-registry", version="1")
HTML = frozenset({"text/html", "application/xhtml+xml"})
SERVER_INFO_META_KEY = "io.modelcontextprotocol/serverInfo"
MAX_INSTRUCTIONS_CHARACTERS = 32_768
"""Of what a server tells models; the rest is cut off."""

MAX_TITLE_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Listing:
    """One kind of list.

    Attributes:
        member: Of its result, which lists the objects.
        capability: An upstream that does not name it is not asked.
    """

    method: str
    member: str
    capability: str
    request: type[Any]
    result: type[Any]


TOOLS = Listing("tools/list", "tools", "tools", types.ListToolsRequest, types.ListToolsResult)
FEATURES = (
    Listing(
        "prompts/list", "prompts", "prompts", types.ListPromptsRequest, types.ListPromptsResult
    ),
    Listing(
        "resources/list",
        "resources",
        "resources",
        types.ListResourcesRequest,
        types.ListResourcesResult,
    ),
    Listing(
        "resources/templates/list",
        "resourceTemplates",
        "resources",
        types.ListResourceTemplatesRequest,
        types.ListResourceTemplatesResult,
    ),
)
OBJECTS: Mapping[str, type[BaseModel]] = {
    "tools": types.Tool,
    "prompts": types.Prompt,
    "resources": types.Resource,
    "resourceTemplates": types.ResourceTemplate,
}
"""What stands in each list."""

UNPARSED, UNEXPECTED = "Failed to parse", "Unexpected content type"
"""How the SDK's own errors about answers begin, which go on with its inner workings."""

CLOSED = "Connection closed"
"""How the SDK tells that a stream ended."""

EVENT_STREAM = "text/event-stream"
SESSION_HEADER = "mcp-session-id"
CAPABILITIES = {
    "sampling": {"context": {}, "tools": {}},
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": True},
}
"""What a client of the gateway may have that servers can make use of."""

INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": CAPABILITIES,
            "clientInfo": CLIENT.model_dump(mode="json", exclude_none=True),
        },
    }
)
LISTED = {listing.method: listing.member for listing in (TOOLS, *FEATURES)}


@dataclass(frozen=True, slots=True)
class ReadingConnections:
    """The connections of one reading, and what they must keep to."""

    guard: UrlGuard
    limits: ReadingLimits
    carrier: AiohttpTransport

    def client(
        self,
        exchange: ExchangeRecord,
        headers: dict[str, str],
        rewrite: Rewriting | None = None,
    ) -> httpx2.AsyncClient:
        """Return a client of its own for them."""
        return guarded_client(
            self.guard,
            exchange,
            headers,
            self.carrier,
            connect_timeout_seconds=self.limits.connect_timeout_seconds,
            read_timeout_seconds=self.limits.total_timeout_seconds,
            rewrite=rewrite,
        )


@dataclass(frozen=True, slots=True)
class Handshake:
    """What an upstream said first.

    Attributes:
        names_legacy: Whether it said that it speaks a version with a handshake.
    """

    is_modern: bool
    names_legacy: bool
    version: str
    capabilities: JsonObject
    instructions: str | None
    title: str | None


@dataclass(slots=True)
class FeatureLists:
    """What could be read besides tools so far, and what could not."""

    lists: dict[str, tuple[Listed, ...]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    def give_up(self, reason: str) -> None:
        """Say of everything that was not read yet why it was not."""
        for listing in FEATURES:
            if listing.member not in self.lists:
                self.unread.setdefault(listing.member, reason)


class RecordingDispatcher(JSONRPCDispatcher[Any]):
    """Keeps results as they came: typed ones lose members, and one bad tool fails a whole page."""

    def __init__(self, kept: Kept, *streams: Any) -> None:
        super().__init__(*streams)
        self.raw: dict[str, Mapping[str, Any]] = {}
        self._kept = kept

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
        self.raw[method] = result
        member = LISTED.get(method)
        if member is None:
            return result
        self.raw[method] = {**result, member: self._kept.pop(result.get(member))}
        return {**result, member: []}


def problem_of(listed_in: str, raw: JsonObject) -> str | None:
    """Say what of an object does not fit the SDK's types, as far as there is anything.

    Its clients refuse a whole list for one such object.

    Args:
        listed_in: The list's member.
        raw: The object as it came.
    """
    try:
        OBJECTS[listed_in].model_validate(raw)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"has {_article(str(first['loc'][0]))} that is not as MCP has it"
    return None


def _article(member: str) -> str:
    return f"{'an' if member[:1] in 'aeiou' else 'a'} {member}"


async def read_upstream(
    target: UpstreamTarget,
    guard: UrlGuard,
    limits: ReadingLimits,
    clock: Clock,
    progress: Callable[[int], None] | None = None,
    taken: Callable[[int], None] = lambda _: None,
) -> UpstreamReading:
    """Connect to *target*, read everything a registration needs, and disconnect.

    *progress* is told how many tools were read so far, after each page of them, and *taken* in the
    end how many bytes were, whatever came of them.

    Raises:
        UpstreamError: It may not be contacted, cannot be reached, or answers badly.
    """
    guard.check_syntax(target.url)
    exchange = _exchange(target, limits)
    try:
        async with asyncio.timeout(limits.total_timeout_seconds), carrying() as carrier:
            wire = ReadingConnections(guard, limits, carrier)
            return await _read(target, wire, clock, exchange, progress)
    except TimeoutError:
        raise _timed_out(target, limits, exchange) from None
    except Exception as exc:  # noqa: BLE001 - groups of anything; told apart and translated here
        raise _translated(exc, exchange, target, limits) from None
    finally:
        taken(exchange.taken)


def _exchange(target: UpstreamTarget, limits: ReadingLimits) -> ExchangeRecord:
    stream_url = target.url if target.is_sse else None
    return ExchangeRecord(limits.max_bytes, heeds_get=target.is_sse, stream_url=stream_url)


async def _read(
    target: UpstreamTarget,
    wire: ReadingConnections,
    clock: Clock,
    exchange: ExchangeRecord,
    progress: Callable[[int], None] | None,
) -> UpstreamReading:
    limits = wire.limits
    began_at = clock.monotonic()
    read: UpstreamReading | None = None
    features = FeatureLists()
    try:
        async with _session(target, wire, exchange) as (session, dispatcher):
            handshake = await _shake_hands(session, dispatcher, target)
            init_duration_ms = round((clock.monotonic() - began_at) * 1000)
            tools: tuple[Listed, ...] = ()
            if TOOLS.capability in handshake.capabilities:
                tools = await _all_of(TOOLS, session, dispatcher, limits, progress)
            read = UpstreamReading(
                protocol_version=handshake.version,
                speaks_legacy=handshake.names_legacy,
                speaks_modern=handshake.is_modern,
                capabilities=handshake.capabilities,
                instructions=handshake.instructions,
                init_duration_ms=init_duration_ms,
                tools=tools,
                title=handshake.title,
            )
            left = limits.total_timeout_seconds - (clock.monotonic() - began_at)
            # Half of what is left: whatever happens here, the tools have been read.
            async with asyncio.timeout(left / 2):
                await _read_features(features, handshake, session, dispatcher, limits, exchange)
    except Exception as exc:
        # Within the SDK a broken connection ends the session from outside of what was asked.
        if read is None:
            raise
        is_late = any(isinstance(leaf, TimeoutError) for leaf in leaves(exc))
        told = _translated(exc, exchange, target, limits).message
        features.give_up("It did not finish answering in time." if is_late else told)
    speaks_legacy = read.speaks_legacy or target.speaks_legacy
    if speaks_legacy is None:
        speaks_legacy = await _speaks_legacy(target, wire)
    return replace(
        read,
        speaks_legacy=speaks_legacy,
        lists=features.lists,
        unread=features.unread,
    )


async def read_eras(target: UpstreamTarget, guard: UrlGuard, limits: ReadingLimits) -> SpokenEras:
    """Shake hands with *target* in both eras and ask for nothing else.

    Raises:
        UpstreamError: It may not be contacted, cannot be reached, or speaks neither.
    """
    guard.check_syntax(target.url)
    exchange = _exchange(target, limits)
    try:
        async with asyncio.timeout(limits.total_timeout_seconds), carrying() as carrier:
            wire = ReadingConnections(guard, limits, carrier)
            async with _session(target, wire, exchange) as (session, dispatcher):
                handshake = await _shake_hands(session, dispatcher, target)
            modern = handshake.is_modern
            legacy = handshake.names_legacy or await _speaks_legacy(target, wire)
            return SpokenEras(legacy, modern, handshake.version)
    except TimeoutError:
        raise _timed_out(target, limits, exchange) from None
    except Exception as exc:  # noqa: BLE001 - as in read_upstream
        raise _translated(exc, exchange, target, limits) from None


async def _shake_hands(
    session: ClientSession, dispatcher: RecordingDispatcher, target: UpstreamTarget
) -> Handshake:
    """Open the conversation in the newest era that the upstream speaks."""
    modern = not target.is_sse and await _adopts_modern(session)
    if not modern:
        await session.initialize()
    result = dispatcher.raw["server/discover" if modern else "initialize"]
    info = members(result.get("serverInfo")) or members(
        members(result.get("_meta")).get(SERVER_INFO_META_KEY)
    )
    return Handshake(
        is_modern=modern,
        names_legacy=not modern or _names_handshake_version(result.get("supportedVersions")),
        version=LATEST_MODERN_VERSION if modern else str(result.get("protocolVersion")),
        capabilities=members(result.get("capabilities")),
        instructions=_text(result.get("instructions"), MAX_INSTRUCTIONS_CHARACTERS),
        title=_text(info.get("title"), MAX_TITLE_CHARACTERS),
    )


async def _read_features(
    features: FeatureLists,
    handshake: Handshake,
    session: ClientSession,
    dispatcher: RecordingDispatcher,
    limits: ReadingLimits,
    exchange: ExchangeRecord,
) -> None:
    for listing in FEATURES:
        if listing.capability not in handshake.capabilities:
            features.lists[listing.member] = ()
            continue
        try:
            features.lists[listing.member] = await _all_of(listing, session, dispatcher, limits)
        except UpstreamError as exc:
            features.unread[listing.member] = exc.message
        except ValidationError:
            features.unread[listing.member] = "It answered something that is not MCP."
        except MCPError as exc:
            if exc.error.code == types.METHOD_NOT_FOUND:
                # Many servers with resources know no templates, or the reverse.
                features.lists[listing.member] = ()
            else:
                is_closed = str(exc) == CLOSED
                told = (
                    "The connection broke."
                    if is_closed
                    else _of_answer(exc, "It", exchange).message
                )
                features.unread[listing.member] = told


@asynccontextmanager
async def _session(
    target: UpstreamTarget, wire: ReadingConnections, exchange: ExchangeRecord
) -> AsyncIterator[tuple[ClientSession, RecordingDispatcher]]:
    limits = wire.limits
    kept = Kept(limits.max_tools)

    def client(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,  # noqa: ARG001 - the SDK's signature
        auth: httpx2.Auth | None = None,  # noqa: ARG001 - as above
    ) -> httpx2.AsyncClient:
        return wire.client(
            exchange,
            {**target.headers, **(headers or {})},
            rewrite=partial(without_lists, kept=kept),
        )

    async with AsyncExitStack() as stack:
        if target.is_sse:
            opening = sse_client(target.url, httpx_client_factory=client)
            streams = await _opened(opening, exchange, stack)
        else:
            http_client = await stack.enter_async_context(client())
            streams = await stack.enter_async_context(
                streamable_http_client(
                    target.url, http_client=http_client, max_sse_event_size=limits.max_bytes
                )
            )
        dispatcher = RecordingDispatcher(kept, *streams)
        session = await stack.enter_async_context(
            ClientSession(
                dispatcher=dispatcher,
                client_info=CLIENT,
                read_timeout_seconds=limits.total_timeout_seconds,
                # With these a client declares what it can be asked. Servers list tools by it, and
                # the gateway relays all of it to whoever calls.
                sampling_callback=_asks_nobody,
                sampling_capabilities=types.SamplingCapability.model_validate(
                    CAPABILITIES["sampling"]
                ),
                elicitation_callback=_asks_nobody,
                list_roots_callback=_asks_nobody,
            )
        )
        yield session, dispatcher


async def _asks_nobody(context: Any, params: Any = None) -> types.ErrorData:  # noqa: ARG001 - the SDK's signature
    """Refuse what a server asks while it is read."""
    return types.ErrorData(
        code=types.INVALID_REQUEST, message="There is nobody to ask while the server is read."
    )


async def _opened(
    opening: AbstractAsyncContextManager[T],
    exchange: ExchangeRecord,
    stack: AsyncExitStack,
) -> T:
    """Enter *opening*, or leave it at once when the exchange fails.

    The SDK would wait for ever: it tells of a failure through the streams, which nobody reads
    before they are open.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as wait:
            exchange.on_failure = lambda: wait.reschedule(loop.time())
            return await stack.enter_async_context(opening)
    except TimeoutError:
        raise exchange.refusal or exchange.broken or TimeoutError from None
    finally:
        exchange.on_failure = None


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


def _names_handshake_version(versions: object) -> bool:
    return isinstance(versions, list) and any(
        version in versions for version in HANDSHAKE_PROTOCOL_VERSIONS
    )


async def _speaks_legacy(target: UpstreamTarget, wire: ReadingConnections) -> bool:
    """Whether an upstream that speaks the newest version takes `initialize` too.

    One plain request, where a session of the SDK would cost as much as the reading itself.
    """
    exchange = ExchangeRecord(wire.limits.max_bytes, heeds_get=target.is_sse)
    headers = {
        **target.headers,
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        # A server of the newest version wants each message to say what it is.
        "MCP-Protocol-Version": LATEST_HANDSHAKE_VERSION,
        "Mcp-Method": "initialize",
    }
    try:
        async with wire.client(exchange, headers) as client:
            async with client.stream("POST", target.url, content=INITIALIZE) as answer:
                if not await _is_handshake(answer):
                    return False
            session_id = answer.headers.get(SESSION_HEADER)
            if session_id is not None:
                await client.delete(
                    target.url,
                    headers={
                        SESSION_HEADER: session_id,
                        "MCP-Protocol-Version": LATEST_HANDSHAKE_VERSION,
                    },
                )
    except TimeoutError:
        raise
    except Exception:  # noqa: BLE001 - whatever the reason, it did not take it
        return False
    return True


async def _is_handshake(answer: httpx2.Response) -> bool:
    """Whether an answer to `initialize` names a protocol version, as JSON or as an event."""
    if answer.status_code != httpx2.codes.OK:
        return False
    if not answer.headers.get("content-type", "").lower().startswith(EVENT_STREAM):
        return _names_version(await answer.aread())
    async for line in answer.aiter_lines():
        if line.startswith("data:") and '"id"' in line:
            return _names_version(line.removeprefix("data:"))
    return False


def _names_version(text: bytes | str) -> bool:
    message = members(load_text(text))
    return isinstance(members(message.get("result")).get("protocolVersion"), str)


async def _all_of(
    listing: Listing,
    session: ClientSession,
    dispatcher: RecordingDispatcher,
    limits: ReadingLimits,
    progress: Callable[[int], None] | None = None,
) -> tuple[Listed, ...]:
    """Return all objects of one kind, page by page."""
    told = f"list of {listing.member}"
    items: list[Listed] = []
    seen: set[str] = set()
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        params = None if cursor is None else types.PaginatedRequestParams(cursor=cursor)
        await session.send_request(listing.request(params=params), listing.result)
        # Taken away from what the SDK may keep for a while.
        page = dispatcher.raw.pop(listing.method)
        listed = page.get(listing.member)
        if not isinstance(listed, list):
            raise UpstreamProtocolError(f"Its {told} is no list.")
        items += listed
        if len(items) > limits.max_tools:
            raise UpstreamTooLargeError(
                f"It offers more than {limits.max_tools} {listing.member}."
            )
        if progress is not None:
            progress(len(items))
        following = page.get("nextCursor")
        if not following:
            return tuple(items)
        cursor = str(following)
        if cursor in seen:
            raise UpstreamProtocolError(f"Its {told} goes in circles.")
        seen.add(cursor)
    raise UpstreamTooLargeError(f"Its {told} has more than {MAX_PAGES} pages.")


def _translated(
    error: BaseException, exchange: ExchangeRecord, target: UpstreamTarget, limits: ReadingLimits
) -> UpstreamError:
    if exchange.refusal is not None:
        return exchange.refusal
    errors = leaves(error)
    for leaf in errors:
        if isinstance(leaf, UpstreamError):
            return leaf
        if isinstance(leaf, MCPError) and LOOP_DETECTED in str(leaf):
            return UpstreamLoopError()
    told = _told_by_status(exchange, target)
    if told is not None:
        return told
    for leaf in errors:
        found = _of_leaf(leaf, target, limits, exchange)
        if found is not None:
            return found
    return UpstreamProtocolError(f"{_origin(target)} did not answer as an MCP server.")


def _told_by_status(exchange: ExchangeRecord, target: UpstreamTarget) -> UpstreamError | None:
    status, origin = exchange.status, _origin(target)
    match status:
        case None:
            return None
        case 401 if RESOURCE_METADATA.search(exchange.authenticate or ""):
            return UpstreamOAuthError(
                f"{origin} answered 401 and names OAuth metadata: it wants OAuth, which the "
                "registry cannot do yet, or other credentials than it was sent."
            )
        case 401 | 403:
            return UpstreamRefusedError(
                f"{origin} answered {status}: credentials are missing or wrong."
            )
        case _ if 300 <= status < 400:  # noqa: PLR2004 - redirections
            return UpstreamProtocolError(f"{origin} redirects elsewhere, which is not followed.")
        case _ if status >= 400 or exchange.content_type in HTML:  # noqa: PLR2004 - errors
            return UpstreamProtocolError(f"{origin} answered {status}{_hint(exchange, target)}.")
        case _:
            return None


def _hint(exchange: ExchangeRecord, target: UpstreamTarget) -> str:
    """Return what an answer that is not MCP suggests."""
    is_elsewhere = not urlsplit(target.url).path.rstrip("/").endswith("/mcp")
    if exchange.status == httpx2.codes.NOT_FOUND and is_elsewhere:
        return (
            f": there is nothing at that path; many servers are at /mcp: try {_origin(target)}/mcp"
        )
    return " with HTML, not MCP" if exchange.content_type in HTML else ""


def _of_leaf(
    leaf: BaseException, target: UpstreamTarget, limits: ReadingLimits, exchange: ExchangeRecord
) -> UpstreamError | None:
    match leaf:
        case TimeoutError():
            return _timed_out(target, limits)
        case httpx2.TransportError():
            return _of_transport(leaf, target, limits)
        case MCPError():
            return _of_answer(leaf, _origin(target), exchange)
        case ValidationError():
            return UpstreamProtocolError(f"{_origin(target)} answered something that is not MCP.")
        case _:
            return None


def _of_answer(error: MCPError, origin: str, exchange: ExchangeRecord) -> UpstreamError:
    text = str(error)
    if text == CLOSED:
        return UpstreamConnectError(f"The connection to {origin} broke.")
    if text.startswith(UNEXPECTED):
        kind = exchange.content_type or "no content type"
        return UpstreamProtocolError(f"{origin} answered with {kind}, not JSON.")
    if text.startswith(UNPARSED):
        return UpstreamProtocolError(f"{origin} answered something that is not MCP.")
    return UpstreamProtocolError(f"{origin} answered: {_shown(error)}")


def _of_transport(
    error: httpx2.TransportError, target: UpstreamTarget, limits: ReadingLimits
) -> UpstreamError:
    origin = _origin(target)
    match error:
        case httpx2.ConnectTimeout():
            seconds = limits.connect_timeout_seconds
            return UpstreamTimeoutError(f"{origin} took no connection in {seconds:g} s.")
        case httpx2.TimeoutException():
            return _timed_out(target, limits)
        case UntrustedError():
            told = f"The certificate of {origin} is not trusted, or is for another name."
            return UpstreamConnectError(told)
        case httpx2.ConnectError():
            return UpstreamConnectError(f"Could not connect to {origin}.")
        case httpx2.RemoteProtocolError():
            return UpstreamProtocolError(f"{origin} did not answer in HTTP.")
        case _:
            return UpstreamConnectError(f"The connection to {origin} broke.")


def _timed_out(
    target: UpstreamTarget, limits: ReadingLimits, exchange: ExchangeRecord | None = None
) -> UpstreamTimeoutError:
    within = f"within {limits.total_timeout_seconds:g} s."
    if exchange is not None and exchange.stream_url is not None and exchange.status is not None:
        return UpstreamTimeoutError(f"The stream of {_origin(target)} named no endpoint {within}")
    return UpstreamTimeoutError(f"{_origin(target)} did not finish answering {within}")


def _origin(target: UpstreamTarget) -> str:
    parts = urlsplit(target.url)
    return f"{parts.scheme}://{parts.netloc}"


def _shown(error: MCPError) -> str:
    return CONTROL_CHARACTERS.sub(" ", str(error))[:SHOWN_CHARACTERS]


def _text(value: object, most: int) -> str | None:
    if not isinstance(value, str):
        return None
    # Half a character of a pair cannot be stored.
    return value[:most].encode(errors="replace").decode()
