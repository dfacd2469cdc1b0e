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


def load_text(text: str | bytes | bytearray) -> JsonObject:
    """Parse JSON so that `dump_text` gives the same values again, whole numbers of any size too.

    Raises:
        ValueError: It is no JSON object.
        RecursionError: It is nested too deeply.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("The text is no JSON object.")  # noqa: TRY004 - its text is at fault
    return value


def dump_text(value: JsonObject) -> bytes:
    """Return compact JSON text.

    Raises:
        ValueError: A number is beyond what can be written again, or a string is no text.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def members(value: object) -> JsonObject:
    """Return *value* if it is an object, else an empty one: foreign documents hold anything."""
    return value if isinstance(value, dict) else {}


def nesting(value: JsonValue, limit: int) -> int:
    """Return how deeply *value* is nested, without recursing; beyond *limit* nobody counts."""
    depth = 0
    level: list[JsonValue] = [value]
    while level and depth <= limit:
        depth += 1
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
        ]
    return depth
