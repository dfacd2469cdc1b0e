"""Descriptions that are meant to harm: each costs itself, in bounded time, and reaches nothing."""

import time
from typing import Any

import jsonschema_rs
import pytest

from registry.core.json import JsonObject, members
from registry.openapi.binding import binding_of
from registry.openapi.description import describe
from registry.openapi.references import external_references
from registry.openapi.tools import Converted, Selection, tools_of

MOST_SECONDS = 3


def converted(schema: JsonObject, schemas: JsonObject | None = None, **more: Any) -> Converted:
    """Convert a description with one operation that takes a body, and one that takes nothing."""
    body: JsonObject = {"required": True, "content": {"application/json": {"schema": schema}}}
    answer: JsonObject = {"content": {"application/json": {"schema": schema}}}
    document: JsonObject = {
        "openapi": "3.1.0",
        "info": {},
        "paths": {
            "/x": {"post": {"requestBody": body, "responses": {"200": answer}}},
            "/plain": {"get": {}},
        },
        "components": {"schemas": schemas or {}},
        **more,
    }
    began = time.process_time()
    found = tools_of(describe(document, url=None, files={}), Selection())
    assert time.process_time() - began < MOST_SECONDS
    return found


def names(found: Converted) -> list[str]:
    """Return the names of the tools."""
    return [tool.name for tool in found.tools]


def nested(depth: int, keyword: str) -> JsonObject:
    """Return a schema nested in a keyword."""
    schema: JsonObject = {"type": "string"}
    for _ in range(depth):
        schema = {keyword: [schema]} if keyword == "allOf" else {keyword: schema}
    return schema


def doubling(levels: int) -> JsonObject:
    """Return schemas each of which refers to the next one twice."""
    return {
        f"S{level}": {
            "type": "object",
            "properties": {
                side: {"$ref": f"#/components/schemas/S{level + 1}"} for side in ("left", "right")
            },
        }
        for level in range(levels)
    }


def chain(length: int) -> JsonObject:
    """Return schemas that do nothing but refer to the next one."""
    return {f"S{n}": {"$ref": f"#/components/schemas/S{n + 1}"} for n in range(length)}


FIRST: JsonObject = {"$ref": "#/components/schemas/S0"}


@pytest.mark.parametrize(
    ("schema", "schemas"),
    [
        pytest.param(nested(60, "allOf"), {}, id="deep allOf"),
        pytest.param(nested(60, "items"), {}, id="deep items"),
        pytest.param(nested(60, "not"), {}, id="deep not"),
        pytest.param(FIRST, doubling(60), id="doubling references"),
        pytest.param(FIRST, chain(3_000), id="a long chain"),
        pytest.param(FIRST, {"S0": FIRST}, id="a reference to itself"),
        pytest.param(FIRST, {"S0": {"allOf": [FIRST]}}, id="a part of itself"),
        pytest.param(FIRST, {"S0": {"oneOf": [FIRST, {"type": "null"}]}}, id="itself or null"),
        pytest.param({"$ref": "#/paths"}, {}, id="all paths"),
        pytest.param({"$ref": "#"}, {}, id="the whole description"),
        pytest.param({"$ref": "#/paths/~1x/post/requestBody"}, {}, id="where it is"),
        pytest.param({"pattern": "(a+)+$"}, {}, id="a slow pattern"),
        pytest.param({"pattern": "(?:a{1000}){1000}"}, {}, id="a huge pattern"),
        pytest.param({"pattern": "x" * 5_000}, {}, id="a long pattern"),
        pytest.param({"pattern": "("}, {}, id="a broken pattern"),
        pytest.param({"type": "odd", "required": [1], "properties": 3}, {}, id="odd values"),
        pytest.param({"enum": ["x" * 200_000]}, {}, id="a long value"),
        pytest.param({"properties": {f"p{n}": {} for n in range(20_000)}}, {}, id="many members"),
        pytest.param(
            {"$schema": "http://169.254.169.254/x", "$id": "file:///a"}, {}, id="$schema"
        ),
    ],
)
def test_a_hostile_schema_costs_at_most_its_own_operation(
    schema: JsonObject, schemas: JsonObject
) -> None:
    found = converted(schema, schemas)

    assert "get_plain" in names(found)
    assert len(found.tools) == 2 or found.problems
    for tool in found.tools:
        known = members(tool.definition["inputSchema"])
        assert jsonschema_rs.meta.is_valid(known)
        # Nothing is fetched: a validator that wanted to would fail.
        jsonschema_rs.Draft202012Validator(known)


def test_a_schema_that_refers_to_itself_is_kept_as_one_definition() -> None:
    tree: JsonObject = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": FIRST}},
    }

    found = converted(FIRST, {"S0": tree})

    schema = members(found.tools[0].definition["inputSchema"])
    validator = jsonschema_rs.Draft202012Validator(schema)
    deep: Any = {"children": [{"children": [{"children": []}]}]}
    assert [*members(schema["$defs"])] == ["S0"]
    assert validator.is_valid(deep)
    assert not validator.is_valid({"children": [{"children": "x"}]})


@pytest.mark.parametrize(
    "reference",
    [
        "file:///etc/passwd",
        "file://localhost/etc/passwd#/a",
        "/etc/passwd",
        "ftp://example.com/a",
        "gopher://169.254.169.254/a",
        "data:application/json,{}",
        "http://[::1",
        "C:\\boot.ini",
        "\\\\host\\share",
    ],
)
def test_a_reference_to_what_is_not_of_the_web_is_fetched_by_nobody(reference: str) -> None:
    schema: JsonObject = {"$ref": reference}

    assert external_references({"a": schema}, None) == set()
    found = converted(schema)
    assert "refers to nothing" in found.problems[0].reason


def test_data_that_looks_like_a_reference_is_no_reference() -> None:
    secret = "http://169.254.169.254/latest/meta-data"

    document: JsonObject = {"a": {"example": {"$ref": secret}, "enum": [{"$ref": secret}]}}

    assert external_references(document, None) == set()


def test_odd_swagger_costs_only_itself() -> None:
    document: JsonObject = {
        "swagger": 2.0,
        "info": {},
        "host": "api.example.com",
        "schemes": ["ws", 7],
        "basePath": None,
        "paths": {
            "/a": {
                "post": {
                    "consumes": "application/json",
                    "parameters": [
                        {"name": "f", "in": "formData", "type": "file", "required": True},
                        {"name": "n", "in": "query", "type": "file"},
                        {"name": "m", "in": "query", "type": "array", "collectionFormat": "tsv"},
                        {"in": "query"},
                        {"name": "o", "in": "nowhere"},
                    ],
                }
            },
            "/lacking": {
                "get": {"parameters": ["text"]},
                "post": {"parameters": [{"$ref": "#/parameters/none"}]},
            },
            "/b": {"get": 1, "post": None, "parameters": {}},
            "/c": "text",
            "d": {},
            "/ok": {"get": {}},
        },
    }

    description = describe(document, url=None, files={})
    found = tools_of(description, Selection())

    assert names(found) == ["post_a", "get_ok"]
    binding = binding_of(found.tools[0].definition)
    assert binding is not None
    assert binding.body is not None
    assert binding.body.parts["f"].is_file
    assert {problem.place for problem in description.problems} >= {
        "/paths/~1b/get",
        "/paths/~1c",
        "/paths/d",
        "/paths/~1a/post/parameters/4",
    }
