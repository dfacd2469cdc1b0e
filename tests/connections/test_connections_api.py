"""How connections stand, as people ask for it over HTTP, on a running application."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from registry.auth.identity import Role, Scope, UserContext
from registry.core.clock import SystemClock
from tests.fakes.plain_upstream import PlainUpstream, plain_upstream
from tests.fakes.rest import Rest, rest_settings, running
from tests.kit.waiting import until_async

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

DEAD = "http://127.0.0.1:9/mcp"
STATUS = "/mcp/connection/status"
OWN_KEY = {"apiKey": {"source": "user", "authorization_type": "bearer"}}
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "echo", "arguments": {"text": "hello"}},
}


async def call(rest: Rest, user: UserContext, slug: str) -> int:
    """Call a tool through the gateway; return the status, or the code of the gateway's error."""
    answer = await rest.client.post(
        f"/mcp/{slug}",
        json=CALL,
        headers={
            "Authorization": f"Bearer {rest.token(user)}",
            "Accept": "application/json, text/event-stream",
        },
    )
    result = answer.json().get("result") or {}
    is_failed = answer.status_code == 200 and result.get("isError") is True
    return 502 if is_failed else answer.status_code


async def state(rest: Rest, user: UserContext, server_id: str) -> str:
    answer = await rest.ask(user, "GET", f"{STATUS}/{server_id}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["connectionStatus"])


async def stored(rest: Rest, server_id: str) -> dict[str, Any]:
    found = await rest.parts.database.collection("mcpservers").find_one(
        {"_id": ObjectId(server_id)}
    )
    assert found is not None
    return found


async def until_stored(rest: Rest, server_id: str, **expected: object) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            document = await stored(rest, server_id)
            if {name: document.get(name) for name in expected} == expected:
                return document
            await SystemClock().sleep(0.02)


@pytest.mark.requirement("R-289")
async def test_lists_and_details_tell_state_and_recent_activity(
    rest: Rest, alice: UserContext
) -> None:
    async with plain_upstream() as upstream:
        works = await rest.register(alice, "works", upstream.url)
    fails = await rest.register(alice, "fails", DEAD)

    listed = (await rest.call(alice, "GET")).json()["servers"]
    detail = (await rest.call(alice, "GET", f"/{works['id']}")).json()

    told = {
        one["serverName"]: (one["connection_state"], one["is_recently_active"]) for one in listed
    }
    assert told == {"works": ("connected", True), "fails": ("error", False)}
    assert (detail["connection_state"], detail["is_recently_active"]) == ("connected", True)
    assert fails["connection_state"] == "error"


async def test_the_status_of_all_servers_is_told_in_the_other_applications_form(
    rest: Rest, alice: UserContext
) -> None:
    async with plain_upstream() as upstream:
        works = await rest.register(alice, "works", upstream.url)
    fails = await rest.register(alice, "fails", DEAD)

    answer = await rest.ask(alice, "GET", STATUS)

    assert (answer.status_code, answer.json()) == (
        200,
        {
            "success": True,
            "connectionStatus": {
                "works": {
                    "serverId": works["id"],
                    "connectionState": "connected",
                    "requiresOAuth": False,
                },
                "fails": {
                    "serverId": fails["id"],
                    "connectionState": "error",
                    "requiresOAuth": False,
                    "error": "Could not connect to http://127.0.0.1:9.",
                },
            },
        },
    )


async def test_the_status_of_one_server_is_told_in_the_other_applications_form(
    rest: Rest, alice: UserContext
) -> None:
    fails = await rest.register(alice, "fails", DEAD)

    answer = await rest.ask(alice, "GET", f"{STATUS}/{fails['id']}")

    assert (answer.status_code, answer.json()) == (
        200,
        {
            "success": True,
            "serverId": fails["id"],
            "serverName": "fails",
            "connectionStatus": "error",
            "requiresOAuth": False,
            "error": "Could not connect to http://127.0.0.1:9.",
        },
    )


async def test_servers_that_the_caller_may_not_see_are_neither_listed_nor_known(
    rest: Rest, alice: UserContext, bob: UserContext, root: UserContext
) -> None:
    mine = await rest.register(alice, "mine", DEAD)
    await rest.register(root, "everyones", DEAD, scope="shared_app")

    seen = {
        user.username: set((await rest.ask(user, "GET", STATUS)).json()["connectionStatus"])
        for user in (alice, bob, root)
    }
    one = await rest.ask(bob, "GET", f"{STATUS}/{mine['id']}")

    assert seen == {
        "alice": {"mine", "everyones"},
        "bob": {"everyones"},
        "root": {"mine", "everyones"},
    }
    assert (one.status_code, one.json()["error"]) == (404, "not_found")


async def test_a_granted_server_is_listed(rest: Rest, bob: UserContext, root: UserContext) -> None:
    server = await rest.register(root, "shared", DEAD, scope="shared_user")
    before = set((await rest.ask(bob, "GET", STATUS)).json()["connectionStatus"])

    await rest.parts.database.collection("users").insert_one(
        {"_id": ObjectId(bob.user_id), "username": "bob", "role": "USER"}
    )
    shared = await rest.ask(
        root,
        "PUT",
        f"/permissions/mcpServer/{server['id']}",
        json={"updated": [{"type": "user", "id": bob.user_id, "role": "viewer"}]},
    )
    assert shared.status_code == 200, shared.text
    after = set((await rest.ask(bob, "GET", STATUS)).json()["connectionStatus"])

    assert (before, after) == (set(), {"shared"})


@pytest.mark.parametrize(
    ("path", "status"), [(f"/{'0' * 24}", 404), ("/demo", 422), ("/%00", 422), ("/..%2f", 404)]
)
async def test_what_is_no_server_is_a_clear_error(
    rest: Rest, alice: UserContext, path: str, status: int
) -> None:
    answer = await rest.ask(alice, "GET", f"{STATUS}{path}")

    assert answer.status_code == status
    assert set(answer.json()) >= {"error", "message"}


async def test_the_status_needs_a_token_that_may_read_servers(rest: Rest) -> None:
    reader = UserContext("e" * 24, "reader", Role.USER, frozenset({Scope.READ_TOOLS}))

    answers = [
        (await rest.client.get(f"/api/v1{STATUS}")).status_code,
        (await rest.ask(reader, "GET", STATUS)).status_code,
    ]

    assert answers == [401, 403]


@pytest.mark.requirement("R-282")
async def test_nobody_is_shown_anybody_elses_connection(
    rest: Rest, alice: UserContext, bob: UserContext, root: UserContext
) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(root, "keys", upstream.url, scope="shared_app", **OWN_KEY)
        path = f"/{server['id']}/user-keys"
        for user in (root, alice):
            await rest.call(user, "PUT", path, json={"values": {"MCP_API_KEY": "key"}})
        await rest.call(root, "DELETE", path)

        await call(rest, alice, "keys")

        states = {
            user.username: await state(rest, user, server["id"]) for user in (alice, bob, root)
        }
        listed = (await rest.call(bob, "GET")).json()["servers"][0]
    assert states == {"alice": "connected", "bob": "disconnected", "root": "disconnected"}
    assert listed["connection_state"] == "disconnected"


async def test_a_user_who_stores_another_key_is_not_connected_by_the_former(
    rest: Rest, alice: UserContext
) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(alice, "keys", upstream.url, **OWN_KEY)
        path, keys = f"/{server['id']}/user-keys", {"MCP_API_KEY": "one"}
        await rest.call(alice, "PUT", path, json={"values": keys})
        await call(rest, alice, "keys")
        before = await state(rest, alice, server["id"])

        upstream.takes_key = "one"
        await rest.call(alice, "PUT", path, json={"values": {"MCP_API_KEY": "two"}})

    assert (before, await state(rest, alice, server["id"])) == ("connected", "error")


@pytest.mark.requirement("R-285")
@pytest.mark.requirement("R-131")
@pytest.mark.parametrize(
    ("change", "path"), [({"title": "New"}, "works"), ({"path": "/mcp/moved"}, "moved")]
)
async def test_a_server_that_was_modified_is_disconnected_until_it_is_used_again(
    rest: Rest, alice: UserContext, change: dict[str, str], path: str
) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(alice, "works", upstream.url)
        before = await state(rest, alice, server["id"])

        changed = await rest.call(alice, "PATCH", f"/{server['id']}", json=change)
        modified = await state(rest, alice, server["id"])
        await call(rest, alice, path)

        assert (before, changed.json()["connection_state"]) == ("connected", "disconnected")
        assert (modified, await state(rest, alice, server["id"])) == ("disconnected", "connected")


async def test_a_server_that_was_turned_off_is_disconnected(
    rest: Rest, alice: UserContext
) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(alice, "works", upstream.url)

    await rest.call(alice, "POST", f"/{server['id']}/toggle", json={"enabled": False})

    assert await state(rest, alice, server["id"]) == "disconnected"


async def test_a_removed_server_is_forgotten(rest: Rest, alice: UserContext) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(alice, "works", upstream.url)

    await rest.call(alice, "DELETE", f"/{server['id']}")

    answer = await rest.ask(alice, "GET", f"{STATUS}/{server['id']}")
    tracker = vars(rest.parts.connections)["_tracker"]
    assert answer.status_code == 404
    assert tracker.of_server(server["id"]) is None


@pytest.mark.requirement("R-286")
@pytest.mark.requirement("R-287")
async def test_a_server_that_dies_is_marked_and_comes_back_by_itself(
    rest: Rest, alice: UserContext
) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(alice, "works", upstream.url)
        url = upstream.url
        etag = (await rest.call(alice, "GET", f"/{server['id']}")).headers["etag"]
    statuses = [await call(rest, alice, "works") for _ in range(3)]
    failing = await until_stored(rest, server["id"], status="error")
    shown = (await rest.call(alice, "GET", f"/{server['id']}")).json()
    async with revived(url):
        back = await call(rest, alice, "works")
        recovered = await until_stored(rest, server["id"], status="active")
        answer = await rest.call(alice, "GET", f"/{server['id']}")

    assert (statuses, back) == ([502, 502, 502], 200)
    assert failing["errorMessage"] == "The server works cannot be reached."
    assert (shown["status"], shown["connection_state"]) == ("error", "error")
    assert shown["errorMessage"] == "The server works cannot be reached."
    assert {"lastError", "errorMessage"}.isdisjoint(recovered)
    assert "consecutive_failures" not in recovered["registry"]
    assert (answer.json()["status"], answer.json()["connection_state"]) == ("active", "connected")
    assert answer.headers["etag"] == etag


async def test_a_reading_in_the_background_shows_how_the_connection_stands(
    rest: Rest, alice: UserContext
) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(alice, "works", upstream.url)

    await rest.ask(alice, "POST", f"/sync/owners/{server['id']}")

    async with asyncio.timeout(30):
        while await state(rest, alice, server["id"]) != "error":
            await SystemClock().sleep(0.02)


def revived(url: str) -> Any:
    """Return a server at the address of one that died."""
    return plain_upstream(int(url.rpartition(":")[2].partition("/")[0]))


async def test_what_calls_write_is_no_modification_and_fails_nobodys_precondition(
    rest: Rest, alice: UserContext
) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(alice, "works", upstream.url)
    etag = (await rest.call(alice, "GET", f"/{server['id']}")).headers["etag"]
    for _ in range(3):
        await call(rest, alice, "works")
    await until_stored(rest, server["id"], status="error")

    answer = await rest.call(
        alice, "PATCH", f"/{server['id']}", json={"title": "New"}, headers={"If-Match": etag}
    )

    assert (answer.status_code, answer.json()["status"]) == (200, "error")


async def test_updates_and_calls_at_the_same_time_lose_nothing_of_each_other(
    rest: Rest, upstream_on_loopback: PlainUpstream, alice: UserContext
) -> None:
    server = await rest.register(alice, "works", upstream_on_loopback.url)
    path = f"/{server['id']}"
    calls = [call(rest, alice, "works") for _ in range(20)]
    updates = [rest.call(alice, "PATCH", path, json={"title": f"No {n}"}) for n in range(10)]

    statuses, answers = await asyncio.gather(asyncio.gather(*calls), asyncio.gather(*updates))

    assert set(statuses) == {200}
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert (await stored(rest, server["id"]))["config"]["title"].startswith("No ")


async def reinitialized(rest: Rest, user: UserContext, server_id: str) -> tuple[int, Any]:
    answer = await rest.ask(user, "POST", f"/mcp/{server_id}/reinitialize")
    return answer.status_code, answer.json()


async def test_a_connection_is_made_anew_without_a_call(rest: Rest, alice: UserContext) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(alice, "works", upstream.url)
        url = upstream.url
    away = await reinitialized(rest, alice, server["id"])
    async with revived(url):
        back = await reinitialized(rest, alice, server["id"])

    problem = f"Could not connect to {url.removesuffix('/mcp')}."
    members = {"serverId": server["id"], "serverName": "works", "requiresOAuth": False}
    members["oauthRequired"] = False
    assert away == (
        200,
        {"success": False, "connectionStatus": "error", "error": problem, **members},
    )
    assert back == (200, {"success": True, "connectionStatus": "connected", **members})


async def test_it_is_refused_for_servers_of_others_turned_off_and_too_often(
    rest: Rest, alice: UserContext, bob: UserContext
) -> None:
    server = await rest.register(alice, "fails", DEAD)
    of_others = await reinitialized(rest, bob, server["id"])
    for _ in range(3):
        await reinitialized(rest, alice, server["id"])
    limited = await rest.ask(alice, "POST", f"/mcp/{server['id']}/reinitialize")
    await rest.call(alice, "POST", f"/{server['id']}/toggle", json={"enabled": False})
    other = await rest.register(alice, "other", DEAD)
    await rest.call(alice, "POST", f"/{other['id']}/toggle", json={"enabled": False})

    off = await reinitialized(rest, alice, other["id"])

    assert (of_others[0], off[0], limited.status_code) == (404, 409, 429)
    assert limited.headers["retry-after"] == "30"


@pytest.mark.requirement("R-280")
async def test_after_a_restart_a_server_that_answers_is_shown_as_connected(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path, alice: UserContext
) -> None:
    settings = rest_settings(mongo_uri, key_files, tmp_path)
    async with plain_upstream() as upstream:
        async with running(settings) as rest:
            server = await rest.register(alice, "works", upstream.url)
        before = None
        async with running(settings) as rest:
            before = await stored(rest, server["id"])

            async def is_connected() -> bool:
                return await state(rest, alice, server["id"]) == "connected"

            await until_async(is_connected)
            after = await stored(rest, server["id"])

    assert after == before
