"""Arguments against approved definitions: bounded in time and memory, whatever the definition."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from registry.gateway.edge.argument_process import Validators, problem
from registry.gateway.edge.arguments import PAUSE_SECONDS, ArgumentChecker
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
    checker = ArgumentChecker(clock)
    yield checker
    await checker.close()


async def refusal(checker: ArgumentChecker, entry: ToolEntry, arguments: dict[str, Any]) -> str:
    with pytest.raises(InvalidParams) as refused:
        await checker.require_fit(entry, arguments)
    return refused.value.message


@pytest.mark.requirement("R-223")
async def test_arguments_that_fit_pass_and_others_are_told_where(
    checker: ArgumentChecker,
) -> None:
    await checker.require_fit(NUMBERS, {"a": 1})

    told = await refusal(checker, NUMBERS, {"a": "secret"})

    assert "/a violates properties/a/type" in told
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
    await checker.require_fit(NUMBERS, {"a": 1})


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
    await checker.require_fit(NUMBERS, {"a": 1})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await checker.require_fit(tool(doubling(60)), {"a": 1})

    assert "/a violates" in await refusal(checker, NUMBERS, {"a": "x"})
    await checker.require_fit(NUMBERS, {"a": 1})


def test_numbers_and_depths_that_no_checker_takes_do_not_pass() -> None:
    definition = b'{"inputSchema":{"type":"object"}}'

    told = problem(Validators(), definition, b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}")

    assert told is not None
    assert "cannot be checked" in told
