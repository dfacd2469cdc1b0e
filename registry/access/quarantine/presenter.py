"""Quarantines in the form of responses. Pure."""

from datetime import datetime

from registry.access.policies.presenter import present_moment, present_person
from registry.access.quarantine.values import BlastRadius, Quarantine
from registry.core.json import JsonObject


def present_quarantine(found: Quarantine, now: datetime) -> JsonObject:
    """Return a quarantine in the form of responses."""
    return {
        "id": found.id,
        "kind": found.kind.value,
        "subject": found.subject,
        "tool": found.tool,
        "name": found.name,
        "reason": found.reason,
        "ends_calls": found.ends_calls,
        "is_active": found.is_active(now),
        "created_at": present_moment(found.created_at),
        "created_by": present_person(found.created_by),
        "expires_at": present_moment(found.expires_at),
        "lifted_at": present_moment(found.lifted_at),
        "lifted_by": present_person(found.lifted_by),
    }


def present_radius(radius: BlastRadius) -> JsonObject:
    """Return what was reached in the form of responses."""
    return {
        "hours": radius.hours,
        "is_known": radius.is_known,
        "is_complete": radius.is_complete,
        "calls": radius.calls,
        "groups": [
            {
                "user_id": group.user_id,
                "username": group.username,
                "server": group.server,
                "method": group.method,
                "tool": group.tool,
                "calls": group.calls,
                "first_at": present_moment(group.first_at),
                "last_at": present_moment(group.last_at),
            }
            for group in radius.groups
        ],
    }
