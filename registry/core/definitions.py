"""Limits and serialization of definitions that upstreams send, before they are stored."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from registry.core.json import JsonObject, JsonValue

MAX_DEPTH = 64
"""Maximum nesting of an accepted object; real ones stay below 20, and validators recurse."""

LISTED_VIA = "mcp-gateway-registry/via"
"""Member of `_meta`: the gateways that listed an object on its way here, the last one first."""

TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
NO_NUMBER = "contains a number that cannot be stored"


class RejectionError(Exception):
    """Why an object of an upstream is rejected."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An object of an upstream that was rejected, or a whole list.

    Attributes:
        name: The name of a tool, `prompts/<name>` for another object, `prompts` for a list.
        reason: Completes a sentence that begins with the name.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class UnreadableDefinition:
    """An object in an upstream's list that could not be parsed.

    Attributes:
        members: Those of its own members that could be read, which identify it.
        reason: Completes a sentence that begins with its name.
    """

    members: JsonObject
    reason: str


Fitting: TypeAlias = Callable[[str, JsonObject], str | None]
"""Returns why clients' types would reject an object: they refuse a whole list for one invalid
object. The first argument is the list's member."""

Listed: TypeAlias = JsonValue | UnreadableDefinition
"""One item of an upstream's list."""


class DecodeBudget:
    """Remaining bytes for the definitions of one server.

    Args:
        max_bytes: Of all together; None for any number.

    Attributes:
        reason: Why one is not taken; completes a sentence that begins with its name.
    """

    def __init__(self, max_bytes: int | None) -> None:
        self._left = max_bytes
        self.reason = f"does not fit into the {max_bytes} bytes of all definitions of its server"

    def take(self, definition: str | bytes) -> bool:
        """Take the bytes of *definition*; return False, and take nothing, if too few are left.

        A smaller definition may still fit.
        """
        if self._left is None:
            return True
        size = len(definition if isinstance(definition, bytes) else definition.encode())
        if size > self._left:
            return False
        self._left -= size
        return True


def definition_text(raw: JsonObject, max_bytes: int) -> str:
    """Return the stored text of an upstream's object, with its keys in their order.

    Raises:
        RejectionError: It cannot be stored, or not be read again; the message says why.
    """
    try:
        text = json.dumps(raw, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        encoded = text.encode()
    except UnicodeEncodeError:
        raise RejectionError("contains invalid Unicode") from None
    except ValueError:
        raise RejectionError(NO_NUMBER) from None
    if len(encoded) > max_bytes:
        raise RejectionError(f"is larger than {max_bytes} bytes")
    try:
        # The gateway reads it with this parser, which refuses numbers beyond the range of floats.
        orjson.loads(encoded)
    except orjson.JSONDecodeError:
        raise RejectionError(NO_NUMBER) from None
    return text
