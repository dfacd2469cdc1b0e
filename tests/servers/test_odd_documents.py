"""Documents as no program of today writes them: none of them costs the others."""

from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from registry.auth.identity import UserContext
from registry.servers.errors import ServerUnusableError
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ENDED = frozenset({"succeeded", "dead", "cancelled"})
ODD: list[dict[str, Any]] = [
    {},
    {"scope": ["shared_app"]},
    {"scope": {"a": 1}},
    {"scope": "Shared_App"},
    {"status": ["active"]},
    {"path": 5},
    {"path": "no path at all"},
    {"numStars": float("nan")},
    {"numStars": "many"},
    {"tags": "one"},
    {"tags": [None, 5]},
    {"author": "a" * 24},
    {"author": None},
    {"serverName": 5},
    {"updatedAt": "yesterday"},
    {"createdAt": 5},
    {"lastConnected": "never"},
    {"errorMessage": 5},
    {"registry": "ours"},
    {"registry": {"eras": "legacy", "tool_problems": 5, "consecutive_failures": "x"}},
    {"config": None},
    {"config": []},
    {"config": "text"},
    {"config": [1, {"a": 2}]},
    {"config": {"": 5, "url.of": 5, "$url": 5, "toolFunctions": None}},
    {"config": {"url": 5, "type": 5}},
    {"config": {"url": "http://[", "type": "streamable-http"}},
    {"config": {"url": "http://127.0.0.1:9/", "type": "sse", "tools": ["a"]}},
    {"config": {"url": "http://127.0.0.1:9/", "toolFunctions": ["a"], "capabilities": 5}},
    {"config": {"url": "http://127.0.0.1:9/", "headers": ["a"], "customUserVars": ["a"]}},
    {"config": {"url": "http://127.0.0.1:9/", "headers": {"X-Token": 5, "A": None}}},
    {"config": {"url": "http://127.0.0.1:9/", "apiKey": "secret", "oauth": "secret"}},
    {"config": {"url": "http://127.0.0.1:9/", "apiKey": {"source": "user", "key": 5}}},
    {"config": {"url": "http://127.0.0.1:9/", "timeout": "long", "requiresOAuth": "no"}},
]


@pytest.mark.requirement("E-22")
@pytest.mark.parametrize("odd", ODD, ids=str)
async def test_an_odd_server_costs_no_other_one(
    rest: Rest, root: UserContext, upstream: PlainUpstream, odd: dict[str, Any]
) -> None:
    await rest.register(root, "good", upstream.url)
    key = ObjectId()
    config = {"url": "http://127.0.0.1:9/mcp", "type": "streamable-http"}
    now = rest.parts.clock.now()
    document = {
        "_id": key,
        "serverName": "odd",
        "config": config,
        "author": ObjectId(root.user_id),
        "createdAt": now,
        "updatedAt": now,
        **odd,
    }
    await rest.parts.database.collection("mcpservers").insert_one(document)

    listed = await rest.call(root, "GET")
    asked = await rest.ask(root, "POST", f"/sync/owners/{key}")
    answers = [
        asked,
        await rest.call(root, "GET", f"/{key}"),
        await rest.call(root, "GET", f"/{key}/tools"),
        await rest.call(root, "GET", f"/{key}/user-keys"),
        await rest.call(root, "GET", "/stats"),
        await rest.call(root, "PATCH", f"/{key}", json={"title": "read with care"}),
    ]
    await rest.parts.snapshot.load()

    assert listed.status_code == 200
    assert {"good"} <= {item["serverName"] for item in listed.json()["servers"]}
    assert [answer.status_code for answer in answers if answer.status_code >= 500] == []
    assert rest.parts.snapshot.route("good") is not None
    if asked.status_code == 202:
        job = await rest.job(root, asked.json()["job_id"], until=ENDED | {"retrying"})
        assert [run["outcome"] for run in job["runs"]] in (["failure"], ["cancelled"], ["success"])


@pytest.mark.parametrize("ours", ["text", [1]])
async def test_a_server_with_no_place_for_what_was_read_is_given_up_at_once(
    rest: Rest, root: UserContext, upstream: PlainUpstream, ours: object
) -> None:
    server = await rest.register(root, "placeless", upstream.url)
    await rest.parts.database.collection("mcpservers").update_one(
        {"_id": ObjectId(server["id"])}, {"$set": {"registry": ours}}
    )

    asked = await rest.ask(root, "POST", f"/sync/owners/{server['id']}")
    job = await rest.job(root, asked.json()["job_id"])

    assert (job["state"], job["attempts"], len(job["runs"])) == ("dead", 1, 1)
    assert job["error"] == ServerUnusableError().message


async def test_an_odd_token_is_none(rest: Rest, alice: UserContext) -> None:
    key = ObjectId()
    now = rest.parts.clock.now()
    await rest.parts.database.collection("tokens").insert_one(
        {
            "_id": key,
            "userId": ObjectId(alice.user_id),
            "type": "mcp_oauth",
            "identifier": "mcp:odd",
            "token": "aa",
            "createdAt": now,
        }
    )
    headers = {"Authorization": f"Bearer {rest.token(alice)}"}
    body = {"new_access_token": "x", "new_expires_at": (now + timedelta(days=1)).isoformat()}

    answers = [
        await rest.client.request(method, f"/api/v1/tokens{path}", headers=headers, json=sent)
        for method, path, sent in (
            ("GET", "", None),
            ("GET", f"/{key}", None),
            ("PUT", f"/{key}/refresh", body),
            ("DELETE", f"/{key}", None),
        )
    ]

    assert [answer.status_code for answer in answers] == [200, 404, 404, 404]


async def test_an_odd_group_gives_its_members_nothing_and_takes_nothing(
    rest: Rest, alice: UserContext
) -> None:
    database = rest.parts.database
    await database.collection("users").insert_one(
        {"_id": ObjectId(alice.user_id), "username": "alice", "role": "USER"}
    )
    await database.collection("groups").insert_one(
        {"_id": "a text", "name": "odd", "memberIds": [alice.user_id]}
    )
    rest.parts.authenticator.forget_users()

    assert (await rest.call(alice, "GET")).status_code == 200
