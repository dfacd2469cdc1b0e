"""Schemas of descriptions as JSON Schema 2020-12, with what they refer to in `$defs`."""

import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, cast

import jsonschema_rs

from registry.core.json import JsonObject, JsonValue, members
from registry.core.text import visible
from registry.openapi.description import SchemaAt
from registry.openapi.references import Place, References, below

MAX_DEPTH: Final = 24
"""Nesting of a schema between references; definitions of tools may be nested 64 levels."""

MAX_ALL_OF: Final = 8
"""Nesting of `allOf` in which `readOnly` and `writeOnly` are looked for."""

OUTLINED: Final = ("enum", "const", "minLength", "maxLength", "minItems", "pattern", "format")
MAX_OUTLINED: Final = 400
MAX_OUTLINE_DEPTH: Final = 6
"""Nesting of what an outline tells of required members."""

ROOM_FOR_DEFINITIONS: Final = 0.8
"""Part of the bytes of an input that, once written, is followed by no more definitions."""

MAX_PATTERN_CHARACTERS: Final = 1_000
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
TYPES: Final = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})
FILE_SCHEMA: Final[JsonObject] = {
    "type": "object",
    "properties": {
        "content": {
            "type": "string",
            "contentEncoding": "base64",
            "description": "The file, encoded with base64.",
        },
        "content_type": {"type": "string"},
        "filename": {"type": "string"},
    },
    "required": ["content"],
}
"""What stands for a file in arguments."""


def _is_count(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: JsonValue) -> bool:
    return isinstance(value, str)


def _is_bool(value: JsonValue) -> bool:
    return isinstance(value, bool)


def _is_names(value: JsonValue) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(one, str) for one in value)
        and len({str(one) for one in value}) == len(value)
    )


