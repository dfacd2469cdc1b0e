"""Published schemas in one plain vocabulary, whatever tool wrote them.

Takes clean files and those of `typescript-json-schema`, which carry the driver's internals, closed
records, object-shaped ids and nameless variants. Only known keywords get through: what a file
could say beyond them (import paths, base classes) would end up in code.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from packages.models.generator.errors import GenerationError
from packages.models.generator.naming import class_name, is_class_name
from packages.models.generator.releases import ALL, GENERATED_PACKAGE, Published, Schema

OBJECT_ID: Schema = {"customTypePath": "packages.models.fields.ObjectIdField"}
OPEN_OBJECT: Schema = {"type": "object", "additionalProperties": True}
NUMBER: Schema = {"type": ["integer", "number"]}
"""An integer stays one: read as a float it would change its type in the database when saved."""

DRIVER_MEMBERS = frozenset(
    {
        "$locals",
        "$op",
        "$where",
        "baseModelName",
        "collection",
        "db",
        "errors",
        "id",
        "isNew",
        "schema",
    }
)
"""Members of mongoose's Document class, which are no fields of the stored document."""

DRIVER_MARKS = frozenset({"$locals", "$op", "$where"})
"""Only beside one of these is a name like `schema` or `errors` a member of the driver."""

NAMES_BY_PROPERTY: Mapping[str, str] = {
    "apiKey": "ApiKeyConfig",
    "customUserVars": "CustomUserVar",
    "function": "FunctionDefinition",
    "oauth": "OAuthConfig",
    "oauthMetadata": "OAuthMetadata",
    "toolFunctions": "ToolFunction",
}
"""Class names of inline objects; any other is named after its property."""

