"""Documents as no program of today writes them: none of them costs the others."""

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId, Regex
from pymongo.errors import OperationFailure

from registry.auth.identity import UserContext
from registry.servers.errors import ServerUnusableError
from registry.usage.batches import BatchPacker
from registry.usage.repository import UsageRepository
from tests.fakes.odd_values import ODD_VALUES, insert_odd
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest
from tests.usage.conftest import batch_of, call

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


@pytest.mark.parametrize("place", ["userId", "type", "identifier", "metadata", "createdAt", "_id"])
async def test_no_value_of_any_type_at_any_place_of_a_token_costs_another(
    rest: Rest, root: UserContext, place: str
) -> None:
    user, now = ObjectId(root.user_id), rest.parts.clock.now()
    kept = {
        "userId": user,
        "type": "mcp_oauth",
        "token": "aa",
        "createdAt": now,
        "expiresAt": now + timedelta(days=1),
    }
    odd = [
        {**kept, "_id": ObjectId(), "identifier": f"mcp:{number}", place: value}
        for number, value in enumerate(ODD_VALUES.values())
        if place != "_id" or not isinstance(value, list | Regex)
    ]
    tokens = rest.parts.database.collection("tokens")
    await insert_odd(tokens, odd)
    await tokens.insert_one({**kept, "identifier": "mcp:good"})

    answers = [
        await rest.ask(root, "GET", "/tokens?per_page=100"),
        await rest.call(root, "GET", "/stats"),
    ]

    assert [(one.url, one.text) for one in answers if one.status_code != 200] == []
    assert "good" in {one["identifier"] for one in answers[0].json()["tokens"]}


MEMBERS = {
    "sync_jobs": (
        *("_id", "owner_id", "owner_name", "source_type", "trigger", "state", "requested_by"),
        *("attempts", "holder", "lease_id", "repeat", "progress", "progress.phase", "error"),
        *("counts", "counts.added", "created_at", "started_at", "finished_at"),
    ),
    "sync_job_runs": (
        *("_id", "attempt", "worker", "outcome", "error", "note", "counts", "upstream_ms"),
        *("started_at", "finished_at"),
    ),
    "audit_logs": (
        *("_id", "timestamp", "action", "entity_type", "entity_id", "user_id", "username"),
        *("role", "token_id", "outcome", "reason", "changes", "changes.before", "request_id"),
        *("source_address", "server_id", "tenant_id"),
    ),
    "usage_records": (
        *("_id", "packed", "worker", "first_at", "last_at", "calls", "rows", "trace_ids"),
        *("expires_at",),
    ),
    "server_versions": (
        *("_id", "version", "state", "origin", "transport_config", "transport_config.url"),
        *("transport_config.headers", "secret_paths", "sealed", "created_at", "created_by"),
        *("created_by.user_id", "restored_from", "fingerprint"),
    ),
    "token_families": (
        *("_id", "user_id", "username", "role", "is_known_user", "scopes", "hours", "description"),
        *("refresh_token_id", "access_tokens", "ancestors", "created_at", "exchanged_at"),
        *("revoked_at", "expires_at", "tenant_id"),
    ),
    "access_policies": (
        *("_id", "name", "description", "effect", "is_enabled", "source_type", "owner_id"),
        *("tools", "metadata", "users", "groups", "roles", "scopes", "everyone", "revision"),
        *("created_at", "created_by", "created_by.user_id", "updated_at", "updated_by"),
    ),
    "sync_states": (
        *("source_type", "next_sync_at", "last_synced_at", "settled_at", "settled_digest"),
        *("sync_failures", "eras", "tool_problems", "features_read", "decisions"),
    ),
}
"""Members of what the registry alone keeps, which other programs can write all the same."""


LISTS = {
    "sync_jobs": "/sync/jobs",
    "audit_logs": "/audit",
    "usage_records": "/usage",
    "token_families": "/tokens/issued",
    "access_policies": "/access/policies",
    "sync_states": "/servers",
}
"""Where documents of a collection are listed, of all servers."""


