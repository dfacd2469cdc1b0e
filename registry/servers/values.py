"""Values about servers, shared by several modules."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import orjson

from registry.access.policy import ServerScope
from registry.core.definitions import MAX_DEPTH
from registry.core.json import JsonObject, choice_of, nesting
from registry.prompts_and_resources.values import NOTHING_READ, FeatureSnapshot
from registry.servers.naming import default_path
from registry.tools.values import RejectedTool, ToolSnapshot


class ServerStatus(StrEnum):
    """Configured state of a server; not whether it is reachable right now."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    ERROR = "error"


class SyncMode(StrEnum):
    """What starts a sync of a server's tools, besides people and its own announcements."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"
    WEBHOOK = "webhook"


MAX_SYNC_SECONDS = 366 * 86_400
"""Maximum interval; other programs may store longer ones, which would exceed all dates."""

MAX_CAPABILITIES_CHARACTERS = 64 * 1024

DEFAULT_SYNC_SECONDS = 3600
"""Interval of a server in mode `scheduled` without an interval of its own."""


class Transport(StrEnum):
    """Transports that the registry supports. Others are read and shown, but not connected."""

    STREAMABLE_HTTP = "streamable-http"
    SSE = "sse"


ENVIRONMENT = "${"
"""Prefix of names that jarvis-api replaces by its own environment variables, its keys included,
when it connects to servers."""

STDIO_UNSUPPORTED = (
    "programs (stdio) are not started by the registry; serve it over HTTP with a bridge, "
    "such as `npx -y supergateway --stdio PROGRAM --outputTransport streamableHttp --port 9000` "
    "or `mcp-proxy --port 9000 -- PROGRAM`, and register http://127.0.0.1:9000/mcp"
)
"""The bridges are those that the README names."""


class Era(StrEnum):
    """Protocol eras: the handshake up to 2025-11-25, the stateless one from 2026-07-28."""

    LEGACY = "legacy"
    MODERN = "modern"


@dataclass(frozen=True, slots=True)
class ConnectionSpec:
    """How to reach one upstream.

    Attributes:
        headers: Headers to send, credentials included; never logged.
        init_timeout_seconds: Time limit of the whole discovery; None for the default.
        known_eras: The protocol eras at the last discovery, if there was one.
    """

    url: str
    transport: Transport
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    init_timeout_seconds: float | None = None
    known_eras: frozenset[Era] = frozenset()


@dataclass(frozen=True, slots=True)
class Discovered:
    """What one upstream reported about itself.

    Attributes:
        capabilities: The server's MCP capabilities.
        protocol_version: The version negotiated first.
        eras: The protocol eras that the upstream speaks.
        init_duration_ms: Whole milliseconds from opening the connection to the handshake's end.
        title: Its own display name.
        features: Its prompts, resources and resource templates, as far as they could be read.
    """

    snapshot: ToolSnapshot
    capabilities: JsonObject
    protocol_version: str
    eras: frozenset[Era]
    instructions: str | None
    init_duration_ms: int
    title: str | None = None
    features: FeatureSnapshot = NOTHING_READ


UNKNOWN_SCOPE = ServerScope.PRIVATE_USER
"""The scope of a server without a valid one: the most restrictive."""

OURS = "registry."
SYNC_FIELDS = frozenset(
    OURS + name
    for name in (
        "last_sync_started_at",
        "last_sync_completed_at",
        "last_sync_status",
        "last_synced_at",
        "next_sync_at",
        "settled_digest",
        "settled_at",
    )
)
"""Members of a server that change with every discovery; stored apart from its document."""


READ_HERE = "auto_expose"
"""Member of `registry` that exists once this program has registered or read the server."""


@dataclass(frozen=True, slots=True)
class DescribedTools:
    """The tools of a server that only the other application has described.

    Attributes:
        served: Names of the tools that are served.
        rejected: Tools that cannot be served, if that was checked.
    """

    served: tuple[str, ...]
    rejected: tuple[RejectedTool, ...] = ()


def names_in(stored: object) -> tuple[str, ...]:
    """Split a comma-joined list of names; spaces around commas are ignored."""
    if not isinstance(stored, str):
        return ()
    return tuple(name for part in stored.split(",") if (name := part.strip()))


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """A stored server.

    Attributes:
        author: ObjectId of the registering user, 24 hexadecimal characters.
        scope: As stored; None when missing or unknown (written by the other application).
        status: As stored; None when missing or unknown.
        path: Gateway path as stored; None when missing.
        config: The nested `config` as stored, ciphertexts included.
        registry: Our own facts about the server.
        bits: What the caller may do with it (`access.policy.Permission`), if it was read on behalf
            of one.
        problems: Stored values that cannot be read, one message each.
        tenant_id: Its tenant.
        described: The tools of a server that we never read, served and rejected; None if they
            were not looked up.
    """

    id: str
    server_name: str
    author: str
    scope: ServerScope | None
    status: ServerStatus | None
    path: str | None
    tags: tuple[str, ...]
    num_stars: int
    last_connected: datetime | None
    last_error: datetime | None
    error_message: str | None
    created_at: datetime | None
    updated_at: datetime | None
    config: JsonObject = field(repr=False)
    registry: Mapping[str, object]
    bits: int = 0
    problems: tuple[str, ...] = ()
    tenant_id: str | None = None
    described: DescribedTools | None = None

    @property
    def is_described_elsewhere(self) -> bool:
        """Whether only the other application has described its tools: we never read it."""
        return READ_HERE not in self.registry

    def in_stored_order(self, names: Collection[str]) -> tuple[str, ...]:
        """Sort names of tools in the order of `config.tools`, all others after them."""
        order = {name: place for place, name in enumerate(names_in(self.config.get("tools")))}
        return tuple(sorted(names, key=lambda name: (order.get(name, len(order)), name)))

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Return the names of the tools that are served.

        If we read the server, `config.tools` has them, because we wrote it. The other application
        may list tools there that it does not describe.
        """
        if self.described is not None and self.is_described_elsewhere:
            return self.described.served
        return names_in(self.config.get("tools"))

    @property
    def effective_status(self) -> ServerStatus:
        """Return the status, or the default if there is none."""
        return self.status or ServerStatus.ACTIVE

    @property
    def effective_scope(self) -> ServerScope:
        """Return the scope, or the most restrictive one if there is none."""
        return self.scope or UNKNOWN_SCOPE

    @property
    def capabilities(self) -> JsonObject:
        """Return the stored capabilities; empty if they cannot be serialized."""
        text = self.config.get("capabilities")
        if not isinstance(text, str) or len(text) > MAX_CAPABILITIES_CHARACTERS:
            return {}
        try:
            # It has neither numbers nor characters that could not be serialized.
            found = orjson.loads(text)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            return {}
        is_flat = isinstance(found, dict) and nesting(found, MAX_DEPTH) <= MAX_DEPTH
        return found if is_flat else {}

    @property
    def eras(self) -> frozenset[Era]:
        """Return the protocol eras of the last discovery."""
        stored = self.registry.get("eras")
        names = stored if isinstance(stored, list) else []
        return frozenset(era for era in Era if era.value in names)

    @property
    def sync_mode(self) -> SyncMode:
        """Return what starts a sync; documents without a mode are synced only by people."""
        return choice_of(SyncMode, self.registry.get("sync_mode")) or SyncMode.MANUAL

    @property
    def sync_interval_seconds(self) -> int:
        """Return the interval between two syncs in mode `scheduled`."""
        stored = self.registry.get("sync_interval_seconds")
        if not isinstance(stored, int) or stored <= 0:
            return DEFAULT_SYNC_SECONDS
        return min(stored, MAX_SYNC_SECONDS)

    @property
    def effective_path(self) -> str:
        """Return the gateway path, or the default if there is none."""
        return self.path or default_path(self.server_name)


@dataclass(frozen=True, slots=True)
class Precondition:
    """A caller's precondition for changing a server.

    Attributes:
        updated_at: The expected `updatedAt`, from the body or from an ETag.
        unmodified_since: Not changed after this second (RFC 9110, 13.1.4).
    """

    updated_at: datetime | None = None
    unmodified_since: datetime | None = None

    @property
    def provided(self) -> datetime | None:
        """Return the given time, if there is one."""
        return self.updated_at or self.unmodified_since

    def holds(self, current: datetime | None) -> bool:
        """Whether a server with this `updatedAt` may be changed."""
        if self.updated_at is not None and current != self.updated_at:
            return False
        if self.unmodified_since is None or current is None:
            return True
        return current.replace(microsecond=0) <= self.unmodified_since


NO_PRECONDITION = Precondition()


@dataclass(frozen=True, slots=True)
class ServerFilter:
    """Filter of a list of servers."""

    query: str | None = None
    scope: ServerScope | None = None
    status: ServerStatus | None = None
    author: str | None = None


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """Numbers over all servers."""

    total: int
    by_scope: dict[ServerScope, int]
    by_status: dict[ServerStatus, int]
    by_transport: dict[str, int]
    tools: int
