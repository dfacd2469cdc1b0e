"""Published properties in plain vocabulary."""

from typing import Any

import pytest

from packages.models.generator.errors import GenerationError
from packages.models.generator.shapes import NUMBER, OBJECT_ID, OPEN_OBJECT, Shapes

STRING = {"type": "string"}
DEFINITIONS = {
    "Types.ObjectId": {"type": "object", "properties": {"_bsontype": {"const": "ObjectId"}}},
    "mongoose.ObjectId<any>": {"type": "object"},
    "Key": {"type": "object", "properties": {"_bsontype": {}, "id": {}}},
    "Record<string,string>": {"type": "object", "additionalProperties": False},
    "Record<string,number>_1": {"type": "object", "additionalProperties": False},
    "Record<string,{a:string;}>": {"type": "object", "additionalProperties": False},
    "Map<string,unknown>": {
        "type": "object",
        "properties": {"size": {"type": "number"}, "@@toStringTag": STRING},
    },
    "Node": {"type": "object", "properties": {"next": {"$ref": "#/definitions/Node"}}},
    "Url": {"type": "string", "pattern": "^https"},
}


def shape(node: object, **options: bool) -> dict[str, Any]:
    root = {"definitions": DEFINITIONS}
    return Shapes(root, keep_bounds=options.get("keep_bounds", False)).shape(
        node, name="field", owner="Owner"
    )


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"$ref": "#/definitions/Types.ObjectId"}, OBJECT_ID),
        ({"$ref": "#/definitions/mongoose.ObjectId%3Cany%3E"}, OBJECT_ID),
        ({"$ref": "#/definitions/Key"}, OBJECT_ID),
        ({"type": "string", "pattern": "^[0-9a-fA-F]{24}$"}, OBJECT_ID),
        ({"type": "string", "pattern": "^[0-9a-f]{24}$"}, OBJECT_ID),
        ({"$ref": "#/definitions/Url"}, STRING),
        ({"type": ["string", "null"]}, STRING),
        ({"anyOf": [{"type": "null"}, STRING]}, STRING),
        ({"oneOf": [STRING, STRING]}, STRING),
        ({"type": "number"}, NUMBER),
        ({"type": ["string", "boolean"]}, {"anyOf": [STRING, {"type": "boolean"}]}),
        ({"enum": [1, 2]}, {"type": "integer"}),
        ({"enum": [True]}, {"type": "boolean"}),
        ({"enum": ["a", 1]}, {}),
        ({"const": "a"}, {"anyOf": [{"type": "string", "enum": ["a"]}, STRING]}),
        ({"enum": ["b", "a", None]}, {"anyOf": [{"type": "string", "enum": ["b", "a"]}, STRING]}),
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": "array", "items": [STRING]}, {"type": "array", "items": {}}),
        ({"type": "object", "additionalProperties": False}, OPEN_OBJECT),
        (
            {"type": "object", "additionalProperties": STRING},
            {"type": "object", "additionalProperties": STRING},
        ),
        (
            {"$ref": "#/definitions/Record<string,string>"},
            {"type": "object", "additionalProperties": STRING},
        ),
        (
            {"$ref": "#/definitions/Record%3Cstring%2Cnumber%3E_1"},
            {"type": "object", "additionalProperties": NUMBER},
        ),
        ({"$ref": "#/definitions/Record<string,{a:string;}>"}, OPEN_OBJECT),
        ({"$ref": "#/definitions/Map<string,unknown>"}, OPEN_OBJECT),
        ({"$ref": "Token.json"}, {"customTypePath": "packages.models._generated.token.Token"}),
        ({}, {}),
        ("nonsense", {}),
    ],
)
def test_a_property_becomes_plain(node: object, expected: dict[str, Any]) -> None:
    assert shape(node) == expected


@pytest.mark.parametrize("keep_bounds", [True, False])
def test_bounds_are_kept_only_where_the_database_checks_them(keep_bounds: bool) -> None:  # noqa: FBT001 - a table
    found = shape({"type": "integer", "minimum": 0}, keep_bounds=keep_bounds)

    assert ("minimum" in found) is keep_bounds


def test_keywords_that_would_reach_the_code_are_dropped() -> None:
    node = {
        "type": "string",
        "customTypePath": "os.system",
        "default_factory": "list",
        "x-python-import": {"module": "os", "name": "system"},
        "pattern": "(a+)+$",
        "description": 'two\nlines\t"""',
    }

    assert shape(node) == {"type": "string", "description": 'two lines """'}


def test_a_definition_that_contains_itself_ends() -> None:
    shapes = Shapes({"definitions": DEFINITIONS}, keep_bounds=False)

    shapes.shape({"$ref": "#/definitions/Node"}, name="node", owner="Owner")

    assert shapes.classes["Node"]["properties"] == {"next": OPEN_OBJECT}


def test_inline_objects_of_the_same_name_and_other_content_are_told_apart() -> None:
    shapes = Shapes({}, keep_bounds=False)
    small = {"type": "object", "properties": {"a": STRING}}
    large = {"type": "object", "properties": {"a": STRING, "b": STRING}}

    found = [
        shapes.shape(node, name="limits", owner=owner)["$ref"]
        for node, owner in [(small, "Token"), (large, "User"), (small, "Group"), (large, "User")]
    ]

    assert found == [
        "#/definitions/Limits",
        "#/definitions/UserLimits",
        "#/definitions/Limits",
        "#/definitions/UserLimits",
    ]


def test_a_reference_to_nothing_is_refused() -> None:
    with pytest.raises(GenerationError, match="Missing"):
        shape({"$ref": "#/definitions/Missing"})
