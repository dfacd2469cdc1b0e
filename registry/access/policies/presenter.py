"""Policies in the form of responses and of the audit trail. Pure."""

from collections.abc import Sequence
from datetime import datetime

from registry.access.policies.values import PolicyEditor, PolicyRecord, PolicyTarget, Subjects
from registry.core.json import JsonObject
from registry.core.text import timestamp


def present_policy(record: PolicyRecord) -> JsonObject:
    """Return a policy in the form of responses."""
    return {
        **present_content(record),
        "id": record.policy.id,
        "problem": record.policy.problem,
        "etag": record.etag,
        "created_at": present_moment(record.created_at),
        "created_by": present_person(record.created_by),
        "updated_at": present_moment(record.updated_at),
        "updated_by": present_person(record.updated_by),
    }


def present_written(
    record: PolicyRecord, consequence: str | None, warnings: Sequence[str]
) -> JsonObject:
    """Return a policy that was just written, and what follows from it."""
    return {**present_policy(record), "consequence": consequence, "warnings": [*warnings]}


def present_content(record: PolicyRecord) -> JsonObject:
    """Return what people say in a policy."""
    policy = record.policy
    target, subjects = policy.target, policy.subjects
    return {
        "name": policy.name,
        "description": record.description,
        "effect": policy.effect.value,
        "is_enabled": policy.is_enabled,
        "target": present_target(target),
        "subjects": present_subjects(subjects),
    }


def present_target(target: PolicyTarget) -> JsonObject:
    """Return the tools that a rule is about."""
    return {
        "source_type": None if target.source_type is None else target.source_type.value,
        "owner_id": target.owner_id,
        "tools": list(target.tools),
        "metadata": dict(target.metadata),
    }


def present_subjects(subjects: Subjects) -> JsonObject:
    """Return the callers whom a rule names."""
    return {
        "users": [*sorted(subjects.users)],
        "groups": [*sorted(subjects.groups)],
        "roles": [*sorted(role.value for role in subjects.roles)],
        "scopes": [*sorted(subjects.scopes)],
        "everyone": subjects.everyone,
    }


def present_moment(value: datetime | None) -> str | None:
    """Return a time, if it is known."""
    return None if value is None else timestamp(value)


def present_person(person: PolicyEditor | None) -> JsonObject | None:
    """Return who did something, if that is known."""
    if person is None:
        return None
    return {"user_id": person.user_id, "username": person.username}
