"""Values of the data plane: a route to one server, with everything that a call needs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import orjson
from multidict import CIMultiDict
from yarl import URL

from packages.models.states import Effect, SourceType
from registry.access.policies.decisions import ToolRule
from registry.access.policy import ServerFacts, ServerScope
from registry.auth.identity import UserContext
from registry.core.json import JsonObject, members
from registry.gateway.protocol.list_pages import ToolPages, build_pages
from registry.gateway.protocol.param_headers import mirrored_part
from registry.http.client.exchange import HeaderLines, header_lines
from registry.oauth.values import AccessToken, OAuthServer
from registry.servers.values import Era, Transport
from registry.tools.call_rules import NO_CALL_RULES, CallRules
from registry.upstream.headers import upstream_headers
from registry.upstream.rest.server import RestApi, RestTool, rest_tool

PARAM_HEADER_MARK = b'"x-mcp-header"'
"""Contained in a tool's text if some of its arguments are mirrored in `Mcp-Param-*` headers."""

REPEATABLE_MARKS = (b'"readOnlyHint"', b'"idempotentHint"')
"""One of them is contained in the text of a tool that may claim to be idempotent."""

NO_SERVER = "-"
"""Server label of requests that found no server, in metrics and logs."""

NOT_PUBLIC = "(not public)"
"""Server label, in metrics, of all servers whose names are not public."""


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """One exposed tool.

    Attributes:
        wire: JSON text of the whole tool object, as sent to clients.
        param_header_schema: The arguments in the input schema that are mirrored in `Mcp-Param-*`
            headers, and nothing else; None if there are none.
        may_repeat: Whether the server claims that a second call changes nothing.
        is_behind: Whether the server offers another definition than this approved one.
        facets: Its known effects, as texts `flag:value`, for policies.
        rules: What is demanded of its calls.
        version: Number of its served version.
        tags: Its tags.
        rest: How it is called, if it is an operation of a REST API.
        digest: Of the stored text, where clients see another than that.
        row_id: ObjectId of its document, 12 bytes; empty if there is none.
    """

    name: str
    wire: bytes
    param_header_schema: JsonObject | None = field(default=None, repr=False)
    may_repeat: bool = False
    is_behind: bool = False
    facets: tuple[str, ...] = ()
    rules: CallRules = NO_CALL_RULES
    version: int = 1
    tags: tuple[str, ...] = ()
    rest: RestTool | None = field(default=None, repr=False)
    digest: int | None = field(default=None, repr=False)
    row_id: bytes = field(default=b"", repr=False)

    def is_of(self, definition: str) -> bool:
        """Whether it was made of this stored text."""
        if self.digest is not None:
            return self.digest == hash(definition)
        return self.wire == definition.encode()


@dataclass(frozen=True, slots=True)
class FeatureEntry:
    """One prompt, resource or resource template.

    Attributes:
        key: Its name, uri or uriTemplate.
        wire: JSON text of the whole object, as sent to clients.
    """

    key: str
    wire: bytes


NO_FEATURES: Mapping[str, FeatureEntry] = MappingProxyType({})
NO_CAPABILITIES: Mapping[str, Any] = MappingProxyType({})
NOTHING_HIDDEN: Mapping[str, ToolRule] = MappingProxyType({})


class Credentials(NamedTuple):
    """The headers with which one caller reaches a server.

    There are some for each user who calls, so they are kept in one form.

    Attributes:
        lines: The headers in their wire format.
        token: The access token in them; None without OAuth.
    """

    lines: HeaderLines
    token: AccessToken | None = None

    @property
    def headers(self) -> CIMultiDict[str]:
        """Return the headers as a mapping."""
        lines = (line.partition(": ") for line in self.lines.text.split("\r\n") if line)
        return CIMultiDict((name, value) for name, _, value in lines)


