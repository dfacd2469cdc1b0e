"""The limits API, and limits in force at the gateway."""

from typing import Any

import pytest

from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, Scope, UserContext
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES | {Scope.WRITE_ACCESS})
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)

MINUTE = {"name": "few", "rates": [{"count": 2, "per": "minute"}], "per": ["user"]}


async def call(rest: Rest, user: UserContext, path: str) -> dict[str, Any]:
    name = "echo" if path else "sums__echo"
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": name, "arguments": {"text": "a"}},
    }
    headers = {
        "Authorization": f"Bearer {rest.token(user)}",
        "Accept": "application/json, text/event-stream",
    }
    answer = await rest.client.post(f"/mcp/{path}".rstrip("/"), json=message, headers=headers)
    body: dict[str, Any] = answer.json()
    return body


async def explained(rest: Rest, **about: Any) -> dict[str, Any]:
    """Return what an explanation says of limits: to Alice, or to an administrator about others."""
    asker = ROOT if about else ALICE
    answer = await rest.ask(asker, "POST", "/access/explain", json={"tool": "sums__echo", **about})
    said: dict[str, Any] = next(one for one in answer.json()["reasons"] if one["step"] == "limit")
    return said


def is_limited(answer: dict[str, Any]) -> bool:
    return bool(answer.get("error", {}).get("data", {}).get("error") == "rate_limited")


