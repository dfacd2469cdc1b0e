"""Values about limits. Pure."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from packages.models.states import SourceType
from registry.access.policies.values import EVERYONE, PolicyEditor, PolicyTarget, Subjects
from registry.auth.identity import UserContext


class Period(StrEnum):
    """The length of time that a rate counts calls in."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        """Return its length."""
        return PERIOD_SECONDS[self]


PERIOD_SECONDS = {Period.SECOND: 1, Period.MINUTE: 60, Period.HOUR: 3600, Period.DAY: 86_400}


class Dimension(StrEnum):
    """What calls are counted apart by."""

    USER = "user"
    ROLE = "role"
    TOKEN = "token"  # noqa: S105 - the name of a dimension
    SERVER = "server"
    TOOL = "tool"
    COST_TIER = "cost_tier"


class OnDatabaseLoss(StrEnum):
    """What happens to calls that cannot be counted because the database is away."""

    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Rate:
    """At most *count* calls in any period of that length."""

    count: int
    period: Period


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit, as decisions use it.

    Attributes:
        target: The tools that it applies to.
        subjects: The callers that it applies to.
        per: What is counted apart; empty to count all calls together.
        rates: Each must have room; a short period bounds bursts, a long one the sustained rate.
        in_flight: Maximum number of calls under way; None for any.
        on_database_loss: None for the usual: closed for tools of the tier `high`, else open.
        problem: Why the stored one is unreadable. It then refuses everything that it may apply to.
    """

    id: str
    name: str
    target: PolicyTarget
    subjects: Subjects
    per: tuple[Dimension, ...] = ()
    rates: tuple[Rate, ...] = ()
    in_flight: int | None = None
    on_database_loss: OnDatabaseLoss | None = None
    is_enabled: bool = True
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LimitRecord:
    """One limit, as stored.

    Attributes:
        revision: Number of its changes.
    """

    limit: Limit
    description: str | None
    revision: int
    created_at: datetime | None
    created_by: PolicyEditor | None
    updated_at: datetime | None
    updated_by: PolicyEditor | None

    @property
    def etag(self) -> str:
        """Return a text that differs if the limit does."""
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class LimitChange:
    """Changes to a limit by a person.

    Attributes:
        members: Names of the members to change; the others stay unchanged.
    """

    members: frozenset[str]
    name: str = ""
    description: str | None = None
    is_enabled: bool = True
    target: PolicyTarget = field(default_factory=PolicyTarget)
    subjects: Subjects = EVERYONE
    per: tuple[Dimension, ...] = ()
    rates: tuple[Rate, ...] = ()
    in_flight: int | None = None
    on_database_loss: OnDatabaseLoss | None = None


@dataclass(frozen=True, slots=True)
class LimitedTool:
    """The facts about a tool that limits use.

    Attributes:
        facets: Its known effects, as texts `flag:value`.
        source_type: Whose tool it is; None if that is unknown.
    """

    server_id: str
    name: str
    facets: tuple[str, ...] = ()
    cost_tier: str | None = None
    source_type: SourceType | None = None


@dataclass(frozen=True, slots=True)
class SpentLimit:
    """A limit that has no room for a call at the moment.

    Attributes:
        what: Of what there is none left.
        wait_seconds: After how long a call gets through if nobody else makes one; None for never.
    """

    what: str
    wait_seconds: float | None


def words_of(limit: Limit, rate: Rate | None) -> str:
    """Return what a rate of a limit allows, or without one how many calls may be under way."""
    per = " and ".join(one.value.replace("_", " ") for one in limit.per)
    each = f" for each {per}" if per else ""
    if rate is None:
        return f"{limit.in_flight or 0} calls at a time{each}"
    return f"{rate.count} calls a {rate.period.value}{each}"


def key_of(limit: Limit, user: UserContext, tool: LimitedTool) -> str:
    """Return what a call is counted under, in a limit that applies to it."""
    parts = []
    for dimension in limit.per:
        match dimension:
            case Dimension.USER:
                parts.append(user.user_id)
            case Dimension.ROLE:
                parts.append(user.role.value)
            case Dimension.TOKEN:
                parts.append(user.token_id or user.user_id)
            case Dimension.SERVER:
                parts.append(tool.server_id)
            case Dimension.TOOL:
                parts += [tool.server_id, tool.name]
            case Dimension.COST_TIER:
                parts.append(tool.cost_tier or "")
    return "\0".join(parts)


@dataclass(frozen=True, slots=True)
class QuotaKey:
    """What calls are counted under.

    Attributes:
        part: The period of the rate, or that of calls under way.
        key: The values of the limit's dimensions.
    """

    limit_id: str
    part: str
    key: str

    @property
    def document_id(self) -> str:
        """Return the id of its document."""
        digest = hashlib.sha256(self.key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return f"{self.limit_id}:{self.part}:{digest}"
