"""Values of the upstream package."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.core.definitions import Listed
from registry.core.json import JsonObject


@dataclass(frozen=True, slots=True)
class UpstreamTarget:
    """One upstream.

    Attributes:
        is_sse: Whether it speaks the HTTP+SSE transport of 2024-11-05.
        headers: Sent with every request, credentials included.
        speaks_legacy: Whether it speaks the handshake era beside the stateless one, where that is
            known from before; None to find out.
    """

    url: str
    is_sse: bool
    headers: Mapping[str, str] = field(repr=False)
    speaks_legacy: bool | None = None


@dataclass(frozen=True, slots=True)
class ReadingLimits:
    """Bounds of one reading.

    Attributes:
        max_bytes: Of all answers together.
    """

    connect_timeout_seconds: float
    total_timeout_seconds: float
    max_bytes: int
    max_tools: int


@dataclass(frozen=True, slots=True)
class UpstreamReading:
    """What was read of an upstream.

    Attributes:
        tools: Tool objects as they came, in the upstream's order, unchecked.
        speaks_legacy: Whether it takes `initialize` (up to 2025-11-25).
        speaks_modern: Whether it takes requests of 2026-07-28.
        init_duration_ms: From opening the connection to the end of the handshake.
        title: What it calls itself, for people.
        lists: Its prompts, resources and resource templates, also unchecked, by the member of the
            result that lists them.
        unread: Why others of these lists could not be read.
    """

    protocol_version: str
    speaks_legacy: bool
    speaks_modern: bool
    capabilities: JsonObject
    instructions: str | None
    init_duration_ms: int
    tools: tuple[Listed, ...]
    title: str | None = None
    lists: Mapping[str, tuple[Listed, ...]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpokenEras:
    """Which eras an upstream speaks.

    Attributes:
        protocol_version: The version negotiated first.
    """

    speaks_legacy: bool
    speaks_modern: bool
    protocol_version: str
