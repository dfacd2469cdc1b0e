"""Our extension of ASGI: a request's whole body beside its head, when it arrives at once."""

from collections.abc import MutableMapping
from typing import Any

_WHOLE_BODY = "mcp_gateway.body"

MAX_DIGITS = 18


def set_body(scope: MutableMapping[str, Any], body: bytes) -> None:
    """Store the whole body of a request in its scope. `receive` returns it as well."""
    # With the scope's identity: scopes are copied for derived requests, whose bodies differ.
    scope[_WHOLE_BODY] = (id(scope), body)


def clear_body(scope: MutableMapping[str, Any]) -> None:
    """Remove a stored body that turned out to be incomplete."""
    scope.pop(_WHOLE_BODY, None)


def body_of(scope: MutableMapping[str, Any]) -> bytes | None:
    """Return the whole body of this request, if it arrived at once and the server is ours."""
    whole: tuple[int, bytes] | None = scope.get(_WHOLE_BODY)
    return whole[1] if whole is not None and whole[0] == id(scope) else None


def declares_more(length: str, max_bytes: int) -> bool:
    """Whether a `Content-Length` exceeds *max_bytes*, or is not a number.

    Python does not parse a number of thousands of digits.
    """
    if not (length.isascii() and length.isdigit()):
        return True
    digits = length.lstrip("0") or "0"
    return len(digits) > MAX_DIGITS or int(digits) > max_bytes