class Policies(Protocol):
    """The policies for a route's tools.

    Attributes:
        rules: For each tool that policies apply to, by name.
    """

    rules: Mapping[str, ToolRule]

    def seen_by(self, user: UserContext) -> "Route":
        """Return the route with the tools that *user* may use. No I/O."""

    def tools_named(self, names: Iterable[str]) -> "Mapping[str, ToolEntry]":
        """Return tools of the server by name, whoever may use them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Everything that a call to one active server needs. Build it with `build_route`.

    Attributes:
        slug: The server is served at `/mcp/<slug>`.
        label: The server's label in metrics; readers of metrics see all labels.
        facts: The input of the access decision.
        protocol_version: The version that discovery negotiated first; None if unknown.
        headers: Sent upstream with every request, credentials included.
        shared: The same headers with their wire format.
        credential_problem: Why the stored credentials cannot be used; calls return it.
        per_user: Whether `RouteTable.user_headers` supplies the credentials of each caller.
        oauth: What access tokens for the server are obtained with; None if it takes none.
        idle_timeout_seconds: Longest silence of the upstream within one answer.
        first_byte_timeout_seconds: Longest wait for the first byte; None for the idle timeout.
        tools: The exposed tools by name, in the order they are listed.
        capabilities: The server's capabilities at the last sync; not to be modified.
        instructions: The server's instructions for models.
        title: The display name.
        prompts: Its prompts by name, in its own order.
        resources: Its resources by URI, in its own order.
        templates: Its resource templates by URI template, in its own order.
        features_known: Whether prompts, resources and templates were ever read.
        modified_at: When the server was last modified, which is the version of its configuration.
        is_user_level: Whether each user has a connection of their own.
        default_effect: What holds for its tools that no policy allows.
        policies: Those for its tools; None if there are none, as on a filtered copy.
        hidden: Tools that policies refuse to the caller of a filtered copy, by name.
        api: The operations behind the tools, if it is a REST API and no MCP server.
    """

    server_id: str
    server_name: str
    slug: str
    label: str
    facts: ServerFacts
    url: str
    target: URL
    transport: Transport
    eras: frozenset[Era]
    protocol_version: str | None
    headers: CIMultiDict[str] = field(repr=False)
    shared: Credentials = field(init=False, repr=False, compare=False)
    credential_problem: str | None
    per_user: bool
    oauth: OAuthServer | None = field(default=None, repr=False, compare=False)
    idle_timeout_seconds: float
    first_byte_timeout_seconds: float | None = None
    tools: Mapping[str, ToolEntry] = field(repr=False)
    pages: ToolPages = field(repr=False)
    capabilities: Mapping[str, Any] = field(default_factory=lambda: NO_CAPABILITIES, repr=False)
    instructions: str | None = field(default=None, repr=False)
    title: str | None = None
    prompts: Mapping[str, FeatureEntry] = field(default_factory=lambda: NO_FEATURES, repr=False)
    resources: Mapping[str, FeatureEntry] = field(default_factory=lambda: NO_FEATURES, repr=False)
    templates: Mapping[str, FeatureEntry] = field(default_factory=lambda: NO_FEATURES, repr=False)
    features_known: bool = False
    modified_at: datetime | None = field(default=None, compare=False)
    is_user_level: bool = False
    default_effect: Effect = Effect.ALLOW
    policies: Policies | None = field(default=None, repr=False, compare=False)
    hidden: Mapping[str, ToolRule] = field(
        default_factory=lambda: NOTHING_HIDDEN, repr=False, compare=False
    )
    api: RestApi | None = field(default=None, repr=False, compare=False)

    @property
    def noun(self) -> str:
        """Return what it is, for messages."""
        return "server" if self.api is None else "API"

    @property
    def named(self) -> str:
        """Return the same with its name, as in "the server files"."""
        return f"{self.noun} {self.server_name}"

    @property
    def source_type(self) -> SourceType:
        """Return whether it is an MCP server or a REST API."""
        return SourceType.MCP if self.api is None else SourceType.OPENAPI

    def __post_init__(self) -> None:
        """Convert the headers to their wire format."""
        shared = Credentials(header_lines(self.headers))
        object.__setattr__(self, "shared", shared)


def is_unread(route: Route) -> bool:
    """Whether a server waits for the first user who authorises the registry to be read."""
    return route.oauth is not None and not route.tools and not route.features_known


def asks_clients(route: Route) -> bool:
    """Whether the gateway itself may have something to say during calls of the server's tools."""
    return any(tool.rules.is_confirmed or tool.rules.approvals for tool in route.tools.values())


def may_tell_of_resources(route: Route) -> bool:
    """Whether clients can subscribe to the server's resources, as far as is known."""
    if not route.features_known and not route.capabilities:
        return True
    return members(route.capabilities.get("resources")).get("subscribe") is True


def may_tell_of_lists(route: Route) -> bool:
    """Whether the server announces changes of its lists."""
    return any(
        members(route.capabilities.get(kind)).get("listChanged") is True
        for kind in ("tools", "prompts", "resources")
    )


