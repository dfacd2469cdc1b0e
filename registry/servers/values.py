"""Values about servers that travel between modules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from registry.core.json import JsonObject
from registry.tools.values import ToolSnapshot


class ServerStatus(StrEnum):
    """Configured state of a server; not whether it is reachable right now."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    ERROR = "error"


class Transport(StrEnum):
    """Transports the registry connects to. Others are read and shown, never connected."""

    STREAMABLE_HTTP = "streamable-http"
    SSE = "sse"


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
    """

    url: str
    transport: Transport
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    init_timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Discovered:
    """What one upstream said of itself.

    Attributes:
        capabilities: The server's MCP capabilities.
        protocol_version: The version negotiated first.
        eras: Which protocol eras the upstream speaks.
        init_duration_ms: Whole milliseconds from opening the connection to the handshake's end.
    """

    snapshot: ToolSnapshot
    capabilities: JsonObject
    protocol_version: str
    eras: frozenset[Era]
    instructions: str | None
    init_duration_ms: int
