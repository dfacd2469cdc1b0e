"""Headers of a request that one worker forwards to another, with its origin. Pure."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import orjson
from multidict import CIMultiDict
from starlette.types import Scope

Headers: TypeAlias = list[tuple[bytes, bytes]]

RELAY_HEADER = b"x-registry-relay"
"""Holds the addresses of the client and of the listener. Trusted on unix sockets only."""

FROM_PEER = "registry.from_peer"
"""Set in the ASGI scope of a request that another worker forwarded, by its listener."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


def is_from_peer(scope: Scope) -> bool:
    """Whether another worker forwarded this request."""
    return FROM_PEER in scope


def relayed_headers(scope: Scope) -> CIMultiDict[str]:
    """Return the headers with which a request is forwarded."""
    headers: CIMultiDict[str] = CIMultiDict()
    origin = {name: scope.get(name) for name in ("client", "server", "scheme")}
    headers[RELAY_HEADER.decode()] = orjson.dumps(origin).decode()
    dropped = {*HOP_BY_HOP, RELAY_HEADER, b"content-length"}
    for name, value in scope["headers"]:
        if name not in dropped:
            headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return headers


def target(scope: Scope) -> str:
    """Return path and query as they were sent."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (path + b"?" + query if query else path).decode("latin-1")


def restored(scope: Scope) -> Scope | None:
    """Return the original scope of a forwarded request; None if it was not forwarded."""
    values = [value for name, value in scope["headers"] if name == RELAY_HEADER]
    if len(values) != 1:
        return None
    addresses: dict[str, Any] = orjson.loads(values[0])
    return {
        **scope,
        "headers": [item for item in scope["headers"] if item[0] != RELAY_HEADER],
        "client": _address(addresses["client"]),
        "server": _address(addresses["server"]),
        "scheme": addresses["scheme"],
        FROM_PEER: True,
    }


def returned_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of a worker's answer that are sent to the client."""
    return [(name.lower(), value) for name, value in raw if name.lower() not in HOP_BY_HOP]


def _address(pair: list[Any] | None) -> tuple[Any, Any] | None:
    return None if pair is None else (pair[0], pair[1])