@lru_cache(4096)
def _is_pattern(pattern: str) -> bool:
    """Whether validators of arguments can compile a pattern; those of ECMA-262 may have more."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return False
    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern})
    except ValueError:
        return False
    return True


PLAIN: Mapping[str, Callable[[JsonValue], bool]] = {
    **dict.fromkeys(("title", "description", "format", "$comment"), _is_text),
    **dict.fromkeys(("contentMediaType", "contentEncoding"), _is_text),
    **dict.fromkeys(("deprecated", "uniqueItems", "readOnly", "writeOnly"), _is_bool),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
    **dict.fromkeys(("minProperties", "maxProperties", "minContains", "maxContains"), _is_count),
    "multipleOf": lambda value: _is_number(value) and cast("float", value) > 0,
    "pattern": lambda value: isinstance(value, str) and _is_pattern(value),
    "enum": lambda value: isinstance(value, list) and bool(value),
    "const": lambda _: True,
    "default": lambda _: True,
    "examples": lambda value: isinstance(value, list),
}
"""Keywords whose values are no schemas, and whether a value is valid."""

FOR_PEOPLE: Final = frozenset({"title", "description", "$comment"})
ONE_SCHEMA: Final = (
    *("additionalProperties", "items", "contains", "not", "if", "then", "else"),
    *("propertyNames", "unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
SCHEMAS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED_SCHEMAS: Final = ("properties", "patternProperties", "dependentSchemas")
APPLICATORS: Final = frozenset({*ONE_SCHEMA, *SCHEMAS, *NAMED_SCHEMAS})
"""Keywords whose values are schemas. Most schemas have none of them."""


class SchemaWriter:
    """Writes the schemas of one tool, for one direction.

    Args:
        is_input: Whether the values are sent: what is `readOnly` is left out, or else what is
            `writeOnly`.
        has_json_schemas: Whether schemas are of JSON Schema 2020-12 already.
        most_definitions: How many definitions there may be; what they refer to beyond is not
            described.
        most_bytes: About how long all schemas may be as JSON. Of definitions beyond only
            type and required members are told; those that are nearest to the tool's own schemas
            are written first.
    """

    def __init__(
        self,
        references: References,
        *,
        is_input: bool,
        has_json_schemas: bool,
        most_definitions: int,
        most_bytes: int,
    ) -> None:
        self._references = references
        self._left_out = "readOnly" if is_input else "writeOnly"
        self._is_input = is_input
        self._has_json_schemas = has_json_schemas
        self._most = most_definitions
        self._most_bytes = most_bytes
        self._bytes = 0
        self._names: dict[Place, str] = {}
        self._waiting: deque[tuple[str, JsonValue, Place]] = deque()
        self._definitions: JsonObject = {}
        self.problems: list[tuple[Place, str]] = []

    @property
    def is_over(self) -> bool:
        """Whether more was to be written than may be; then what was written is not all."""
        return self._bytes > self._most_bytes

    def definitions(self) -> JsonObject:
        """Return what the written schemas refer to."""
        room = self._most_bytes * ROOM_FOR_DEFINITIONS
        while self._waiting:
            name, schema, place = self._waiting.popleft()
            if self._is_input and self._bytes > room:
                self._definitions[name] = self._outline(schema, place)
                continue
            before, named = self._bytes, len(self._waiting)
            written = self.write(schema, place)
            if self._is_input and self.is_over:
                self._bytes = before
                self._forget(named)
                self._definitions[name] = self._outline(schema, place)
            else:
                self._definitions[name] = written
        return self._definitions

    def write(self, schema: JsonValue, place: Place, depth: int = 0) -> JsonValue:
        """Return a schema; one that cannot be written allows anything."""
        if isinstance(schema, bool):
            return schema
        if self.is_over:
            return {}
        if not isinstance(schema, dict):
            self.problems.append((place, "is no schema"))
            return {}
        if depth > MAX_DEPTH:
            self.problems.append((place, f"is nested deeper than {MAX_DEPTH} schemas"))
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._referred(reference, schema, place, depth)
        return self._written(schema, place, depth)

    def _referred(self, reference: str, schema: JsonObject, place: Place, depth: int) -> JsonValue:
        target = self._references.target(reference, place.file)
        found = None if target is None else self._references.at(target)
        if target is None or found is None:
            self.problems.append((place, f"refers to nothing: {reference[:200]}"))
            return {}
        name = self._names.get(target)
        if name is None:
            if len(self._names) >= self._most:
                return self._outline(found, target, MAX_OUTLINE_DEPTH)
            name = self._names[target] = self._name(target)
            self._definitions[name] = {}
            self._waiting.append((name, found, target))
        written: JsonObject = {"$ref": f"#/$defs/{name}"}
        self._bytes += len(name) + 17
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if not self._has_json_schemas:
            # Beside a reference, nothing counts before 3.1; but descriptions help.
            beside = {key: beside[key] for key in ("description", "title") if key in beside}
        if beside:
            more = self._written(beside, place, depth)
            written |= {key: value for key, value in more.items() if key != "$ref"}
        return written

    def _forget(self, named: int) -> None:
        """Take back the definitions that only a schema refers to which is left out."""
        while len(self._waiting) > named:
            name, _, place = self._waiting.pop()
            del self._definitions[name], self._names[place]

    def _outline(self, schema: JsonValue, place: Place, depth: int = 0) -> JsonObject:
        """Return what there is room to say of a schema: its type, and what it requires."""
        found = self._references.resolved(schema, place)
        if found is None or not isinstance(found.value, dict):
            return {}
        schema, place = found.value, found.place
        outline: JsonObject = {}
        types = self._types(schema, place)
        if types:
            outline["type"] = types[0] if len(types) == 1 else cast("JsonValue", types)
        for name in OUTLINED:
            if (
                name in schema
                and PLAIN[name](schema[name])
                and _length(schema[name]) < MAX_OUTLINED
            ):
                outline[name] = schema[name]
                self._bytes += len(name) + _length(schema[name])
        self._require(schema, outline, place)
        self._bytes += size_of(outline.get("required")) + 24
        properties, required = members(schema.get("properties")), outline.get("required")
        if isinstance(required, list) and depth < MAX_OUTLINE_DEPTH and not self.is_over:
            at = below(place, "properties")
            needed = {
                name: self._outline(properties[name], below(at, name), depth + 1)
                for name in map(str, required)
                if name in properties
            }
            if needed:
                self._bytes += sum(len(name) + 6 for name in needed)
                outline["properties"] = cast("JsonValue", needed)
        may_go_on = depth < MAX_OUTLINE_DEPTH and not self.is_over
        parts = schema.get("allOf")
        if not types and isinstance(parts, list) and may_go_on:
            told = [
                self._outline(part, below(place, "allOf", index), depth + 1)
                for index, part in enumerate(parts)
            ]
            outline["allOf"] = cast("JsonValue", [one for one in told if one] or [{}])
        if "array" in types and isinstance(schema.get("items"), dict):
            outline["items"] = self._outline(schema["items"], below(place, "items"), depth + 1)
        return self._nullable(outline) if self._is_nullable(schema) else outline

    def _is_nullable(self, schema: JsonObject) -> bool:
        return schema.get("nullable") is True and not self._has_json_schemas

    def _name(self, place: Place) -> str:
        last = place.pointer.rsplit("/", 1)[-1] or "schema"
        base = re.sub(r"[^A-Za-z0-9_.-]", "_", last)[:64] or "schema"
        name, number = base, 1
        while name in self._definitions:
            number += 1
            name = f"{base}_{number}"
        return name

    def _written(self, schema: JsonObject, place: Place, depth: int) -> JsonObject:
        written: JsonObject = {}
        types = self._types(schema, place)
        if types:
            written["type"] = types[0] if len(types) == 1 else cast("JsonValue", types)
        for name, value in schema.items():
            fits = PLAIN.get(name)
            if fits is None:
                continue
            if fits(value):
                written[name] = visible(str(value)) if name in FOR_PEOPLE else value
                self._bytes += len(name) + _length(value)
            elif not (name.startswith("exclusive") and isinstance(value, bool)):
                self.problems.append((below(place, name), "cannot be used, and is left out"))
        self._exclusive(schema, written)
        if "example" in schema and "examples" not in written:
            written["examples"] = [schema["example"]]
        self._applied(schema, written, place, depth)
        self._require(schema, written, place)
        self._discriminate(schema, written, place)
        if self._is_nullable(schema):
            return self._nullable(written)
        return written

    def _require(self, schema: JsonObject, written: JsonObject, place: Place) -> None:
        required = schema.get("required")
        if required is not None and _is_names(required):
            kept = self._without_left_out(cast("list[str]", required), schema, place)
            if kept:
                written["required"] = cast("JsonValue", kept)
        dependent = members(schema.get("dependentRequired"))
        if dependent and all(_is_names(names) for names in dependent.values()):
            written["dependentRequired"] = dependent

    def _discriminate(self, schema: JsonObject, written: JsonObject, place: Place) -> None:
        """Say which values of a discriminator stand for which alternative, if they are mapped."""
        if "discriminator" not in schema:
            return
        discriminator = members(schema.get("discriminator"))
        name = discriminator.get("propertyName")
        mapping = members(discriminator.get("mapping"))
        if not isinstance(name, str) or not mapping:
            return
        places = {
            value: self._references.target(str(target), place.file)
            or self._references.target(f"#/components/schemas/{target}", place.file)
            for value, target in mapping.items()
        }
        for kind in ("oneOf", "anyOf"):
            described, alternatives = schema.get(kind), written.get(kind)
            if not isinstance(described, list) or not isinstance(alternatives, list):
                continue
            for one, alternative in zip(described, alternatives, strict=True):
                reference = members(one).get("$ref")
                if not isinstance(reference, str) or not isinstance(alternative, dict):
                    continue
                target = self._references.target(reference, place.file)
                values = [value for value, found in places.items() if found == target]
                if target is not None and self._may_be(target, name, values):
                    # The name of a schema stands for it, too.
                    values.append(target.pointer.rsplit("/", 1)[-1])
                    named: JsonValue = [*dict.fromkeys(values)]
                    alternative["properties"] = {name: {"enum": named}}
                    alternative["required"] = [name]

    def _may_be(self, target: Place, name: str, values: list[str]) -> bool:
        """Whether an alternative itself allows the values that stand for it."""
        found = self._references.at(target)
        own = members(members(members(found).get("properties")).get(name))
        known = own.get("enum", [own["const"]] if "const" in own else None)
        return bool(values) and (
            not isinstance(known, list) or any(one in known for one in values)
        )

    def _types(self, schema: JsonObject, place: Place) -> list[str]:
        stored = schema.get("type")
        if stored is None or stored == "any":
            return []
        named: list[JsonValue] = stored if isinstance(stored, list) else [stored]
        if named == ["file"]:
            named = ["string"]
        types = [str(one) for one in named if isinstance(one, str) and one in TYPES]
        if len(types) != len(named) or len(set(types)) != len(types):
            self.problems.append((below(place, "type"), "is no type, and is left out"))
            return list(dict.fromkeys(types)) if len(types) == len(named) else []
        return types

    def _exclusive(self, schema: JsonObject, written: JsonObject) -> None:
        for limit, exclusive in (
            ("minimum", "exclusiveMinimum"),
            ("maximum", "exclusiveMaximum"),
        ):
            if schema.get(exclusive) is True and limit in written:
                written[exclusive] = written.pop(limit)

    def _applied(self, schema: JsonObject, written: JsonObject, place: Place, depth: int) -> None:
        """Write the keywords whose values are schemas."""
        if APPLICATORS.isdisjoint(schema):
            return
        for name in ONE_SCHEMA:
            value = schema.get(name)
            if name == "items" and isinstance(value, list):
                written["prefixItems"] = self._list(value, below(place, name), depth)
            # A tuple, because a union would be made for each keyword of each schema.
            elif isinstance(value, (bool, dict)):
                written[name] = self.write(value, below(place, name), depth + 1)
        for name in SCHEMAS:
            value = schema.get(name)
            if isinstance(value, list) and value:
                written[name] = self._list(value, below(place, name), depth)
        for name in NAMED_SCHEMAS:
            value = schema.get(name)
            if not isinstance(value, dict):
                continue
            at = below(place, name)
            names = [key for key in value if name != "patternProperties" or _is_pattern(key)]
            if name == "properties":
                names = self._without_left_out(names, schema, place)
            self._bytes += sum(map(len, names)) + 6 * len(names) + len(name)
            written[name] = {
                key: self.write(value[key], below(at, key), depth + 1) for key in names
            }

    def _list(self, schemas: list[JsonValue], place: Place, depth: int) -> JsonValue:
        return [
            self.write(one, below(place, index), depth + 1) for index, one in enumerate(schemas)
        ]

    def _without_left_out(self, names: list[str], schema: JsonObject, place: Place) -> list[str]:
        """Return the names of the properties that are sent in this direction."""
        properties = members(schema.get("properties"))
        return [name for name in names if not self._is_left_out(properties.get(name), place)]

    def _is_left_out(self, schema: JsonValue, place: Place, depth: int = 0) -> bool:
        if not isinstance(schema, dict) or depth > MAX_ALL_OF:
            return False
        if schema.get(self._left_out) is True:
            return True
        if "$ref" in schema:
            found = self._references.resolved(schema, place)
            if found is not None and self._is_left_out(found.value, found.place, depth + 1):
                return True
        parts = schema.get("allOf")
        return isinstance(parts, list) and any(
            self._is_left_out(part, place, depth + 1) for part in parts
        )

    def _nullable(self, written: JsonObject) -> JsonObject:
        types = written.get("type")
        if isinstance(types, str):
            written["type"] = [types, "null"]
            enum = written.get("enum")
            if isinstance(enum, list) and None not in enum:
                written["enum"] = [*enum, None]
            return written
        if not types and any(name in written for name in ("allOf", "anyOf", "oneOf", "enum")):
            told = {
                name: written.pop(name) for name in ("title", "description") if name in written
            }
            rest = {name: value for name, value in written.items() if name not in told}
            return cast("JsonObject", {**told, "anyOf": [rest, {"type": "null"}]})
        return written

    def resolved(self, located: SchemaAt) -> tuple[JsonObject, Place]:
        """Return a schema without a reference at its top; empty if it refers to nothing."""
        found = self._references.resolved(located.schema, located.place)
        if found is None or not isinstance(found.value, dict):
            return {}, located.place
        return found.value, found.place


def is_binary(schema: JsonObject) -> bool:
    """Whether values of a schema are files."""
    if schema.get("type") not in {"string", "file", None}:
        return False
    if schema.get("format") in {"binary", "byte"} and schema.get("format") == "binary":
        return True
    return schema.get("type") == "file" or (
        "contentMediaType" in schema and "contentEncoding" not in schema
    )


def is_object(schema: JsonObject) -> bool:
    """Whether values of a schema are objects, as far as the schema itself says."""
    stored = schema.get("type")
    return stored in ("object", ["object"]) or (stored is None and "properties" in schema)


def _length(value: JsonValue) -> int:
    """Return about how many characters a value has as JSON."""
    if isinstance(value, str):
        return len(value) + 6
    if isinstance(value, list | dict):
        return size_of(value) + 4
    return 8


def size_of(schema: JsonValue) -> int:
    """Return the number of bytes of a schema as JSON."""
    return len(
        json.dumps(schema, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    )
