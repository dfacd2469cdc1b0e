"""JSON answers and audit facts of tokens. Pure."""

from datetime import UTC, datetime

from registry.auth.identity import claimed_toolset
from registry.core.json import JsonObject
from registry.core.logs import MASK
from registry.tokens.naming import server_of, shown_identifier
from registry.tokens.values import (
    IssuedPair,
    IssuedToken,
    ListedFamily,
    StoredToken,
    TokenOrder,
    TokenRecord,
)

RECORDED_METADATA = (
    "server_id",
    "server_name",
    "scope",
    "token_type",
    "refresh_token_id",
    "access_token_id",
)
"""Members of the metadata that are audited; the others may hold anything, including secrets."""

RECORDED_CHARACTERS = 256


def present_created(token: TokenRecord) -> JsonObject:
    """Return the answer to a stored token."""
    return {
        "id": token.token_id,
        "type": token.key.kind.value,
        "identifier": shown_identifier(token.key),
        "created_at": timestamp(token.created_at),
        "expires_at": timestamp(token.expires_at),
    }


def present_summary(token: TokenRecord) -> JsonObject:
    """Return a token for lists."""
    return {**present_created(token), "metadata": shown_metadata(token)}


def present_detail(token: StoredToken) -> JsonObject:
    """Return a token with its value."""
    return {**present_summary(token), "user_id": token.user_id, "token": token.value}


def present_refreshed(token: TokenRecord, value: str) -> JsonObject:
    """Return a token that was refreshed, with its value."""
    return {
        "id": token.token_id,
        "type": token.key.kind.value,
        "identifier": shown_identifier(token.key),
        "token": value,
        "expires_at": timestamp(token.expires_at),
        "updated_at": timestamp(token.created_at),
    }


def present_issued(pair: IssuedPair) -> JsonObject:
    """Return an issued pair of tokens with its values."""
    return {
        "success": True,
        "tokens": {
            "jti": pair.access_id,
            "access_token": pair.access_token,
            "refresh_token": pair.refresh_token,
            "expires_in": pair.expires_in_seconds,
            "refresh_expires_in": pair.refresh_expires_in_seconds,
            "token_type": "Bearer",
            "scope": " ".join(pair.scopes),
        },
    }


def present_issued_for(order: TokenOrder, issued: IssuedToken) -> JsonObject:
    """Return a token issued for another user, with its value."""
    return {
        "jti": issued.access_id,
        "access_token": issued.access_token,
        "expires_in": round(order.lifetime.total_seconds()),
        "token_type": "Bearer",
        "user_id": order.user_id,
        "role": order.role.value,
        "scope": " ".join(sorted(order.scopes)),
    }


def present_family(listed: ListedFamily) -> JsonObject:
    """Return a token family for lists."""
    family = listed.family
    return {
        "jti": family.access_token.id,
        "session_id": family.family_id,
        "user_id": family.user_id,
        "username": family.username,
        "role": family.role.value,
        "scope": " ".join(family.scopes),
        "description": family.description,
        "toolset": None if family.toolset is None else claimed_toolset(family.toolset)[0],
        "tools": family.tools,
        "generated_with": family.ancestors[-1] if family.ancestors else None,
        "created_at": timestamp(family.created_at),
        "renewed_at": None if family.exchanged_at is None else timestamp(family.exchanged_at),
        "access_expires_at": timestamp(family.access_token.expires_at),
        "is_renewable": family.refresh_token_id is not None,
        "expires_at": timestamp(family.expires_at),
        "revoked": listed.is_revoked,
    }


def recorded(token: TokenRecord) -> JsonObject:
    """Return the audited facts of a token."""
    shown: JsonObject = {
        "type": token.key.kind.value,
        "identifier": shown_identifier(token.key),
        "token": MASK,
        "expires_at": timestamp(token.expires_at),
    }
    for name in RECORDED_METADATA:
        value = token.metadata.get(name)
        if isinstance(value, str):
            shown[name] = value[:RECORDED_CHARACTERS]
    return shown


def shown_metadata(token: TokenRecord) -> JsonObject:
    """Return the metadata, with the server's name if only the identifier has it."""
    server = server_of(token.key)
    if server is None or token.metadata.get("server_name"):
        return token.metadata
    return {**token.metadata, "server_name": server}


def timestamp(moment: datetime) -> str:
    """Return *moment* in UTC to the second, or to the millisecond if it has a fraction."""
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
