"""Quarantine: what is refused, where, since when, and what had been reached."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, Scope, UserContext
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES | {Scope.WRITE_ACCESS})
BOB = UserContext("b" * 24, "bob", Role.USER, USER_SCOPES)
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)


async def mcp(
    rest: Rest, user: UserContext, path: str, method: str = "tools/list", **params: Any
) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    headers = {
        "Authorization": f"Bearer {rest.token(user)}",
        "Accept": "application/json, text/event-stream",
    }
    answer = await rest.client.post(f"/mcp/{path}".rstrip("/"), json=message, headers=headers)
    body: dict[str, Any] = answer.json()
    return body


async def names(rest: Rest, user: UserContext, path: str) -> list[str]:
    return [tool["name"] for tool in (await mcp(rest, user, path))["result"]["tools"]]


async def add(rest: Rest, user: UserContext, **body: Any) -> dict[str, Any]:
    answer = await rest.ask(user, "POST", "/access/quarantine", json={"reason": "why", **body})
    assert answer.status_code == 201, answer.text
    added: dict[str, Any] = answer.json()
    return added


async def lift(rest: Rest, user: UserContext, quarantine: dict[str, Any]) -> int:
    answer = await rest.ask(user, "DELETE", f"/access/quarantine/{quarantine['id']}")
    return answer.status_code


async def made(rest: Rest, server_id: str) -> list[str]:
    """Make toolsets that serve a tool by its name, by a wildcard and under another name."""
    entries: list[dict[str, Any]] = [
        {"server": server_id, "tool": "echo", "name": "say"},
        {"server": server_id, "tool": "e*"},
    ]
    for number, entry in enumerate(entries):
        body = {"name": f"set{number}", "entries": [entry]}
        answer = await rest.ask(ALICE, "POST", "/toolsets", json=body)
        assert answer.status_code in {201, 409}, answer.text
    return [f"set{number}" for number in range(len(entries))]


def toolset_names(sets: list[str]) -> list[tuple[str, str]]:
    """Return path and tool of a call to each, that with another name last."""
    return [(f"toolsets/{sets[1]}", "sums__echo"), (f"toolsets/{sets[0]}", "say")]


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _nothing_left(rest: Rest) -> Any:
    yield
    for one in (
        (await rest.ask(ROOT, "GET", "/access/quarantine?active=true"))
        .json()
        .get("quarantines", [])
    ):
        await lift(rest, ROOT, one)


async def test_a_quarantined_tool_is_in_no_list_and_not_called(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    before = await names(rest, ALICE, "sums")
    added = await add(rest, ROOT, kind="tool", subject=server["id"], tool="echo")
    assert added["is_active"] is True
    for user in (ALICE, ROOT):
        for path, name in (("sums", "echo"), ("", "sums__echo")):
            assert name not in await names(rest, user, path)
            called = await mcp(rest, user, path, "tools/call", name=name, arguments={})
            assert "is in quarantine" in str(called)
    for path, name in toolset_names(await made(rest, server["id"])):
        called = await mcp(rest, ALICE, path, "tools/call", name=name, arguments={})
        assert "is in quarantine" in str(called)
    outside = await mcp(rest, ALICE, path, "tools/call", name="sums__echo", arguments={})
    assert "is in quarantine" not in str(outside)
    explained = await rest.ask(ALICE, "POST", "/access/explain", json={"tool": "sums__echo"})
    assert explained.json()["allowed"] is False
    again = (await rest.ask(ROOT, "GET", "/access/quarantine")).json()["quarantines"]
    assert [one["id"] for one in again] == [added["id"]]
    assert await lift(rest, ROOT, added) == 200
    assert await names(rest, ALICE, "sums") == before


async def test_lifting_one_of_two_quarantines_names_the_other(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    held = {"kind": "server", "subject": server["id"]}
    first, second = [await add(rest, ROOT, **held) for _ in range(2)]
    tool = await add(rest, ROOT, kind="tool", subject=server["id"], tool="echo")

    lifted = [
        (await rest.ask(ROOT, "DELETE", f"/access/quarantine/{one['id']}")).json()
        for one in (first, second, tool)
    ]

    assert [one["others"] for one in lifted] == [[second["id"]], [], []]


async def test_a_quarantined_server_answers_nothing(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    other = await rest.register(ROOT, "other", upstream.url, scope="shared_app")
    ends = (rest.parts.clock.now() + timedelta(hours=2)).isoformat()
    added = await add(rest, ROOT, kind="server", subject=server["id"], expires_at=ends)
    for method in ("tools/list", "prompts/list", "initialize", "ping"):
        refused = await mcp(rest, ALICE, "sums", method)
        assert refused["error"]["data"]["error"] == "quarantined"
    assert {name.partition("__")[0] for name in await names(rest, ALICE, "")} == {"other"}
    for path, name in [("", "sums__echo"), *toolset_names(await made(rest, server["id"]))]:
        called = await mcp(rest, ALICE, path, "tools/call", name=name, arguments={})
        assert "The server sums is in quarantine" in str(called)
    asked = {"tool": "echo", "path": "/mcp/sums"}
    explained = await rest.ask(ALICE, "POST", "/access/explain", json=asked)
    refused_by = [one["step"] for one in explained.json()["reasons"] if not one["passed"]]
    assert refused_by[0] == "quarantine"
    reasons = [
        (await rest.ask(user, "POST", "/access/explain", json=asked)).json()["reasons"][0]
        for user in (ALICE, ROOT)
    ]
    # Why is for administrators, who alone see quarantines.
    ends = f"The server is in quarantine until {added['expires_at']}"
    assert [one["message"] for one in reasons] == [f"{ends}.", f"{ends}: {added['reason']}."]
    assert "error" not in await mcp(rest, ALICE, "other")
    assert other["id"] != server["id"]
    await lift(rest, ROOT, added)
    assert "error" not in await mcp(rest, ALICE, "sums")


async def test_a_quarantined_user_is_refused_at_the_gateway_and_the_api(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    added = await add(rest, ROOT, kind="user", subject=ALICE.user_id)
    for path in ("sums", ""):
        refused = await mcp(rest, ALICE, path)
        assert refused["error"]["data"]["error"] == "quarantined"
    denied = await rest.ask(ALICE, "GET", "/servers")
    assert (denied.status_code, denied.json()["error"]) == (403, "forbidden")
    assert "why" not in denied.text
    assert "error" not in await mcp(rest, BOB, "sums")
    await lift(rest, ROOT, added)
    assert "error" not in await mcp(rest, ALICE, "sums")
    assert (await rest.ask(ALICE, "GET", "/servers")).status_code == 200


async def test_a_quarantined_application_is_refused_by_its_name(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    added = await add(rest, ROOT, kind="client", subject="agent")
    assert added["reached"]["is_known"] is False
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}}
    for path in ("sums", ""):
        refused = await mcp(
            rest, ALICE, path, "initialize", **hello, clientInfo={"name": "agent", "version": "1"}
        )
        fine = await mcp(
            rest, ALICE, path, "initialize", **hello, clientInfo={"name": "other", "version": "1"}
        )
        assert refused["error"]["data"]["error"] == "quarantined"
        assert fine.get("error", {}).get("data", {}).get("error") != "quarantined"


async def test_a_quarantine_ends_by_itself_without_a_write(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    clock = rest.parts.clock
    soon = clock.now().timestamp() + 0.6
    expires_at = datetime.fromtimestamp(soon, UTC).isoformat()
    await add(rest, ROOT, kind="tool", subject=server["id"], tool="echo", expires_at=expires_at)
    assert "echo" not in await names(rest, ALICE, "sums")
    async with asyncio.timeout(30):
        while "echo" not in await names(rest, ALICE, "sums"):
            await clock.sleep(0.1)
    listed = await rest.ask(ROOT, "GET", "/access/quarantine?active=false")
    assert [one["is_active"] for one in listed.json()["quarantines"]][:1] == [False]


async def test_owners_quarantine_their_own_servers_and_nothing_else(
    rest: Rest, upstream: PlainUpstream
) -> None:
    own = await rest.register(ALICE, "sums", upstream.url)
    other = await rest.register(ROOT, "other", upstream.url, scope="shared_app")
    mine = await add(rest, ALICE, kind="server", subject=own["id"])
    refused = [
        await rest.ask(ALICE, "POST", "/access/quarantine", json={"reason": "r", **body})
        for body in (
            {"kind": "server", "subject": other["id"]},
            {"kind": "user", "subject": BOB.user_id},
            {"kind": "token", "subject": "jti"},
            {"kind": "client", "subject": "agent"},
        )
    ]
    foreign = await add(rest, ROOT, kind="server", subject=other["id"])
    assert [answer.status_code for answer in refused] == [403] * 4
    assert await lift(rest, ALICE, foreign) == 404
    assert (await rest.ask(BOB, "GET", "/access/quarantine")).json()["quarantines"] == []
    assert await lift(rest, ALICE, mine) == 200
    assert await lift(rest, ALICE, mine) == 200


async def test_what_was_reached_is_told(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    for _ in range(3):
        await mcp(rest, ALICE, "sums", "tools/call", name="echo", arguments={"text": "a"})
    await mcp(rest, BOB, "", "tools/call", name="sums__echo", arguments={"text": "a"})
    async with asyncio.timeout(30):
        while True:
            added = await add(rest, ROOT, kind="server", subject=server["id"])
            await lift(rest, ROOT, added)
            if added["reached"]["calls"] >= 4:
                break
            await rest.parts.clock.sleep(0.2)
    groups = {(one["username"], one["tool"]): one["calls"] for one in added["reached"]["groups"]}
    assert groups["alice", "echo"] == 3
    assert groups["bob", "echo"] == 1
    assert added["reached"]["is_complete"] is True


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "planet", "subject": "x", "reason": "r"},
        {"kind": "server", "subject": "x", "reason": "r"},
        {"kind": "server", "subject": "f" * 24, "reason": "r"},
        {"kind": "server", "subject": "f" * 24, "reason": ""},
        {"kind": "tool", "subject": "f" * 24, "reason": "r"},
        {"kind": "client", "subject": "x", "tool": "y", "reason": "r"},
        {"kind": "client", "subject": "x", "reason": "r", "hours": 0},
        {"kind": "client", "subject": "x", "reason": "r", "hours": 10**6},
        {"kind": "client", "subject": "x", "reason": "r", "expires_at": "2000-01-01T00:00:00Z"},
        {"kind": "client", "subject": "x", "reason": "r", "expires_at": "tomorrow"},
        {"kind": "client", "subject": "a\u0000", "reason": "r"},
        {"kind": "client", "subject": "x", "reason": "r", "more": 1},
        # Nobody but the operator could lift it again.
        {"kind": "user", "subject": ROOT.user_id, "reason": "r"},
    ],
)
async def test_a_quarantine_that_makes_no_sense_is_refused(rest: Rest, body: Any) -> None:
    answer = await rest.ask(ROOT, "POST", "/access/quarantine", json=body)
    assert answer.status_code == 422, answer.text
