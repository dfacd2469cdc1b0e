"""A request as one worker hands it to another: the same, and where it came from. Pure."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import orjson
from multidict import CIMultiDict
from starlette.types import Scope

Headers: TypeAlias = list[tuple[bytes, bytes]]

RELAY_HEADER = b"x-registry-relay"
"""Holds the addresses of the client and of the listener it came to; read on unix sockets only."""

FROM_PEER = "registry.from_peer"
"""Set in the scope of a request that another worker forwarded, by the listener it came to."""

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
    told = {name: scope.get(name) for name in ("client", "server", "scheme")}
    headers[RELAY_HEADER.decode()] = orjson.dumps(told).decode()
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
    """Return the scope of a forwarded request as its client made it; None if it is no such."""
    told = [value for name, value in scope["headers"] if name == RELAY_HEADER]
    if len(told) != 1:
        return None
    addresses: dict[str, Any] = orjson.loads(told[0])
    return {
        **scope,
        "headers": [item for item in scope["headers"] if item[0] != RELAY_HEADER],
        "client": _address(addresses["client"]),
        "server": _address(addresses["server"]),
        "scheme": addresses["scheme"],
        FROM_PEER: True,
    }


def returned_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of a worker's answer that its client gets."""
    return [(name.lower(), value) for name, value in raw if name.lower() not in HOP_BY_HOP]


def _address(told: list[Any] | None) -> tuple[Any, Any] | None:
    return None if told is None else (told[0], told[1])
