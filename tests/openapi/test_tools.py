"""From descriptions to tools: what real descriptions hold that small examples do not."""

import time
from typing import Any

import jsonschema_rs
import pytest

from registry.core.json import JsonObject, members
from registry.openapi.binding import OperationBinding, binding_of
from registry.openapi.description import describe
from registry.openapi.schemas import size_of
from registry.openapi.tools import MAX_INPUT_BYTES, Converted, Rule, Selection, tools_of
from registry.upstream.rest.requests import request_of

API = "https://api.example.com"


def converted(paths: JsonObject, **more: Any) -> Converted:
    """Convert a description with these paths."""
    document: JsonObject = {"openapi": "3.0.3", "info": {}, "paths": paths} | more
    return tools_of(describe(document, url=None, files={}), Selection())


def only(paths: JsonObject, **more: Any) -> tuple[JsonObject, OperationBinding]:
    """Return input schema and binding of the only tool of a description."""
    (tool,) = converted(paths, **more).tools
    schema, binding = tool.definition["inputSchema"], binding_of(tool.definition)
    assert isinstance(schema, dict)
    assert binding is not None
    return schema, binding


def body(schema: JsonObject, content_type: str = "application/json") -> JsonObject:
    """Return the description of a required body."""
    return {"required": True, "content": {content_type: {"schema": schema}}}


ACTION = {"name": "Action", "in": "query", "required": True, "schema": {"enum": ["Start"]}}


@pytest.mark.parametrize(
    ("path", "parameters", "arguments", "target"),
    [
        ("/#Action=Start", [ACTION], {"Action": "Start"}, "/?Action=Start"),
        ("/files/{id}#shared", [], {"id": "a"}, "/files/a"),
        ("/run?mode=fast&x=1", [], {}, "/run?mode=fast&x=1"),
        (
            "/find?q={q}",
            [{"name": "q", "in": "path", "schema": {"type": "string"}}],
            {"q": "a&b"},
            "/find?q=a%26b",
        ),
    ],
)
def test_paths_that_tell_operations_apart_by_what_follows_are_called(
    path: str, parameters: list[JsonObject], arguments: JsonObject, target: str
) -> None:
    _, binding = only({path: {"get": {"parameters": [*parameters]}}})

    assert request_of(binding, arguments, API).target == target


def test_operations_of_one_path_are_different_tools() -> None:
    found = converted({"/#Action=A": {"get": {}}, "/#Action=B": {"get": {}}})

    assert [tool.external_id for tool in found.tools] == ["GET /#Action=A", "GET /#Action=B"]
    assert len({tool.name for tool in found.tools}) == 2


def test_what_a_body_needs_and_does_not_describe_is_an_argument() -> None:
    form: JsonObject = {"type": "object", "properties": {"a": {}}, "required": ["a", "b"]}

    schema, binding = only(
        {"/x": {"post": {"requestBody": body(form, "application/x-www-form-urlencoded")}}}
    )

    assert schema["required"] == ["a", "b"]
    assert request_of(binding, {"a": "1", "b": "2"}, API).content == b"a=1&b=2"


def test_what_is_read_only_by_a_part_is_no_argument() -> None:
    person: JsonObject = {"type": "object", "properties": {"name": {"type": "string"}}}
    owner: JsonObject = {"allOf": [{"$ref": "#/components/schemas/P"}, {"readOnly": True}]}
    kept: JsonObject = {"type": "string"}
    described: JsonObject = {"type": "object", "properties": {"owner": owner, "title": kept}}

    schema, _ = only(
        {"/x": {"post": {"requestBody": body(described)}}}, components={"schemas": {"P": person}}
    )

    assert "owner" not in str(schema)
    assert "title" in str(schema)


def wide(depth: int, width: int) -> JsonObject:
    """Return schemas that refer to each other, each with a long description."""
    return {
        f"S{level}_{index}": {
            "type": "object",
            "description": "x" * 1_000,
            "properties": {
                f"p{other}": {"$ref": f"#/components/schemas/S{level + 1}_{other}"}
                for other in range(width)
            }
            if level < depth
            else {"end": {"type": "string"}},
        }
        for level in range(depth + 1)
        for index in range(width)
    }


def test_of_what_is_too_large_the_nearest_definitions_are_kept() -> None:
    schemas = wide(3, 30)
    whole: JsonObject = {"type": "array", "items": {"$ref": "#/components/schemas/S0_0"}}

    schema, _ = only(
        {"/x": {"post": {"requestBody": body(whole)}}}, components={"schemas": schemas}
    )

    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    assert "properties" in str(definitions["S0_0"])
    assert "properties" in str(definitions["S1_5"])
    assert {"type": "object"} in definitions.values()
    assert MAX_INPUT_BYTES / 2 < size_of(schema) <= MAX_INPUT_BYTES


