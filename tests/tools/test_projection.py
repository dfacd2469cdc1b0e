"""The tools of a server as jarvis-api reads them."""

import json

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core.json import JsonObject
from registry.tools.projection import (
    MAX_PROJECTION_BYTES,
    MAX_RESOLVED_BYTES,
    openai_parameters,
    project,
    restore,
)
from registry.tools.values import ToolDefinition


def served(name: str, schema: JsonObject, description: str | None = "Does it.") -> ToolDefinition:
    return ToolDefinition(name, None, description, "{}", json.dumps(schema), None, None, "")


@pytest.mark.requirement("R-127")
def test_the_key_is_the_function_name_and_the_native_name_is_kept() -> None:
    # Hyphens stay, as the other application builds the key (docs/decisions/0036).
    projection = project([served("search", {"type": "object", "required": ["q"]})], "git-hub x")

    assert projection.functions == {
        "search_mcp_git-hub_x": {
            "type": "function",
            "function": {
                "name": "search_mcp_git-hub_x",
                "description": "Does it.",
                "parameters": {"type": "object", "required": ["q"]},
            },
            "mcpToolName": "search",
        }
    }
    assert (projection.tools, projection.num_tools) == ("search", 1)


def test_local_references_are_resolved_and_other_dollar_keywords_dropped() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/point", "description": "where"}},
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}}},
    }

    assert openai_parameters(json.dumps(schema)) == {
        "type": "object",
        "properties": {
            "at": {
                "type": "object",
                "properties": {"x": {"type": "number"}},
                "description": "where",
            }
        },
    }


@pytest.mark.requirement("E-03")
def test_a_recursive_schema_ends_in_an_open_object() -> None:
    schema: JsonObject = {
        "type": "object",
        "properties": {"child": {"$ref": "#"}},
    }

    parameters = openai_parameters(json.dumps(schema))

    assert parameters["properties"] == {
        "child": {"type": "object", "properties": {"child": {"type": "object"}}}
    }


def test_references_to_other_documents_are_never_followed() -> None:
    schema = {"type": "object", "properties": {"x": {"$ref": "https://example.com/s.json"}}}

    assert openai_parameters(json.dumps(schema))["properties"] == {"x": {"type": "object"}}


@pytest.mark.requirement("E-16")
def test_a_whole_number_beyond_64_bits_becomes_one_that_fits() -> None:
    parameters = openai_parameters('{"type":"object","maxProperties":99999999999999999999}')

    assert parameters == {"type": "object", "maxProperties": 1e20}


@pytest.mark.requirement("E-16")
def test_tools_beyond_the_size_of_a_document_keep_their_names_in_the_list() -> None:
    big: JsonObject = {"type": "object", "description": "x" * 5_000_000}

    projection = project([served("a", big), served("b", big)], "s")

    assert (projection.tools, list(projection.functions)) == ("a, b", ["a_mcp_s"])
    assert projection.omitted == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["$ref", "$defs", "properties", "a.b", "$x", "\0", "", "items", "default", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON.map(lambda value: {"type": "object", "properties": {"p": value}}))
def test_whatever_a_schema_holds_the_projection_can_be_stored_and_read_back(
    schema: JsonObject,
) -> None:
    document = project([served("t", schema)], "s").functions

    assert bson.decode(bson.encode(document)) == document


def test_old_forms_of_the_other_application_are_read_back() -> None:
    functions: JsonObject = {
        "search_mcp_temp_server_name": {
            "type": "function",
            "function": {
                "name": "search_mcp_temp_server_name",
                "description": "Search",
                "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
                "required": ["q"],
            },
        },
        "create_github": {"type": "function", "function": {"name": "create_github"}},
    }

    tools = restore(functions, "github").tools

    assert [tool.name for tool in tools] == ["search", "create"]
    assert json.loads(tools[0].definition) == {
        "name": "search",
        "inputSchema": {
            "type": "object",
            "properties": {"q": {"type": "string"}},
            "required": ["q"],
        },
        "description": "Search",
    }


def bomb(levels: int) -> JsonObject:
    """Return a small schema that stands for 4 ** *levels* parts."""
    definitions: JsonObject = {
        f"d{level}": {"properties": {f"p{n}": {"$ref": f"#/$defs/d{level + 1}"} for n in range(4)}}
        for level in range(levels)
    }
    definitions[f"d{levels}"] = {"type": "string"}
    return {"type": "object", "$defs": definitions, "properties": {"a": {"$ref": "#/$defs/d0"}}}


def test_references_to_references_do_not_grow_by_powers() -> None:
    parameters = openai_parameters(json.dumps(bomb(20)))

    assert len(json.dumps(parameters)) < 2 * MAX_RESOLVED_BYTES


def test_all_tools_together_do_not_outgrow_a_document() -> None:
    projection = project([served(f"t{n}", bomb(20)) for n in range(100)], "s")

    assert len(bson.encode({"functions": projection.functions})) < 2 * MAX_PROJECTION_BYTES
    assert projection.num_tools == 100


def test_an_ordinary_number_of_references_is_resolved() -> None:
    schema: JsonObject = {
        "type": "object",
        "$defs": {"point": {"type": "number"}},
        "properties": {f"p{n}": {"$ref": "#/$defs/point"} for n in range(500)},
    }

    parameters = openai_parameters(json.dumps(schema))

    assert parameters["properties"] == {f"p{n}": {"type": "number"} for n in range(500)}
