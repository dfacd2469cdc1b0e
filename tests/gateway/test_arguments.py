"""Arguments against approved definitions: bounded in time and memory, whatever the definition."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Message

from registry.core.metrics import Metrics
from registry.gateway.edge.argument_process import Validators, problem
from registry.gateway.edge.arguments import PAUSE_SECONDS, ArgumentChecker
from registry.gateway.edge.compiled_schemas import compile_cheap
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import InvalidParams
from registry.gateway.values import ToolEntry, tool_entry
from tests.fakes.clock import FakeClock
from tests.fakes.loop_lag import loop_lag

pytestmark = pytest.mark.integration


def tool(schema: dict[str, Any], name: str = "sum") -> ToolEntry:
    return tool_entry(name, json.dumps({"name": name, "inputSchema": schema}), is_behind=True)


def doubling(levels: int) -> dict[str, Any]:
    """Return a schema in which each level refers to the next one twice."""
    definitions: dict[str, Any] = {
        f"level{level}": {"allOf": [{"$ref": f"#/$defs/level{level + 1}"}] * 2}
        for level in range(levels)
    }
    definitions[f"level{levels}"] = {"type": "object"}
    return {"type": "object", "$defs": definitions, "$ref": "#/$defs/level0"}


def deep(levels: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for _ in range(levels):
        arguments = {"next": arguments}
    return arguments


NUMBERS = tool({"type": "object", "properties": {"a": {"type": "integer"}}})
BRANCHING: dict[str, Any] = {"properties": {"next": {"$ref": "#"}}, "type": "object"}
BRANCHING["allOf"] = [{"properties": {"next": {"$ref": "#"}}}]
MANY_PATTERNS = {
    "type": "object",
    "properties": {
        f"p{number}": {"pattern": f"(\\w{{1,90}}){{1,9}}{number}"} for number in range(1500)
    },
}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def checker(clock: FakeClock) -> AsyncIterator[ArgumentChecker]:
    checker = ArgumentChecker(clock, Metrics())
    yield checker
    await checker.close()


async def check(checker: ArgumentChecker, entry: ToolEntry, arguments: dict[str, Any]) -> None:
    """Do what the gateway does with each call."""
    size = len(json.dumps(arguments)) if "next" not in arguments else 1_000
    if not checker.fits(entry, arguments, size):
        request = GatewayRequest({"path": "/mcp/a", "method": "POST"}, nothing, nobody)
        await checker.require_fit(request, entry, arguments, size)


async def nothing() -> Message:
    raise AssertionError


async def nobody(_: Message) -> None:
    raise AssertionError


async def refusal(checker: ArgumentChecker, entry: ToolEntry, arguments: dict[str, Any]) -> str:
    with pytest.raises(InvalidParams) as refused:
        await check(checker, entry, arguments)
    return refused.value.message


@pytest.mark.requirement("R-223")
async def test_arguments_that_fit_pass_and_others_are_told_where(
    checker: ArgumentChecker,
) -> None:
    await check(checker, NUMBERS, {"a": 1})

    told = await refusal(checker, NUMBERS, {"a": "secret"})

    assert "/a violates properties/a/type (it is a string)" in told
    assert "secret" not in told


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        pytest.param(doubling(60), {"a": 1}, id="references that double"),
        pytest.param(BRANCHING, deep(60), id="recursion that doubles with the arguments"),
        pytest.param(MANY_PATTERNS, {"p1": "x"}, id="patterns that take all memory"),
        pytest.param({"$ref": "https://example.com/s"}, {}, id="a reference elsewhere"),
        pytest.param({"properties": {"a": {"pattern": "("}}}, {"a": ""}, id="no pattern"),
    ],
)
async def test_a_definition_that_cannot_be_checked_refuses_and_stops_nobody(
    checker: ArgumentChecker, schema: dict[str, Any], arguments: dict[str, Any]
) -> None:
    with loop_lag() as lag:
        told = await refusal(checker, tool({"type": "object", **schema}), arguments)

    assert "cannot be checked" in told
    assert lag.longest_seconds < 0.5
    await check(checker, NUMBERS, {"a": 1})


async def test_a_definition_that_took_too_long_is_left_alone_for_a_while(
    checker: ArgumentChecker, clock: FakeClock
) -> None:
    bomb = tool({**doubling(60), "properties": {"a": {"type": "string"}}})
    await refusal(checker, bomb, {"a": "x"})

    before = time.monotonic()
    told = await refusal(checker, bomb, {"a": "x"})
    at_once = time.monotonic() - before
    clock.move(PAUSE_SECONDS)
    before = time.monotonic()
    await refusal(checker, bomb, {"a": "x"})
    again = time.monotonic() - before

    assert "cannot be checked" in told
    assert at_once < 0.1
    assert again > at_once


async def test_a_caller_that_leaves_during_a_check_spoils_no_other(
    checker: ArgumentChecker,
) -> None:
    await check(checker, NUMBERS, {"a": 1})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await check(checker, tool(doubling(60)), {"a": 1})

    assert "/a violates" in await refusal(checker, NUMBERS, {"a": "x"})
    await check(checker, NUMBERS, {"a": 1})


def test_numbers_and_depths_that_no_checker_takes_do_not_pass() -> None:
    definition = b'{"type":"object"}'

    told = problem(Validators(), definition, b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}")

    assert told is not None
    assert "cannot be checked" in told


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}, id="a reference"),
        pytest.param({"allOf": [{"$ref": "#/a~1b"}], "a/b": {}}, id="a pointer with an escape"),
        pytest.param({"properties": {"id": {"type": "string"}}}, id="a member called id"),
        pytest.param({"properties": {"a": {"pattern": "^a+$"}}}, id="a linear pattern"),
        pytest.param({"$schema": "https://example.com/own"}, id="an unknown draft"),
        pytest.param(
            {
                "$schema": "http://json-schema.org/draft-04/schema#",
                "properties": {"n": {"minimum": 3, "exclusiveMinimum": True}},
            },
            id="draft 4",
        ),
    ],
)
def test_usual_schemas_are_checked_at_once(schema: dict[str, Any]) -> None:
    assert compile_cheap({"type": "object", **schema}) is not None


def draft(name: object, **keywords: Any) -> dict[str, Any]:
    return {"$schema": name, **keywords}


EXCLUSIVE = {"minimum": 3, "exclusiveMinimum": True}
OWN = "https://example.com/draft-04/schema"


@pytest.mark.parametrize(
    ("schema", "fitting", "other"),
    [
        (draft("http://json-schema.org/draft-04/schema#", properties={"n": EXCLUSIVE}), 4, 3),
        (draft("http://json-schema.org/draft-06/schema#", properties={"n": {"const": 3}}), 3, 4),
        (
            draft(
                "http://json-schema.org/draft-07/schema#",
                **{"if": {"required": ["n"]}, "then": {"properties": {"n": {"enum": [3]}}}},
            ),
            *(3, 4),
        ),
        (
            draft(
                "https://json-schema.org/draft/2019-09/schema",
                properties={"n": {"items": [{"type": "null"}]}},
            ),
            *([None, 1], [1]),
        ),
        (
            draft(
                "https://json-schema.org/draft/2020-12/schema",
                properties={"n": {"prefixItems": [{"type": "null"}], "items": False}},
            ),
            *([None], [None, 1]),
        ),
        (draft("urn:own", properties={"n": {"prefixItems": [False]}}), [], [1]),
        (draft(7, properties={"n": {"prefixItems": [False]}}), [], [1]),
        ({"properties": {"n": False, "m": True}}, None, 1),
        ({"properties": {"n": True}, "additionalProperties": False}, 1, None),
    ],
)
def test_a_schema_is_read_as_its_draft_says(
    schema: dict[str, Any], fitting: Any, other: Any
) -> None:
    compiled = compile_cheap({"type": "object", **schema})

    assert compiled is not None
    takes = [
        compiled.validator.is_valid({"m": 1} if value is None else {"n": value})
        for value in (fitting, other)
    ]
    assert takes == [True, False]


@pytest.mark.parametrize("named", ["draft-04", "draft-06", "draft-07"])
@pytest.mark.parametrize("kind", ["ipv4", "regex", "no-such-format"])
def test_formats_are_annotations_in_drafts_that_assert_them(named: str, kind: str) -> None:
    schema = draft(f"http://json-schema.org/{named}/schema#", properties={"a": {"format": kind}})

    compiled = compile_cheap(schema)

    assert compiled is not None
    assert compiled.validator.is_valid({"a": "("})


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(draft(OWN), id="a draft elsewhere that looks like a known one"),
        pytest.param({"properties": {"n": 7}}, id="a part that is no schema"),
        pytest.param(doubling(60), id="references that double"),
        pytest.param({"properties": {"next": {"$ref": "#"}}}, id="recursion"),
        pytest.param(
            {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
            id="recursion in a definition",
        ),
        pytest.param({"properties": {"a": {"pattern": "(?=a)b"}}}, id="looking around"),
        pytest.param(
            {"properties": {"a": {"pattern": "(\\w{1,90}){1,90}"}}}, id="a pattern of megabytes"
        ),
        pytest.param({"patternProperties": {"(?!a)": {}}}, id="a pattern of names"),
        pytest.param({"unevaluatedProperties": False}, id="unevaluated members"),
        pytest.param({"properties": {"a": {"$id": "https://a/b"}}}, id="another base"),
        pytest.param({"$ref": "https://example.com/s"}, id="a reference elsewhere"),
        pytest.param({"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}}, id="an anchor"),
        pytest.param({"enum": list(range(6_000))}, id="too many values"),
        pytest.param({"type": "strng"}, id="no schema"),
    ],
)
def test_schemas_that_may_take_long_are_not_checked_at_once(schema: dict[str, Any]) -> None:
    assert compile_cheap({"type": "object", **schema}) is None


async def test_long_arguments_are_checked_elsewhere(checker: ArgumentChecker) -> None:
    many = tool({"items": {}, "properties": {f"m{n}": {"enum": [n]} for n in range(400)}})

    assert checker.fits(many, {"m1": 1}, 10)
    assert not checker.fits(many, {"m1": 1}, 100_000)
    await check(checker, many, {"m1": 1})


@pytest.mark.parametrize(
    "value", [10**40, 1e308, "\ud800", [[]] * 50_000, {"a": {"a": {"a": None}}}]
)
async def test_odd_values_are_refused_without_an_error(
    checker: ArgumentChecker, value: Any
) -> None:
    assert not checker.fits(tool({"properties": {"a": {"type": "null"}}}), {"a": value}, 100)


@pytest.mark.parametrize("is_cheap", [True, False])
async def test_allowed_values_are_told_bounded_and_never_those_of_secrets(
    checker: ArgumentChecker, *, is_cheap: bool
) -> None:
    many = [f"v{number}" for number in range(12)]
    schema: dict[str, Any] = {
        "properties": {
            "kind": {"enum": ["cat", 1, None, "x" * 100]},
            "many": {"enum": many},
            "one": {"const": "only"},
            "pin": {"enum": ["hidden-1"], "writeOnly": True},
            "code": {"enum": [4711.0], "writeOnly": True},
            "salt": {"const": 4712, "writeOnly": True},
            "password": {"format": "password", "anyOf": [{"$ref": "#/$defs/words"}]},
            "word": {"format": "password", "$ref": "#/$defs/words"},
        },
        "$defs": {"words": {"enum": ["hidden-2"]}},
    }
    if not is_cheap:
        schema["unevaluatedProperties"] = False
    wrong = dict.fromkeys(("kind", "many", "one", "pin"), "secret")

    told = await refusal(checker, tool(schema), wrong)
    secret = await refusal(
        checker, tool(schema), dict.fromkeys(("password", "word", "code", "salt"), "secret")
    )

    assert f'allowed: "cat", 1, null, "{"x" * 63}...)' in told
    assert '"v9" and 2 more)' in told
    assert 'allowed: "only")' in told
    assert "hidden" not in told + secret
    assert "471" not in secret
    assert "secret" not in told + secret


async def test_names_are_told_and_values_are_not(checker: ArgumentChecker) -> None:
    strict = tool(
        {
            "type": "object",
            "required": ["to"],
            "additionalProperties": False,
            "properties": {"to": {}, "a/b~c": {"type": "array", "items": {"enum": ["x"]}}},
        }
    )

    told = await refusal(checker, strict, {"a/b~c": ["x", "secret"], "password": "secret"})

    assert '/a~1b~0c/1 violates properties/a/b~c/items/enum (it is a string; allowed: "x")' in told
    assert "/ violates required (to is missing)" in told
    assert "/ violates additionalProperties (password is not known)" in told
    assert "secret" not in told
