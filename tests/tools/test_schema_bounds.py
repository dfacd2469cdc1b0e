"""What a schema may ask of those who read it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core.json import JsonObject
from registry.core.schema_bounds import (
    MAX_EXPANDED,
    MAX_PATTERN_CHARACTERS,
    MAX_REFERENCE_CHAIN,
    excess,
    lost_reference,
)
from registry.tools.intake import take


def referring(levels: int, times: int) -> dict[str, Any]:
    """Return a schema in which each level refers to the next one so many times."""
    definitions: dict[str, Any] = {
        f"level{level}": {"allOf": [{"$ref": f"#/$defs/level{level + 1}"}] * times}
        for level in range(levels)
    }
    definitions[f"level{levels}"] = {"type": "object"}
    return {"type": "object", "$defs": definitions, "$ref": "#/$defs/level0"}


TREE: JsonObject = {
    "type": "object",
    "properties": {
        "left": {"$ref": "#"},
        "right": {"$ref": "#"},
        "all": {"type": "array", "items": {"$ref": "#"}},
    },
}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object"}, None),
        (TREE, None),
        (referring(5, 2), None),
        (referring(60, 2), "references that expand to more than"),
        (referring(9, 5), "references that expand to more than"),
        (referring(MAX_REFERENCE_CHAIN + 5, 1), "a chain of more than"),
        (referring(MAX_REFERENCE_CHAIN - 5, 1), None),
        ({"$ref": "#/nowhere/~1/9"}, None),
        ({"$ref": "#nowhere"}, None),
        ({"$ref": "https://example.com/schema#/$defs/a"}, None),
        ({"properties": {"a": {"pattern": "a" * (MAX_PATTERN_CHARACTERS + 1)}}}, "a pattern of"),
        ({"patternProperties": {"a" * (MAX_PATTERN_CHARACTERS + 1): {}}}, "a pattern of"),
        ({"allOf": [{"pattern": str(i) * 900} for i in range(10, 40)]}, "patterns of more"),
        ({"properties": {f"p{i}": {"x-mcp-header": "P"} for i in range(101)}}, "x-mcp-header on"),
        ({"properties": {f"p{i}": {"x-mcp-header": "P"} for i in range(100)}}, None),
        ({"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}}}, None),
    ],
)
def test_references_and_patterns_are_bounded(schema: dict[str, Any], reason: str | None) -> None:
    told = excess(schema)

    assert (told is None) if reason is None else (reason in str(told))


@pytest.mark.parametrize("by", ["anchor", "id", "dynamic"])
def test_references_by_other_names_count_alike(by: str) -> None:
    names = {
        "anchor": ("$anchor", "#{}"),
        "id": ("$id", "{}"),
        "dynamic": ("$dynamicAnchor", "#{}"),
    }
    keyword, refers = names[by]
    reference = "$dynamicRef" if by == "dynamic" else "$ref"
    definitions: dict[str, Any] = {
        str(level): {
            keyword: f"n{level}",
            "allOf": [{reference: refers.format(f"n{level + 1}")}] * 2,
        }
        for level in range(40)
    }

    told = excess({"$defs": definitions, reference: refers.format("n0")})

    assert told == f"references that expand to more than {MAX_EXPANDED} values"


def test_a_tool_whose_schema_asks_too_much_costs_only_itself() -> None:
    bomb: JsonObject = {"name": "bomb", "inputSchema": referring(60, 2)}
    output: JsonObject = {
        "name": "out",
        "inputSchema": {"type": "object"},
        "outputSchema": referring(60, 2),
    }
    fine: JsonObject = {"name": "fine", "inputSchema": TREE}

    taken = take([bomb, output, fine])

    assert [tool.name for tool in taken.tools] == ["fine"]
    assert [(tool.name, tool.reason[:40]) for tool in taken.rejected] == [
        ("bomb", "has an inputSchema with references that "),
        ("out", "has an outputSchema with references that"),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["#", "#/$defs/a", "#a", "a", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["$ref", "$defs", "a", "$id", "$anchor", "pattern", "patternProperties"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["$ref", "$defs", "a", "$anchor", "allOf"]), JSON))
def test_whatever_the_schema_is_it_is_counted(schema: dict[str, Any]) -> None:
    excess(schema)


@pytest.mark.parametrize(
    ("schema", "lost"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}}, None),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"a": {}}}, "#/$defs/b"),
        ({"properties": {"a": {"$ref": "https://a.example/a.json"}}}, "https://a.example/a.json"),
        ({"properties": {"$ref": {"type": "string"}}}, None),
        (
            {
                "$id": "https://a.example/s",
                "$ref": "https://a.example/s#/$defs/a",
                "$defs": {"a": {}},
            },
            None,
        ),
        ({"$ref": "#"}, None),
    ],
)
def test_a_reference_to_no_part_is_found(schema: dict[str, Any], lost: str | None) -> None:
    assert lost_reference(schema) == lost