def tool_entry(
    name: str,
    definition: str,
    *,
    is_behind: bool = False,
    facets: tuple[str, ...] = (),
    rules: CallRules = NO_CALL_RULES,
    version: int = 1,
    tags: tuple[str, ...] = (),
    row_id: bytes = b"",
) -> ToolEntry:
    """Return the entry of one tool from the JSON text of its object.

    Args:
        name: The tool's name.
        definition: As sent to clients.
        is_behind: Whether the server now offers another definition.
        facets: Its known effects, as texts `flag:value`.
        rules: What is demanded of its calls.
        version: Number of its served version.
        tags: Its tags.
        row_id: ObjectId of its document.

    Raises:
        ValueError: More arguments are mirrored in headers than can be checked on each call.
    """
    wire = definition.encode()
    schema = None
    found = rest_tool(wire, rules.projection)
    rest = digest = None
    if found is not None:
        wire, rest = found
        digest = hash(definition)
    elif PARAM_HEADER_MARK in wire:
        schema = mirrored_part(orjson.loads(wire).get("inputSchema"))
    return ToolEntry(
        name,
        wire,
        schema,
        _may_repeat(wire),
        is_behind,
        facets,
        rules,
        version,
        tags,
        rest,
        digest,
        row_id,
    )


def _may_repeat(wire: bytes) -> bool:
    if not any(hint in wire for hint in REPEATABLE_MARKS):
        return False
    hints = orjson.loads(wire).get("annotations")
    return isinstance(hints, dict) and (
        hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True
    )


def build_route(  # noqa: PLR0913 - one keyword for each stored fact
    *,
    server_id: str,
    server_name: str,
    slug: str,
    facts: ServerFacts,
    url: str,
    transport: Transport,
    eras: frozenset[Era],
    protocol_version: str | None,
    headers: Mapping[str, str],
    credential_problem: str | None,
    per_user: bool,
    oauth: OAuthServer | None = None,
    idle_timeout_seconds: float,
    first_byte_timeout_seconds: float | None = None,
    tools: Iterable[ToolEntry],
    capabilities: Mapping[str, Any] = NO_CAPABILITIES,
    instructions: str | None = None,
    title: str | None = None,
    prompts: Iterable[FeatureEntry] = (),
    resources: Iterable[FeatureEntry] = (),
    templates: Iterable[FeatureEntry] = (),
    features_known: bool = False,
    modified_at: datetime | None = None,
    is_user_level: bool = False,
    default_effect: Effect = Effect.ALLOW,
    via: str | None = None,
) -> Route:
    """Return a route with everything precomputed that calls would otherwise compute each time.

    Tools are sorted by name, all else keeps the given order. *via* marks requests to the server as
    coming from this deployment.

    Raises:
        ValueError: *url* is not an absolute HTTP URL.
    """
    target = URL(url)
    if target.scheme not in {"http", "https"} or not target.host:
        raise ValueError("The URL is not an absolute HTTP URL.")
    is_api = transport is Transport.OPENAPI
    if is_api:
        # What the gateway says for an API at its path.
        capabilities, features_known = {"tools": {}}, True
        eras = frozenset({Era.MODERN})
    # Tenants can use the same slug, and must not see each other's.
    is_public = facts.scope is ServerScope.SHARED_APP and facts.tenant_id is None
    ordered = sorted(tools, key=lambda tool: tool.name)
    return Route(
        server_id=server_id,
        server_name=server_name,
        slug=slug,
        label=slug if is_public else NOT_PUBLIC,
        facts=facts,
        url=url,
        target=target,
        transport=transport,
        # The HTTP+SSE transport knows only the handshake.
        eras=frozenset({Era.LEGACY}) if transport is Transport.SSE else eras,
        protocol_version=protocol_version,
        headers=upstream_headers(headers, via),
        credential_problem=credential_problem,
        per_user=per_user or oauth is not None,
        oauth=oauth,
        idle_timeout_seconds=idle_timeout_seconds,
        first_byte_timeout_seconds=first_byte_timeout_seconds,
        tools=MappingProxyType({tool.name: tool for tool in ordered}),
        pages=build_pages([(tool.name, tool.wire) for tool in ordered]),
        capabilities=capabilities,
        instructions=instructions,
        title=title,
        prompts=_by_key(prompts),
        resources=_by_key(resources),
        templates=_by_key(templates),
        features_known=features_known,
        modified_at=modified_at,
        default_effect=default_effect,
        is_user_level=is_user_level or per_user,
        api=_api(server_name, url, ordered, oauth) if is_api else None,
    )


def _api(name: str, url: str, tools: Iterable[ToolEntry], oauth: OAuthServer | None) -> RestApi:
    called = {tool.name: tool.rest for tool in tools if tool.rest is not None}
    return RestApi(name, url, called, takes_tokens=oauth is not None)


def _by_key(entries: Iterable[FeatureEntry]) -> Mapping[str, FeatureEntry]:
    found = {entry.key: entry for entry in entries}
    # Most servers have none: they share one empty table.
    return MappingProxyType(found) if found else NO_FEATURES
