"""JSON types, canonical text, and limits on parsed text."""

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeAlias, TypeVar

import orjson
from pydantic import JsonValue as JsonValue  # noqa: PLC0414 - re-exported

E = TypeVar("E", bound=StrEnum)
JsonObject: TypeAlias = dict[str, JsonValue]

LONG_NUMBER = re.compile(rb"[0-9]{19}")
"""Contained in every whole number of which the fast parser makes a float."""

SEARCHED_BYTES = 16 * 1024
"""Longest text in which that is looked for; in longer ones the values are fewer than the bytes."""

FIRST_ROUNDED = 2.0**63
"""From here on the fast parser makes floats of whole numbers: beyond -2**63 and 2**64 - 1."""


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
        raise ValueError("The text is not a JSON object.")  # noqa: TRY004 - its text is at fault
    return value


def load_exact(text: bytes | bytearray) -> JsonValue:
    """Parse JSON with whole numbers of any size, at the cost of a fast parser where there is none.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    value: JsonValue = orjson.loads(text)
    if len(text) <= SEARCHED_BYTES and LONG_NUMBER.search(text) is None:
        return value
    waiting = [value]
    while waiting:
        match waiting.pop():
            case float(number) if abs(number) >= FIRST_ROUNDED:
                exact: JsonValue = json.loads(text)
                return exact
            case list(items):
                waiting += items
            case dict(pairs):
                waiting += pairs.values()
            case _:
                pass
    return value


def dump_text(value: JsonObject) -> bytes:
    """Return compact JSON text.

    Raises:
        ValueError: A number is beyond what can be written again, or a string is no text.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def members(value: object) -> JsonObject:
    """Return *value* if it is an object, else an empty one: shared documents may hold anything."""
    return value if isinstance(value, dict) else {}


def choice_of(kind: type[E], value: object) -> E | None:
    """Return the member of *kind* with this value; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        return kind(value)
    except ValueError:
        return None


MAX_VALUES = 200_000
"""Maximum number of values in one body. Parsing so many blocks the event loop for 15 ms, and
freeing them for as long; 4 MB can hold ten times as many."""

LARGE_BYTES = 64 * 1024


@contextmanager
def parsing(text: bytes | bytearray) -> Iterator[None]:
    """Pause the garbage collector while a large text is parsed.

    It traverses the new objects repeatedly, which took 0.9 of the 1.0 s for 1.2 million lists.
    """
    is_paused = len(text) > LARGE_BYTES and gc.isenabled()
    if is_paused:
        gc.disable()
    try:
        yield
    finally:
        if is_paused:
            gc.enable()


def without_strings(text: bytes | bytearray) -> bytes:
    """Return JSON text without its strings, for counting. The result is undefined for other text.

    Uses only operations on whole texts: any 4 MB take about 10 ms.
    """
    # In this order: a quote after an even number of backslashes is not escaped.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(plain.split(b'"')[::2])


def holds_more_values(text: bytes | bytearray, limit: int) -> bool:
    """Whether JSON text has more than *limit* values and member names, without parsing it.

    Each costs a parser some 50 bytes and 50 nanoseconds, while strings of any length cost little:
    the number of values matters, not the number of bytes.
    """
    if len(text) <= limit:
        return False
    if text.count(b'"') - text.count(b'\\"') > 2 * limit:
        return True
    outside = without_strings(text)
    return outside.count(b",") + outside.count(b"[") + outside.count(b"{") > limit


def repeats_members(text: bytes | bytearray, written: bytes) -> bool:
    """Whether an object in JSON text has two members with the same name.

    Args:
        text: As it came.
        written: What was parsed of it, written again: with one of each repeated member.
    """
    return without_strings(text).count(b":") != without_strings(written).count(b":")


def nesting(value: JsonValue, limit: int) -> int:
    """Return the nesting depth of *value*, without recursion; counting stops beyond *limit*."""
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