@pytest.mark.requirement("R-228")
async def test_a_limit_is_made_kept_changed_and_removed(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    body = {**MINUTE, "target": {"owner_id": server["id"]}}
    made = await rest.ask(ROOT, "POST", "/limits", json=body)
    limit = made.json()
    assert made.status_code == 201
    assert made.headers["etag"] == f'"{limit["etag"]}"'
    assert limit["subjects"]["everyone"] is True
    assert limit["rates"] == [{"count": 2, "per": "minute"}]

    assert await explained(rest) == {
        "step": "limit",
        "passed": True,
        "message": "At most 2 calls a minute for each user; not used up now.",
        "retry_after_ms": None,
    }
    answers = [await call(rest, ALICE, path) for path in ("sums", "", "sums", "")]
    assert [*map(is_limited, answers)] == [False, False, True, True]
    assert not is_limited(await call(rest, ROOT, "sums"))

    used_up = await explained(rest)
    assert used_up["passed"] is False
    assert used_up["message"].startswith("Over the limit of 2 calls a minute for each user: ")
    told_ms = answers[-1]["error"]["data"]["retry_after_ms"]
    assert 0 < used_up["retry_after_ms"] <= told_ms + 50
    assert (await explained(rest, roles=["user"]))["passed"] is True

    path = f"/limits/{limit['id']}"
    raised = {"rates": [{"count": 3, "per": "minute"}]}
    stale = await rest.ask(ROOT, "PATCH", path, json=raised, headers={"If-Match": '"9"'})
    changed = await rest.ask(ROOT, "PATCH", path, json=raised)
    same = await rest.ask(ROOT, "PATCH", path, json=raised)
    assert stale.status_code == 409
    assert (changed.json()["rates"][0]["count"], same.json()["etag"]) == (
        3,
        changed.json()["etag"],
    )
    passed = [is_limited(await call(rest, ALICE, "sums")) for _ in range(2)]
    assert passed == [False, True]

    assert (await rest.ask(ROOT, "DELETE", path)).status_code == 204
    assert not is_limited(await call(rest, ALICE, "sums"))
    assert (await rest.ask(ROOT, "GET", path)).status_code == 404
    trail = await rest.ask(ROOT, "GET", "/audit", params={"entity_id": limit["id"]})
    assert [one["action"] for one in trail.json()["records"]] == ["delete", "update", "create"]


async def test_owners_limit_their_own_servers_alone(rest: Rest, upstream: PlainUpstream) -> None:
    own = await rest.register(ALICE, "sums", upstream.url)
    other = await rest.register(ROOT, "others", upstream.url, scope="shared_app")
    sharer = ALICE

    mine = await rest.ask(
        sharer, "POST", "/limits", json={**MINUTE, "target": {"owner_id": own["id"]}}
    )
    all_servers = await rest.ask(sharer, "POST", "/limits", json=MINUTE)
    foreign = await rest.ask(
        sharer, "POST", "/limits", json={**MINUTE, "target": {"owner_id": other["id"]}}
    )
    everywhere = await rest.ask(ROOT, "POST", "/limits", json=MINUTE)
    listed = await rest.ask(sharer, "GET", "/limits")
    hidden = await rest.ask(sharer, "GET", f"/limits/{everywhere.json()['id']}")

    assert [mine.status_code, everywhere.status_code] == [201, 201]
    assert [all_servers.status_code, foreign.status_code] == [403, 403]
    assert [one["id"] for one in listed.json()["limits"]] == [mine.json()["id"]]
    assert hidden.status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "x", "rates": []},
        {"name": "x", "rates": [{"count": -1, "per": "minute"}]},
        {"name": "x", "rates": [{"count": 1.5, "per": "minute"}]},
        {"name": "x", "rates": [{"count": "1", "per": "minute"}]},
        {"name": "x", "rates": [{"count": 1, "per": "week"}]},
        {"name": "x", "rates": [{"count": 1, "per": "minute"}, {"count": 2, "per": "minute"}]},
        {"name": "x", "rates": [{"count": 10**12, "per": "minute"}]},
        {"name": "x", "in_flight": True},
        {"name": "x", "in_flight": 1, "per": ["user", "user"]},
        {"name": "x", "in_flight": 1, "per": ["planet"]},
        {"name": "x", "in_flight": 1, "on_database_loss": "maybe"},
        {"name": "x", "in_flight": 1, "subjects": {}},
        {"name": "x", "in_flight": 1, "subjects": {"users": ["f" * 24]}},
        {"name": "x", "in_flight": 1, "target": {"owner_id": "f" * 24}},
        {"name": "x\n", "in_flight": 1, "more": 1},
        {"name": "\u0000", "in_flight": 1},
        [],
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused(rest: Rest, body: Any) -> None:
    answer = await rest.ask(ROOT, "POST", "/limits", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"] == "validation_error"


async def test_an_unreadable_stored_limit_refuses_and_can_be_removed(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    other = await rest.register(ROOT, "other", upstream.url, scope="shared_app")
    body = {**MINUTE, "target": {"owner_id": server["id"]}}
    limit = (await rest.ask(ROOT, "POST", "/limits", json=body)).json()
    rows = rest.parts.database.collection("limits")
    await rows.update_one({"name": "few"}, {"$set": {"rates": [{"count": "many"}]}})
    await rest.parts.snapshot.table_changed("limits", limit["id"])

    refused = await call(rest, ROOT, "sums")
    fine = await call(rest, ROOT, "other")
    shown = await rest.ask(ROOT, "GET", f"/limits/{limit['id']}")
    changed = await rest.ask(ROOT, "PATCH", f"/limits/{limit['id']}", json={"in_flight": 3})
    removed = await rest.ask(ROOT, "DELETE", f"/limits/{limit['id']}")

    assert "cannot be checked now" in str(refused)
    assert "cannot be checked now" not in str(fine)
    assert other["id"] != server["id"]
    assert shown.json()["problem"] == "unreadable: rates"
    assert (changed.status_code, removed.status_code) == (409, 204)
    assert "cannot be checked now" not in str(await call(rest, ROOT, "sums"))


async def test_limits_of_a_server_go_with_it(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    body = {**MINUTE, "target": {"owner_id": server["id"]}}
    limit = (await rest.ask(ROOT, "POST", "/limits", json=body)).json()
    await rest.call(ROOT, "DELETE", f"/{server['id']}")
    assert (await rest.ask(ROOT, "GET", f"/limits/{limit['id']}")).status_code == 404
