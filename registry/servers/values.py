"""Values about servers that travel between modules."""

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
    """What has a server's tools read anew, besides people and its own announcements."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"
    WEBHOOK = "webhook"


MOST_SYNC_SECONDS = 366 * 86_400
"""Longer intervals, which other programs may store, end beyond what a date can say."""

MAX_CAPABILITIES_CHARACTERS = 64 * 1024

DEFAULT_SYNC_SECONDS = 3600
"""Between two readings of a server in mode `scheduled` that names no interval."""


class Transport(StrEnum):
    """Transports the registry connects to. Others are read and shown, never connected."""

    STREAMABLE_HTTP = "streamable-http"
    SSE = "sse"


ENVIRONMENT = "${"
"""Begins a name that jarvis-api replaces by a variable of its own environment, its keys among
them, in what it connects to servers with."""

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
        init_timeout_seconds: Longest time for the whole discovery; None for the default.
        known_eras: Which protocol eras the upstream spoke before, if it was ever read.
    """

    url: str
    transport: Transport
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    init_timeout_seconds: float | None = None
    known_eras: frozenset[Era] = frozenset()


@dataclass(frozen=True, slots=True)
class Discovered:
    """What one upstream said of itself.

    Attributes:
        capabilities: The server's MCP capabilities.
        protocol_version: The version negotiated first.
        eras: Which protocol eras the upstream speaks.
        init_duration_ms: Whole milliseconds from opening the connection to the handshake's end.
        title: What it calls itself, for people.
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
"""What a server without a scope is shown with: the most careful reading."""

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
"""Members of a server that move at every reading; they are kept apart from its document."""


READ_HERE = "auto_expose"
"""Member of `registry` that a server has once this program has registered or read it."""


@dataclass(frozen=True, slots=True)
class DescribedTools:
    """What there is of the tools of a server that the other application alone has described.

    Attributes:
        served: Names of the tools that are served.
        rejected: What cannot be served, as far as that was asked.
    """

    served: tuple[str, ...]
    rejected: tuple[RejectedTool, ...] = ()


def names_in(stored: object) -> tuple[str, ...]:
    """Return the names in a comma-joined list; spaces around commas do not count."""
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
        bits: What the caller may do with it (`access.policy.Permission`), where it was read on
            behalf of one.
        problems: What another program stored in a way that cannot be read, each in words.
        tenant_id: The tenant that it is of.
        described: What is served of a server that we never read, and what is not and why; None
            where that was not looked up.
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
        """Whether the other application alone has described its tools: we never read it."""
        return READ_HERE not in self.registry

    def in_stored_order(self, names: Collection[str]) -> tuple[str, ...]:
        """Return names of tools in the order of `config.tools`, and then of the alphabet."""
        order = {name: place for place, name in enumerate(names_in(self.config.get("tools")))}
        return tuple(sorted(names, key=lambda name: (order.get(name, len(order)), name)))

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Return the names of the tools that are served.

        Where we read the server `config.tools` says so, because we wrote it. The other application
        may name tools there that it does not describe.
        """
        if self.described is not None and self.is_described_elsewhere:
            return self.described.served
        return names_in(self.config.get("tools"))

    @property
    def effective_status(self) -> ServerStatus:
        """Return the status, or the default of a document that has none."""
        return self.status or ServerStatus.ACTIVE

    @property
    def effective_scope(self) -> ServerScope:
        """Return the scope, or the most careful reading of a document that has none."""
        return self.scope or UNKNOWN_SCOPE

    @property
    def capabilities(self) -> JsonObject:
        """Return the capabilities that the upstream stated; none that cannot be stated again."""
        text = self.config.get("capabilities")
        if not isinstance(text, str) or len(text) > MAX_CAPABILITIES_CHARACTERS:
            return {}
        try:
            # It knows neither numbers nor characters that could not be written again.
            found = orjson.loads(text)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            return {}
        is_flat = isinstance(found, dict) and nesting(found, MAX_DEPTH) <= MAX_DEPTH
        return found if is_flat else {}

    @property
    def eras(self) -> frozenset[Era]:
        """Return the protocol eras that the upstream spoke when it was read last."""
        stored = self.registry.get("eras")
        names = stored if isinstance(stored, list) else []
        return frozenset(era for era in Era if era.value in names)

    @property
    def sync_mode(self) -> SyncMode:
        """Return what has its tools read anew; documents that do not say so wait for people."""
        return choice_of(SyncMode, self.registry.get("sync_mode")) or SyncMode.MANUAL

    @property
    def sync_interval_seconds(self) -> int:
        """Return the time between two readings in mode `scheduled`."""
        stored = self.registry.get("sync_interval_seconds")
        if not isinstance(stored, int) or stored <= 0:
            return DEFAULT_SYNC_SECONDS
        return min(stored, MOST_SYNC_SECONDS)

    @property
    def effective_path(self) -> str:
        """Return the gateway path, or the default of a document that has none."""
        return self.path or default_path(self.server_name)


@dataclass(frozen=True, slots=True)
class Precondition:
    """What a caller knows of a server that it changes.

    Attributes:
        updated_at: The `updatedAt` that was read, from the body or from an ETag.
        unmodified_since: Not changed after this second (RFC 9110, 13.1.4).
    """

    updated_at: datetime | None = None
    unmodified_since: datetime | None = None

    @property
    def provided(self) -> datetime | None:
        """Return the time that was given, if any was."""
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
    """What a list of servers is narrowed to."""

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
