"""Collections and indexes, from the annotations of a published document."""

import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from packages.models.generator.errors import GenerationError
from packages.models.generator.releases import Published, Schema

COLLECTION = re.compile(r"[a-z][A-Za-z0-9_-]*")
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*|\$\*\*|[A-Za-z_][A-Za-z0-9_.]*\.\$\*\*")

DIRECTIONS = frozenset({1, -1, "text", "hashed", "2d", "2dsphere"})
FLAGS = frozenset({"unique", "sparse", "hidden"})
TEXTS = frozenset({"name", "default_language", "language_override"})
OBJECTS = frozenset({"partialFilterExpression", "weights", "collation", "wildcardProjection"})
MAX_DEPTH = 10

Option: TypeAlias = bool | int | str | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Index:
    """One index as the other application declares it: with other options it would conflict."""

    keys: tuple[tuple[str, int | str], ...]
    options: tuple[tuple[str, Option], ...]


def collection_of(published: Published, schema: Schema) -> str:
    """Return the collection of a document.

    Raises:
        GenerationError: The annotation is no collection name.
    """
    name = schema.get("x-collection", published.collection)
    if not isinstance(name, str) or COLLECTION.fullmatch(name) is None:
        raise GenerationError(f"x-collection of {published.file} is no collection name")
    return name


def indexes_of(published: Published, schema: Schema) -> tuple[Index, ...]:
    """Return the indexes of a document.

    Raises:
        GenerationError: An annotation is malformed or uses an option that is not known here.
    """
    annotations = schema.get("x-indexes", [])
    if not isinstance(annotations, list):
        raise GenerationError(f"x-indexes of {published.file} is malformed")
    return tuple(_index(published, annotation) for annotation in annotations)


def _index(published: Published, annotation: object) -> Index:
    fields = annotation.get("fields") if isinstance(annotation, dict) else None
    if not isinstance(annotation, dict) or not isinstance(fields, dict) or not fields:
        raise GenerationError(f"an index of {published.file} names no fields")
    for key, direction in fields.items():
        is_known = isinstance(direction, int | str) and direction in DIRECTIONS
        if KEY.fullmatch(key) is None or isinstance(direction, bool) or not is_known:
            raise GenerationError(f"an index of {published.file} is malformed at {key[:40]!r}")
    options: list[tuple[str, Option]] = []
    for option, value in annotation.items():
        if option == "fields":
            continue
        if not _is_option(option, value):
            raise GenerationError(f"an index of {published.file} has an unknown {option[:40]!r}")
        if value is not False:
            options.append((option, value))
    return Index(tuple(fields.items()), tuple(options))


def _is_option(option: str, value: object) -> bool:
    if option in FLAGS:
        return isinstance(value, bool)
    if option == "expireAfterSeconds":
        return type(value) is int and value >= 0
    if option in TEXTS:
        return isinstance(value, str)
    return option in OBJECTS and isinstance(value, dict) and is_plain(value)


def is_plain(value: object, depth: int = 0) -> bool:
    """Whether *value* can be written down as a Python literal and read back as the same."""
    if depth > MAX_DEPTH:
        return False
    if isinstance(value, dict):
        return all(is_plain(item, depth + 1) for item in value.values())
    if isinstance(value, list):
        return all(is_plain(item, depth + 1) for item in value)
    return not isinstance(value, float) or math.isfinite(value)
