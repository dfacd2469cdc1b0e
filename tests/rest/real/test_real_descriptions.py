"""Descriptions that nobody here wrote: all are read, and a sample of their tools is called.

`make real-descriptions` calls all of them, and writes the table of docs/rest-apis.md.
"""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import pytest
from aiohttp import web

from registry.core.json import JsonObject, members
from registry.gateway.edge.argument_process import PATTERNS, compiled
from registry.openapi.binding import binding_of
from registry.openapi.tools import ConvertedTool
from registry.upstream.rest.requests import RestRequest
from tests.gateway.conftest import Gateway, StartGateway, start_gateway
from tests.rest.real.fetched import REAL, fetched
from tests.rest.real.judge import HOST, judged, refusals
from tests.rest.real.measured import (
    DIALECT,
    Loaded,
    Measured,
    generated,
    loaded,
    measured,
    operations,
    sample,
)
from tests.rest.real.report import PAGE, described_names
from tests.rest.serving import ScriptedApi, api_route, api_tool, scripted_api
from tests.rest.test_gateway import called

pytestmark = [pytest.mark.node, pytest.mark.integration, pytest.mark.timeout(240)]

__all__ = ["start_gateway"]

LEAST = 0.99
LEAST_DESCRIPTIONS = 25
SAMPLED_PARTS = 20
"""So many operations of a description are represented by one that is called; two at least are."""

CALLED = ("GitHub", "Stripe", "Kubernetes", "Slack", "Petstore (Swagger 2.0)", "Vercel (3.1)")
CALLED_OF_EACH = 6
MOST_CPU_SECONDS = 5
MOST_MEGABYTES = 300


@pytest.fixture(scope="module")
def all_loaded() -> dict[str, Loaded]:
    files = fetched()
    return {one.name: loaded(files[one.name], files.get(f"{one.name} (twin)")) for one in REAL}


def test_there_are_enough_and_of_each_version(all_loaded: dict[str, Loaded]) -> None:
    versions = {
        str(found.document.get("openapi") or found.document.get("swagger"))[:3]
        for found in all_loaded.values()
    }

    assert len(all_loaded) >= LEAST_DESCRIPTIONS
    assert versions == {"2.0", "3.0", "3.1"}


@pytest.mark.requirement("R-171")
def test_nearly_all_operations_are_tools(all_loaded: dict[str, Loaded]) -> None:
    described = {name: operations(found.document) for name, found in all_loaded.items()}

    tools = {name: len(found.converted.tools) for name, found in all_loaded.items()}

    assert sum(described.values()) > 10_000
    assert sum(tools.values()) >= LEAST * sum(described.values())
    assert all(tools[name] <= described[name] for name in tools)


def test_each_input_schema_is_valid_and_can_be_checked(all_loaded: dict[str, Loaded]) -> None:
    invalid = [
        (name, tool.external_id)
        for name, found in all_loaded.items()
        for tool in found.converted.tools
        if not _is_valid(members(tool.definition["inputSchema"]))
    ]

    assert invalid == []


def _is_valid(schema: JsonObject) -> bool:
    try:
        compiled(schema, PATTERNS)
    except ValueError:
        return False
    return bool(jsonschema_rs.meta.is_valid({"$schema": DIALECT, **schema}))


def test_names_of_tools_are_unique_and_fit(all_loaded: dict[str, Loaded]) -> None:
    names = {
        name: [tool.name for tool in found.converted.tools] for name, found in all_loaded.items()
    }

    assert all(len(set(found)) == len(found) for found in names.values())
    assert max(len(name) for found in names.values() for name in found) <= 64


@pytest.mark.requirement("R-234")
def test_requests_of_nearly_all_tools_are_accepted_by_an_independent_judge(
    all_loaded: dict[str, Loaded],
) -> None:
    found = [
        measured(name, one, _sampled(one.converted.tools)) for name, one in all_loaded.items()
    ]

    tried, accepted = sum(one.tried for one in found), sum(one.accepted for one in found)
    assert tried > 450
    assert accepted >= LEAST * tried, [_refused(one) for one in found if one.reasons]


def _sampled(tools: tuple[ConvertedTool, ...]) -> list[ConvertedTool]:
    return sample(tools, max(2, len(tools) // SAMPLED_PARTS), seed=1)


def _refused(one: Measured) -> tuple[str, dict[str, str]]:
    return one.name, one.examples


@dataclass(slots=True)
class JudgingApi:
    """An API that answers whether it was called as its description says."""

    api: ScriptedApi
    judge: Any = None
    binding: Any = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Judge a request."""
        content = await request.read()
        seen = RestRequest(
            request.method, HOST, request.raw_path, dict(request.headers), content or None
        )
        return web.json_response({"refused": refusals(self.judge, self.binding, seen)})


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def judging_api(stack: AsyncExitStack) -> JudgingApi:
    api = await stack.enter_async_context(scripted_api())
    judging = JudgingApi(api)
    api.answers = judging.answer
    return judging


@pytest.mark.parametrize("name", CALLED)
async def test_calls_through_the_gateway_are_accepted_by_a_server_of_the_description(
    name: str,
    all_loaded: dict[str, Loaded],
    judging_api: JudgingApi,
    start_gateway: StartGateway,
) -> None:
    found = all_loaded[name]
    tools = sample(found.converted.tools, CALLED_OF_EACH, seed=2)
    entries = [_entry(tool) for tool in tools]
    gateway: Gateway = await start_gateway(api_route(judging_api.api.url, tools=entries))

    refused = {tool.name: await _called(gateway, judging_api, found, tool) for tool in tools}

    assert refused == {tool.name: {"refused": []} for tool in tools}


def _entry(tool: ConvertedTool) -> Any:
    binding = binding_of(tool.definition)
    assert binding is not None
    here = binding.model_copy(update={"base_url": None})
    return api_tool(tool.name, here, inputSchema=tool.definition["inputSchema"])


async def _called(
    gateway: Gateway, judging: JudgingApi, found: Loaded, tool: ConvertedTool
) -> Any:
    binding = binding_of(tool.definition)
    assert binding is not None
    judging.binding = binding
    judging.judge = judged(found.judge, binding, found.paths[tool.external_id])
    arguments = generated(tool, binding, 1, is_full=True)
    result = await called(gateway, "modern", "demo", tool.name, **arguments)
    content = result.get("structuredContent", result)
    return content.get("result", content)


def test_the_documentation_lists_each_description() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert described_names(page) == [one.name for one in REAL]


CONVERTING = """
import sys, time
from registry.openapi.description import describe
from registry.openapi.documents import load
from registry.openapi.tools import Selection, tools_of
content = open(sys.argv[1], "rb").read()
began = time.process_time()
found = tools_of(describe(load(content), url=None, files={}), Selection())
spent = time.process_time() - began
status = open("/proc/self/status").read()
memory = int(status.partition("VmHWM:")[2].split()[0])
print(len(found.tools), spent, memory / 1024)
"""


@pytest.mark.parametrize(("name", "tools"), [("GitHub", 1_223), ("Stripe", 452)])
def test_the_largest_descriptions_are_converted_in_seconds_and_little_memory(
    name: str, tools: int
) -> None:
    file = str(fetched()[name])
    run = subprocess.run(
        [sys.executable, "-c", CONVERTING, file], capture_output=True, check=True, text=True
    )

    made, seconds, megabytes = map(float, run.stdout.split())

    assert made == tools
    assert seconds < MOST_CPU_SECONDS
    assert megabytes < MOST_MEGABYTES
