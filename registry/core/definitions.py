"""What upstreams define, on its way into the database."""

import json

from registry.core.json import JsonObject


class RejectionError(Exception):
    """Why an object of an upstream cannot be taken."""


def definition_text(raw: JsonObject, max_bytes: int) -> str:
    """Return the text under which an upstream's object is stored, its keys in their order.

    Raises:
        RejectionError: It cannot be stored; the message says why.
    """
    try:
        text = json.dumps(raw, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RejectionError("holds broken characters") from None
    except ValueError:
        raise RejectionError("holds a number that JSON does not have") from None
    if size > max_bytes:
        raise RejectionError(f"is larger than {max_bytes} bytes")
    return text
