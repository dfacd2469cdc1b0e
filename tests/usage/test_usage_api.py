"""Calls at the gateway, as the usage API tells of them."""

import asyncio
from typing import Any

import httpx
import pytest

from registry.auth.identity import Role, Scope, UserContext
from registry.core.clock import SystemClock
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest
from tests.servers.conftest import module_rest as module_rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

AUDITOR = UserContext("e" * 24, "audrey", Role.ADMIN, frozenset({Scope.READ_AUDIT}))
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def usage(rest: Rest, user: UserContext = AUDITOR, **query: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {rest.token(user)}"}
    return await rest.client.get("/api/v1/usage", params=query, headers=headers)


async def records(rest: Rest, **query: Any) -> list[dict[str, Any]]:
    answer = await usage(rest, **query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["records"])


async def call_tool(rest: Rest, user: UserContext, server: str, tool: str) -> httpx.Response:
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": tool, "arguments": {"text": "sentinel-77"}},
    }
    headers = {
        "Authorization": f"Bearer {rest.token(user)}",
        "Accept": "application/json, text/event-stream",
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    return await rest.client.post(f"/mcp/{server}", json=message, headers=headers)


async def written(rest: Rest, count: int) -> list[dict[str, Any]]:
    """Wait for so many records."""
    async with asyncio.timeout(30):
        while len(found := await records(rest)) < count:
            await SystemClock().sleep(0.05)
    return found


@pytest.mark.requirement("R-237")
async def test_a_call_is_found_with_all_that_is_known_of_it(
    rest: Rest, alice: UserContext, upstream: PlainUpstream
) -> None:
    server = await rest.register(alice, "sums", upstream.url)

    await call_tool(rest, alice, "sums", "echo")
    (record,) = await written(rest, 1)

    measured = {
        name: record.pop(name)
        for name in ("id", "started_at", "token_id", "worker", "request_bytes", "response_bytes")
    }
    assert all(measured.values())
    times = [record.pop(f"{name}_ms") for name in ("duration", "admission", "upstream", "relay")]
    assert times[0] == pytest.approx(sum(times[1:]), abs=0.01)
    assert record == {
        "user_id": alice.user_id,
        "username": "alice",
        "server_id": server["id"],
        "server": "sums",
        "method": "tools/call",
        "tool": "echo",
        "called_as": "echo",
        "era": "legacy",
        "outcome": record["outcome"],
        "error_code": record["error_code"],
        "trace_id": TRACE,
        "cost_tier": None,
        "billing_tags": [],
        "cost": 0.0,
    }
    stored = await rest.parts.database.collection("usage_records").find({}).to_list()
    assert "sentinel-77" not in repr(stored)


async def test_filters_narrow_the_list_and_pages_are_cut_by_cursors(
    rest: Rest, alice: UserContext, bob: UserContext, upstream: PlainUpstream
) -> None:
    server = await rest.register(alice, "sums", upstream.url)
    for number in range(3):
        await call_tool(rest, alice, "sums", f"unheard-{number}")
    await call_tool(rest, bob, "sums", "echo")
    everything = await written(rest, 4)

    moment = everything[1]["started_at"]
    assert [record["username"] for record in everything] == ["bob", "alice", "alice", "alice"]
    assert len(await records(rest, user_id=alice.user_id)) == 3
    assert len(await records(rest, server_id=server["id"])) == 3
    assert len(await records(rest, tool="unheard-1")) == 1
    assert len(await records(rest, outcome="refused")) == 4
    assert len(await records(rest, outcome="ok")) == 0
    assert len(await records(rest, method="prompts/get")) == 0
    assert len(await records(rest, trace_id=TRACE)) == 4
    assert len(await records(rest, since=moment)) + len(await records(rest, until=moment)) == 4
    first = (await usage(rest, limit=3)).json()
    second = (await usage(rest, limit=3, cursor=first["next_cursor"])).json()
    assert [*first["records"], *second["records"]] == everything
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": "nonsense"},
        {"limit": 0},
        {"limit": 201},
        {"since": "yesterday"},
        {"until": "0001-01-01T00:00:00+14:00"},
        {"user_id": "me"},
        {"server_id": "sums"},
        {"trace_id": "x"},
        {"tool": "\x00"},
        {"unheard": "of"},
    ],
)
async def test_questions_that_make_no_sense_are_refused(rest: Rest, query: dict[str, Any]) -> None:
    answer = await usage(rest, **query)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")


async def test_only_the_scope_opens_the_records(rest: Rest, alice: UserContext) -> None:
    answer = await usage(rest, alice)

    assert (answer.status_code, answer.json()["scope"]) == (403, "read:audit")
    trail = await rest.ask(AUDITOR, "GET", "/audit", params={"outcome": "denied"})
    assert [item["entity_type"] for item in trail.json()["records"]] == ["usage"]


async def test_a_tool_has_one_name_at_every_path_and_is_found_by_each(
    rest: Rest, alice: UserContext, upstream: PlainUpstream
) -> None:
    await rest.register(alice, "sums", upstream.url)
    await call_tool(rest, alice, "sums", "echo")
    await call_tool(rest, alice, "", "sums__echo")
    toolset = {"name": "few", "entries": [{"server": "sums", "tool": "echo", "name": "say"}]}
    made = await rest.ask(alice, "POST", "/toolsets", json=toolset)
    assert made.status_code == 201, made.text
    await call_tool(rest, alice, "toolsets/few", "say")
    everything = await written(rest, 3)

    named = {record["called_as"]: record["tool"] for record in everything}
    assert named == {"echo": "echo", "sums__echo": "echo", "say": "echo"}
    assert await records(rest, tool="echo") == everything
    assert await records(rest, tool="sums__echo") == everything
    assert [one["called_as"] for one in await records(rest, tool="say")] == ["say"]
    assert await records(rest, tool="ech") == await records(rest, tool="other__echo") == []
    for tool in ("echo", "sums__echo"):
        totals = (await usage(rest, group_by="tool", tool=tool)).json()
        assert [(one["tool"], one["calls"]) for one in totals["groups"]] == [("echo", 3)]


async def test_records_of_earlier_releases_are_found_by_the_tools_own_name(
    rest: Rest, alice: UserContext, upstream: PlainUpstream
) -> None:
    await rest.register(alice, "sums", upstream.url)
    await call_tool(rest, alice, "", "sums__echo")
    await written(rest, 1)
    rows = rest.parts.database.collection("usage_records")
    await rows.update_many({}, {"$unset": {"calls.$[].own_tool": ""}})

    (old,) = await records(rest, tool="echo")

    assert (old["tool"], old["called_as"]) == ("sums__echo", "sums__echo")
    assert await records(rest, tool="sums__echo") == [old]
    assert await records(rest, tool="ums__echo") == []
