"""Values of the usage domain. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias

MAX_NAME_CHARACTERS = 256
"""Names come from clients. Names of tools may have 128 characters, URIs of resources more."""

MILLION = 1_000_000

SEPARATOR = "__"
"""Between server and tool in names of the combined server, where they are not shortened."""
"""Costs are whole millionths of the currency unit."""


def clean_name(text: str) -> str:
    """Return *text* truncated to the maximum length, without control characters."""
    text = text[:MAX_NAME_CHARACTERS]
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


class CallFacts(NamedTuple):
    """Facts that many calls have in common.

    Attributes:
        server_id: 24 hexadecimal characters; None when there is no such server for the caller.
        slug: Of the server, for people.
        target: Tool, prompt or resource as the client named it.
        outcome: How it ended.
        error_code: Of the JSON-RPC error; 0 without one.
        role: Of the caller.
        tenant_id: Of the caller.
        tool: The tool's own name, once it is known to be served.
        charge: What is charged for the call; None for tools without price, tier and tags.
    """

    user_id: str
    username: str
    token_id: str | None
    server_id: str | None
    slug: str
    method: str
    target: str | None
    is_modern: bool
    outcome: str
    error_code: int
    role: str
    tenant_id: str | None
    tool: str | None
    charge: "Charge | None"


class Charge(NamedTuple):
    """What is charged for calls of a tool, as its metadata said when they were made.

    Attributes:
        price_per_call: Millionths of the currency unit, as is the next.
        price_per_kib: For each KiB of request and response.
    """

    cost_tier: str | None
    billing_tags: tuple[str, ...]
    price_per_call: int
    price_per_kib: int

    def cost_of(self, size: int) -> int:
        """Return the cost of one call with so many bytes, in millionths, rounded half up."""
        return self.price_per_call + (self.price_per_kib * size + 512) // 1024


class CallMeasurements(NamedTuple):
    """Times, sizes and trace of one call.

    Attributes:
        began_at: Monotonic seconds; so are the others that end in `_at`, 0 where it did not come
            so far.
        decided_at: When it was allowed and about to be sent upstream.
        head_at: When the head of the upstream's answer was there.
    """

    began_at: float
    decided_at: float
    head_at: float
    ended_at: float
    request_bytes: int
    response_bytes: int
    trace_id: str | None


Facts: TypeAlias = tuple[
    str,
    str,
    str | None,
    str | None,
    str,
    str,
    str | None,
    bool,
    str,
    int,
    str,
    str | None,
    str | None,
    Charge | None,
]
"""A `CallFacts`, or a plain tuple of the same, which costs a third of one to make."""

Measurements: TypeAlias = tuple[float, float, float, float, int, int, str | None]
"""A `CallMeasurements`, or a plain tuple of the same."""


@dataclass(frozen=True, slots=True)
class UsageVisibility:
    """Which records a caller without full access may see: their own, and those of servers."""

    user_id: str
    server_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Filter of a list of records. *since* is inclusive, *until* exclusive.

    Attributes:
        shown: None for all.
    """

    server_id: str | None = None
    user_id: str | None = None
    tool: str | None = None
    method: str | None = None
    outcome: str | None = None
    tag: str | None = None
    trace_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    shown: UsageVisibility | None = None


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """A stored record.

    Attributes:
        outcome: As stored, like *method*: other releases may know others.
        admission_ms: From arrival until it was sent upstream; None when it was not, like the two
            that follow.
        upstream_ms: From there to the head of the answer, or to its failure.
        relay_ms: From there to the end.
        cost: Millionths of the currency unit; 0 for what was not sent upstream.
        tool: Tool, prompt or resource as the client named it.
        own_tool: The tool's name on its server, where it is known to differ from *tool*.
    """

    id: str
    started_at: datetime
    user_id: str
    username: str
    token_id: str | None
    server_id: str | None
    server: str | None
    method: str
    tool: str | None
    era: str
    outcome: str
    error_code: int | None
    duration_ms: float
    admission_ms: float | None
    upstream_ms: float | None
    relay_ms: float | None
    request_bytes: int
    response_bytes: int
    trace_id: str | None
    worker: str
    cost_tier: str | None = None
    billing_tags: tuple[str, ...] = ()
    cost: int = 0
    own_tool: str | None = None

    @property
    def name(self) -> str | None:
        """Return the one name of the tool, whatever a path or toolset calls it."""
        return self.own_tool or self.tool


class GroupBy(StrEnum):
    """What totals are grouped by. `TAG`: by the set of a tool's billing tags."""

    CALLER = "caller"
    SERVER = "server"
    TOOL = "tool"
    TAG = "tag"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """Sums over the calls of one group. What it is not grouped by is None.

    Attributes:
        outcomes: Number of calls by outcome.
        cost: Millionths of the currency unit.
        latency: Number of calls by the bucket of their duration.
    """

    day: datetime | None = None
    user_id: str | None = None
    username: str | None = None
    server_id: str | None = None
    server: str | None = None
    tool: str | None = None
    billing_tags: tuple[str, ...] | None = None
    sent: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    request_bytes: int = 0
    response_bytes: int = 0
    cost: int = 0
    duration_us: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Return the number of calls."""
        return sum(self.outcomes.values())

    def plus(self, other: "UsageGroup") -> "UsageGroup":
        """Return the sums over both, without what they are grouped by."""
        return UsageGroup(
            sent=self.sent + other.sent,
            outcomes=Counter(self.outcomes) + Counter(other.outcomes),
            request_bytes=self.request_bytes + other.request_bytes,
            response_bytes=self.response_bytes + other.response_bytes,
            cost=self.cost + other.cost,
            duration_us=self.duration_us + other.duration_us,
            latency=Counter(self.latency) + Counter(other.latency),
        )
