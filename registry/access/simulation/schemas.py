"""Body and answer of a simulation: snake_case, as the records are stored."""

from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic import model_validator as validator

from registry.access.limits.schemas import LimitCreate
from registry.access.policies.schemas import PolicyCreate
from registry.access.simulation.values import RuleKind, SimulationQuestion
from registry.access.toolsets.schemas import ToolsetBody
from registry.core.cursor import in_utc
from registry.core.text import ObjectIdText

MAX_USERS = 100


class SimulateRequest(BaseModel):
    """A draft of one rule: what would make it, the id of the one that it replaces, or both.

    An id alone simulates the removal.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    policy: PolicyCreate | None = None
    policy_id: ObjectIdText | None = None
    limit: LimitCreate | None = None
    limit_id: ObjectIdText | None = None
    toolset: ToolsetBody | None = None
    toolset_id: ObjectIdText | None = None
    user_ids: Annotated[list[ObjectIdText] | None, Field(min_length=1, max_length=MAX_USERS)] = (
        Field(
            default=None,
            description="For a toolset, whose calls are looked at; otherwise those of its "
            "`default_for`, or, if it has none, the caller's own.",
        )
    )
    since: AwareDatetime | None = Field(
        default=None, description="Begin of the period; a day before its end if left out."
    )
    until: AwareDatetime | None = Field(default=None, description="Its end; now if left out.")

    @validator(mode="after")
    def _one_rule(self) -> Self:
        if len(self._kinds()) != 1:
            raise ValueError(
                "give policy or policy_id, limit or limit_id, or toolset or toolset_id"
            )
        if self.user_ids is not None and self._kinds() != [RuleKind.TOOLSET]:
            raise ValueError("user_ids: goes with a toolset, and only with it")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("since: must be before until")
        return self

    def _kinds(self) -> list[RuleKind]:
        return [
            kind
            for kind in RuleKind
            if getattr(self, kind.value) is not None or getattr(self, f"{kind}_id") is not None
        ]

    def question(self) -> SimulationQuestion:
        """Return the value.

        Raises:
            MomentOutOfRangeError: A time lies outside of the calendar in UTC.
        """
        kind = self._kinds()[0]
        draft: PolicyCreate | LimitCreate | ToolsetBody | None = getattr(self, kind.value)
        rule_id: str | None = getattr(self, f"{kind}_id")
        return SimulationQuestion(
            kind,
            None if draft is None else draft.change(),
            rule_id,
            in_utc("since", self.since),
            in_utc("until", self.until),
            None if self.user_ids is None else frozenset(self.user_ids),
        )


class EffectCounts(BaseModel):
    """Numbers of calls, by what the draft does to them, compared with the rules of today."""

    would_be_refused: int
    newly_allowed: int
    unchanged: int
    undecided: int = Field(description="What follows from something that no record says.")


class EffectAnswer(EffectCounts):
    """Calls of one tool by one caller."""

    user_id: str
    username: str
    server_id: str
    server: str | None = Field(description="Its slug when it was called last.")
    tool: str = Field(description="Its name on the server.")
    example_at: str = Field(description="When the latest call that is not unchanged was made.")
    undecided_because: str | None


class SimulateAnswer(BaseModel):
    """What a draft would have changed."""

    kind: RuleKind
    since: str
    until: str
    covered_since: str = Field(
        description="From here on all records were looked at; there is a maximum."
    )
    is_complete: bool = Field(description="Whether this is the whole period.")
    calls: int
    totals: EffectCounts
    groups: list[EffectAnswer] = Field(
        description="By caller, server and tool, the largest first; without those in which all "
        "calls are unchanged."
    )
    has_more: bool = Field(description="Whether groups are left out.")
    notes: list[str] = Field(description="What this rests on, and what is not known.")
