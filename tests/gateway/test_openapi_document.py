"""Documents of tools: each reference means what it meant in the tool, and nothing is lost."""

import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from registry.core.json import JsonObject
from registry.gateway.openapi.document import Published, endpoint, openapi_document

ABOUT = Published("Shop", "Sells pets.", "https://registry.example", "/api/v1/servers/x/tools")


def documented(*tools: JsonObject) -> Any:
    """Return the document of some tools, as clients parse it."""
    return json.loads(json.dumps(openapi_document(ABOUT, tools, version="1")))


def tool(name: str, schema: Any, **members: Any) -> JsonObject:
    """Return the definition of a tool."""
    return {"name": name, "inputSchema": schema, **members}


TREE: Any = {
    "type": "object",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
        }
    },
    "properties": {
        "root": {"$ref": "#/$defs/Node"},
        "deep": {"$ref": "#/$defs/Node/properties/children"},
        "self": {"$ref": "#"},
        "as": {"$ref": "#/properties/root"},
        "$ref": {"type": "string", "default": {"$ref": "#/$defs/Node"}},
    },
    "required": ["root"],
}


def test_references_name_components() -> None:
    schemas = documented(tool("grow", TREE))["components"]["schemas"]

    assert schemas["grow.input"]["properties"] == {
        "root": {"$ref": "#/components/schemas/grow.input.Node"},
        "deep": {"$ref": "#/components/schemas/grow.input.Node/properties/children"},
        "self": {"$ref": "#/components/schemas/grow.input"},
        "as": {"$ref": "#/components/schemas/grow.input/properties/root"},
        "$ref": {"type": "string", "default": {"$ref": "#/$defs/Node"}},
    }
    assert schemas["grow.input.Node"]["properties"]["children"]["items"] == {
        "$ref": "#/components/schemas/grow.input.Node"
    }


def test_definitions_of_the_same_name_are_kept_apart() -> None:
    first = {"type": "object", "$defs": {"A": {"type": "string"}}}
    second = {"type": "object", "$defs": {"A": {"type": "integer"}}}

    schemas = documented(tool("a b", first), tool("a_b", second))["components"]["schemas"]

    kinds = {name: schema["type"] for name, schema in schemas.items() if name.startswith("a_b")}
    assert kinds == {
        "a_b.input": "object",
        "a_b.input.A": "string",
        "a_b.input_2": "object",
        "a_b.input_2.A": "integer",
    }


def test_a_schema_with_an_id_keeps_its_references() -> None:
    schema = {**TREE, "$id": "https://example.com/tree"}

    assert documented(tool("grow", schema))["components"]["schemas"]["grow.input"] == schema


def test_an_operation_says_what_the_tool_says() -> None:
    output = {"type": "object", "properties": {"id": {"type": "integer"}}}
    one = tool(
        "add",
        {"type": "object", "required": ["name"]},
        title="Add a pet",
        description="Adds one.",
        outputSchema=output,
        annotations={"destructiveHint": False},
    )

    found = documented(one)
    operation = found["paths"]["/api/v1/servers/x/tools/add"]["post"]

    assert (operation["operationId"], operation["summary"]) == ("add", "Add a pet")
    assert operation["description"] == "Adds one."
    assert operation["requestBody"]["required"] is True
    assert operation["x-mcp-annotations"] == {"destructiveHint": False}
    assert found["components"]["schemas"]["add.output"] == output
    assert "Retry-After" in operation["responses"]["429"]["headers"]
    assert found["servers"] == [{"url": "https://registry.example"}]


@pytest.mark.parametrize(
    ("name", "segment"),
    [("a/b", "a%2Fb"), ("a{b}", "a%7Bb%7D"), ("tool ä?", "tool%20%C3%A4%3F"), ("a.b-c", "a.b-c")],
)
def test_a_name_is_one_segment(name: str, segment: str) -> None:
    assert endpoint("/tools", name) == f"/tools/{segment}"


def test_an_independent_validator_accepts_documents() -> None:
    nothing: JsonObject = {}
    # It resolves references in data, too.
    properties = {name: one for name, one in TREE["properties"].items() if name != "$ref"}
    tree = {**TREE, "properties": properties}
    tools = [tool("grow", tree), tool("x/y", nothing), tool("n", {"type": "object"})]

    OpenAPIV31SpecValidator(documented(*tools)).validate()