def test_schemas_that_are_too_large_cost_little() -> None:
    schemas = wide(20, 20)
    answer: JsonObject = {
        "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S0_0"}}}}
    }
    paths: JsonObject = {f"/x{number}": {"get": {"responses": answer}} for number in range(100)}
    started = time.process_time()

    found = converted(paths, components={"schemas": schemas})

    assert len(found.tools) == 100
    assert "outputSchema" not in found.tools[0].definition
    # Written whole, each takes some 20 ms.
    assert time.process_time() - started < 1


CAT: JsonObject = {"type": "object", "properties": {"kind": {"type": "string"}}}
ANIMALS: JsonObject = {
    "Cat": CAT,
    "Dog": CAT,
    "Fish": {"type": "object", "properties": {"kind": {"enum": ["fish"]}}},
}


@pytest.mark.parametrize(
    ("kind", "is_valid"),
    [("c", True), ("cat", True), ("d", True), ("Cat", True), ("x", False), ("fish", True)],
)
def test_a_mapped_discriminator_says_which_alternative_is_meant(
    kind: str,
    is_valid: bool,  # noqa: FBT001 - a table
) -> None:
    reference = "#/components/schemas/"
    animal: JsonObject = {
        "oneOf": [{"$ref": reference + name} for name in ANIMALS],
        "discriminator": {
            "propertyName": "kind",
            "mapping": {
                "c": reference + "Cat",
                "cat": "Cat",
                "d": reference + "Dog",
                "other": reference + "Fish",
            },
        },
    }

    schema, _ = only(
        {"/x": {"post": {"requestBody": body(animal)}}}, components={"schemas": ANIMALS}
    )

    # What an alternative itself says of its values counts more than a mapping without them.
    assert jsonschema_rs.is_valid(schema, {"body": {"kind": kind}}) is is_valid


def test_what_may_be_of_another_kind_is_one_argument() -> None:
    pet: JsonObject = {
        "type": "object",
        "properties": {"kind": {"type": "string"}},
        "discriminator": {"propertyName": "kind"},
    }

    schema, binding = only({"/x": {"post": {"requestBody": body(pet)}}})

    arguments: JsonObject = {"body": {"kind": "cat", "lives": 9}}
    assert jsonschema_rs.is_valid(schema, arguments)
    assert request_of(binding, arguments, API).content == b'{"kind":"cat","lives":9}'


@pytest.mark.parametrize("openapi", ["3.0.3", "3.1.0"])
def test_a_body_that_is_described_as_base64_is_sent_so(openapi: str) -> None:
    described: JsonObject = {"type": "string", "format": "byte"}
    if openapi == "3.1.0":
        described = {"type": "string", "contentEncoding": "base64"}

    _, binding = only(
        {"/x": {"put": {"requestBody": body(described, "image/jpeg")}}}, openapi=openapi
    )

    request = request_of(binding, {"body": "Ynl0ZXM="}, API)
    assert request.content == b"Ynl0ZXM="
    assert request.headers["Content-Type"] == "image/jpeg"


def test_of_what_there_is_no_room_for_the_required_members_are_told() -> None:
    leaf: JsonObject = {
        "type": "object",
        "required": ["port", "at"],
        "properties": {
            "port": {"allOf": [{"$ref": "#/components/schemas/Port"}, {"description": "x"}]},
            "at": {"type": "string", "enum": ["a", "b"]},
            "note": {"type": "string", "description": "x" * 60_000},
        },
    }
    schemas: JsonObject = {"Port": {"type": "integer"}, "Leaf": leaf}
    whole: JsonObject = {
        "type": "object",
        "description": "x" * 20_000,
        "properties": {"leaf": {"$ref": "#/components/schemas/Leaf"}},
    }

    schema, _ = only(
        {"/x": {"post": {"requestBody": body({"type": "array", "items": whole})}}},
        components={"schemas": schemas},
    )

    assert "note" not in str(schema)
    assert jsonschema_rs.is_valid(schema, {"body": [{"leaf": {"port": 1, "at": "a"}}]})
    assert not jsonschema_rs.is_valid(schema, {"body": [{"leaf": {"port": "1", "at": "a"}}]})
    assert not jsonschema_rs.is_valid(schema, {"body": [{"leaf": {"port": 1, "at": "c"}}]})
    assert not jsonschema_rs.is_valid(schema, {"body": [{"leaf": {"port": 1}}]})


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/pets/{id}", "/pets/{id}", True),
        ("/pets/*", "/pets/{id}", True),
        ("*", "/pets", True),
        ("/*/toys", "/pets/{id}/toys", True),
        ("/a*b*c", "/a-b-c", True),
        ("/a*b*c", "/a-c", False),
        ("/pets*pets", "/pets", False),
        ("/find?q={q}", "/find?q={q}", True),
        ("/find?q={q}", "/findXq={q}", False),
        ("/[a]", "/[a]", True),
        ("/[a]", "/a", False),
        ("/pet?", "/pets", False),
    ],
)
def test_of_the_characters_in_rules_for_paths_the_star_alone_is_special(
    pattern: str, path: str, *, fits: bool
) -> None:
    described = describe({"openapi": "3.1.0", "paths": {path: {"get": {}}}}, url=None, files={})

    assert Selection((Rule(path=pattern),)).holds(described.operations[0]) is fits


