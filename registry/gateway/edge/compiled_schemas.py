"""Compiled JSON Schemas whose checks are short, whatever is checked. Pure.

The JSON Schema library bounds neither time nor memory, and holds the interpreter's lock while it
works. What is proved short here may run in the serving process; all else goes to
`registry.gateway.edge.argument_process`, which the operating system ends.

A check visits each value of the instance at most once for each value of the schema with its
references written out, if no reference leads back to itself and patterns match in linear time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from registry.gateway.edge.argument_process import compiled, untold_values

MAX_VALUES = 5_000
"""Maximum number of values in a schema with its references written out."""

MAX_VISITS = 4_000_000
"""Maximum product of that number and the bytes of the instance: some 20 ms at worst."""

MAX_PATTERNS = 100
MAX_PATTERN_CHARACTERS = 1_000
PATTERN_BYTES = 64 * 1024
"""Memory of one compiled pattern."""

UNBOUNDED = frozenset(
    {
        *("$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor"),
        *("unevaluatedProperties", "unevaluatedItems"),
    }
)
"""Keywords whose cost depends on the path by which a schema was reached."""

LINEAR = jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES)


@dataclass(frozen=True, slots=True)
class CompiledSchema:
    """A schema whose checks are short.

    Attributes:
        validator: Of `jsonschema_rs`.
        max_bytes: Longest JSON text that may be checked here.
        untold: Allowed values that messages do not name.
    """

    validator: Any
    max_bytes: int
    untold: frozenset[bytes] = frozenset()


def compile_cheap(schema: Any) -> CompiledSchema | None:
    """Return a schema compiled; None if its checks may be long, or it cannot be compiled."""
    values = _expanded(schema)
    if values is None or not _has_plain_patterns(schema):
        return None
    try:
        validator = compiled(schema, LINEAR)
    except (ValueError, RecursionError, OverflowError):
        return None
    return CompiledSchema(validator, MAX_VISITS // max(1, values), untold_values(schema))


def _expanded(schema: Any) -> int | None:
    """Return the number of values with references written out; None if it is not bounded."""
    known: dict[int, int | None] = {}

    def size(value: Any) -> int | None:
        if not isinstance(value, dict | list):
            return 1
        if id(value) in known:
            # None while its own parts are counted: it refers to itself.
            return known[id(value)]
        known[id(value)] = None
        total = 1
        for part in _parts(value, schema):
            counted = None if part is None else size(part)
            total += counted or 0
            if counted is None or total > MAX_VALUES:
                return None
        known[id(value)] = total
        return total

    return size(schema)


def _parts(value: Any, root: Any) -> Iterator[Any]:
    """Yield what a value consists of, references included; None for what has no bound."""
    if isinstance(value, list):
        yield from value
        return
    for name, part in value.items():
        is_text = isinstance(part, str)
        if name == "$ref" and is_text:
            yield _referred(part, root)
        elif name in UNBOUNDED or (name in {"$id", "id"} and is_text and value is not root):
            # Below another `$id`, references lead elsewhere.
            yield None
        else:
            yield part if part is not None else 0


def _referred(reference: str, root: Any) -> Any:
    """Return what a reference into the same document names; None for any other."""
    if not reference.startswith("#/") or "%" in reference:
        return None
    found = root
    for step in reference[2:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found


def _has_plain_patterns(schema: Any) -> bool:
    patterns = list(_patterns(schema))
    return len(patterns) <= MAX_PATTERNS and all(
        len(pattern) <= MAX_PATTERN_CHARACTERS for pattern in patterns
    )


def _patterns(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from _patterns(part)
    elif isinstance(value, dict):
        for name, part in value.items():
            if name == "pattern" and isinstance(part, str):
                yield part
            elif name == "patternProperties" and isinstance(part, dict):
                yield from part
            yield from _patterns(part)
