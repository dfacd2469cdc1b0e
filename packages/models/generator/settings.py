"""Collections and indexes, from the annotations of a published document."""

import re
from dataclasses import dataclass

from packages.models.generator.errors import GenerationError
from packages.models.generator.releases import Published, Schema

COLLECTION = re.compile(r"[a-z][A-Za-z0-9_-]*")
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


@dataclass(frozen=True, slots=True)
class Index:
    """One index as the other application declares it: with other options it would conflict."""

    keys: tuple[tuple[str, int], ...]
    options: tuple[tuple[str, bool | int], ...]


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
        if KEY.fullmatch(key) is None or direction not in {1, -1}:
            raise GenerationError(f"an index of {published.file} is malformed at {key[:40]!r}")
    options: list[tuple[str, bool | int]] = []
    for option, value in annotation.items():
        if option == "fields":
            continue
        if option in {"unique", "sparse"} and isinstance(value, bool):
            if value:
                options.append((option, True))
        elif option == "expireAfterSeconds" and type(value) is int and value >= 0:
            options.append((option, value))
        else:
            raise GenerationError(f"an index of {published.file} has an unknown {option[:40]!r}")
    return Index(tuple((str(k), int(v)) for k, v in fields.items()), tuple(options))
