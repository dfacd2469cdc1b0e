"""What is written down of changes, secret reads and refusals, and how it is read."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from registry.audit.verification import AuditVerifier
from registry.auth.identity import ALL_SCOPES, Role, Scope, UserContext
from registry.wiring.audit import audit_verifier
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
SECRET = "sk-sentinel-7391"
AUDITOR = UserContext("e" * 24, "audrey", Role.ADMIN, frozenset({Scope.READ_AUDIT}))
CLERK = UserContext("f" * 24, "carl", Role.USER, frozenset({Scope.READ_AUDIT}))


async def trail(rest: Rest, user: UserContext = AUDITOR, **query: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {rest.token(user)}"}
    return await rest.client.get("/api/v1/audit", params=query, headers=headers)


async def records(rest: Rest, **query: Any) -> list[dict[str, Any]]:
    answer = await trail(rest, **query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["records"])


@pytest.mark.requirement("R-100")
@pytest.mark.requirement("R-101")
async def test_a_record_says_who_did_what_from_where(rest: Rest, alice: UserContext) -> None:
    server = await rest.register(alice, "s", URL, title="Weather")

    answer = await rest.call(
        alice, "PATCH", f"/{server['id']}", json={"title": "Rain"}, headers={"X-Request-ID": "r-1"}
    )

    assert answer.status_code == 200
    newest = (await records(rest))[0]
    told = {name: newest.pop(name) for name in ("id", "timestamp", "token_id")}
    assert all(told.values())
    assert newest == {
        "action": "update",
        "entity_type": "server",
        "entity_id": server["id"],
        "outcome": "success",
        "reason": None,
        "user_id": alice.user_id,
        "username": "alice",
        "role": "user",
        "request_id": "r-1",
        "source_address": "127.0.0.1",
        "changes": {"before": {"title": "Weather"}, "after": {"title": "Rain"}},
    }


@pytest.mark.requirement("R-101")
async def test_every_mutation_has_exactly_one_record(
    rest: Rest, alice: UserContext, upstream: PlainUpstream
) -> None:
    server = await rest.register(alice, "s", upstream.url)
    path = f"/{server['id']}"
    await rest.call(alice, "PATCH", path, json={"description": "d"})
    await rest.call(alice, "PATCH", path, json={"description": "d"})
    await rest.call(alice, "POST", f"{path}/toggle", json={"enabled": False})
    await rest.call(alice, "POST", f"{path}/refresh")
    await rest.call(alice, "DELETE", path)

    found = await records(rest, entity_id=server["id"])

    assert [(item["action"], item["outcome"]) for item in reversed(found)] == [
        ("create", "success"),
        ("update", "success"),
        ("update", "success"),
        ("delete", "success"),
    ]
    assert found[-1]["changes"]["tools"] == {"added": ["echo"], "added_count": 1}
    assert found[0]["changes"]["before"]["serverName"] == "s"


@pytest.mark.requirement("R-102")
async def test_records_hold_neither_secrets_nor_their_ciphertexts(
    rest: Rest, alice: UserContext
) -> None:
    key = {"key": SECRET, "source": "admin", "authorization_type": "bearer"}
    oauth = {
        "client_id": "c",
        "client_secret": f"{SECRET}-oauth",
        "authorization_url": "https://as.example.com/authorize",
        "token_url": "https://as.example.com/token",
    }
    server = await rest.register(
        alice, "s", URL, apiKey=key, oauth=oauth, headers={"X-Token": f"{SECRET}-header"}
    )
    await rest.call(
        alice, "PATCH", f"/{server['id']}", json={"apiKey": {**key, "key": f"{SECRET}-2"}}
    )

    stored = await rest.parts.database.collection("audit_logs").find({}).to_list()
    document = await rest.parts.database.collection("mcpservers").find_one({})
    assert document is not None
    dump = json.dumps(stored, default=str)

    assert SECRET not in dump
    assert document["config"]["apiKey"]["key"] not in dump
    assert document["config"]["headers"]["X-Token"] not in dump
    assert [item["changes"]["secrets"] for item in await records(rest)] == [
        ["apiKey.key"],
        ["apiKey.key", "headers.X-Token", "oauth.client_secret"],
    ]


@pytest.mark.requirement("R-103")
async def test_refused_attempts_are_recorded(
    rest: Rest, alice: UserContext, bob: UserContext
) -> None:
    server = await rest.register(alice, "s", URL)
    path = f"/{server['id']}"
    narrow = replace(bob, scopes=frozenset({Scope.READ_SERVERS}))

    await rest.call(bob, "DELETE", path)
    await rest.call(narrow, "DELETE", path)
    await rest.call(alice, "PATCH", path, json={"author": "0" * 24})
    await rest.call(alice, "PATCH", path, json={"url": 5})
    await rest.call(alice, "GET", "/stats")

    found = [item for item in await records(rest) if item["outcome"] != "success"]
    assert [
        (item["username"], item["action"], item["outcome"], item["entity_id"]) for item in found
    ] == [
        ("alice", "read", "denied", None),
        ("alice", "update", "failed", server["id"]),
        ("alice", "update", "failed", server["id"]),
        ("bob", "delete", "denied", server["id"]),
        ("bob", "delete", "denied", server["id"]),
    ]
    assert found[3]["reason"] == "The token needs the scope write:servers."
    assert found[4]["reason"] == "Cannot delete another user's private server"


@pytest.mark.requirement("R-101")
async def test_without_the_record_there_is_no_change(rest: Rest, alice: UserContext) -> None:
    server = await rest.register(alice, "s", URL, title="before")
    database = rest.parts.database.db
    options = (await database["audit_logs"].options())["validator"]
    await database.command("collMod", "audit_logs", validator={"$jsonSchema": {"required": ["x"]}})

    answers = [
        await rest.call(alice, "PATCH", f"/{server['id']}", json={"title": "after"}),
        await rest.call(alice, "DELETE", f"/{server['id']}"),
        await rest.call(alice, "POST", json={"serverName": "t", "url": URL}),
    ]

    await database.command("collMod", "audit_logs", validator=options)
    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [
        (503, "service_unavailable")
    ] * 3
    shown = (await rest.call(alice, "GET")).json()["servers"]
    assert [(item["serverName"], item["title"]) for item in shown] == [("s", "before")]


async def test_an_administrators_look_at_a_private_server_is_recorded(
    rest: Rest, alice: UserContext, root: UserContext
) -> None:
    server = await rest.register(alice, "s", URL)
    await rest.call(alice, "GET", f"/{server['id']}")
    await rest.call(root, "GET", f"/{server['id']}")
    await rest.call(root, "GET", f"/{server['id']}/tools")

    found = await records(rest, action="read")

    assert [(item["username"], item["entity_id"]) for item in found] == [
        ("root", server["id"])
    ] * 2


async def test_pages_are_cut_where_the_cursor_says_whatever_is_written_meanwhile(
    rest: Rest, alice: UserContext
) -> None:
    for number in range(5):
        await rest.register(alice, f"s{number}", URL)
    first = (await trail(rest, limit=2)).json()
    await rest.register(alice, "late", URL)

    second = (await trail(rest, limit=2, cursor=first["next_cursor"])).json()
    third = (await trail(rest, limit=2, cursor=second["next_cursor"])).json()

    names = [
        item["changes"]["after"]["serverName"]
        for page in (first, second, third)
        for item in page["records"]
    ]
    assert names == ["s4", "s3", "s2", "s1", "s0"]
    assert third["next_cursor"] is None


async def test_filters_narrow_the_list(rest: Rest, alice: UserContext, bob: UserContext) -> None:
    mine = await rest.register(alice, "a", URL)
    await rest.register(bob, "b", URL)
    await rest.call(alice, "DELETE", f"/{mine['id']}")
    everything = await records(rest)
    moment = everything[1]["timestamp"]

    assert len(everything) == 3
    assert len(await records(rest, user_id=alice.user_id)) == 2
    assert len(await records(rest, entity_id=mine["id"])) == 2
    assert len(await records(rest, action="delete")) == 1
    assert len(await records(rest, entity_type="token")) == 0
    assert len(await records(rest, outcome="success")) == 3
    assert len(await records(rest, since=moment)) == 2
    assert len(await records(rest, until=moment)) == 1


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": "nonsense"},
        {"cursor": "MTIz"},
        # One of the usage records'.
        {"cursor": "MTcwMDAwMDAwMDAwMC4wMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"},
        {"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OTkuYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFh"},
        {"limit": 0},
        {"limit": 201},
        {"since": "yesterday"},
        {"since": "2026-01-01T00:00:00"},
        {"until": "0001-01-01T00:00:00+14:00"},
        {"user_id": "me"},
        {"action": "dance"},
        {"unheard": "of"},
    ],
)
async def test_questions_that_make_no_sense_are_refused(rest: Rest, query: dict[str, Any]) -> None:
    answer = await trail(rest, **query)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")


async def test_only_the_scope_opens_the_trail(rest: Rest, alice: UserContext) -> None:
    answer = await trail(rest, alice)

    assert answer.status_code == 403
    assert answer.json()["error"] == "insufficient_scope"
    assert answer.json()["scope"] == "read:audit"


async def test_new_records_are_sealed_by_the_running_application(
    rest: Rest, alice: UserContext
) -> None:
    await rest.register(alice, "s", URL)
    seals = rest.parts.database.collection("audit_seals")

    async with asyncio.timeout(30):
        while not await seals.find_one({}):
            await rest.parts.clock.sleep(0.05)

    async with audit_verifier(rest.parts.settings) as verifier:
        assert isinstance(verifier, AuditVerifier)
        report = await verifier.verify()
    assert report.is_good


async def test_an_administrators_token_reads_the_trail(rest: Rest, root: UserContext) -> None:
    assert (await trail(rest, replace(root, scopes=ALL_SCOPES))).status_code == 200


async def test_who_is_no_administrator_is_shown_nothing_of_others_private_servers(
    rest: Rest, alice: UserContext, root: UserContext
) -> None:
    private = await rest.register(alice, "hers", URL)
    shared = await rest.register(root, "everybodys", URL, scope="shared_app")
    policy = {
        "name": "closed",
        "effect": "deny",
        "target": {"owner_id": private["id"]},
        "subjects": {"everyone": True},
    }
    assert (await rest.ask(alice, "POST", "/access/policies", json=policy)).status_code == 201
    await rest.ask(CLERK, "GET", "/users")

    found = (await trail(rest, CLERK)).json()["records"]
    everything = await records(rest)

    told = {(record["entity_type"], record["username"]) for record in found}
    assert told == {("server", "root"), ("user", "carl")}
    assert {record["entity_id"] for record in found} == {shared["id"], None}
    assert {"policy", "server"} < {record["entity_type"] for record in everything}


async def test_records_of_earlier_releases_are_divided_by_what_they_say(
    rest: Rest, alice: UserContext, root: UserContext
) -> None:
    await rest.register(alice, "hers", URL)
    shared = await rest.register(root, "everybodys", URL, scope="shared_app")
    logs = rest.parts.database.collection("audit_logs")
    await logs.update_many({}, {"$unset": {"server_id": ""}})

    found = (await trail(rest, CLERK)).json()["records"]

    assert [record["entity_id"] for record in found] == [shared["id"]]
