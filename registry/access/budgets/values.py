"""Values about budgets. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from registry.access.policies.values import PolicyEditor, Subjects
from registry.usage.totals import MonthKey

WARNED_PERCENT = 80
SPENT_PERCENT = 100


@dataclass(frozen=True, slots=True)
class Budget:
    """What some callers may spend, together, in a calendar month (UTC).

    Attributes:
        tenant_id: Of its callers; None for callers of all tenants.
        amount: Millionths of the currency unit.
        subjects: Users and roles, or everyone.
        billing_tags: Only for tools with one of these; empty for all tools.
        problem: Why the stored one is unreadable. It then allows nothing to whom it may name.
    """

    id: str
    name: str
    tenant_id: str | None
    amount: int
    subjects: Subjects
    billing_tags: frozenset[str] = frozenset()
    problem: str | None = None

    def covers(self, tenant_id: str | None, user_id: str, role: str, tags: Iterable[str]) -> bool:
        """Whether it is for calls of this caller, of a tool with these tags."""
        subjects = self.subjects
        if self.tenant_id is not None and self.tenant_id != tenant_id:
            return False
        if not (subjects.everyone or user_id in subjects.users or role in subjects.roles):
            return False
        return not self.billing_tags or not self.billing_tags.isdisjoint(tags)

    def spent(self, spending: Mapping[MonthKey, int], month: datetime) -> int:
        """Return what was spent of it in a month."""
        return sum(
            cost
            for (its_month, tenant_id, user_id, role, tags), cost in spending.items()
            if its_month == month and self.covers(tenant_id, user_id, role, tags)
        )


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """One budget, as stored.

    Attributes:
        noticed: The month, and the percentage of it, that was reported last.
        revision: Number of its changes.
    """

    budget: Budget
    noticed: tuple[datetime, int] | None
    revision: int
    created_at: datetime | None
    created_by: PolicyEditor | None
    updated_at: datetime | None
    updated_by: PolicyEditor | None

    @property
    def etag(self) -> str:
        """Return a text that differs if the budget does."""
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class BudgetChange:
    """Changes to a budget by a person. What is None stays."""

    name: str | None = None
    amount: int | None = None
    subjects: Subjects | None = None
    billing_tags: frozenset[str] | None = None
