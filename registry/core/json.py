"""JSON as types, and its canonical text."""

import json
from typing import TypeAlias

from pydantic import JsonValue as JsonValue  # noqa: PLC0414 - re-exported

JsonObject: TypeAlias = dict[str, JsonValue]


def canonical_json(value: JsonValue) -> str:
    """Return the one text of *value*: sorted keys, no spaces, no escapes beyond JSON's own.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot say.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def members(value: object) -> JsonObject:
    """Return *value* if it is an object, else an empty one: foreign documents hold anything."""
    return value if isinstance(value, dict) else {}
