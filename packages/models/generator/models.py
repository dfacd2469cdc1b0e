"""The classes of one module, as schemas that are ready to be rendered."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from packages.models.generator.errors import GenerationError
from packages.models.generator.releases import CONFIG, Published, ReleaseOrigin, Schema, origin
from packages.models.generator.settings import Index, collection_of, indexes_of
from packages.models.generator.shapes import (
    DRIVER_MARKS,
    DRIVER_MEMBERS,
    Shapes,
    completed,
    description,
    generated_class,
    object_schema,
    required_of,
)
from packages.models.generator.transports import BASE, transports_of

NOW = "Date.now"


@dataclass(frozen=True, slots=True)
class Module:
    """One module to be written.

    Attributes:
        root: Schema of the root class.
        classes: Schemas of all other classes by name, in the order they are needed.
        defaults_to_now: Wire names of the fields that default to the current time.
        published_required: What the file requires of each class; the classes require less.
    """

    published: Published
    origin: ReleaseOrigin
    root: Schema
    classes: Mapping[str, Schema]
    collection: str | None = None
    indexes: tuple[Index, ...] = ()
    defaults_to_now: frozenset[str] = field(default=frozenset())
    published_required: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def wire_names(self) -> set[str]:
        """All names on the wire of all its classes."""
        schemas = [self.root, *self.classes.values()]
        return {name for schema in schemas for name in properties_of(schema)}


def document_module(published: Published, schema: Schema, baseline: Schema | None) -> Module:
    """Return the module of a stored document.

    Args:
        published: What file it is.
        schema: Its content.
        baseline: The annotated file that completes a raw one; None if there is none.
    """
    completing = baseline if baseline is not None and is_raw(schema) else None
    shapes = Shapes(schema, keep_bounds=True)
    properties, clocked = _fields(shapes, schema, published)
    if (missing := published.essential - properties.keys()) != frozenset():
        raise GenerationError(f"{published.file} does not describe {', '.join(sorted(missing))}")
    if completing is not None:
        more, clocks = _fields(shapes, completing, published)
        # Whole numbers are written as `number` by the tool; the annotated file knows better.
        properties = completed(properties, more)
        clocked |= clocks
    annotated = completing if completing is not None else schema
    listed = annotated.get("required", [])
    defaulted = {name for name in listed if "default" in properties.get(name, {})}
    # A document without the essential fields would be useless to both applications. A field that
    # is required and has a default is never null, yet may be missing.
    required = sorted(published.essential | defaulted)
    root = object_schema(properties, described=description(annotated) or description(schema))
    return Module(
        published,
        origin(published.file, schema),
        {**root, "required": required},
        shapes.classes,
        collection_of(published, annotated),
        indexes_of(published, annotated),
        frozenset(clocked),
        {**shapes.required, published.model: required_of(shapes.flattened(schema))},
    )


def config_module(published: Published, schema: Schema, baseline: Schema | None) -> Module:
    """Return the module of the configuration: one flat class, and one for each transport."""
    found = transports_of(published.file, schema)
    if baseline is not None and is_raw(schema):
        found = found.completed_by(transports_of(published.file, baseline))
    described = description(schema) or description(baseline or {})
    root = {"allOf": [_base_ref(), object_schema(found.flat)], "description": described}
    classes: dict[str, Schema] = {**found.classes, BASE: object_schema(found.shared)}
    required = {**found.required, **{one.name: one.required for one in found.variants}}
    for variant in found.variants:
        own = {**object_schema(variant.own), "required": sorted(variant.required)}
        classes[variant.name] = {"allOf": [_base_ref(), own]}
    made_from = origin(published.file, schema)
    return Module(published, made_from, root, classes, published_required=required)


def is_raw(schema: Schema) -> bool:
    """Whether a file comes straight from `typescript-json-schema`, which writes no titles."""
    return "title" not in schema


def properties_of(schema: Schema) -> Schema:
    """Return the properties of a schema made here, those of its `allOf` parts included."""
    found: Schema = dict(schema.get("properties", {}))
    for part in schema.get("allOf", []):
        found |= part.get("properties", {})
    return found


def _fields(shapes: Shapes, schema: Schema, published: Published) -> tuple[Schema, set[str]]:
    flat = shapes.flattened(schema)
    properties = flat.get("properties")
    if not isinstance(properties, dict):
        raise GenerationError(f"{published.file} describes no object")
    # The id comes from the base class, and `__v` is bookkeeping that stays an unknown field.
    dropped = {"_id", "__v"} | (
        DRIVER_MEMBERS if DRIVER_MARKS & properties.keys() else frozenset()
    )
    kept = {str(k): v for k, v in properties.items() if k not in dropped}
    clocked = {k for k, v in kept.items() if _default_expression(v) == NOW}
    shaped: Schema = {}
    for name, node in kept.items():
        if name == "config" and published.model == "MCPServer":
            shaped[name] = generated_class(CONFIG)
        else:
            shaped[name] = shapes.shape(node, name=name, owner=published.model)
    return shaped, clocked


def _default_expression(node: object) -> object:
    return node.get("x-default-expression") if isinstance(node, dict) else None


def _base_ref() -> Schema:
    return {"$ref": f"#/definitions/{BASE}"}
