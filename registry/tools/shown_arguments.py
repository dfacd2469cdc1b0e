"""Arguments of a call as people are shown them: secrets masked, length bounded. Pure.

A member is secret where the tool's input schema says `writeOnly` or `format: password`. A schema
that says so anywhere it may apply counts: of two alternatives, in a definition that is referred
to, for names that match a pattern.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from registry.core.json import JsonObject, members

HIDDEN = "(hidden)"
MAX_STEPS = 20_000
"""Parts of schemas that are looked at for one call. What remains after them is hidden."""

MAX_TEXT_CHARACTERS = 300
"""Longest text value that is shown whole."""

MAX_CHARACTERS = 3_000

ALTERNATIVES = ("allOf", "anyOf", "oneOf")
CONDITIONS = ("if", "then", "else", "not")
OF_ITEMS = ("items", "additionalItems", "prefixItems", "contains", "unevaluatedItems")
OF_OTHERS = ("additionalProperties", "unevaluatedProperties")
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class _TooComplexError(Exception):
    """The schema has too many parts, or refers to what is not in it."""


def masked(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> JsonObject:
    """Return the arguments with secrets hidden.

    Args:
        arguments: Of one call.
        schema: The tool's input schema; what it refers to and does not contain hides all.
    """
    masking = _Masking(schema)
    try:
        shown = masking.value(dict(arguments), [schema])
    except (_TooComplexError, RecursionError):
        return dict.fromkeys(arguments, HIDDEN)
    return members(shown)


def shown(arguments: Mapping[str, Any]) -> str:
    """Return arguments as text for a person, who is told how much is left out.

    Characters that are not printable are escaped: none can hide or reorder what is shown.
    """
    text = json.dumps(_shortened(dict(arguments)), ensure_ascii=False, indent=2)
    text = "".join(map(_visible, text))
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}\n… ({len(text) - MAX_CHARACTERS:,} more characters)"


class _Masking:
    """Hides what a schema marks as secret.

    Args:
        root: The whole schema, which its parts refer to.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._steps_left = MAX_STEPS

    def value(self, value: object, schemas: list[Any]) -> Any:
        parts = list(self._parts(schemas))
        if any(p.get("writeOnly") is True or p.get("format") == "password" for p in parts):
            return HIDDEN
        if isinstance(value, dict):
            return {
                name: self.value(inner, [s for part in parts for s in _of_member(part, name)])
                for name, inner in value.items()
            }
        if isinstance(value, list):
            inside = [s for part in parts for s in _of_items(part)]
            return [self.value(inner, inside) for inner in value]
        return value

    def _parts(self, schemas: list[Any]) -> Iterator[Mapping[str, Any]]:
        """Yield these schemas and all that apply to the same value."""
        waiting, seen = list(schemas), set()
        while waiting:
            schema = waiting.pop()
            self._steps_left -= 1
            if self._steps_left < 0:
                raise _TooComplexError
            if not isinstance(schema, dict) or id(schema) in seen:
                continue
            seen.add(id(schema))
            yield schema
            waiting += [self._referred(schema[name]) for name in REFERENCES if name in schema]
            for name in ALTERNATIVES:
                found = schema.get(name)
                waiting += found if isinstance(found, list) else []
            waiting += [schema[name] for name in CONDITIONS if name in schema]
            waiting += members(schema.get("dependentSchemas")).values()

    def _referred(self, reference: object) -> object:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _TooComplexError
        found: object = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdigit() and int(name[:6]) < len(found):
                found = found[int(name[:6])]
            else:
                raise _TooComplexError
        if reference != "#" and not reference.startswith("#/"):
            raise _TooComplexError
        return found


def _of_member(schema: Mapping[str, Any], name: str) -> list[Any]:
    found = [schema[other] for other in OF_OTHERS if other in schema]
    own = members(schema.get("properties"))
    if name in own:
        found.append(own[name])
    # Patterns are not tried: one can take for ever.
    found += members(schema.get("patternProperties")).values()
    return found


def _of_items(schema: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for name in OF_ITEMS:
        inside = schema.get(name)
        found += inside if isinstance(inside, list) else [inside]
    return found


def _shortened(value: object) -> Any:
    if isinstance(value, dict):
        return {_cut(str(name)): _shortened(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    return _cut(value) if isinstance(value, str) else value


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    return f"{text[:MAX_TEXT_CHARACTERS]}… ({len(text) - MAX_TEXT_CHARACTERS:,} more characters)"


def _visible(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return f"\\u{ord(character):04x}"


def visible(text: str, limit: int) -> str:
    """Return a name on one line, cut, with everything that is not printable escaped."""
    one_line = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:limit])
    return one_line if len(text) <= limit else f"{one_line}…"