def odd_records(collection: str, kept: dict[str, Any]) -> list[dict[str, Any]]:
    """Return copies of a record, with each odd value at each place."""
    documents: list[dict[str, Any]] = []
    for number, place in enumerate(MEMBERS[collection]):
        for odd in ODD_VALUES.values():
            document = {**kept, "_id": f"f{number}-{ObjectId()}"}
            if collection != "token_families":
                document["_id"] = ObjectId()
            *parents, name = place.split(".")
            inner = document
            for parent in parents:
                inner[parent] = dict(inner.get(parent) or {})
                inner = inner[parent]
            inner[name] = odd
            # Unique for each server.
            unique = {"server_versions": "version", "access_policies": "name"}.get(collection)
            if unique is not None and place != unique:
                document[unique] = 1_000_000 + len(documents)
            if collection == "server_versions" and place != "state":
                document["state"] = "former"
            documents.append(document)
    return documents


@pytest.mark.requirement("E-22")
async def test_no_value_at_any_place_of_a_record_costs_another_record(
    rest: Rest, root: UserContext, upstream: PlainUpstream
) -> None:
    server = await rest.register(root, "good", upstream.url, scope="shared_app")
    owner, now = ObjectId(server["id"]), rest.parts.clock.now()
    asked = await rest.ask(root, "POST", f"/sync/owners/{owner}")
    job_id = asked.json()["job_id"]
    await rest.job(root, job_id)
    issued = await rest.ask(root, "POST", "/tokens/generate", json={"expires_in_hours": 1})
    policy = {"name": "good", "effect": "deny", "subjects": {"everyone": True}}
    target = {"owner_id": server["id"], "tools": ["none"]}
    made = await rest.ask(root, "POST", "/access/policies", json={**policy, "target": target})
    batch = batch_of(call(server_id=server["id"], user_id=root.user_id))
    packer = BatchPacker(worker="host:1", retention=timedelta(days=1))
    usage = packer.document(batch, now, rest.parts.clock.monotonic())
    await UsageRepository(rest.parts.database).insert(usage)
    database = rest.parts.database.db
    for collection in MEMBERS:
        rows = database[collection]
        kept = await rows.find_one({"state": "succeeded"} if collection == "sync_jobs" else {})
        assert kept is not None
        documents = odd_records(collection, kept)
        await database.command("collMod", collection, validator={})
        await insert_odd(rows, documents)
        assert await rows.count_documents({}) > len(documents) // 2
    # Of these there is one for each server.
    for odd in ODD_VALUES.values():
        with suppress(OperationFailure):
            await database["sync_states"].replace_one(
                {"_id": owner}, dict.fromkeys(MEMBERS["sync_states"], odd)
            )
        shown = await rest.call(root, "GET", f"/{owner}")
        assert shown.status_code == 200, (odd, shown.text)

    await rest.parts.snapshot.load()
    pages = {
        collection: await everything(rest, root, path)
        for collection, path in {
            **LISTS,
            "sync_job_runs": f"/sync/jobs/{job_id}",
            "server_versions": f"/servers/{owner}/versions",
        }.items()
    }
    stats = await rest.call(root, "GET", "/stats")
    patched = await rest.call(root, "PATCH", f"/{owner}", json={"title": "Still here"})

    assert pages.keys() == MEMBERS.keys()
    assert job_id in pages["sync_jobs"]
    assert issued.json()["tokens"]["jti"] in pages["token_families"]
    assert made.json()["id"] in pages["access_policies"]
    assert (stats.status_code, patched.status_code) == (200, 200), stats.text + patched.text
    assert rest.parts.snapshot.route("good") is not None


async def everything(rest: Rest, user: UserContext, path: str) -> str:
    """Return the pages of a list together."""
    found, number, query = "", 1, ""
    while True:
        answer = await rest.ask(user, "GET", path + query)
        assert answer.status_code == 200, answer.text
        json.loads(answer.content, parse_constant=pytest.fail)
        found += answer.text
        body = answer.json()
        number += 1
        if body.get("next_cursor"):
            query = f"?limit=200&cursor={body['next_cursor']}"
        elif number <= body.get("pagination", {}).get("total_pages", 0):
            query = f"?per_page=100&page={number}"
        else:
            return found
