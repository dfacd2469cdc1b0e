"""Responses about permissions. Pure."""

from datetime import datetime
from typing import cast

from pydantic import JsonValue

from registry.access.policy import Permission, PrincipalType
from registry.access.ports import SERVER_TYPE
from registry.access.service import Sharing
from registry.access.sharing import AccessRole, Entry
from registry.auth.values import DirectoryPrincipal
from registry.core.json import JsonObject
from registry.core.text import timestamp

FLAGS = [(str(flag.name), int(flag)) for flag in Permission]


def present_flags(bits: int) -> dict[str, bool]:
    """Return permission bits by name."""
    return {name: bits & bit == bit for name, bit in FLAGS}


def present_entry(
    entry: Entry,
    person: DirectoryPrincipal | None,
    *,
    with_email: bool,
    resource_type: str = SERVER_TYPE,
) -> JsonObject:
    """Return an entry with its principal's name."""
    role = entry.role
    answer: JsonObject = {
        "type": entry.principal.type.value,
        "id": entry.principal.id,
        "name": None if person is None else person.name,
        "role": None if role is None else role.value,
        "accessRoleId": None if role is None else f"{resource_type}_{role.value}",
        "permBits": entry.bits,
        "expiresAt": _timestamp(entry.expires_at),
        "grantedBy": entry.granted_by,
        "grantedAt": _timestamp(entry.granted_at),
    }
    if with_email and person is not None and person.email:
        answer["email"] = person.email
    return answer


def present_sharing(sharing: Sharing, *, with_email: bool) -> JsonObject:
    """Return the access to a resource."""
    resource = sharing.resource
    return {
        "resourceType": resource.type,
        "resourceId": resource.id,
        "serverName": resource.name if resource.type == SERVER_TYPE else None,
        "name": resource.name,
        "scope": None if resource.scope is None else resource.scope.value,
        "principals": [
            present_entry(
                entry,
                sharing.people.get((entry.principal.type.value, entry.principal.id or "")),
                with_email=with_email,
                resource_type=resource.type,
            )
            for entry in sharing.entries
            if entry.principal.type is not PrincipalType.PUBLIC
        ],
        "public": sharing.is_public,
        "publicAccessRoleId": public_role(resource.type, is_public=sharing.is_public),
        "permissions": cast("JsonValue", present_flags(sharing.verdict.bits)),
    }


def public_role(resource_type: str = SERVER_TYPE, *, is_public: bool) -> str | None:
    """Return what all users may do, in jarvis-api's terms."""
    return f"{resource_type}_{AccessRole.VIEWER.value}" if is_public else None


def present_person(person: DirectoryPrincipal, *, with_email: bool) -> JsonObject:
    """Return a principal as a search result."""
    answer: JsonObject = {"type": person.kind, "id": person.id, "name": person.name}
    if person.username:
        answer["username"] = person.username
    if with_email and person.email:
        answer["email"] = person.email
    return answer


def _timestamp(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
