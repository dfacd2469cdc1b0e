"""Arguments for tools, generated from their input schemas alone; the same for the same seed."""

import base64
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from registry.openapi.schemas import FILE_SCHEMA as FILE

FILE_SCHEMA: Mapping[str, Any] = FILE

MAX_DEPTH = 6
"""Nesting beyond which only what is required is generated."""

ATTEMPTS = 24
TEXTS = ("plain", "two words", "a/b", "50% & more=?#", "caf\u00e9", "x+y", "quote\"'", "~tilde_-.")
FORMATS: Mapping[str, str] = {
    "date": "2024-02-29",
    "date-time": "2024-02-29T12:30:00Z",
    "time": "12:30:00Z",
    "duration": "P1DT2H",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "email": "someone@example.com",
    "uri": "https://example.com/a",
    "url": "https://example.com/a",
    "uri-reference": "/a",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "byte": base64.b64encode(b"bytes").decode(),
    "binary": "bytes",
    "int64": "12",
    "int32": "12",
}
APPLIED = ("allOf", "anyOf", "oneOf", "$ref")
MANY = 3


class NoArgumentsError(Exception):
    """No arguments were found that the schema itself allows."""


@dataclass(slots=True)
class Generator:
    """Generates values for one schema.

    Attributes:
        is_full: Whether what need not be there is there, for the most part.
    """

    root: Any
    random: random.Random
    is_full: bool
    patterns: dict[tuple[str, int, int], str | None] = field(default_factory=dict)

    def value(self, schema: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one for each type
        """Return a value that mostly is valid."""
        schema = self.merged(schema)
        if "const" in schema:
            return schema["const"]
        enum = schema.get("enum")
        if isinstance(enum, list) and enum:
            chosen = [one for one in enum if one is not None and _has_type(one, schema)] or enum
            return self.random.choice(chosen)
        kind = self._kind(schema)
        match kind:
            case "object":
                return self._members(schema, depth)
            case "array":
                return self._items(schema, depth)
            case "boolean":
                return self.random.random() < 0.5
            case "integer" | "number":
                return self._number(schema, is_whole=kind == "integer")
            case "null":
                return None
            case _:
                return self._text(schema)

    def merged(self, schema: Any, depth: int = 0) -> dict[str, Any]:
        """Return a schema with its references followed and one alternative chosen."""
        if not isinstance(schema, dict) or depth > 30:
            return {}
        parts = [{name: value for name, value in schema.items() if name not in APPLIED}]
        if isinstance(schema.get("$ref"), str):
            target = self.root
            for name in schema["$ref"].split("/")[1:]:
                target = target[name.replace("~1", "/").replace("~0", "~")]
            parts.append(self.merged(target, depth + 1))
        parts += [self.merged(one, depth + 1) for one in schema.get("allOf", ())]
        for name in ("anyOf", "oneOf"):
            options = schema.get(name)
            if options:
                known = [one for one in options if one != {"type": "null"}] or options
                parts.append(self.merged(self.random.choice(known), depth + 1))
        return _joined(parts)

    def _kind(self, schema: Mapping[str, Any]) -> str:
        stored = schema.get("type")
        if isinstance(stored, list):
            stored = next((one for one in stored if one != "null"), "null")
        if stored is None and ("properties" in schema or "additionalProperties" in schema):
            return "object"
        if stored is None and ("items" in schema or "prefixItems" in schema):
            return "array"
        return str(stored or "string")

    def _members(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = list(schema.get("required", ()))
        names = [*required]
        if self.is_full and depth < MAX_DEPTH:
            others = [name for name in properties if name not in required]
            if depth > 1:
                self.random.shuffle(others)
                others = others[:MANY]
            names += others
        # An argument that is an object says something, as in a path it must.
        least = schema.get("minProperties", 1 if depth == 1 else 0)
        names += [name for name in properties if name not in names][: max(0, least - len(names))]
        if _is_file(schema):
            return {"content": FORMATS["byte"], "content_type": "image/png", "filename": "a b.png"}
        found = {
            name: self.value(properties.get(name, schema.get("additionalProperties")), depth + 1)
            for name in names[: schema.get("maxProperties", len(names))]
            if properties.get(name) is not False
        }
        more = schema.get("additionalProperties")
        if isinstance(more, dict) and (self.is_full or least) and depth < MAX_DEPTH:
            for number in range(max(1, least - len(found))):
                if len(found) < schema.get("maxProperties", 100) and not properties:
                    found[f"name{number}"] = self.value(more, depth + 1)
        return found

    def _items(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = [self.value(one, depth + 1) for one in schema.get("prefixItems", ())]
        least, most = schema.get("minItems", 0), schema.get("maxItems", 10)
        wanted = max(least, 1 if depth > 1 else 2)
        if depth >= MAX_DEPTH:
            wanted = least
        found = list(first)
        for _ in range(wanted * 4):
            if len(found) >= min(wanted, most):
                break
            item = self.value(schema.get("items", {}), depth + 1)
            if not schema.get("uniqueItems") or item not in found:
                found.append(item)
        return found[:most]

    def _number(self, schema: Mapping[str, Any], *, is_whole: bool) -> float | int:
        step = schema.get("multipleOf") or (1 if is_whole else 0.5)
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        if low is None:
            low = 0 if high is None or high >= 0 else high - 10 * step
        count = int(-(-low // step))
        if schema.get("exclusiveMinimum") == count * step:
            count += 1
        room = 10 if high is None else min(10, int((high - count * step) // step))
        if "exclusiveMaximum" in schema and (count + room) * step >= schema["exclusiveMaximum"]:
            room -= 1
        value = (count + self.random.randint(0, max(0, room))) * step
        return int(value) if is_whole or float(value).is_integer() else value

    def _text(self, schema: Mapping[str, Any]) -> str:
        least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", 10**6))
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            found = self._matching(pattern, least, most)
            if found is not None:
                return found
        known = FORMATS.get(str(schema.get("format")))
        if known is not None and least <= len(known) <= most:
            return known
        if schema.get("contentEncoding") == "base64":
            return FORMATS["byte"]
        text = self.random.choice(TEXTS if self.is_full else TEXTS[:1])
        return (text + "x" * max(0, least - len(text)))[:most]

    def _matching(self, pattern: str, least: int, most: int) -> str | None:
        key = (pattern, least, most)
        if key not in self.patterns:
            self.patterns[key] = _matching(pattern, least, most)
        return self.patterns[key]


def arguments(
    schema: dict[str, Any], seed: int, *, is_full: bool, plain: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return valid arguments.

    Args:
        schema: Of the tool.
        seed: Decides between the valid ones.
        is_full: Whether what need not be there is there, for the most part.
        plain: Arguments whose texts are such that a header can carry them.

    Raises:
        NoArgumentsError: None were found.
    """
    validator = jsonschema_rs.Draft202012Validator(schema)
    for attempt in range(ATTEMPTS):
        # Some schemas allow only the least, and some only more.
        full = is_full == (attempt < ATTEMPTS // 2)
        generator = Generator(schema, random.Random(f"{seed} {attempt}"), full)  # noqa: S311 - the same each time
        found = generator.value(schema)
        for name in plain & found.keys():
            found[name] = _plain(found[name])
        if validator.is_valid(found):
            return dict(found)
    raise NoArgumentsError


def _is_file(schema: Mapping[str, Any]) -> bool:
    properties = schema.get("properties", {})
    return bool(properties.keys() == FILE_SCHEMA["properties"].keys())


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value if value not in TEXTS else "plain"
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value


def _has_type(value: Any, schema: Mapping[str, Any]) -> bool:
    stored = schema.get("type")
    if stored is None:
        return True
    return jsonschema_rs.is_valid({"type": stored}, value)


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if name == "properties":
                mine = found.setdefault("properties", {})
                for key, one in value.items():
                    mine[key] = {"allOf": [mine[key], one]} if key in mine else one
            elif name == "required":
                found[name] = list(dict.fromkeys([*found.get(name, ()), *value]))
            elif name in {"minimum", "minLength", "minItems", "minProperties"} and name in found:
                found[name] = max(found[name], value)
            elif name in {"maximum", "maxLength", "maxItems", "maxProperties"} and name in found:
                found[name] = min(found[name], value)
            elif name == "enum" and name in found:
                found[name] = [one for one in found[name] if one in value] or value
            else:
                found.setdefault(name, value)
    return found


def _matching(pattern: str, least: int, most: int) -> str | None:
    try:
        compiled = re.compile(pattern, re.ASCII)
        return find(
            st.from_regex(compiled, alphabet=st.characters(min_codepoint=32, max_codepoint=126)),
            lambda text: least <= len(text) <= most and "\n" not in text and text.strip() != "",
            settings=settings(
                database=None,
                max_examples=500,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    except (re.error, HypothesisException, AssertionError, ValueError, TypeError):
        return None
