"""Query, bodies and answers of the limits API: snake_case, as the records are stored."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from registry.access.limits.values import Dimension, LimitChange, OnDatabaseLoss, Period, Rate
from registry.access.policies.schemas import (
    Line,
    PersonAnswer,
    SubjectsAnswer,
    SubjectsBody,
    TargetAnswer,
    TargetBody,
)
from registry.access.policies.values import EVERYONE
from registry.core.text import ObjectIdText
from registry.web.pages import LargePerPage, PageNumber, Pagination

MAX_COUNT = 1_000_000_000
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]


class LimitQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    owner_id: ObjectIdText | None = Field(
        default=None, description="Id of the server that the limits are about."
    )
    page: PageNumber = 1
    per_page: LargePerPage = 50


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class RateBody(_Body):
    """At most *count* calls in any second, minute, hour or day."""

    count: Count
    per: Period


class _Limits(_Body):
    """How much is allowed."""

    per: Annotated[list[Dimension], Field(max_length=len(Dimension))] = Field(
        default_factory=list,
        description="What is counted apart; empty to count all calls together.",
    )
    rates: Annotated[list[RateBody], Field(max_length=len(Period))] = Field(
        default_factory=list,
        description="At most one for each period: a short one bounds bursts, a long one the "
        "sustained rate.",
    )
    in_flight: Count | None = Field(default=None, description="Calls under way; null for any.")
    on_database_loss: OnDatabaseLoss | None = Field(
        default=None,
        description="What becomes of calls that cannot be counted; null for `closed` for tools "
        "of the cost tier `high`, and `open` for others.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({rate.per for rate in self.rates}) < len(self.rates):
            raise ValueError("rates: each period may be given once")
        if len(set(self.per)) < len(self.per):
            raise ValueError("per: each dimension may be given once")
        return self

    def kept(self) -> tuple[Rate, ...]:
        """Return the rates, the shortest period first."""
        rates = [Rate(rate.count, rate.per) for rate in self.rates]
        return tuple(sorted(rates, key=lambda rate: rate.period.seconds))


class LimitCreate(_Limits):
    """A limit to make."""

    name: Annotated[Line, Field(max_length=128)]
    description: Annotated[Line | None, Field(max_length=1024)] = None
    is_enabled: Annotated[bool, Field(strict=True)] = True
    target: TargetBody = Field(default_factory=TargetBody)
    subjects: SubjectsBody = Field(default_factory=lambda: SubjectsBody(everyone=True))

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.rates and self.in_flight is None:
            raise ValueError("give rates, in_flight, or both")
        return self

    def change(self) -> LimitChange:
        """Return the requested change."""
        return LimitChange(
            members=frozenset(LimitCreate.model_fields),
            name=self.name,
            description=self.description,
            is_enabled=self.is_enabled,
            target=self.target.value(),
            subjects=self.subjects.value(),
            per=tuple(self.per),
            rates=self.kept(),
            in_flight=self.in_flight,
            on_database_loss=self.on_database_loss,
        )


class LimitUpdate(_Limits):
    """What to change; what is left out stays. Lists and objects are replaced as a whole."""

    name: Annotated[Line, Field(max_length=128)] = ""
    description: Annotated[Line | None, Field(max_length=1024)] = Field(
        default=None, description="null removes it."
    )
    is_enabled: Annotated[bool, Field(strict=True)] = True
    target: TargetBody = Field(default_factory=TargetBody)
    subjects: SubjectsBody | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("nothing is to be changed")
        if "subjects" in self.model_fields_set and self.subjects is None:
            raise ValueError("subjects: must not be null")
        return self

    def change(self) -> LimitChange:
        """Return the requested change."""
        return LimitChange(
            members=frozenset(self.model_fields_set),
            name=self.name,
            description=self.description,
            is_enabled=self.is_enabled,
            target=self.target.value(),
            subjects=EVERYONE if self.subjects is None else self.subjects.value(),
            per=tuple(self.per),
            rates=self.kept(),
            in_flight=self.in_flight,
            on_database_loss=self.on_database_loss,
        )


class RateAnswer(BaseModel):
    """A rate."""

    count: int
    per: Period


class LimitAnswer(BaseModel):
    """One limit."""

    id: str
    name: str
    description: str | None
    is_enabled: bool
    target: TargetAnswer
    subjects: SubjectsAnswer
    per: list[Dimension]
    rates: list[RateAnswer]
    in_flight: int | None
    on_database_loss: OnDatabaseLoss | None
    problem: str | None = Field(
        description="Why the stored limit cannot be read; all it may apply to is refused then."
    )
    etag: str = Field(description="What `If-Match` takes.")
    created_at: str | None
    created_by: PersonAnswer | None
    updated_at: str | None
    updated_by: PersonAnswer | None


class LimitList(BaseModel):
    """One page."""

    limits: list[LimitAnswer]
    pagination: Pagination
