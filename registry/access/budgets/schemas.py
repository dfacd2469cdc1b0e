"""Bodies and answers of the budgets API: snake_case, as they are stored."""

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic import model_validator as validator

from packages.models.budgets import MAX_BUDGET_NAME
from registry.access.budgets.values import BudgetChange
from registry.access.policies.schemas import MAX_SUBJECTS, Line, PersonAnswer
from registry.access.policies.values import Subjects
from registry.auth.identity import Role
from registry.core.text import ObjectIdText
from registry.usage.values import MILLION
from registry.web.pages import LargePerPage, PageNumber, Pagination

MAX_AMOUNT = 1_000_000_000
MAX_TAGS = 20

Name = Annotated[Line, StringConstraints(max_length=MAX_BUDGET_NAME)]
Tag = Annotated[Line, StringConstraints(max_length=64)]


def _in_millionths(amount: float) -> float:
    if round(amount * MILLION) / MILLION != amount:
        raise ValueError("must have at most six decimals")
    return amount


Amount = Annotated[
    float,
    Field(strict=True, ge=0, le=MAX_AMOUNT, allow_inf_nan=False),
    AfterValidator(_in_millionths),
]


class BudgetQuery(BaseModel):
    """Which page to list."""

    model_config = ConfigDict(extra="forbid")

    page: PageNumber = 1
    per_page: LargePerPage = 50


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class BudgetSubjects(_Body):
    """The callers of a budget, who spend it together: those of whom any of this is true."""

    users: Annotated[list[ObjectIdText], Field(max_length=MAX_SUBJECTS)] = Field(
        default_factory=list
    )
    roles: Annotated[list[Role], Field(max_length=len(Role))] = Field(default_factory=list)
    everyone: Annotated[bool, Field(strict=True)] = False

    @validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.value() == Subjects():
            raise ValueError("name at least one user or role, or everyone")
        return self

    def value(self) -> Subjects:
        """Return the value."""
        return Subjects(
            users=frozenset(self.users), roles=frozenset(self.roles), everyone=self.everyone
        )


class BudgetCreate(_Body):
    """A budget to make."""

    name: Name
    amount: Amount = Field(
        description="For each calendar month (UTC), in the currency unit; six decimals at most."
    )
    subjects: BudgetSubjects
    billing_tags: Annotated[list[Tag], Field(max_length=MAX_TAGS)] = Field(
        default_factory=list,
        description="Only calls of tools with one of these tags; empty for all tools.",
    )

    def change(self) -> BudgetChange:
        """Return the requested change."""
        return BudgetChange(
            self.name,
            round(self.amount * MILLION),
            self.subjects.value(),
            frozenset(self.billing_tags),
        )


class BudgetUpdate(_Body):
    """What to change; what is left out stays. *subjects* is replaced as a whole."""

    name: Name | None = None
    amount: Amount | None = None
    subjects: BudgetSubjects | None = None
    billing_tags: Annotated[list[Tag] | None, Field(max_length=MAX_TAGS)] = None

    @validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("nothing is to be changed")
        for name in self.model_fields_set:
            if getattr(self, name) is None:
                raise ValueError(f"{name}: must not be null")
        return self

    def change(self) -> BudgetChange:
        """Return the requested change."""
        return BudgetChange(
            self.name,
            None if self.amount is None else round(self.amount * MILLION),
            None if self.subjects is None else self.subjects.value(),
            None if self.billing_tags is None else frozenset(self.billing_tags),
        )


class BudgetSubjectsAnswer(BaseModel):
    """The callers of a budget."""

    users: list[str]
    roles: list[str]
    everyone: bool


class BudgetAnswer(BaseModel):
    """One budget."""

    id: str
    name: str
    amount: float
    subjects: BudgetSubjectsAnswer
    billing_tags: list[str]
    spent: float = Field(description="This month, but for the last second.")
    month: str
    starts_again_at: str
    problem: str | None = Field(
        description="Why the stored budget cannot be read; calls with a price are refused then."
    )
    etag: str = Field(description="What `If-Match` takes.")
    created_at: str | None
    created_by: PersonAnswer | None
    updated_at: str | None
    updated_by: PersonAnswer | None


class BudgetList(BaseModel):
    """One page."""

    budgets: list[BudgetAnswer]
    pagination: Pagination