BOUNDS = ("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

HEX_24 = re.compile(r"\^\[0-9a-f(A-F)?\]\{24\}\$|\^\[0-9a-fA-F\]\{24\}\$")
RECORD = re.compile(r"(?:Record|Map)<string, ?(.*)>(?:_\d+)?", re.DOTALL)
SCALARS = frozenset({"string", "boolean", "integer", "number"})
OTHER_FILES = {published.file: published for published in ALL}
MAX_DEPTH = 40
MAX_DESCRIPTION = 400


class Shapes:
    """Cleans the properties of one file and collects the classes of its nested objects.

    Args:
        root: The published file.
        keep_bounds: Whether lengths and ranges are kept. The database checks no value inside
            `config`, so a document must load there whatever they are.
    """

    def __init__(self, root: Schema, *, keep_bounds: bool) -> None:
        definitions = root.get("definitions", root.get("$defs", {}))
        self.definitions: Schema = definitions if isinstance(definitions, dict) else {}
        self.keep_bounds = keep_bounds
        self.classes: dict[str, Schema] = {}
        self.required: dict[str, frozenset[str]] = {}
        self._open: set[str] = set()

    def flattened(self, node: object, depth: int = 0) -> Schema:
        """Return an object schema with references followed and `allOf` merged."""
        if depth > MAX_DEPTH:
            raise GenerationError("a schema refers to itself too deeply")
        if not isinstance(node, dict):
            return {}
        if "$ref" in node:
            target = self._definition(node["$ref"])
            return self.flattened(target, depth + 1)
        parts = node.get("allOf")
        if not isinstance(parts, list):
            return node
        merged: Schema = {"properties": {}, "required": []}
        own = {key: value for key, value in node.items() if key != "allOf"}
        for part in [*(self.flattened(part, depth + 1) for part in parts), own]:
            for key, value in part.items():
                if key == "properties" and isinstance(value, dict):
                    merged["properties"] |= value
                elif key == "required" and isinstance(value, list):
                    merged["required"] += value
                else:
                    merged[key] = value
        return merged

    def shape(self, node: object, *, name: str, owner: str, depth: int = 0) -> Schema:
        """Return the plain shape of one property."""
        if not isinstance(node, dict) or depth > MAX_DEPTH:
            return {}
        shape = self._shape(node, name=name, owner=owner, depth=depth + 1)
        if (text := description(node)) and "$ref" not in shape:
            shape = {**shape, "description": text}
        default = node.get("default")
        if isinstance(default, str | int | float) and depth == 0:
            shape = {**shape, "default": default}
        return shape

    def _shape(self, node: Schema, *, name: str, owner: str, depth: int) -> Schema:
        if "$ref" in node:
            return self._referred(str(node["$ref"]), name=name, owner=owner, depth=depth)
        if isinstance(node.get("allOf"), list):
            return self._shape(self.flattened(node), name=name, owner=owner, depth=depth)
        variants = node.get("anyOf", node.get("oneOf"))
        if isinstance(variants, list):
            shapes = (self.shape(v, name=name, owner=owner, depth=depth) for v in variants)
            return any_of(shape for shape in shapes if shape != {"type": "null"})
        if isinstance(node.get("type"), list):
            kinds = ({**node, "type": kind} for kind in node["type"] if kind != "null")
            shapes = (self.shape(kind, name=name, owner=owner, depth=depth) for kind in kinds)
            return any_of(shapes)
        values = allowed_values(node)
        if values:
            return tolerant(values)
        return self._typed(node, name=name, owner=owner, depth=depth)

    def _typed(self, node: Schema, *, name: str, owner: str, depth: int) -> Schema:
        kind = node.get("type", "object" if "properties" in node else None)
        if kind == "null":
            return {"type": "null"}
        if is_object_id(node):
            return OBJECT_ID
        if kind == "array":
            items = self.shape(node.get("items"), name=singular(name), owner=owner, depth=depth)
            return {"type": "array", "items": items}
        if kind == "object":
            return self._object(node, name=name, owner=owner, depth=depth)
        if kind not in SCALARS:
            return {}
        shape: Schema = dict(NUMBER) if kind == "number" else {"type": kind}
        if node.get("format") == "date-time":
            shape["format"] = "date-time"
        if self.keep_bounds:
            shape |= {key: node[key] for key in BOUNDS if isinstance(node.get(key), int | float)}
        return shape

    def _object(self, node: Schema, *, name: str, owner: str, depth: int) -> Schema:
        properties = node.get("properties")
        if isinstance(properties, dict) and properties:
            if "@@toStringTag" in properties:
                return OPEN_OBJECT
            return self._nested(node, name=name, owner=owner, depth=depth)
        values = node.get("additionalProperties")
        if isinstance(values, dict):
            inner = self.shape(values, name=name, owner=owner, depth=depth)
            return {"type": "object", "additionalProperties": inner or True}
        return OPEN_OBJECT

    def _nested(self, node: Schema, *, name: str, owner: str, depth: int) -> Schema:
        title = node.get("title")
        wanted = NAMES_BY_PROPERTY.get(name) or (
            str(title) if is_class_name(title) else class_name(name)
        )
        properties = {
            str(key): self.shape(value, name=str(key), owner=wanted, depth=depth)
            for key, value in node["properties"].items()
        }
        model = object_schema(properties, described=description(node))
        chosen, count = wanted, 1
        while chosen == owner or self.classes.get(chosen, model) != model:
            chosen = f"{owner}{wanted}" if count == 1 else f"{owner}{wanted}{count}"
            count += 1
        self.classes[chosen] = model
        self.required[chosen] = required_of(node)
        return {"$ref": f"#/definitions/{chosen}"}

    def _referred(self, ref: str, *, name: str, owner: str, depth: int) -> Schema:
        other = OTHER_FILES.get(ref.partition("#")[0])
        if other is not None:
            return generated_class(other)
        key = unquote(ref.removeprefix("#/definitions/").removeprefix("#/$defs/"))
        if key.split("<")[0].rsplit(".", 1)[-1] in {"ObjectId", "ObjectID"}:
            return OBJECT_ID
        target = self._definition(ref)
        record = RECORD.fullmatch(key)
        if record is not None and "properties" not in target:
            return record_of(record[1], target)
        if record is not None or key.startswith("Map<"):
            return OPEN_OBJECT
        if key in self._open:
            # A definition that contains itself ends as open JSON.
            return OPEN_OBJECT
        self._open.add(key)
        titled = {**target, "title": key} if "title" not in target else target
        try:
            return self._shape(titled, name=name, owner=owner, depth=depth + 1)
        finally:
            self._open.remove(key)

    def _definition(self, ref: object) -> Schema:
        key = str(ref).removeprefix("#/definitions/").removeprefix("#/$defs/")
        found = self.definitions.get(key, self.definitions.get(unquote(key)))
        if not isinstance(found, dict):
            raise GenerationError(f"a schema refers to {str(ref)[:80]!r}, which is not there")
        return found


def generated_class(published: Published) -> Schema:
    """Return the shape of the root class of another file."""
    return {"customTypePath": f"{GENERATED_PACKAGE}.{published.module}.{published.model}"}


def allowed_values(node: Schema) -> list[Any]:
    """Return the values of `const` or `enum`, without null."""
    values = [node["const"]] if "const" in node else node.get("enum")
    return [v for v in values if v is not None] if isinstance(values, list) else []


def tolerant(values: list[Any]) -> Schema:
    """Return a shape for *values* that takes others of their type too.

    A later release of the other application may write values that this one does not know.
    """
    if all(isinstance(value, str) for value in values):
        known = {"type": "string", "enum": sorted(set(values), key=values.index)}
        return {"anyOf": [known, {"type": "string"}]}
    if all(isinstance(value, bool) for value in values):
        return {"type": "boolean"}
    if all(isinstance(value, int) for value in values):
        return {"type": "integer"}
    return {}


def any_of(shapes: Iterable[Schema]) -> Schema:
    """Return the union of *shapes*, each once and flat."""
    flat: list[Schema] = []
    for shape in shapes:
        for part in shape.get("anyOf", [shape]):
            if part not in flat:
                flat.append(part)
    return flat[0] if len(flat) == 1 else {"anyOf": flat} if flat else {}


def object_schema(properties: Schema, *, described: str = "") -> Schema:
    """Return an open object of which every property may be missing."""
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": True}
    return {**schema, "description": described} if described else schema


def required_of(node: Schema) -> frozenset[str]:
    """Return what *node* requires, whether or not the class made of it does."""
    names = node.get("required", [])
    return frozenset(map(str, names)) if isinstance(names, list) else frozenset()


def is_object_id(node: Schema) -> bool:
    """Whether *node* is an ObjectId, as 24 hexadecimal digits or as the driver's class."""
    properties = node.get("properties")
    if isinstance(properties, dict) and "_bsontype" in properties:
        return True
    pattern = node.get("pattern")
    return isinstance(pattern, str) and HEX_24.fullmatch(pattern) is not None


def record_of(value_type: str, target: Schema) -> Schema:
    """Return the open object that `Record<string, value_type>` stands for.

    The tool writes records as closed and empty objects; what they hold is only in their name.
    """
    additional = target.get("additionalProperties")
    if value_type in {"string", "boolean"}:
        return {"type": "object", "additionalProperties": {"type": value_type}}
    if value_type == "number":
        return {"type": "object", "additionalProperties": NUMBER}
    return (
        {**OPEN_OBJECT, "additionalProperties": additional} if additional is True else OPEN_OBJECT
    )


def description(node: Schema) -> str:
    """Return the description of *node* on one line."""
    text = node.get("description")
    if not isinstance(text, str):
        return ""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:MAX_DESCRIPTION]


def singular(name: str) -> str:
    """Return what one item of the list *name* is called."""
    return name[:-1] if name.endswith("s") and len(name) > 1 else f"{name}Item"


def completed(properties: Schema, more: Schema) -> Schema:
    """Return *properties* with those of *more* that are absent or less exactly known."""
    result = dict(properties)
    for name, shape in more.items():
        if name not in result or _is_vaguer(result[name], shape):
            result[name] = shape
    return result


def _is_vaguer(shape: Schema, other: Schema) -> bool:
    is_number = shape.get("type") == NUMBER["type"] and other.get("type") == "integer"
    is_open = shape.get("type") == "object" and shape.get("additionalProperties") is True
    is_map = other.get("type") == "object" and isinstance(other.get("additionalProperties"), dict)
    return is_number or (is_open and is_map)
