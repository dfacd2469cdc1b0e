"""Differences between two schema releases, in lines for the person who pins one.

Compares the modules that two releases lead to, not their files: order, titles and the driver's
internals make no difference there. What a release *requires* is listed although the generated
classes require less, since the other application refuses documents without it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from packages.models.generator.models import Module, properties_of
from packages.models.generator.releases import Schema
from packages.models.generator.settings import Index


@dataclass(frozen=True, slots=True)
class Field:
    """One field of one class, as it is compared."""

    kind: str
    is_required: bool


def differences(before: Sequence[Module], after: Sequence[Module]) -> list[str]:
    """Return one line for each field, collection or index that differs, sorted by class."""
    return [*_of_fields(_fields(before), _fields(after)), *_of_collections(before, after)]


def _of_fields(old: Mapping[str, Field], new: Mapping[str, Field]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            required = ", required" if new[name].is_required else ""
            yield f"added: {name} ({new[name].kind}{required})"
        elif name not in new:
            yield f"removed: {name} ({old[name].kind})"
        else:
            if old[name].kind != new[name].kind:
                yield f"retyped: {name} ({old[name].kind} -> {new[name].kind})"
            if old[name].is_required != new[name].is_required:
                yield f"{'required' if new[name].is_required else 'optional'} now: {name}"


def _of_collections(before: Sequence[Module], after: Sequence[Module]) -> Iterator[str]:
    old = {module.published.model: module for module in before}
    for module in after:
        former = old.get(module.published.model)
        if former is None:
            continue
        name = module.published.model
        if former.collection != module.collection:
            yield f"collection of {name}: {former.collection} -> {module.collection}"
        for index in former.indexes:
            if index not in module.indexes:
                yield f"index removed: {name} {_shown(index)}"
        for index in module.indexes:
            if index not in former.indexes:
                yield f"index added: {name} {_shown(index)}"


def _fields(modules: Sequence[Module]) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for module in modules:
        for model, schema in [(module.published.model, module.root), *module.classes.items()]:
            required = module.published_required.get(model, frozenset())
            for name, shape in properties_of(schema).items():
                fields[f"{model}.{name}"] = Field(_kind(shape), name in required)
    return fields


def _kind(shape: Schema) -> str:
    """Return the type of a shape in the words of JSON Schema."""
    kind = shape.get("type", "any")
    kinds = [
        *(_kind(part) for part in shape.get("anyOf", [])),
        *(repr(value) for value in shape.get("enum", [])),
    ]
    named = str(shape.get("$ref", shape.get("customTypePath", "")))
    values = shape.get("additionalProperties")
    if kinds:
        return " | ".join(kinds)
    if named:
        return re.split(r"[/.]", named)[-1].removesuffix("Field")
    if kind == "array":
        return f"array of {_kind(shape.get('items', {}))}"
    if kind == "object" and isinstance(values, dict):
        return f"object of {_kind(values)}"
    return "number" if isinstance(kind, list) else str(shape.get("format", kind))


def _shown(index: Index) -> str:
    keys = ", ".join(f"{key}: {direction}" for key, direction in index.keys)
    options = "".join(f", {name}={value}" for name, value in index.options)
    return f"({keys}){options}"
