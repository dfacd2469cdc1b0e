"""Requests to a running registry: a tool call with the SDK's client, or one of its API."""

from contextlib import suppress
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from registry.core.errors import ErrorKind, RegistryError
from registry.gateway.edge.confirmation import CONFIRM_META_KEY

CALL_SECONDS = 600
"""As long as the gateway waits for one response by default."""


class CallRefusedError(RegistryError):
    """The gateway did not take the call, or did not answer."""

    kind = ErrorKind.UPSTREAM


async def call_tool(
    address: str, token: str, name: str, arguments: dict[str, Any], *, is_confirmed: bool = False
) -> dict[str, Any]:
    """Call a tool and return its result as it came.

    Args:
        address: Of the gateway's path.
        token: Whose call it is.
        name: The tool's, at that path.
        arguments: The call's.
        is_confirmed: Whether the caller has confirmed the call.

    Raises:
        CallRefusedError: There is no gateway, or it refused; says why.
    """
    headers = {"Authorization": f"Bearer {token}"}
    meta: Any = {CONFIRM_META_KEY: True} if is_confirmed else None
    try:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=CALL_SECONDS, trust_env=False) as http,
            Client(streamable_http_client(address, http_client=http)) as client,
        ):
            result = await client.call_tool(name, arguments, meta=meta)
    except* MCPError as group:
        raise CallRefusedError(_first(group)) from None
    except* httpx2.HTTPStatusError as group:
        raise CallRefusedError(f"{address}: {_first(group)}") from None
    except* httpx2.TransportError:
        problem = f"{address} cannot be reached: is the registry running there?"
        raise CallRefusedError(problem) from None
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


API_SECONDS = 60
"""As long as a connection to a server may take."""


async def ask_api(
    address: str, token: str, method: str, path: str, content: Any = None
) -> tuple[int, dict[str, Any]]:
    """Send a request to the API of a running registry; return the status and the answer.

    Args:
        address: Of the registry.
        token: Whose request it is.
        method: Of HTTP.
        path: Below `/api/v1`.
        content: The body, sent as JSON; None for none.

    Raises:
        CallRefusedError: There is no registry, or the answer is not its own.
    """
    headers = {"Authorization": f"Bearer {token}"}
    body = None
    try:
        async with httpx2.AsyncClient(
            headers=headers, timeout=API_SECONDS, trust_env=False
        ) as http:
            answer = await http.request(method, f"{address}/api/v1{path}", json=content)
    except httpx2.TransportError:
        problem = f"{address} cannot be reached: is the registry running there?"
        raise CallRefusedError(problem) from None
    with suppress(ValueError):
        body = answer.json()
    if not isinstance(body, dict):
        raise CallRefusedError(f"{address} did not answer as a registry.")
    return answer.status_code, body


def _first(group: BaseExceptionGroup[Any]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(str(error).split())
