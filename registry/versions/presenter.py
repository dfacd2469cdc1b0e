"""Versions of servers as answers: camelCase like their servers, secrets masked. Pure."""

from pydantic import JsonValue

from registry.core.json import JsonObject
from registry.core.logs import MASK
from registry.servers.presenter import masked_credentials, timestamp, without_userinfo
from registry.servers.transport import CONNECTION_MEMBERS
from registry.servers.versions import ServerVersionRecord, ServerVersionState
from registry.versions.differences import MemberDifference

ADDRESSES = ("url", "proxy")
CREDENTIALS = frozenset({"apiKey", "oauth", "headers"})
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
        name: _without_userinfo(name, plain[name])
        for name in CONNECTION_MEMBERS
        if name in plain and name not in CREDENTIALS
    }
    return {**shown, **masked_credentials(plain)}


def _shown(field: str, value: JsonValue) -> JsonValue:
    if field.startswith("apiKey.") and field not in SHOWN_OF_API_KEYS and value is not None:
        return MASK
    return _without_userinfo(field, value)


def _without_userinfo(name: str, value: JsonValue) -> JsonValue:
    if name in ADDRESSES and isinstance(value, str):
        return without_userinfo(value)
    return value
