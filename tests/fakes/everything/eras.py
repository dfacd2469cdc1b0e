"""Servers that know one protocol era only, and answer the other as such servers do."""

from typing import Any

import orjson
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

INVALID_REQUEST = -32600
UNSUPPORTED_VERSION = -32022
LATEST_MODERN = MODERN_PROTOCOL_VERSIONS[-1]


class OneEra:
    """Lets requests of one era through to a server of both.

    Args:
        app: The server.
        is_modern: Which era.
    """

    def __init__(self, app: ASGIApp, *, is_modern: bool) -> None:
        self._app = app
        self._is_modern = is_modern

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http" or self._is_ours(scope):
            await self._app(scope, receive, send)
            return
        refuse = _refused_by_modern if self._is_modern else _refused_by_legacy
        response = await refuse(scope, receive)
        await response(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        version = _version(scope)
        is_handshake = version is None or version in HANDSHAKE_PROTOCOL_VERSIONS
        return is_handshake is not self._is_modern


async def _refused_by_legacy(scope: Scope, receive: Receive) -> Response:
    # As servers written before the new era do; the words are those of the older SDKs.
    known = ", ".join(HANDSHAKE_PROTOCOL_VERSIONS)
    message = f"Bad Request: Unsupported protocol version: {_version(scope)}. Supported: {known}"
    return _error("server-error", INVALID_REQUEST, message)


async def _refused_by_modern(scope: Scope, receive: Receive) -> Response:
    if scope["method"] != "POST":
        return Response(status_code=405, headers={"Allow": "POST"})
    body = b""
    more = True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
    message: dict[str, Any] = orjson.loads(body)
    params = message.get("params") or {}
    requested = _version(scope) or params.get("protocolVersion") or "2025-03-26"
    facts = {"supported": [LATEST_MODERN], "requested": requested}
    return _error(message.get("id"), UNSUPPORTED_VERSION, "Unsupported protocol version", facts)


def _version(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"mcp-protocol-version":
            return str(value.decode("latin-1").strip())
    return None


def _error(
    request_id: object, code: int, message: str, data: dict[str, Any] | None = None
) -> Response:
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return JSONResponse({"jsonrpc": "2.0", "id": request_id, "error": error}, status_code=400)
