"""Drafts of rules, tried on recorded calls."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from bson import ObjectId

from registry.access.simulation.service import MAX_RECORDS
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from registry.usage.batches import BatchPacker, UsageBatch
from registry.usage.repository import UsageRepository
from tests.fakes.plain_upstream import ECHO, PlainUpstream
from tests.fakes.rest import Rest
from tests.usage.conftest import call

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
BOB = UserContext("b" * 24, "bob", Role.USER, USER_SCOPES)
CAROL = UserContext("e" * 24, "carol", Role.USER, USER_SCOPES)
GROUP = "d" * 24
NOWHERE = "f" * 24
EVERYONE = {"everyone": True}
NOTHING = {"would_be_refused": 0, "newly_allowed": 0, "unchanged": 0, "undecided": 0}


@pytest_asyncio.fixture(loop_scope="module")
async def server(rest: Rest, upstream: PlainUpstream) -> dict[str, Any]:
    """Return a shared server with two tools, and people of whom one is in no directory."""
    upstream.tools = f"[{ECHO},{ECHO.replace('echo', 'other')}]"
    await rest.parts.database.collection("users").insert_many(
        [
            {"_id": ObjectId(one.user_id), "username": one.username, "role": one.role.upper()}
            for one in (ROOT, ALICE, BOB)
        ]
    )
    await rest.parts.database.collection("groups").insert_one(
        {"_id": ObjectId(GROUP), "name": "staff", "memberIds": [ALICE.user_id]}
    )
    return await rest.register(ROOT, "sums", upstream.url, scope="shared_app")


async def record(rest: Rest, server: dict[str, Any], *calls: dict[str, Any]) -> datetime:
    """Store calls, each so many *seconds* after the first; return when that was made."""
    clock = rest.parts.clock
    now = clock.monotonic()
    batch = UsageBatch()
    for one in calls:
        user = one.pop("user", ALICE)
        at = now - 60 + one.pop("seconds", 0)
        took = one.pop("took", 0.003)
        sent = {"decided_at": at + 0.001, "head_at": at + 0.002}
        if one.get("outcome", "ok") not in {"ok", "tool_error"}:
            sent = {"decided_at": 0, "head_at": 0}
        about = {"user_id": user.user_id, "username": user.username, "slug": "sums"}
        facts = {"server_id": server["id"], "target": "echo", "tool": "echo", **about, **one}
        batch.add(*call(**facts, began_at=at, ended_at=at + took, **sent))
    packer = BatchPacker(worker="host:1", retention=timedelta(days=1))
    made = packer.document(batch, clock.now(), clock.monotonic())
    assert await UsageRepository(rest.parts.database).insert(made)
    return clock.now() - timedelta(seconds=60)


async def simulated(rest: Rest, user: UserContext = ROOT, **asked: Any) -> dict[str, Any]:
    answer = await rest.ask(user, "POST", "/access/simulate", json=asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def refused(rest: Rest, user: UserContext, **asked: Any) -> httpx.Response:
    return await rest.ask(user, "POST", "/access/simulate", json=asked)


async def made(rest: Rest, path: str, body: dict[str, Any], user: UserContext = ROOT) -> str:
    answer = await rest.ask(user, "POST", path, json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def policy(server: dict[str, Any], effect: str, **subjects: Any) -> dict[str, Any]:
    return {
        "name": "draft",
        "effect": effect,
        "target": {"owner_id": server["id"], "tools": ["echo"]},
        "subjects": subjects,
    }


def counted(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, int]]:
    """Return for each caller and tool what is not zero."""
    return {
        (group["username"], group["tool"]): {name: group[name] for name in NOTHING if group[name]}
        for group in found["groups"]
    }


async def test_a_policy_is_tried_on_the_calls_of_its_server(
    rest: Rest, server: dict[str, Any]
) -> None:
    await record(
        rest,
        server,
        {"seconds": 0},
        {"seconds": 1, "target": "sums__echo"},
        # As earlier releases recorded it.
        {"seconds": 2, "target": "sums__echo", "tool": None},
        {"user": BOB},
        {"user": BOB, "target": "other", "tool": "other"},
        {"user": BOB, "outcome": "invalid_arguments"},
        {"user": CAROL},
        {"user": CAROL, "outcome": "denied"},
        {"target": "former", "tool": "former"},
        {"target": "sums__none", "tool": None, "outcome": "refused"},
        {"server_id": NOWHERE},
    )

    denied = await simulated(rest, policy=policy(server, "deny", **EVERYONE))
    grouped = await simulated(rest, policy=policy(server, "allow", groups=[GROUP]))
    scoped = await simulated(rest, policy=policy(server, "deny", scopes=["finance:write"]))
    disabled = await simulated(
        rest, policy={**policy(server, "deny", **EVERYONE), "is_enabled": False}
    )

    assert counted(denied) == {
        ("alice", "echo"): {"would_be_refused": 3},
        ("bob", "echo"): {"would_be_refused": 1, "unchanged": 1},
        ("carol", "echo"): {"would_be_refused": 2},
        ("alice", "former"): {"undecided": 1},
    }
    assert denied["totals"] == {
        "would_be_refused": 6,
        "newly_allowed": 0,
        "unchanged": 3,
        "undecided": 1,
    }
    assert (denied["kind"], denied["calls"], denied["is_complete"]) == ("policy", 10, True)
    assert denied["groups"][-1]["undecided_because"].startswith("its server offers no tool")
    # Nobody knows whether who is in no directory is an administrator, or in the group.
    assert counted(grouped) == {
        ("bob", "echo"): {"would_be_refused": 1, "unchanged": 1},
        ("carol", "echo"): {"undecided": 2},
        ("alice", "former"): {"undecided": 1},
    }
    assert {group["undecided_because"] for group in scoped["groups"]} >= {
        "records do not say the scopes of tokens"
    }
    assert scoped["totals"]["undecided"] == 7
    assert disabled["totals"]["would_be_refused"] == 0
    assert (await rest.ask(ROOT, "GET", "/access/policies")).json()["policies"] == []


async def test_the_replacement_and_the_removal_of_a_policy_are_tried(
    rest: Rest, server: dict[str, Any]
) -> None:
    policy_id = await made(rest, "/access/policies", policy(server, "deny", users=[ALICE.user_id]))
    await record(rest, server, {"outcome": "denied"}, {"user": BOB}, {"outcome": "refused"})

    removed = await simulated(rest, policy_id=policy_id)
    replaced = await simulated(
        rest, policy_id=policy_id, policy=policy(server, "deny", users=[BOB.user_id])
    )
    same = await simulated(
        rest, policy_id=policy_id, policy=policy(server, "deny", users=[ALICE.user_id])
    )

    assert counted(removed) == {("alice", "echo"): {"newly_allowed": 1, "unchanged": 1}}
    assert counted(replaced) == {
        ("alice", "echo"): {"newly_allowed": 1, "unchanged": 1},
        ("bob", "echo"): {"would_be_refused": 1},
    }
    assert (same["groups"], same["totals"]["unchanged"]) == ([], 3)


async def test_a_policy_about_several_servers_is_tried_on_the_calls_of_all(
    rest: Rest, server: dict[str, Any], upstream: PlainUpstream
) -> None:
    second = await rest.register(ROOT, "second", upstream.url, scope="shared_app")
    denied = policy(server, "deny", **EVERYONE)
    policy_id = await made(rest, "/access/policies", denied)
    await record(
        rest,
        server,
        {"outcome": "denied"},
        {"server_id": second["id"], "slug": "second", "user": BOB},
        {"server_id": NOWHERE, "slug": "gone", "user": BOB},
    )

    moved = await simulated(rest, policy_id=policy_id, policy=policy(second, "deny", **EVERYONE))
    widened = await simulated(
        rest, policy_id=policy_id, policy={**denied, "target": {"tools": ["echo"]}}
    )
    unknown = await refused(rest, ROOT, policy=policy(server, "deny", users=[NOWHERE]))

    assert {group["server"]: group["newly_allowed"] for group in moved["groups"]} == {
        "sums": 1,
        "second": 0,
    }
    assert moved["totals"] == {**NOTHING, "would_be_refused": 1, "newly_allowed": 1}
    assert widened["totals"] == {
        **NOTHING,
        "would_be_refused": 1,
        "unchanged": 1,
        "undecided": 1,
    }
    assert (unknown.status_code, unknown.json()["unknown_subjects"]) == (422, [f"user:{NOWHERE}"])


async def test_a_limit_is_replayed_in_the_order_of_the_calls(
    rest: Rest, server: dict[str, Any]
) -> None:
    await record(
        rest,
        server,
        {"seconds": 4},
        *({"seconds": second} for second in range(3)),
        {"user": BOB, "seconds": 2.5},
        # Another limit refused it: it counts in none.
        {"seconds": 2.6, "outcome": "limited"},
        {"seconds": 3, "target": "other", "tool": "other", "outcome": "unauthorized"},
        {"seconds": 50, "took": 5},
        {"seconds": 52},
    )
    about = {"owner_id": server["id"]}
    few = {"name": "few", "target": about, "rates": [{"count": 2, "per": "minute"}]}
    by_user = {**few, "per": ["user"]}
    one_at_a_time = {"name": "one", "target": about, "in_flight": 1}
    by_role = {**few, "per": ["role"], "subjects": {"roles": ["user"]}}

    together = await simulated(rest, limit=few)
    apart = await simulated(rest, limit=by_user)
    at_a_time = await simulated(rest, limit=one_at_a_time)
    roles = await simulated(rest, limit=by_role)
    scoped = await simulated(rest, limit={**few, "subjects": {"scopes": ["finance:write"]}})
    limit_id = await made(rest, "/limits", by_user)
    looser = await simulated(
        rest, limit_id=limit_id, limit={**by_user, "rates": [{"count": 3, "per": "minute"}]}
    )
    removed = await simulated(rest, limit_id=limit_id)

    assert counted(together) == {
        ("alice", "echo"): {"would_be_refused": 4, "unchanged": 3},
        ("bob", "echo"): {"would_be_refused": 1},
    }
    assert counted(apart) == {("alice", "echo"): {"would_be_refused": 4, "unchanged": 3}}
    assert counted(at_a_time) == {("alice", "echo"): {"would_be_refused": 1, "unchanged": 6}}
    assert counted(roles) == counted(together)
    assert scoped["totals"]["undecided"] == 8
    assert counted(looser)["alice", "echo"]["newly_allowed"] == 1
    # The call that was limited had no room in the stored limit.
    assert removed["totals"]["newly_allowed"] == 5
    assert removed["totals"]["would_be_refused"] == 0


async def test_a_toolset_is_tried_on_the_calls_of_its_users(
    rest: Rest, server: dict[str, Any]
) -> None:
    other = {"target": "sums__other", "tool": "other"}
    await record(rest, server, {}, other, {"user": BOB, **other}, {"user": ROOT, **other})
    body = {"name": "agent", "entries": [{"server": "sums", "tool": "echo", "name": "say"}]}
    wide = {"name": "agent", "entries": [{"server": "sums", "tool": "*"}]}

    default = await simulated(rest, toolset={**body, "default_for": {"roles": ["user"]}})
    named = await simulated(rest, toolset=body, user_ids=[BOB.user_id])
    own = await simulated(rest, toolset=body)
    toolset_id = await made(rest, "/toolsets", body)
    widened = await simulated(
        rest, toolset_id=toolset_id, toolset=wide, user_ids=[ALICE.user_id, BOB.user_id]
    )
    removed = await simulated(rest, toolset_id=toolset_id, user_ids=[BOB.user_id])

    assert counted(default) == {
        ("alice", "other"): {"would_be_refused": 1},
        ("bob", "other"): {"would_be_refused": 1},
    }
    assert default["calls"] == 3
    assert counted(named) == {("bob", "other"): {"would_be_refused": 1}}
    assert (own["calls"], counted(own)) == (1, {("root", "other"): {"would_be_refused": 1}})
    assert counted(widened) == {
        ("alice", "other"): {"newly_allowed": 1},
        ("bob", "other"): {"newly_allowed": 1},
    }
    assert counted(removed) == {("bob", "other"): {"newly_allowed": 1}}


async def test_owners_try_rules_about_their_servers_and_learn_nothing_of_people(
    rest: Rest, server: dict[str, Any], upstream: PlainUpstream
) -> None:
    own = await rest.register(ALICE, "mine", upstream.url)
    foreign = await made(rest, "/access/policies", policy(server, "deny", **EVERYONE))
    limit = {"name": "few", "target": {"owner_id": server["id"]}, "in_flight": 1}
    limit_id = await made(rest, "/limits", limit)
    body = {"name": "agent", "entries": [{"server": "sums", "tool": "other"}]}
    toolset_id = await made(rest, "/toolsets", body)
    await record(rest, own, {"user": BOB, "slug": "mine"}, {"user": ALICE, "slug": "mine"})
    await record(rest, server, {"user": BOB}, {"user": ALICE})

    groups = await simulated(rest, ALICE, policy=policy(own, "deny", groups=[GROUP]))
    users = await simulated(rest, ALICE, policy=policy(own, "allow", users=[ALICE.user_id]))
    # Others' calls of servers that they may not share are not theirs to know.
    toolset = await simulated(rest, ALICE, toolset=body, user_ids=[ALICE.user_id, BOB.user_id])
    everywhere = policy(server, "deny", **EVERYONE) | {"target": {"tools": ["echo"]}}
    answers = [
        await refused(rest, ALICE, policy=policy(server, "deny", **EVERYONE)),
        await refused(rest, ALICE, policy=everywhere),
        await refused(rest, ALICE, limit=limit),
        await refused(rest, ALICE, toolset={**body, "default_for": {"users": [BOB.user_id]}}),
        await refused(rest, ALICE, policy_id=foreign),
        await refused(rest, ALICE, limit_id=limit_id),
        await refused(rest, ALICE, toolset_id=toolset_id),
        await refused(rest, ALICE, policy_id=NOWHERE),
    ]
    reader = replace(ALICE, scopes=frozenset(USER_SCOPES) - {"write:access"})

    # Their own groups they know.
    assert groups["totals"] == {**NOTHING, "would_be_refused": 1, "undecided": 1}
    assert any("Only for administrators" in note for note in groups["notes"])
    assert counted(users) == {("bob", "echo"): {"would_be_refused": 1}}
    assert {group["username"] for group in toolset["groups"]} == {"alice", "bob"}
    assert {(group["username"], group["server"]) for group in toolset["groups"]} == {
        ("alice", "mine"),
        ("alice", "sums"),
        ("bob", "mine"),
    }
    assert [answer.status_code for answer in answers] == [403] * 4 + [404] * 4
    assert (await refused(rest, reader, policy_id=foreign)).status_code == 403


async def test_a_period_is_kept_and_cut_where_it_has_too_many_calls(
    rest: Rest, server: dict[str, Any]
) -> None:
    first_at = await record(rest, server, {"seconds": 0}, {"seconds": 10}, {"seconds": 20})
    draft = policy(server, "deny", **EVERYONE)
    since = (first_at + timedelta(seconds=5)).isoformat()
    until = (first_at + timedelta(seconds=15)).isoformat()

    whole = await simulated(rest, policy=draft, since=(first_at - timedelta(days=9)).isoformat())
    old = await simulated(rest, policy=draft, since="2020-01-01T00:00:00Z")
    part = await simulated(rest, policy=draft, since=since, until=until)
    for number in range(MAX_RECORDS // 5_000):
        calls = ({"seconds": 30 + number * 5 + one / 1000} for one in range(5_000))
        await record(rest, server, *calls)
    cut = await simulated(rest, policy=draft)

    assert (whole["calls"], part["calls"]) == (3, 1)
    assert (whole["covered_since"], whole["is_complete"]) == (whole["since"], True)
    # Older records are not kept.
    assert (old["calls"], old["is_complete"]) == (3, False)
    assert datetime.fromisoformat(old["covered_since"]) > first_at - timedelta(days=400)
    (group,) = part["groups"]
    example = datetime.fromisoformat(group["example_at"])
    assert abs((example - first_at).total_seconds() - 10) < 2
    assert (cut["calls"], cut["is_complete"]) == (MAX_RECORDS, False)
    covered_since = datetime.fromisoformat(cut["covered_since"])
    assert abs((covered_since - first_at).total_seconds() - 30) < 2


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"policy_id": "x"},
        {"policy_id": NOWHERE, "limit_id": NOWHERE},
        {"policy": {}},
        {"policy_id": NOWHERE, "user_ids": [NOWHERE]},
        {"policy_id": NOWHERE, "since": "yesterday"},
        {"policy_id": NOWHERE, "since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
        {"policy_id": NOWHERE, "since": "9999-01-02T00:00:00Z"},
        {"policy_id": NOWHERE, "until": "0001-01-01T00:00:00+14:00"},
        {"limit": {"name": "none"}},
        {"toolset": {"name": "a", "entries": [{"server": "nowhere", "tool": "x"}]}},
        {"toolset": {"name": "a", "entries": []}, "user_ids": []},
        {"policy_id": NOWHERE, "more": 1},
    ],
)
async def test_a_draft_that_makes_no_sense_is_refused(rest: Rest, asked: Any) -> None:
    answer = await refused(rest, ROOT, **asked)
    assert answer.status_code == 422, answer.text


async def test_refused_calls_are_found_by_each_path_that_they_were_made_at(
    rest: Rest, server: dict[str, Any]
) -> None:
    policy_id = await made(rest, "/access/policies", policy(server, "deny", users=[ALICE.user_id]))
    entries = [{"server": "sums", "tool": "echo", "name": "say"}]
    await made(rest, "/toolsets", {"name": "agent", "entries": entries}, ALICE)
    headers = {
        "Accept": "application/json, text/event-stream",
        "Authorization": f"Bearer {rest.token(ALICE)}",
    }
    for path, name in (("/sums", "echo"), ("", "sums__echo"), ("/toolsets/agent", "say")):
        params = {"name": name, "arguments": {"text": "a"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        answer = await rest.client.post(f"/mcp{path}", json=message, headers=headers)
        assert "Unknown tool" in answer.text

    async with asyncio.timeout(30):
        while (found := await simulated(rest, policy_id=policy_id))["calls"] < 3:
            await rest.parts.clock.sleep(0.1)

    assert counted(found) == {("alice", "echo"): {"newly_allowed": 3}}
