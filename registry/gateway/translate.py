"""Render refusals and the application's own errors as JSON-RPC. Pure."""

from collections.abc import Mapping

import orjson

from packages.database.errors import DatabaseUnavailable
from registry.auth.errors import InsufficientScopeError, UnauthorizedError
from registry.core.errors import ErrorKind, RegistryError
from registry.gateway.envelope import RequestId
from registry.gateway.errors import (
    InsufficientScope,
    InternalFailure,
    NotServing,
    Refusal,
    Unauthorized,
    UpstreamFailed,
    UserKeyNeeded,
)
from registry.gateway.requests import Exchange
from registry.servers.errors import UserKeyMissingError


def challenged(error: UnauthorizedError | InsufficientScopeError, metadata_url: str) -> Refusal:
    """Return the refusal with the `WWW-Authenticate` header (RFC 6750, 3; RFC 9728, 5.1)."""
    parts = [f'resource_metadata="{metadata_url}"']
    kind: type[Refusal] = Unauthorized
    if isinstance(error, InsufficientScopeError):
        kind = InsufficientScope
        parts[:0] = ['error="insufficient_scope"', f'scope="{" ".join(error.needed)}"']
    elif error.token_was_sent:
        parts.insert(0, 'error="invalid_token"')
    headers = [(b"www-authenticate", f"Bearer {', '.join(parts)}".encode())]
    return kind(error.message, facts=error.facts, headers=headers)


def refusal_for(error: Exception) -> Refusal:
    """Return the refusal for a failure that another part of the application reported."""
    match error:
        case UserKeyMissingError():
            return UserKeyNeeded(error.message)
        case RegistryError(kind=ErrorKind.UNAVAILABLE):
            return NotServing(error.message)
        case RegistryError(kind=ErrorKind.UPSTREAM | ErrorKind.INVALID):
            return UpstreamFailed(error.message)
        case DatabaseUnavailable():
            return NotServing("The database is not available; try again in a moment.")
        case _:
            return InternalFailure()


def by_era(exchange: Exchange, refusal: Refusal) -> Refusal:
    """Give an error about parameters the status it has in the client's era."""
    refusal.http_status = 400 if exchange.is_modern else 200
    return refusal


def error_body(
    refusal: Refusal, request_id: RequestId | None, trace_id: str | None = None
) -> bytes:
    """Return the JSON-RPC error object's text.

    Args:
        refusal: What the caller is told.
        request_id: Of the request; None when it is not known.
        trace_id: By which logs and records can be found.
    """
    traced = {} if trace_id is None else {"trace_id": trace_id}
    return orjson.dumps(
        {
            "jsonrpc": "2.0",
            "id": request_id,
            "error": {
                "code": refusal.rpc_code,
                "message": refusal.message,
                "data": {"error": refusal.error, **refusal.facts, **traced},
            },
        }
    )


def result_body(result: Mapping[str, object], request_id: RequestId) -> bytes:
    """Return the JSON-RPC result object's text."""
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})
