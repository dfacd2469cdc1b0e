"""Versions of servers as answers: camelCase like their servers, secrets masked. Pure."""

from pydantic import JsonValue

from packages.models.states import ServerVersionState
from registry.core.json import JsonObject
from registry.core.logs import MASK
from registry.servers.credentials import masked_url
from registry.servers.presenter import masked_credentials, timestamp
from registry.servers.storage.version_repository import ServerVersionRecord
from registry.servers.transport import ADDRESSES, CONNECTION_MEMBERS, HEADER_MEMBERS
from registry.servers.versions.differences import MemberDifference

CREDENTIALS = frozenset({"apiKey", "oauth", *HEADER_MEMBERS})
SHOWN_OF_API_KEYS = frozenset(
    {"apiKey.source", "apiKey.authorization_type", "apiKey.custom_header"}
)
"""Another program may have put anything beside them."""


def present_version(version: ServerVersionRecord) -> JsonObject:
    """Return one version."""
    by = version.created_by
    return {
        "version": version.version,
        "apiVersion": str(version.version),
        "apiType": "mcp",
        "state": version.state,
        "active": version.state == ServerVersionState.ACTIVE.value,
        "origin": version.origin,
        "restoredFrom": version.restored_from,
        "transportConfig": _transport(version.transport.plain),
        "fingerprint": version.transport.fingerprint,
        "unreadable": list(version.transport.unreadable),
        "createdAt": timestamp(version.created_at),
        "createdBy": None
        if by is None
        else {"userId": by.get("user_id"), "username": by.get("username")},
    }


def present_difference(difference: MemberDifference) -> JsonObject:
    """Return one member that differs."""
    return {
        "field": difference.field,
        "change": difference.kind.value,
        "before": _shown(difference.field, difference.before),
        "after": _shown(difference.field, difference.after),
    }


def _transport(plain: JsonObject) -> JsonObject:
    shown: JsonObject = {
        name: _masked(name, plain[name])
        for name in CONNECTION_MEMBERS
        if name in plain and name not in CREDENTIALS
    }
    return {**shown, **masked_credentials(plain, HEADER_MEMBERS)}


def _shown(field: str, value: JsonValue) -> JsonValue:
    if field.startswith("apiKey.") and field not in SHOWN_OF_API_KEYS and value is not None:
        return MASK
    return _masked(field, value)


def _masked(name: str, value: JsonValue) -> JsonValue:
    is_address = name in ADDRESSES or name.startswith("oauth.")
    if is_address and isinstance(value, str) and "://" in value:
        return masked_url(value)
    return value
