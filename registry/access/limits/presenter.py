"""Limits in the form of responses and of the audit trail. Pure."""

from registry.access.limits.values import LimitRecord
from registry.access.policies.presenter import (
    present_moment,
    present_person,
    present_subjects,
    present_target,
)
from registry.core.json import JsonObject


def present_limit(record: LimitRecord) -> JsonObject:
    """Return a limit in the form of responses."""
    return {
        **present_content(record),
        "id": record.limit.id,
        "problem": record.limit.problem,
        "etag": record.etag,
        "created_at": present_moment(record.created_at),
        "created_by": present_person(record.created_by),
        "updated_at": present_moment(record.updated_at),
        "updated_by": present_person(record.updated_by),
    }


def present_content(record: LimitRecord) -> JsonObject:
    """Return what people say in a limit."""
    limit = record.limit
    loss = limit.on_database_loss
    return {
        "name": limit.name,
        "description": record.description,
        "is_enabled": limit.is_enabled,
        "target": present_target(limit.target),
        "subjects": present_subjects(limit.subjects),
        "per": [one.value for one in limit.per],
        "rates": [{"count": rate.count, "per": rate.period.value} for rate in limit.rates],
        "in_flight": limit.in_flight,
        "on_database_loss": None if loss is None else loss.value,
    }
