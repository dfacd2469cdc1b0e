"""Values about simulations. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from packages.models.states import Effect
from registry.access.limits.values import LimitChange
from registry.access.policies.values import PolicyChange, Subjects, ToolFacts
from registry.access.toolsets.values import ToolsetChange
from registry.auth.identity import UserContext
from registry.usage.values import UsageRecord


class RuleKind(StrEnum):
    """The kinds of rules that are simulated."""

    POLICY = "policy"
    LIMIT = "limit"
    TOOLSET = "toolset"


class CallEffect(StrEnum):
    """What a draft does to a recorded call, compared with the rules of today."""

    REFUSED = "would_be_refused"
    ALLOWED = "newly_allowed"
    UNCHANGED = "unchanged"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class SimulationQuestion:
    """A draft, and the period whose calls it is tried on.

    Attributes:
        draft: The rule as it would be; None for the removal of *rule_id*.
        rule_id: The stored rule that the draft replaces; None for a new one.
        until: None for now.
        user_ids: For toolsets, whose calls; None for those of its `default_for`.
    """

    kind: RuleKind
    draft: PolicyChange | LimitChange | ToolsetChange | None
    rule_id: str | None
    since: datetime | None
    until: datetime | None
    user_ids: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class RecordedCaller:
    """A caller of a recorded call, as far as they are known today.

    Attributes:
        user: With role and groups, if they are known; without scopes, which no record says.
        knows_people: Whether role and groups are known.
        may_be_admin: Whether they may be an administrator, for all that is known.
    """

    user: UserContext
    knows_people: bool
    may_be_admin: bool = False

    def is_named(self, subjects: Subjects) -> bool | None:
        """Return whether *subjects* name the caller; None if that is unknown."""
        if subjects.everyone or self.user.user_id in subjects.users:
            return True
        if self.knows_people and (
            self.user.role in subjects.roles or not subjects.groups.isdisjoint(self.user.groups)
        ):
            return True
        if subjects.scopes or (not self.knows_people and (subjects.roles or subjects.groups)):
            return None
        return False


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A recorded call with what is known of it today.

    Attributes:
        tool: None if its server offers no tool of that name any more.
        default_effect: What holds for tools of its server that no policy allows.
    """

    record: UsageRecord
    server_id: str
    caller: RecordedCaller
    tool: ToolFacts | None
    cost_tier: str | None = None
    default_effect: Effect = Effect.ALLOW

    @property
    def was_sent(self) -> bool:
        """Whether it was sent to its server."""
        return self.record.admission_ms is not None


@dataclass(frozen=True, slots=True)
class EffectGroup:
    """What a draft does to the calls of one tool by one caller.

    Attributes:
        server: Its slug when it was called last.
        tool: Its name on the server, or what the client called it if that is not known.
        calls: How many, by what the draft does to them.
        example_at: When the latest call that is not unchanged was made.
        undecided_because: Why calls are undecided.
    """

    user_id: str
    username: str
    server_id: str
    server: str | None
    tool: str
    calls: Mapping[CallEffect, int]
    example_at: datetime
    undecided_because: str | None = None


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a draft would have changed.

    Attributes:
        since: Begin of the period.
        covered_since: From here on all records were looked at.
        calls: How many, by what the draft does to them.
        groups: Those with a call that is not unchanged, the largest first.
        has_more: Whether groups are left out.
        notes: What the answer rests on, and what it does not know.
    """

    kind: RuleKind
    since: datetime
    until: datetime
    covered_since: datetime
    calls: Mapping[CallEffect, int]
    groups: Sequence[EffectGroup] = field(default_factory=tuple)
    has_more: bool = False
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def is_complete(self) -> bool:
        """Whether all calls of the period were looked at."""
        return self.covered_since == self.since
