"""Calls by `call_tool` are approved, limited and cancelled as calls of the real tool."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from mcp import MCPError

from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.models.states import ApprovalState
from registry.access.limits.table import LimitTable
from registry.access.limits.values import Period, Rate
from tests.fakes.clock import FakeClock
from tests.fakes.everything.eras import OneEra
from tests.fakes.everything.server import everything_app
from tests.fakes.everything.state import State
from tests.fakes.limits import FakeLimits, FakeQuotas, call_limits
from tests.gateway.approving import TOOL, approving
from tests.gateway.conftest import StartGateway
from tests.gateway.meeting import Kind, Speech, connected, everything_tools, route_to
from tests.gateway.serving import serve
from tests.gateway.test_limits import limit
from tests.gateway.test_tool_search import Finder

pytestmark = pytest.mark.wire

SEARCH = "/mcp?tools=search"


def wrapped(**arguments: str) -> dict[str, Any]:
    return {"server_name": "demo", "tool_name": TOOL, "parameters": arguments}


@pytest.mark.parametrize("speech", [Speech.LEGACY, Speech.MODERN])
async def test_such_a_call_waits_for_people_and_is_made_once(
    database: Database,
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    cipher: Cipher,
    speech: Speech,
) -> None:
    place = await stack.enter_async_context(
        approving(Kind.MODERN, start_gateway, database, cipher, finder=Finder())
    )

    async with connected(place.gateway.url, speech, SEARCH) as client:
        async with asyncio.TaskGroup() as group:
            called = group.create_task(client.call_tool("call_tool", wrapped(path="a.txt")))
            approval = await place.pending()
            assert place.server.calls == []
            await place.decide()
        result = called.result()

    assert not result.is_error, result
    assert place.server.calls == [(TOOL, {"path": "a.txt"})]
    assert approval.tool == TOOL
    assert len(await place.all(ApprovalState.EXECUTED)) == 1


async def test_who_cancels_such_a_call_ends_its_request(
    database: Database, stack: AsyncExitStack, start_gateway: StartGateway, cipher: Cipher
) -> None:
    place = await stack.enter_async_context(
        approving(Kind.LEGACY, start_gateway, database, cipher, finder=Finder())
    )

    async with connected(place.gateway.url, Speech.LEGACY, SEARCH) as client:
        called = asyncio.get_running_loop().create_task(
            client.call_tool("call_tool", wrapped(path="b.txt"))
        )
        await place.pending()
        called.cancel()
        await place.reached_among(ApprovalState.CANCELLED)

    assert place.server.calls == []


async def test_such_calls_count_for_the_limits_of_the_real_tool(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    clock = FakeClock()
    table = LimitTable(FakeLimits(limit(Rate(1, Period.DAY))))
    await table.reload(None)
    url = await stack.enter_async_context(
        serve(OneEra(everything_app(State()), is_modern=False), lifespan=True)
    )
    gateway = await start_gateway(
        route_to(Kind.LEGACY, f"{url}/mcp", tools=everything_tools(), server_id="d" * 24),
        finder=Finder(),
        limits=call_limits(table, FakeQuotas(clock), clock),
    )

    async with connected(gateway.url, Speech.LEGACY, SEARCH) as client:
        first = await client.call_tool("call_tool", wrapped())
        with pytest.raises(MCPError, match="Over the limit"):
            await client.call_tool("call_tool", wrapped())
    async with connected(gateway.url, Speech.LEGACY, "/mcp") as client:
        with pytest.raises(MCPError, match="Over the limit"):
            await client.call_tool(f"demo__{TOOL}", {})

    calls = [one for one in gateway.notes.calls if one.method == "tools/call"]
    assert not first.is_error
    assert [(one.tool, one.outcome) for one in calls] == [
        (TOOL, "ok"),
        (TOOL, "limited"),
        (TOOL, "limited"),
    ]
