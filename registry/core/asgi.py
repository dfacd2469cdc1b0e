"""What the server tells the application beyond ASGI."""

from collections.abc import MutableMapping
from typing import Any

_WHOLE_BODY = "mcp_gateway.body"

MAX_DIGITS = 18


def give_body(scope: MutableMapping[str, Any], body: bytes) -> None:
    """Put the whole body of a request beside its head. `receive` has it as well."""
    # Scopes are copied for requests that are made of others, whose bodies differ.
    scope[_WHOLE_BODY] = (id(scope), body)


def take_body_back(scope: MutableMapping[str, Any]) -> None:
    """Say no more of a body that was not whole after all."""
    scope.pop(_WHOLE_BODY, None)


def given_body(scope: MutableMapping[str, Any]) -> bytes | None:
    """Return the whole body of this very request, if it came at once and the server is ours."""
    given: tuple[int, bytes] | None = scope.get(_WHOLE_BODY)
    return given[1] if given is not None and given[0] == id(scope) else None


def declares_more(length: str, most: int) -> bool:
    """Whether a `Content-Length` is more than *most* bytes, or no number at all.

    A number of thousands of digits is one that Python does not take.
    """
    if not (length.isascii() and length.isdigit()):
        return True
    digits = length.lstrip("0") or "0"
    return len(digits) > MAX_DIGITS or int(digits) > most
