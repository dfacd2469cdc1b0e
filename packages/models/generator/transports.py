"""The variants of a configuration: what they share, and what distinguishes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from packages.models.generator.errors import GenerationError
from packages.models.generator.naming import class_name
from packages.models.generator.releases import Schema
from packages.models.generator.shapes import Shapes, allowed_values, any_of, completed, tolerant

BASE = "MCPOptionsBase"
"""Class of the fields that every transport has."""

NAMES: Mapping[str, str] = {
    "stdio": "StdioTransport",
    "websocket": "WebSocketTransport",
    "sse": "SSETransport",
    "streamable-http": "StreamableHTTPTransport",
    "http": "StreamableHTTPTransport",
}
"""Class of each value of `type`."""

URL_PATTERNS: Mapping[str, str] = {
    "WebSocketTransport": "^wss?://",
    "SSETransport": "^https?://",
    "StreamableHTTPTransport": "^https?://",
}
"""Form of a url, which raw files lack; nothing else distinguishes sse from websocket."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One transport: the fields it does not share with all others."""

    name: str
    kinds: tuple[str, ...]
    own: Schema
    required: frozenset[str]


@dataclass(frozen=True, slots=True)
class Transports:
    """All variants of a configuration, and the nested classes they use."""

    shared: Schema
    variants: tuple[Variant, ...]
    classes: Schema
    required: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """What the file requires of each nested class."""

    @property
    def flat(self) -> Schema:
        """The fields that are not shared, merged so that any variant fits."""
        kinds = [kind for variant in self.variants for kind in variant.kinds]
        merged: Schema = {"type": tolerant(kinds)}
        for variant in self.variants:
            for name, shape in variant.own.items():
                if name != "type":
                    plain = {k: v for k, v in shape.items() if k != "pattern"}
                    merged[name] = any_of([merged[name], plain]) if name in merged else plain
        return merged

    def completed_by(self, baseline: "Transports") -> "Transports":
        """Return these transports with the stored fields that only *baseline* knows."""
        shared = completed(self.shared, baseline.shared)
        return replace(self, shared=shared, classes=self.classes | _only_new(self, baseline))


def transports_of(file: str, schema: Schema) -> Transports:
    """Return the transports of a published configuration, clean or raw.

    Raises:
        GenerationError: A transport is missing, or cannot be distinguished from the others.
    """
    shapes = Shapes(schema, keep_bounds=False)
    nodes = shapes.flattened(schema).get("anyOf")
    if not isinstance(nodes, list):
        raise GenerationError(f"{file} is no union of transports")
    variants = [_variant(file, shapes, node) for node in nodes]
    found = {variant.name for variant in variants}
    for name in URL_PATTERNS.keys() | {"StdioTransport"}:
        if name not in found:
            raise GenerationError(f"{file} describes no {name}")
    if len(found) != len(variants):
        raise GenerationError(f"{file} describes a transport twice")
    first, *others = variants
    shared = {
        name: shape
        for name, shape in first.own.items()
        if all(
            variant.own.get(name) == shape and name not in variant.required
            for variant in [first, *others]
        )
    }
    own = tuple(
        replace(v, own={name: shape for name, shape in v.own.items() if name not in shared})
        for v in variants
    )
    return Transports(shared, own, shapes.classes, shapes.required)


def _variant(file: str, shapes: Shapes, node: object) -> Variant:
    flat = shapes.flattened(node)
    properties = flat.get("properties")
    kinds = tuple(str(v) for v in allowed_values((properties or {}).get("type", {})))
    if not isinstance(properties, dict) or not kinds:
        raise GenerationError(f"{file} has a transport without a type")
    name = NAMES.get(kinds[0], f"{class_name(kinds[0])}Transport")
    own: Schema = {}
    for key, value in properties.items():
        own[str(key)] = shapes.shape(value, name=str(key), owner=name)
    kind: Schema = {"type": "string", "enum": list(kinds)}
    own["type"] = {**kind, "default": kinds[0]} if len(kinds) == 1 else kind
    if name in URL_PATTERNS and "url" in own:
        own["url"] = {**own["url"], "pattern": URL_PATTERNS[name]}
    listed = flat.get("required", [])
    required = frozenset(key for key in listed if key in own) | {"type"}
    return Variant(name, kinds, own, required)


def _only_new(ours: Transports, baseline: Transports) -> Schema:
    return {name: c for name, c in baseline.classes.items() if name not in ours.classes}
