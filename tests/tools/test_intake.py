"""What is taken of an upstream's tools, and what is not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.tools.intake import take

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}


def raw(**changes: Any) -> dict[str, Any]:
    return {"name": "find", "description": "Finds.", "inputSchema": SCHEMA, **changes}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


@pytest.mark.requirement("E-03")
@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ("text", "is not an object"),
        ({"inputSchema": SCHEMA}, "has no name"),
        (raw(name=""), "has no name"),
        (raw(name=7), "has no name"),
        (raw(name="a b"), "contains others than"),
        (raw(name="a,b"), "contains others than"),
        (raw(name="naïve"), "contains others than"),
        (raw(name="x" * 129), "longer than 128"),
        (raw(name="a\n"), "contains others than"),
        (raw(description=5), "is not a string"),
        (raw(description="x" * 65_537), "more than 65536 bytes"),
        (raw(description="\ud800"), "invalid Unicode"),
        (raw(title=["x"]), "is not a string"),
        (raw(inputSchema=None), "no inputSchema object"),
        (raw(inputSchema=[]), "no inputSchema object"),
        (raw(inputSchema={"type": "string"}), 'type is not "object"'),
        (raw(inputSchema={}), 'type is not "object"'),
        (raw(inputSchema={"type": "object", "properties": 7}), "invalid inputSchema"),
        (raw(inputSchema={"type": "object", "required": "q"}), "invalid inputSchema"),
        (raw(inputSchema={"type": "object", "$schema": []}), "whose $schema is not a string"),
        (raw(inputSchema={"type": "object", "$schema": {}}), "whose $schema is not a string"),
        (raw(outputSchema="x"), "no outputSchema object"),
        (raw(inputSchema=nested(70)), "nested deeper than"),
        (raw(blob="x" * 1_100_000), "larger than"),
        (raw(number=float("nan")), "a number that cannot be stored"),
        (raw(number=10**400), "a number that cannot be stored"),
        (raw(key={"\ud800": 1}), "invalid Unicode"),
    ],
)
def test_what_cannot_be_taken_is_rejected_with_a_reason(tool: Any, reason: str) -> None:
    snapshot = take([tool])

    assert snapshot.tools == ()
    assert reason in snapshot.rejected[0].reason


def test_of_two_tools_with_one_name_the_first_is_taken() -> None:
    snapshot = take([raw(description="one"), raw(description="two")])

    assert [tool.description for tool in snapshot.tools] == ["one"]
    assert [item.name for item in snapshot.rejected] == ["find"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"self": {"$ref": "#"}}},
        {"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"},
        {"type": "object", "$schema": "https://unheard-of.example/schema"},
        {"type": "object", "properties": {"x": {"$ref": "https://example.com/never-fetched"}}},
        {"type": "object", "properties": {"n": {"maximum": 10**30}}},
        nested(20),
    ],
)
def test_unusual_but_sound_schemas_are_taken_verbatim(schema: dict[str, Any]) -> None:
    snapshot = take([raw(inputSchema=schema)])

    assert snapshot.rejected == ()
    assert json.loads(snapshot.tools[0].input_schema) == schema


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
TOOLS = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "a b", ""]), "inputSchema": st.just(SCHEMA) | ANYTHING},
    optional={"description": ANYTHING, "x": ANYTHING},
)


@given(st.lists(TOOLS | ANYTHING, max_size=6))
def test_every_tool_is_either_taken_or_rejected(items: list[Any]) -> None:
    snapshot = take(items)

    assert len(snapshot.tools) + len(snapshot.rejected) == len(items)


JSON = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(), min_size=2)


@pytest.mark.requirement("R-071")
@given(JSON)
def test_the_order_of_keys_does_not_change_the_hash(extra: dict[str, int]) -> None:
    turned = dict(reversed(extra.items()))

    (first,), (second,) = take([raw(x=extra)]).tools, take([raw(x=turned)]).tools

    assert first.discovery_hash == second.discovery_hash


@pytest.mark.requirement("R-071")
@given(JSON, JSON)
def test_another_content_has_another_hash(one: dict[str, int], two: dict[str, int]) -> None:
    (first,), (second,) = take([raw(x=one)]).tools, take([raw(x=two)]).tools

    assert (first.discovery_hash == second.discovery_hash) == (one == two)


def test_what_does_not_fit_into_the_bytes_of_its_server_costs_only_itself() -> None:
    large = raw(name="large", blob="x" * 2_000)
    small = [raw(name=f"small{number}") for number in range(3)]

    snapshot = take([small[0], large, *small[1:]], max_bytes=1_000)

    assert [tool.name for tool in snapshot.tools] == ["small0", "small1", "small2"]
    assert [(item.name, item.reason) for item in snapshot.rejected] == [
        ("large", "does not fit into the 1000 bytes of all definitions of its server")
    ]


def test_a_tool_that_is_too_large_to_be_remembered_is_taken() -> None:
    values: list[list[int]] = [[] for _ in range(300_000)]

    snapshot = take([raw(annotations={"values": values})], lambda _kind, _raw: None)

    assert [tool.name for tool in snapshot.tools] == ["find"]
