"""Values of the data plane: what a route to one server holds, ready for use in a call."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

import orjson
from multidict import CIMultiDict
from yarl import URL

from registry.access.policies.decisions import ToolRule
from registry.access.policy import ServerFacts, ServerScope
from registry.auth.identity import UserContext
from registry.core.json import JsonObject, members
from registry.gateway.protocol.headers import HeaderLines, header_lines
from registry.gateway.protocol.list_pages import ToolPages, build_pages
from registry.gateway.protocol.param_headers import mirrored_part
from registry.servers.values import Era, Transport

PARAM_HEADER_MARK = b'"x-mcp-header"'
"""Present in a tool's text when some of its arguments are mirrored in `Mcp-Param-*` headers."""

REPEATABLE_MARKS = (b'"readOnlyHint"', b'"idempotentHint"')
"""One of them is present in the text of a tool that may say that it can be called twice."""

GATEWAY_OWNED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "transfer-encoding",
        "via",
    }
)
"""Headers of the protocol itself; a stored header of that name is not sent."""

NO_SERVER = "-"
"""In metrics and logs, requests that found no server."""

NOT_PUBLIC = "(not public)"
"""In metrics, all servers whose names not everybody may know."""

USER_AGENT = "mcp-gateway-registry"


class ArgumentCheck:
    """Marks a tool whose arguments are checked.

    Attributes:
        paused_until: Monotonic seconds; before that no check is tried.
    """

    __slots__ = ("paused_until",)

    def __init__(self) -> None:
        self.paused_until = 0.0


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """One exposed tool.

    Attributes:
        wire: JSON text of the whole tool object, as clients get it.
        param_header_schema: Of the input schema the arguments that are mirrored in `Mcp-Param-*`
            headers, and nothing else; None when there are none.
        may_repeat: Whether the server says that a second call changes nothing.
        check: Of the arguments, where the server offers another definition than this approved one.
        facets: What is known of its effects, as texts `flag:value`, for policies.
        requires_approval: Whether calls are refused because a person must approve each.
    """

    name: str
    wire: bytes
    param_header_schema: JsonObject | None = field(default=None, repr=False)
    may_repeat: bool = False
    check: ArgumentCheck | None = field(default=None, repr=False, compare=False)
    facets: tuple[str, ...] = ()
    requires_approval: bool = False


@dataclass(frozen=True, slots=True)
class FeatureEntry:
    """One prompt, resource or resource template.

    Attributes:
        key: Its name, uri or uriTemplate.
        wire: JSON text of the whole object, as clients get it.
    """

    key: str
    wire: bytes


NO_FEATURES: Mapping[str, FeatureEntry] = MappingProxyType({})
NO_CAPABILITIES: Mapping[str, Any] = MappingProxyType({})
NOTHING_HIDDEN: Mapping[str, ToolRule] = MappingProxyType({})


class Policies(Protocol):
    """The policies about a route's tools.

    Attributes:
        rules: Of those of its tools that policies are about, by name.
    """

    rules: Mapping[str, ToolRule]

    def seen_by(self, user: UserContext) -> "Route":
        """Return the route with the tools that *user* may use. No I/O."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Everything a call to one active server needs. Build it with `build_route`.

    Attributes:
        slug: The server is served at `/mcp/<slug>`.
        label: Stands for the server in metrics, which whoever may read them may read all of.
        facts: What the access decision is made on.
        protocol_version: The version discovery negotiated first; None when unknown.
        headers: Sent upstream with every request, credentials included.
        lines: The same as they are sent.
        credential_problem: Why the stored credentials cannot be used; calls answer it.
        per_user: Whether `RouteTable.user_headers` supplies the credentials of each caller.
        idle_timeout_seconds: Longest silence of the upstream within one answer.
        first_byte_timeout_seconds: Longest wait for its beginning; None for as long as that.
        tools: The exposed tools by name, in the order they are listed.
        capabilities: What the server said it can do when it was last read; not to be changed.
        instructions: What it tells models about its use.
        title: What people call it.
        prompts: Its prompts by name, in its own order.
        resources: Its resources by URI, in its own order.
        templates: Its resource templates by URI template, in its own order.
        features_known: Whether prompts, resources and templates were ever read.
        modified_at: When the server was modified last, which is the version of its configuration.
        is_user_level: Whether each user's connection to it is one of their own.
        policies: Those about its tools; None where there are none, as on what a caller gets.
        hidden: Tools that policies refuse to the caller whom it was made for, by name.
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
    lines: HeaderLines = field(init=False, repr=False, compare=False)
    credential_problem: str | None
    per_user: bool
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
    policies: Policies | None = field(default=None, repr=False, compare=False)
    hidden: Mapping[str, ToolRule] = field(
        default_factory=lambda: NOTHING_HIDDEN, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Write the headers down as they are sent."""
        object.__setattr__(self, "lines", header_lines(self.headers))


def may_tell_of_resources(route: Route) -> bool:
    """Whether the server can be subscribed to for changes of resources, as far as is known."""
    if not route.features_known and not route.capabilities:
        return True
    return members(route.capabilities.get("resources")).get("subscribe") is True


def may_tell_of_lists(route: Route) -> bool:
    """Whether the server says that it tells when one of its lists changes."""
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
    requires_approval: bool = False,
) -> ToolEntry:
    """Return the entry of one tool from the JSON text of its object.

    Args:
        name: The tool's.
        definition: As clients get it.
        is_behind: Whether the server offers another definition by now.
        facets: What is known of its effects, as texts `flag:value`.
        requires_approval: Whether a person must approve each call.

    Raises:
        ValueError: More arguments are mirrored in headers than can be checked on each call.
    """
    wire = definition.encode()
    schema = None
    if PARAM_HEADER_MARK in wire:
        schema = mirrored_part(orjson.loads(wire).get("inputSchema"))
    check = ArgumentCheck() if is_behind else None
    return ToolEntry(name, wire, schema, _may_repeat(wire), check, facets, requires_approval)


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
    via: str | None = None,
) -> Route:
    """Return a route with everything precomputed that calls would compute again and again.

    Tools are listed in the order of their names, all else in the order given. *via* says to the
    server that its requests come from this deployment.

    Raises:
        ValueError: *url* is no absolute HTTP URL.
    """
    target = URL(url)
    if target.scheme not in {"http", "https"} or not target.host:
        raise ValueError("The address is no absolute HTTP URL.")
    # Of two tenants' servers at one path neither is counted by it, nor told to the other.
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
        # The old transport knows the handshake only.
        eras=frozenset({Era.LEGACY}) if transport is Transport.SSE else eras,
        protocol_version=protocol_version,
        headers=upstream_headers(headers, via),
        credential_problem=credential_problem,
        per_user=per_user,
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
        is_user_level=is_user_level or per_user,
    )


def _by_key(entries: Iterable[FeatureEntry]) -> Mapping[str, FeatureEntry]:
    found = {entry.key: entry for entry in entries}
    # Most servers have none: they share one empty table.
    return MappingProxyType(found) if found else NO_FEATURES


def upstream_headers(stored: Mapping[str, str], via: str | None = None) -> CIMultiDict[str]:
    """Return the headers that go upstream with every request, without the protocol's own."""
    headers = CIMultiDict({"Accept-Encoding": "identity", "User-Agent": USER_AGENT})
    if via is not None:
        headers["Via"] = via
    for name, value in stored.items():
        if name.lower() not in GATEWAY_OWNED_HEADERS:
            headers[name] = value
    return headers
