"""Limits of what a JSON Schema may cost its readers. Pure.

Clients expand references, and validators follow them as if expanded: references to references that
double at each level turn a few kilobytes into gigabytes, and one pattern may compile to megabytes.
Recursion is counted once; its cost depends on the arguments, and is limited where those are
checked.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from registry.core.json import JsonObject

MAX_EXPANDED = 100_000
"""Maximum number of values in a schema with all references expanded: as many as the largest
definition without references contains."""

MAX_REFERENCE_CHAIN = 100
"""Maximum length of a chain of references."""

MAX_PATTERN_CHARACTERS = 4096
MAX_PATTERNS_CHARACTERS = 32 * 1024
"""Maximum length of all patterns of a schema together."""

MAX_MIRRORED = 100
"""Maximum number of arguments mirrored in headers: each is checked, or sent, on each call."""

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
DEFINITIONS = frozenset({"$defs", "definitions"})
UNDER_WAY = 0


def excess(schema: JsonObject) -> str | None:
    """Return the limit that a schema exceeds; None if it can be used.

    Args:
        schema: No deeper than `registry.core.definitions.MAX_DEPTH`.
    """
    if sum("x-mcp-header" in part for part in _objects(schema)) > MAX_MIRRORED:
        return f"x-mcp-header on more than {MAX_MIRRORED} arguments"
    patterns = 0
    for pattern in _patterns(schema):
        if len(pattern) > MAX_PATTERN_CHARACTERS:
            return f"a pattern of more than {MAX_PATTERN_CHARACTERS} characters"
        patterns += len(pattern)
    if patterns > MAX_PATTERNS_CHARACTERS:
        return f"patterns of more than {MAX_PATTERNS_CHARACTERS} characters together"
    return _Expansion(schema).excess()


def lost_reference(schema: JsonObject) -> str | None:
    """Return a reference of a schema that leads to none of its parts; None if there is none."""
    expansion = _Expansion(schema)
    for part in _objects(schema):
        for keyword in REFERENCES:
            reference = part.get(keyword)
            if isinstance(reference, str) and expansion.referred(reference) is None:
                return reference
    return None


class _Expansion:
    """Counts the values of a schema with all references expanded."""

    def __init__(self, schema: JsonObject) -> None:
        self._schema = schema
        self._anchors: dict[str, JsonObject] = {}
        for part in _objects(schema):
            for keyword in ("$anchor", "$dynamicAnchor", "$id", "id"):
                name = part.get(keyword)
                if isinstance(name, str):
                    self._anchors.setdefault(name if "id" in keyword else f"#{name}", part)
        self._known: dict[int, int] = {}
        self._is_chain_too_long = False

    def excess(self) -> str | None:
        total = self._size(self._schema, 0)
        if self._is_chain_too_long:
            return f"a chain of more than {MAX_REFERENCE_CHAIN} references"
        if total > MAX_EXPANDED:
            return f"references that expand to more than {MAX_EXPANDED} values"
        return None

    def _size(self, target: Any, depth: int) -> int:
        known = self._known.get(id(target))
        if known is not None:
            return known
        if depth > MAX_REFERENCE_CHAIN:
            self._is_chain_too_long = True
            return 0
        self._known[id(target)] = UNDER_WAY
        size, references = _own(target)
        for reference in references:
            referred = self.referred(reference)
            if referred is not None:
                size += self._size(referred, depth + 1)
        # Beyond the limit, numbers need not be exact.
        size = self._known[id(target)] = min(size, MAX_EXPANDED + 1)
        return size

    def referred(self, reference: str) -> Any:
        """Return the part that a reference leads to; None if there is none."""
        found = self._anchors.get(reference)
        if found is not None:
            return found
        base, _, pointer = reference.partition("#")
        place: Any = self._anchors.get(base) if base else self._schema
        if pointer and not pointer.startswith("/"):
            return None
        for part in unquote(pointer).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(place, dict):
                place = place.get(key)
            elif isinstance(place, list) and key.isdecimal() and len(key) < 10:  # noqa: PLR2004 - digits of any index
                place = place[int(key)] if int(key) < len(place) else None
            else:
                return None
        return place


def _own(target: Any) -> tuple[int, list[str]]:
    """Return the number of values in *target* itself, and its references."""
    size, references = 0, []
    level = [target]
    while level:
        size += len(level)
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                for key, inner in value.items():
                    if key in REFERENCES and isinstance(inner, str):
                        references.append(inner)
                    # A mere definition counts where it is referenced.
                    if key not in DEFINITIONS:
                        below.append(inner)
            elif isinstance(value, list):
                below += value
        level = below
    return size, references


def _objects(schema: JsonObject) -> Iterator[JsonObject]:
    level: list[Any] = [schema]
    while level:
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                yield value
                below += value.values()
            elif isinstance(value, list):
                below += value
        level = below


def _patterns(schema: JsonObject) -> Iterator[str]:
    for part in _objects(schema):
        pattern, by_pattern = part.get("pattern"), part.get("patternProperties")
        if isinstance(pattern, str):
            yield pattern
        if isinstance(by_pattern, dict):
            yield from by_pattern