BROKEN: JsonObject = {"$ref": "#/components/parameters/Gone"}
FINE: JsonObject = {"get": {"operationId": "fine"}}


@pytest.mark.parametrize(
    ("operation", "place"),
    [
        ({"parameters": [BROKEN]}, "/paths/~1x/get/parameters/0"),
        ({"parameters": [7]}, "/paths/~1x/get/parameters/0"),
        (
            {"parameters": [{"name": "a", "in": "somewhere", "required": True}]},
            "/paths/~1x/get/parameters/0",
        ),
        (
            {"requestBody": {"$ref": "#/components/requestBodies/Gone"}},
            "/paths/~1x/get/requestBody",
        ),
        (
            {"requestBody": {"required": True, "content": {"text/plain": 7}}},
            "/paths/~1x/get/requestBody/content",
        ),
        ({"servers": [{"url": "ws://elsewhere.example"}]}, "/paths/~1x/get/servers"),
    ],
)
def test_an_operation_that_lacks_a_part_that_it_needs_costs_itself_alone(
    operation: JsonObject, place: str
) -> None:
    described = describe(
        {"openapi": "3.1.0", "paths": {"/x": {"get": operation}, "/y": FINE}}, url=None, files={}
    )

    problems = {one.place: one.reason for one in described.problems}
    assert [one.operation_id for one in described.operations] == ["fine"]
    assert problems[place].endswith(", so its operation is left out")


def test_a_broken_parameter_of_a_path_costs_the_operations_of_that_path() -> None:
    paths: JsonObject = {"/x": {"parameters": [BROKEN], "get": {}, "post": {}}, "/y": FINE}

    assert [tool.name for tool in converted(paths).tools] == ["fine"]


def test_an_optional_parameter_that_cannot_be_sent_costs_itself_alone() -> None:
    paths: JsonObject = {"/x": {"get": {"parameters": [{"name": "a", "in": "somewhere"}]}}}

    schema, _ = only(paths)

    assert schema["properties"] == {}


def test_hidden_characters_of_descriptions_are_seen() -> None:
    hidden = "a\x1b[31mb\u202ec\u200bd\U000e0041e\nf \U0001f468\u200d\U0001f469"
    seen = "a\ufffd[31mb\ufffdc\ufffdd\ufffde\nf \U0001f468\u200d\U0001f469"
    described: JsonObject = {"type": "object", "title": hidden, "description": hidden}
    operation: JsonObject = {
        "operationId": "a\x07",
        "summary": hidden,
        "description": hidden,
        "parameters": [{"name": "q", "in": "query", "description": hidden, "schema": described}],
    }

    (tool,) = converted({"/x": {"get": operation}}).tools

    assert tool.definition["title"] == seen
    assert tool.definition["description"] == seen
    assert tool.external_id == "a\ufffd"
    properties = members(members(tool.definition["inputSchema"])["properties"])
    assert properties["q"] == {"type": "object", "title": seen, "description": seen}


def test_what_is_new_in_openapi_3_2_is_read() -> None:
    whole: JsonObject = {
        "name": "filter",
        "in": "querystring",
        "required": True,
        "content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}},
    }
    found = converted(
        {
            "/pets": {
                "query": {"operationId": "findPets", "requestBody": body({"type": "object"})},
                "get": {"operationId": "listPets", "parameters": [whole]},
                "additionalOperations": {"COPY": {"operationId": "copyPets"}},
            }
        },
        openapi="3.2.0",
    )

    bound = {tool.name: binding_of(tool.definition) for tool in found.tools}
    methods = {name: binding.method for name, binding in bound.items() if binding is not None}
    hints = {tool.name: members(tool.definition["annotations"]) for tool in found.tools}
    listing = bound["listPets"]
    assert methods == {"findPets": "QUERY", "listPets": "GET", "copyPets": "COPY"}
    assert hints["findPets"] == {"readOnlyHint": True}
    assert listing is not None
    assert request_of(listing, {"filter": {"a": "b c"}}, API).target == "/pets?a=b+c"
