"""Binds documents to a database, reads with projections, and derives validators.

Beanie binds a document class to one database for the whole process. `bound` makes a subclass for
each `Database` instead, so that several databases, or several clients of one, work side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import structlog
from beanie import Document, PydanticObjectId
from beanie.odm.queries.aggregation import AggregationQuery
from beanie.odm.queries.delete import DeleteMany, DeleteOne
from beanie.odm.queries.find import FindMany
from beanie.odm.queries.update import UpdateMany, UpdateOne
from beanie.odm.utils.dump import get_dict
from beanie.odm.utils.init import Initializer
from pydantic import BaseModel, ConfigDict, ValidationError
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.results import DeleteResult, UpdateResult

log = structlog.get_logger()

D = TypeVar("D", bound=Document)
R = TypeVar("R", bound=BaseModel)

BSON_TYPES: Mapping[type, tuple[str, ...]] = {
    str: ("string",),
    bool: ("bool",),
    int: ("int", "long"),
    float: ("double", "int", "long"),
    datetime: ("date",),
    PydanticObjectId: ("objectId",),
    list: ("array",),
    dict: ("object",),
    bytes: ("binData",),
}
"""Python types of fields to the BSON types that they are stored as."""


def bound(model: type[D], database: AsyncDatabase[dict[str, Any]]) -> type[D]:
    """Return a subclass of *model* that reads and writes its collection in *database*.

    Sends nothing: indexes are made by `packages.database.schema`.
    """
    members = {
        "__module__": model.__module__,
        "__doc__": model.__doc__,
        # What validates is made when the class is first used: a start uses few of them.
        "model_config": ConfigDict(defer_build=True),
    }
    subclass: type[D] = type(model.__name__, (model,), members)
    initializer = Initializer(database=database, document_models=[subclass], skip_indexes=True)
    # The class itself stays unbound, so that nothing can use it with another's database. Beanie
    # would bind it too, as the parent of what it is given.
    initializer.set_default_class_vars(model)
    initializer.inited_classes.append(model)
    steps = initializer.init_class(subclass)
    try:
        steps.send(None)
    except StopIteration:
        return subclass
    steps.close()
    raise TypeError(f"{model.__name__} cannot be bound without asking the database.")


async def read_all(query: FindMany[R] | AggregationQuery[R]) -> list[R]:
    """Return what a query finds, without documents that cannot be read, which are logged."""
    cursor = cast("AsyncCursor[dict[str, Any]]", await query.get_cursor())
    model = cast("type[R]", query.get_projection_model())
    name = query.document_model.get_collection_name()
    found = (parsed(model, row, name) for row in await cursor.to_list())
    return [one for one in found if one is not None]


async def read_one(query: FindMany[R]) -> R | None:
    """Return the first document of a query; None if there is none, or it cannot be read."""
    return next(iter(await read_all(query.limit(1))), None)


async def matched(query: UpdateOne | UpdateMany) -> int:
    """Run an update and return the number of documents that it matched."""
    result = cast("UpdateResult", await query)
    return result.matched_count


async def deleted(query: DeleteOne | DeleteMany) -> int:
    """Run a deletion and return the number of documents that it removed."""
    result = cast("DeleteResult", await query)
    return result.deleted_count


def parsed(model: type[R], row: Mapping[str, Any], collection: str) -> R | None:
    """Return a stored document as *model*; None if it cannot be read, which is logged."""
    try:
        return model.model_validate(row)
    except ValidationError as exc:
        fields = sorted({".".join(map(str, error["loc"])) for error in exc.errors()})
        log.warning(
            "document_unreadable", collection=collection, id=str(row.get("_id")), fields=fields
        )
        return None


def as_stored(document: Document) -> dict[str, Any]:
    """Return a document as `insert` stores it, for writes that Beanie has not, such as batches."""
    stored: dict[str, Any] = get_dict(
        document, to_db=True, keep_nulls=document.get_settings().keep_nulls
    )
    return stored


def validator_of(model: type[Document]) -> dict[str, Any]:
    """Return the validator of one of our own collections, derived from the document's fields.

    Fields without a default are required; fields that may be None may be absent or null. What a
    field's type cannot say is in `Settings.rules`: further members of the `$jsonSchema`.
    """
    rules: Mapping[str, Any] = getattr(vars(model)["Settings"], "rules", {})
    return {"$jsonSchema": {**_object(model), **rules}}


def _object(model: type[BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, field in model.model_fields.items():
        if name == "revision_id" or (name == "id" and field.annotation in OBJECT_ID):
            continue
        stored = field.alias or name
        properties[stored] = _constraints(field.annotation, field.metadata)
        if field.is_required():
            required.append(stored)
    schema: dict[str, Any] = {"bsonType": "object", "properties": properties}
    return {**schema, "required": required} if required else schema


OBJECT_ID = (PydanticObjectId, PydanticObjectId | None)
"""Types of `_id` that need no rule."""


def _constraints(annotation: Any, metadata: Sequence[object]) -> dict[str, Any]:
    """Return the JSON Schema of a field with MongoDB's `bsonType`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _constraints(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, UnionType):
        return _or_null([one for one in arguments if one is not NoneType], metadata)
    if origin is Literal:
        return {"enum": list(arguments)}
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _object(kind)
    types = BSON_TYPES.get(kind, ())
    schema: dict[str, Any] = {}
    if types:
        schema = {"bsonType": types[0] if len(types) == 1 else list(types)}
        schema.update(_limits(kind, metadata))
    if kind is list and arguments and (items := _constraints(arguments[0], ())):
        schema["items"] = items
    return schema


def _or_null(kinds: list[Any], metadata: Sequence[object]) -> dict[str, Any]:
    """Return the rule for a field that may also be null, or of one of several simple types."""
    schemas = [_constraints(kind, metadata) for kind in kinds]
    if len(schemas) > 1:
        types = [one for schema in schemas for one in _listed(schema.get("bsonType"))]
        schemas = [{"bsonType": types}]
    (schema,) = schemas
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    if types := _listed(schema.get("bsonType")):
        schema["bsonType"] = [*types, "null"]
    return schema


def _listed(types: Any) -> list[str]:
    return [types] if isinstance(types, str) else types or []


def _limits(kind: type, metadata: Sequence[object]) -> Iterator[tuple[str, Any]]:
    suffix = "Items" if kind is list else "Length"
    names = {
        "min_length": f"min{suffix}",
        "max_length": f"max{suffix}",
        "ge": "minimum",
        "le": "maximum",
    }
    # Constraints of an item stand in a FieldInfo, those of a field beside each other.
    flat = [inner for one in metadata for inner in getattr(one, "metadata", [one])]
    for one in flat:
        for attribute, name in names.items():
            if (value := getattr(one, attribute, None)) is not None:
                yield name, value
