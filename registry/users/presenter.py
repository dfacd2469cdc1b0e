"""JSON answers of the users and groups APIs, for administrators: snake_case. Pure."""

from datetime import datetime

from registry.core.json import JsonObject
from registry.core.text import timestamp
from registry.users.values import Group, GroupRecord, UserRecord


def present_user(user: UserRecord) -> JsonObject:
    """Return a user."""
    return {
        "id": user.id,
        "name": user.name,
        "username": user.username,
        "email": user.email,
        "role": user.effective_role.value,
        "stored_role": user.role,
        "provider": user.provider,
        "disabled": user.is_disabled,
        "created_at": _moment(user.created_at),
        "updated_at": _moment(user.updated_at),
    }


def present_group(group: GroupRecord) -> JsonObject:
    """Return a group for lists."""
    return {
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "source": group.source,
        "member_count": len(group.member_ids),
        "created_at": _moment(group.created_at),
        "updated_at": _moment(group.updated_at),
    }


def present_members(group: Group) -> JsonObject:
    """Return a group with its members that exist as users."""
    return {
        **present_group(group.record),
        "members": [
            {
                "id": person.id,
                "name": person.name,
                "username": person.username,
                "email": person.email,
            }
            for person in group.members
        ],
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
