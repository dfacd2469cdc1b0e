"""Budgets in the form of responses and of the audit trail. Pure."""

from datetime import datetime

from registry.access.budgets.values import BudgetRecord
from registry.access.policies.values import PolicyEditor
from registry.core.json import JsonObject
from registry.core.text import timestamp
from registry.usage.presenter import present_cost
from registry.usage.totals import month_after


def present_budget(record: BudgetRecord, month: datetime, spent: int) -> JsonObject:
    """Return a budget, and what was spent of it in a month, in the form of responses."""
    return {
        **present_content(record),
        "id": record.budget.id,
        "problem": record.budget.problem,
        "spent": present_cost(spent),
        "month": month.strftime("%Y-%m"),
        "starts_again_at": timestamp(month_after(month)),
        "etag": record.etag,
        "created_at": _moment(record.created_at),
        "created_by": _person(record.created_by),
        "updated_at": _moment(record.updated_at),
        "updated_by": _person(record.updated_by),
    }


def present_content(record: BudgetRecord) -> JsonObject:
    """Return what people say in a budget."""
    budget = record.budget
    return {
        "name": budget.name,
        "amount": present_cost(budget.amount),
        "subjects": {
            "users": [*sorted(budget.subjects.users)],
            "roles": [*sorted(role.value for role in budget.subjects.roles)],
            "everyone": budget.subjects.everyone,
        },
        "billing_tags": [*sorted(budget.billing_tags)],
    }


def _moment(value: datetime | None) -> str | None:
    return None if value is None else timestamp(value)


def _person(person: PolicyEditor | None) -> JsonObject | None:
    if person is None:
        return None
    return {"user_id": person.user_id, "username": person.username}
