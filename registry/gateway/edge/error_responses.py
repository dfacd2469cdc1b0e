"""Render refusals and the application's own errors as JSON-RPC. Pure."""

from collections.abc import Mapping

import orjson

from packages.database.errors import DatabaseUnavailable
from registry.auth.errors import InsufficientScopeError, UnauthorizedError, challenge
from registry.core.errors import ErrorKind, RegistryError
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import (
    InsufficientScope,
    InternalFailure,
    NotServing,
    Refusal,
    Unauthorized,
    UpstreamFailed,
    UserKeyNeeded,
)
from registry.gateway.protocol.envelope import RequestId
from registry.oauth.errors import (
    AGAIN_SECONDS,
    AuthorizationRequiredError,
    AuthorizationUnavailableError,
)
from registry.servers.errors import UserKeyMissingError

META_PREFIX = "mcp-gateway-registry/"
"""Prefix of the gateway's own members of `_meta`."""

ERROR_META_KEY = f"{META_PREFIX}error"
"""Member of `_meta` of a failed result that the gateway created: an error's `data`."""


def challenged(error: UnauthorizedError | InsufficientScopeError) -> Refusal:
    """Return the refusal with the `WWW-Authenticate` header."""
    kind = InsufficientScope if isinstance(error, InsufficientScopeError) else Unauthorized
    headers = [(b"www-authenticate", (challenge(error) or "").encode())]
    return kind(error.message, facts=error.facts, headers=headers)


def refusal_for(error: Exception) -> Refusal:
    """Return the refusal for an error of another part of the application."""
    match error:
        case UserKeyMissingError() | AuthorizationRequiredError():
            # Not logged: a message may contain a link for the caller alone.
            return UserKeyNeeded(error.message)
        case AuthorizationUnavailableError(kind=ErrorKind.UNAVAILABLE):
            return NotServing(error.message, AGAIN_SECONDS)
        case RegistryError(kind=ErrorKind.UNAVAILABLE):
            return NotServing(error.message)
        case RegistryError(kind=ErrorKind.UPSTREAM | ErrorKind.INVALID):
            return UpstreamFailed(error.message)
        case DatabaseUnavailable():
            return NotServing("The database is not available; try again in a moment.")
        case _:
            return InternalFailure()


def status_of(exchange: GatewayRequest, refusal: Refusal) -> int:
    """Return the HTTP status of a refusal.

    The Python SDK 1.x ends the whole session on an HTTP error. So requests of the handshake's era
    that were understood get status 200 and a JSON-RPC error; docs/decisions/0029-errors-inside.md.
    """
    is_inside = exchange.reports_errors_in_body and not refusal.is_of_http
    if is_inside or (refusal.is_always_result and exchange.request_id is not None):
        return 200
    return refusal.http_status


def refusal_body(exchange: GatewayRequest, refusal: Refusal) -> bytes:
    """Return the answer to a refused request: an error, or a tool's failed result."""
    request_id = exchange.request_id
    is_result = refusal.is_for_model and exchange.method == "tools/call"
    is_result = is_result and (exchange.reports_errors_in_body or refusal.is_always_result)
    if not is_result or request_id is None:
        return error_body(refusal, request_id, exchange.trace_id)
    error = {"code": refusal.rpc_code, **_facts(refusal, exchange.trace_id)}
    result = {
        "content": [{"type": "text", "text": refusal.message}],
        "isError": True,
        "_meta": {ERROR_META_KEY: error},
    }
    if exchange.is_modern:
        result["resultType"] = "complete"
    return result_body(result, request_id)


def error_body(
    refusal: Refusal, request_id: RequestId | None, trace_id: str | None = None
) -> bytes:
    """Return the JSON-RPC error object's text.

    Args:
        refusal: The refusal to render.
        request_id: The id of the request; None if unknown.
        trace_id: For finding the logs and records of the request.
    """
    return orjson.dumps(
        {
            "jsonrpc": "2.0",
            "id": request_id,
            "error": {
                "code": refusal.rpc_code,
                "message": refusal.message,
                "data": _facts(refusal, trace_id),
            },
        }
    )


def _facts(refusal: Refusal, trace_id: str | None) -> dict[str, object]:
    traced = {} if trace_id is None else {"trace_id": trace_id}
    return {"error": refusal.error, **refusal.facts, **traced}


def result_body(result: Mapping[str, object], request_id: RequestId) -> bytes:
    """Return the JSON-RPC result object's text."""
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})
