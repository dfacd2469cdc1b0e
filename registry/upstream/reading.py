"""Read one server: handshake, capabilities, tools, prompts, resources and templates.

Connections are opened for one reading and closed after it. Imports the SDK's types, which are
large: import this module only where a server is read.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import mcp_types as types
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)
from pydantic import BaseModel, ValidationError

from registry.core.clock import Clock
from registry.core.definitions import Listed
from registry.core.json import JsonObject, JsonValue, members
from registry.upstream.client import (
    CLIENT_INFO,
    METHOD_NOT_FOUND,
    NO_HEADERS,
    VERSION_HEADER,
    McpClient,
    ReadingContext,
    ReadingRecord,
    SseClient,
    StreamableHttpClient,
    origin_of,
    reading_http,
    timed_out,
)
from registry.upstream.errors import (
    JsonRpcError,
    UpstreamBrokenError,
    UpstreamError,
    UpstreamLoopError,
    UpstreamProtocolError,
    UpstreamTooLargeError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.loops import LOOP_DETECTED
from registry.upstream.values import ReadingLimits, SpokenEras, UpstreamReading, UpstreamTarget

MAX_PAGES = 1000
SHOWN_CHARACTERS = 200
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
SERVER_INFO_META_KEY = "io.modelcontextprotocol/serverInfo"
MAX_INSTRUCTIONS_CHARACTERS = 32_768
"""Longest instructions that are stored; the rest is cut off."""

MAX_TITLE_CHARACTERS = 256
DISCOVER_SECONDS = 10.0
"""Longest wait for a server to say whether it speaks the stateless era."""

CAPABILITIES: JsonObject = {
    "sampling": {"context": {}, "tools": {}},
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": True},
}
"""What a client of the gateway may have that servers can make use of. Servers list tools by it,
and the gateway relays all of it to the one who calls."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One kind of list.

    Attributes:
        member: Of its result, which lists the objects.
        capability: A server that does not name it is not asked.
    """

    method: str
    member: str
    capability: str


TOOLS = Listing("tools/list", "tools", "tools")
FEATURES = (
    Listing("prompts/list", "prompts", "prompts"),
    Listing("resources/list", "resources", "resources"),
    Listing("resources/templates/list", "resourceTemplates", "resources"),
)
OBJECTS: Mapping[str, type[BaseModel]] = {
    "tools": types.Tool,
    "prompts": types.Prompt,
    "resources": types.Resource,
    "resourceTemplates": types.ResourceTemplate,
}
"""What stands in each list."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a server said first.

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

    *progress* is called after each page with the number of tools read so far, and *taken* at the
    end with the number of bytes, also after a failure.

    Raises:
        UpstreamError: It may not be contacted, cannot be reached, or answers badly.
    """
    guard.check_syntax(target.url)
    record = ReadingRecord(limits.max_bytes)
    try:
        async with (
            asyncio.timeout(limits.total_timeout_seconds),
            reading_http(guard, limits) as http,
        ):
            return await _Reader(ReadingContext(target, http, limits, record, clock)).read(
                progress
            )
    except TimeoutError:
        raise timed_out(target, limits, record) from None
    finally:
        taken(record.taken)


async def read_eras(
    target: UpstreamTarget, guard: UrlGuard, limits: ReadingLimits, clock: Clock
) -> SpokenEras:
    """Shake hands with *target* in both eras and ask for nothing else.

    Raises:
        UpstreamError: It may not be contacted, cannot be reached, or speaks neither.
    """
    guard.check_syntax(target.url)
    record = ReadingRecord(limits.max_bytes)
    try:
        async with (
            asyncio.timeout(limits.total_timeout_seconds),
            reading_http(guard, limits) as http,
        ):
            context = ReadingContext(target, http, limits, record, clock)
            return await _Reader(context).eras()
    except TimeoutError:
        raise timed_out(target, limits, record) from None


def _new_client(context: ReadingContext) -> McpClient:
    return SseClient(context) if context.target.is_sse else StreamableHttpClient(context)


class _Reader:
    """Reads one server once.

    Args:
        context: Its record does not count the question whether the server takes `initialize` too.
    """

    def __init__(self, context: ReadingContext) -> None:
        self._context = context
        self._target = context.target
        self._limits = context.limits
        self._clock = context.clock
        self._client = _new_client(context)
        self._headers: Mapping[str, str] = NO_HEADERS
        self._meta: JsonObject | None = None

    async def read(self, progress: Callable[[int], None] | None) -> UpstreamReading:
        """Return all that the server says of itself and lists."""
        began_at = self._clock.monotonic()
        features = FeatureLists()
        try:
            handshake = await self._handshake()
            init_duration_ms = round((self._clock.monotonic() - began_at) * 1000)
            tools: tuple[Listed, ...] = ()
            if TOOLS.capability in handshake.capabilities:
                tools = await self._tools(progress)
            left = self._limits.total_timeout_seconds - (self._clock.monotonic() - began_at)
            # Half of what is left: whatever happens here, the tools have been read.
            try:
                async with asyncio.timeout(left / 2):
                    await self._read_features(features, handshake)
            except TimeoutError:
                features.give_up("It did not finish answering in time.")
        finally:
            await self._client.close()
        speaks_legacy = handshake.names_legacy or self._target.speaks_legacy
        if speaks_legacy is None:
            speaks_legacy = await self._takes_initialize()
        return UpstreamReading(
            protocol_version=handshake.version,
            speaks_legacy=speaks_legacy,
            speaks_modern=handshake.is_modern,
            capabilities=handshake.capabilities,
            instructions=handshake.instructions,
            init_duration_ms=init_duration_ms,
            tools=tools,
            title=handshake.title,
            lists=features.lists,
            unread=features.unread,
        )

    async def eras(self) -> SpokenEras:
        """Return which eras the server speaks."""
        try:
            handshake = await self._handshake()
        finally:
            await self._client.close()
        legacy = handshake.names_legacy or await self._takes_initialize()
        return SpokenEras(legacy, handshake.is_modern, handshake.version)

    async def _handshake(self) -> Handshake:
        """Begin in the newest era that the server speaks."""
        try:
            await self._client.open()
            result = None if self._target.is_sse else await self._discovered()
            is_modern = result is not None
            if result is None:
                result = await self._initialized()
        except JsonRpcError as exc:
            raise self._refusal(exc) from None
        info = members(result.get("serverInfo")) or members(
            members(result.get("_meta")).get(SERVER_INFO_META_KEY)
        )
        return Handshake(
            is_modern=is_modern,
            names_legacy=not is_modern or _names_handshake_version(result),
            version=LATEST_MODERN_VERSION if is_modern else str(result.get("protocolVersion")),
            capabilities=members(result.get("capabilities")),
            instructions=_text(result.get("instructions"), MAX_INSTRUCTIONS_CHARACTERS),
            title=_text(info.get("title"), MAX_TITLE_CHARACTERS),
        )

    async def _discovered(self) -> JsonObject | None:
        """Return what a server of the stateless era says of itself; None of one that is not."""
        self._meta = {
            types.PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
            types.CLIENT_INFO_META_KEY: CLIENT_INFO,
            types.CLIENT_CAPABILITIES_META_KEY: CAPABILITIES,
        }
        self._headers = {VERSION_HEADER: LATEST_MODERN_VERSION}
        try:
            async with asyncio.timeout(DISCOVER_SECONDS):
                result = await self._request("server/discover")
        except (JsonRpcError, UpstreamProtocolError, UpstreamBrokenError, TimeoutError):
            result = {}
        versions = result.get("supportedVersions")
        if isinstance(versions, list) and any(one in versions for one in MODERN_PROTOCOL_VERSIONS):
            return result
        self._meta, self._headers = None, NO_HEADERS
        return None

    async def _initialized(self) -> JsonObject:
        """Return what a server says of itself that wants a handshake."""
        result = await self._client.initialize(LATEST_HANDSHAKE_VERSION, CAPABILITIES)
        origin = origin_of(self._target)
        try:
            version = types.InitializeResult.model_validate(result).protocol_version
        except ValidationError:
            raise UpstreamProtocolError(f"{origin} answered something that is not MCP.") from None
        if version not in HANDSHAKE_PROTOCOL_VERSIONS:
            raise UpstreamProtocolError(f"{origin} did not answer as an MCP server.")
        await self._client.initialized(version)
        return result

    async def _takes_initialize(self) -> bool:
        """Whether a server of the stateless era takes `initialize` too."""
        record = ReadingRecord(self._limits.max_bytes)
        client = _new_client(replace(self._context, record=record))
        # A server of the newest version wants each message to say what it is.
        headers = {VERSION_HEADER: LATEST_HANDSHAKE_VERSION, "Mcp-Method": "initialize"}
        try:
            result = await client.initialize(LATEST_HANDSHAKE_VERSION, CAPABILITIES, headers)
        except (JsonRpcError, UpstreamError):
            return False
        finally:
            await client.close()
        return isinstance(result.get("protocolVersion"), str)

    async def _tools(self, progress: Callable[[int], None] | None) -> tuple[Listed, ...]:
        try:
            return await self._all_of(TOOLS, progress)
        except JsonRpcError as exc:
            raise self._refusal(exc) from None

    async def _read_features(self, features: FeatureLists, handshake: Handshake) -> None:
        for listing in FEATURES:
            if listing.capability not in handshake.capabilities:
                features.lists[listing.member] = ()
                continue
            try:
                features.lists[listing.member] = await self._all_of(listing)
            except UpstreamError as exc:
                features.unread[listing.member] = exc.message
            except JsonRpcError as exc:
                if exc.code == METHOD_NOT_FOUND:
                    # Many servers with resources know no templates, or the reverse.
                    features.lists[listing.member] = ()
                else:
                    features.unread[listing.member] = f"It answered: {_shown(exc)}"

    async def _all_of(
        self, listing: Listing, progress: Callable[[int], None] | None = None
    ) -> tuple[Listed, ...]:
        """Return all objects of one kind, page by page."""
        name = f"list of {listing.member}"
        items: list[Listed] = []
        seen: set[str] = set()
        params: JsonObject = {}
        for _ in range(MAX_PAGES):
            page = await self._request(listing.method, params)
            listed: Any = page.get(listing.member)
            if not isinstance(listed, list):
                raise UpstreamProtocolError(f"Its {name} is no list.")
            items += listed
            if len(items) > self._limits.max_tools:
                raise UpstreamTooLargeError(
                    f"It offers more than {self._limits.max_tools} {listing.member}."
                )
            if progress is not None:
                progress(len(items))
            following = page.get("nextCursor")
            if not following:
                return tuple(items)
            cursor = str(following)
            if cursor in seen:
                raise UpstreamProtocolError(f"Its {name} goes in circles.")
            seen.add(cursor)
            params = {"cursor": cursor}
        raise UpstreamTooLargeError(f"Its {name} has more than {MAX_PAGES} pages.")

    async def _request(self, method: str, params: JsonObject | None = None) -> JsonObject:
        """Send a request as the era wants it."""
        if self._meta is None:
            return await self._client.request(method, params or None)
        headers = {**self._headers, "Mcp-Method": method}
        stamped: dict[str, JsonValue] = {**(params or {}), "_meta": self._meta}
        return await self._client.request(method, stamped, headers)

    def _refusal(self, error: JsonRpcError) -> UpstreamError:
        """Return what an error says that was answered to what every server must answer."""
        if LOOP_DETECTED in error.message:
            return UpstreamLoopError()
        if error.refusal is not None:
            return error.refusal
        return UpstreamProtocolError(f"{origin_of(self._target)} answered: {_shown(error)}")


def _names_handshake_version(result: JsonObject) -> bool:
    versions = result.get("supportedVersions")
    return isinstance(versions, list) and any(
        version in versions for version in HANDSHAKE_PROTOCOL_VERSIONS
    )


def _shown(error: JsonRpcError) -> str:
    return CONTROL_CHARACTERS.sub(" ", error.message)[:SHOWN_CHARACTERS]


def _text(value: object, max_characters: int) -> str | None:
    if not isinstance(value, str):
        return None
    # Half a character of a pair cannot be stored.
    return value[:max_characters].encode(errors="replace").decode()
