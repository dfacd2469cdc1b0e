"""Which tools a toolset serves, under which names, with which arguments."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from registry.access.policy import ServerScope
from registry.access.toolsets.presets import presented, preset_problem, without
from registry.access.toolsets.resolution import Offered, Presentations, Served, narrowed, resolve
from registry.access.toolsets.values import Toolset, ToolsetEntry

CODE, WIKI = "1" * 24, "2" * 24


@dataclass(frozen=True)
class Fake:
    """A tool that takes a text and a number."""

    name: str
    facets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    version: int = 1
    schema: str = '{"type":"object","properties":{"q":{"type":"string"},"n":{"type":"integer"}}}'

    @property
    def wire(self) -> bytes:
        """The text of its object."""
        return b'{"name":"%s","inputSchema":%s}' % (self.name.encode(), self.schema.encode())


def offered(server_id: str, prefix: str, *tools: Fake) -> Offered[Fake]:
    return Offered(server_id, prefix, {tool.name: tool for tool in tools})


def toolset(*entries: ToolsetEntry) -> Toolset:
    return Toolset("3" * 24, "set", None, "4" * 24, ServerScope.PRIVATE_USER, entries)


def served(
    servers: Iterable[Offered[Fake]], *entries: ToolsetEntry
) -> tuple[dict[str, Served[Fake]], dict[int, tuple[str, ...]]]:
    return resolve(toolset(*entries), list(servers), Presentations())


SERVERS = (
    offered(CODE, "code", Fake("search", tags=("find",)), Fake("drop", ("destructive:true",))),
    offered(WIKI, "wiki", Fake("search", ("read_only:true",), version=2)),
)


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        (ToolsetEntry(CODE, "*"), ["code__drop", "code__search"]),
        (ToolsetEntry(CODE, "s*"), ["code__search"]),
        (ToolsetEntry(tag="find"), ["code__search"]),
        (ToolsetEntry(WIKI, tag="find"), []),
        (ToolsetEntry(metadata=(("read_only", True),)), ["wiki__search"]),
        (ToolsetEntry(CODE, "search", name="find"), ["find"]),
        (ToolsetEntry(WIKI, "search", version=2), ["wiki__search"]),
        (ToolsetEntry(WIKI, "search", version=1), []),
        (ToolsetEntry(CODE, "search", arguments='{"n":"one"}'), []),
    ],
)
def test_an_entry_takes_what_it_names(entry: ToolsetEntry, names: list[str]) -> None:
    assert list(served(SERVERS, entry)[0]) == names


def test_no_wildcard_serves_a_tool_that_an_entry_names_even_while_that_is_withheld() -> None:
    pinned = ToolsetEntry(CODE, "search", version=9, arguments='{"n":1}')

    tools, problems = served(SERVERS, ToolsetEntry(CODE, "*"), pinned, ToolsetEntry(tag="find"))

    assert list(tools) == ["code__drop"]
    assert problems == {1: ("search: version 9 is pinned, and version 1 is served",)}


def test_the_first_entry_keeps_a_contested_name() -> None:
    first = ToolsetEntry(CODE, "drop", name="wiki__search")

    tools, problems = served(SERVERS, ToolsetEntry(WIKI, "*"), first)

    assert tools["wiki__search"].tool.name == "drop"
    assert problems == {0: ("another tool of the toolset has the name wiki__search",)}


def test_two_toolsets_leave_what_both_have_with_the_arguments_of_both() -> None:
    one, _ = served(
        SERVERS,
        ToolsetEntry(CODE, "search", name="a", arguments='{"q":"x"}'),
        ToolsetEntry(CODE, "search", name="b", arguments='{"n":2}'),
        ToolsetEntry(WIKI, "search"),
    )
    other, _ = served(SERVERS, ToolsetEntry(CODE, "search", arguments='{"n":1}'))

    left = narrowed(one, other)

    assert {name: tool.presets for name, tool in left.items()} == {"a": {"q": "x", "n": 1}}
    assert orjson.loads(left["a"].wire)["inputSchema"]["properties"] == {}


def test_a_tool_whose_preset_arguments_differ_in_kind_alone_is_in_neither() -> None:
    loose = offered(CODE, "code", Fake("search", schema="{}"))
    one, _ = served([loose], ToolsetEntry(CODE, "search", arguments='{"on":1}'))
    other, _ = served([loose], ToolsetEntry(CODE, "search", arguments='{"on":true}'))

    assert narrowed(one, other) == {}
    assert list(narrowed(one, one)) == ["code__search"]


def test_a_thousand_tools_are_resolved_once_for_each_definition() -> None:
    many = offered(CODE, "code", *(Fake(f"tool_{number:04}") for number in range(1_000)))
    presentations = Presentations()

    first, _ = resolve(toolset(ToolsetEntry(CODE, "*")), [many], presentations)
    again, _ = resolve(toolset(ToolsetEntry(CODE, "*")), [many], presentations)

    assert len(first) == 1_000
    assert all(first[name].wire is again[name].wire for name in first)


def test_what_an_entry_does_not_change_of_a_definition_stays_as_it_is() -> None:
    definition = (
        b'{"name":"t","x":{"big":123456789012345678901234567890,"f":1.10},'
        b'"inputSchema":{"properties":{"a":{"maximum":1e3},"b":{}},"required":["a","b"]}}'
    )

    text = presented(definition, ToolsetEntry(title="T"), "new", frozenset({"b"}))

    assert text == (
        b'{"name":"new","x":{"big":123456789012345678901234567890,"f":1.1},'
        b'"inputSchema":{"properties":{"a":{"maximum":1000.0}},"required":["a"]},"title":"T"}'
    )


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({"required": ["a"]}, {}),
        ({"anyOf": [{"required": ["a", "b"]}, True]}, {"anyOf": [{"required": ["b"]}, True]}),
        ({"dependentRequired": {"b": ["a"], "a": ["b"]}}, {"dependentRequired": {"b": []}}),
        ({"properties": True, "required": "a"}, {"properties": True, "required": "a"}),
        ({"dependencies": {"a": ["b"], "b": ["a"]}}, {"dependencies": {"b": []}}),
        ({"dependentSchemas": {"a": {}, "b": True}}, {"dependentSchemas": {"b": True}}),
    ],
)
def test_hidden_arguments_are_nowhere_in_the_schema(schema: Any, left: Any) -> None:
    assert without(schema, frozenset({"a"})) == left


@pytest.mark.parametrize(
    ("schema", "presets", "is_problem"),
    [
        ({"properties": {"a": {"type": "integer"}}}, {"a": 1}, False),
        ({"properties": {"a": {"type": "integer"}}}, {"a": "1"}, True),
        ({"properties": {"a": {"enum": ["x"]}}}, {"a": "y"}, True),
        ({"properties": {"a": False}}, {"a": 1}, True),
        ({"properties": {}, "additionalProperties": False}, {"a": 1}, True),
        ({"properties": {}}, {"a": 1}, False),
        ({"properties": {"b": {}}}, {"a": 1}, True),
        ({"properties": {"b": {}}, "additionalProperties": {}}, {"a": 1}, False),
        ({"properties": {"b": {}}, "allOf": [{"properties": {"a": {}}}]}, {"a": 1}, False),
        ({"properties": {"a": {"$ref": "#/x"}}}, {"a": 1}, False),
        ({"properties": {"a": {"type": "nonsense"}}}, {"a": 1}, False),
        (True, {"a": 1}, False),
        ("text", {"a": 1}, False),
    ],
)
def test_presets_that_can_never_match_are_found(
    schema: Any, presets: dict[str, Any], *, is_problem: bool
) -> None:
    assert (preset_problem({"inputSchema": schema}, presets) is not None) is is_problem
