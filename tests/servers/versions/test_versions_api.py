"""How a server was reached: kept with each change, listed, compared and brought back."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from bson import ObjectId, json_util

from packages.database.client import Doc
from packages.database.encryption import Cipher
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from tests.conftest import CREDS_IV
from tests.fakes.plain_upstream import PlainUpstream, plain_upstream
from tests.fakes.rest import Rest
from tests.servers.conftest import module_rest as module_rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture
from tests.servers.test_odd_documents import ODD

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
OWNER = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
OTHER = UserContext("b" * 24, "bob", Role.USER, USER_SCOPES)
KEY = {"key": "sk-one", "authorization_type": "bearer"}

PLACE = "http://127.0.0.1:9/mcp"
ODD_CONFIGS: list[dict[str, Any]] = [
    {
        "config": {
            "url": "http://u:sk-password@127.0.0.1:9/mcp",
            "proxy": "http://u:sk-p@x.example",
        }
    },
    {"config": {"url": PLACE, "apiKey": {"key": "sk-clear", "other": "sk-other"}}},
    {"config": {"url": PLACE, "oauth": {"client_secret": {"a": "sk-deep"}}}},
    {"config": {"url": PLACE, "headers": {"X-Token": {"a": ["sk-deep"]}, "$x.y": "plain"}}},
    {"config": {"url": PLACE, "env": ["sk-a"], "args": {"a": "sk-b"}, "command": 5}},
    {
        "config": {
            "url": PLACE,
            "timeout": float("nan"),
            "customUserVars": {"a.b": ObjectId("d" * 24)},
        }
    },
    {"config": {"url": PLACE, "oauth_headers": {"Authorization": "sk-clear"}}},
]


async def patch(rest: Rest, server: Doc, user: UserContext = OWNER, **fields: Any) -> Doc:
    answer = await rest.call(user, "PATCH", f"/{server['id']}", json=fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def get(
    rest: Rest, server: Doc, path: str = "", user: UserContext = OWNER, **query: Any
) -> httpx.Response:
    wanted = query or None
    return await rest.call(user, "GET", f"/{server['id']}/versions{path}", params=wanted)


async def versions(rest: Rest, server: Doc, **query: Any) -> list[Doc]:
    answer = await get(rest, server, **query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["versions"])


async def numbers(rest: Rest, server: Doc) -> list[tuple[int, str, str]]:
    found = await versions(rest, server)
    return [(item["version"], item["state"], item["origin"]) for item in found]


async def roll_back(
    rest: Rest, server: Doc, version: int, user: UserContext = OWNER, **request: Any
) -> httpx.Response:
    path = f"/{server['id']}/versions/{version}/rollback"
    return await rest.call(user, "POST", path, **request)


async def stored(rest: Rest, name: str, **query: Any) -> list[Doc]:
    return await rest.parts.database.collection(name).find(query).to_list()


@pytest.mark.requirement("R-051")
async def test_a_registration_makes_version_one(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(OWNER, "weather", upstream.url, apiKey=KEY, timeout=5000)

    answer = await get(rest, server)

    body = answer.json()
    (version,) = body.pop("versions")
    assert body == {
        "id": server["id"],
        "serverName": "weather",
        "activeVersion": 1,
        "changedElsewhere": False,
        "pagination": {"total": 1, "page": 1, "per_page": 20, "total_pages": 1},
    }
    assert version.pop("createdAt") == server["createdAt"]
    assert len(version.pop("fingerprint")) == 64
    assert version == {
        "version": 1,
        "apiVersion": "1",
        "apiType": "mcp",
        "state": "active",
        "active": True,
        "origin": "registration",
        "restoredFrom": None,
        "transportConfig": {
            "type": "streamable-http",
            "url": upstream.url,
            "requiresOAuth": False,
            "timeout": 5000,
            "apiKey": {"key": "***", "source": "admin", "authorization_type": "bearer"},
        },
        "unreadable": [],
        "createdBy": {"userId": OWNER.user_id, "username": "alice"},
    }


@pytest.mark.requirement("R-050")
async def test_a_change_of_the_connection_makes_a_version_and_other_changes_none(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url, apiKey=KEY)

    await patch(rest, server, title="Weather", description="d", tags=["a"], path="/mcp/other")
    await rest.call(OWNER, "POST", f"/{server['id']}/refresh")
    await rest.call(OWNER, "POST", f"/{server['id']}/toggle", json={"enabled": False})
    await patch(rest, server, apiKey={**KEY, "key": "***"})
    await patch(rest, server, apiKey=KEY)
    unchanged = await numbers(rest, server)
    await patch(rest, server, timeout=7000)
    await patch(rest, server, apiKey={**KEY, "key": "sk-two"})

    assert unchanged == [(1, "active", "registration")]
    assert await numbers(rest, server) == [
        (3, "active", "update"),
        (2, "former", "update"),
        (1, "former", "registration"),
    ]


async def test_a_difference_tells_members_and_of_secrets_only_that_they_changed(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url, apiKey=KEY)
    await patch(rest, server, url=f"{upstream.url}?v=2", headers={"X-Region": "eu"})
    await patch(rest, server, apiKey={**KEY, "key": "sk-two"})

    against_active = await get(rest, server, "/1/diff")
    between = await get(rest, server, "/2/diff", against=1)
    itself = await get(rest, server, "/3/diff")

    body = against_active.json()
    assert (body["version"], body["against"]) == (1, 3)
    told = {change.pop("field"): change for change in body["changes"]}
    assert told == {
        "url": {"change": "changed", "before": f"{upstream.url}?v=2", "after": upstream.url},
        "headers.X-Region": {"change": "removed", "before": "eu", "after": None},
        "apiKey.key": {"change": "changed", "before": "***", "after": "***"},
    }
    assert [change["field"] for change in between.json()["changes"]] == [
        "url",
        "headers.X-Region",
    ]
    assert itself.json()["changes"] == []


async def test_a_rollback_brings_address_and_secrets_back_as_a_new_version(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(
        OWNER, "weather", upstream.url, apiKey=KEY, headers={"X-Auth-Token": "t-one"}
    )
    async with plain_upstream() as newer:
        await patch(
            rest,
            server,
            url=newer.url,
            apiKey={"key": "sk-two", "authorization_type": "basic"},
            headers={"X-Other": "o"},
            title="Newer",
        )
    upstream.seen.clear()

    answer = await roll_back(rest, server, 1)

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["url"], body["title"]) == (upstream.url, "Newer")
    assert body["headers"] == {"X-Auth-Token": "***"}
    assert answer.headers["etag"] == f'"{body["updatedAt"]}"'
    assert {head["authorization"] for head in upstream.seen} == {"Bearer sk-one"}
    assert {head["x-auth-token"] for head in upstream.seen} == {"t-one"}
    newest, second, first = await versions(rest, server)
    assert (newest["version"], newest["origin"], newest["restoredFrom"]) == (3, "rollback", 1)
    assert (newest["state"], second["state"], first["state"]) == ("active", "former", "former")
    assert newest["fingerprint"] == first["fingerprint"]
    difference = await get(rest, server, "/3/diff", against=1)
    assert difference.json()["changes"] == []


async def test_a_rollback_is_recorded_once_and_without_secrets(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url, apiKey=KEY)
    await patch(rest, server, apiKey={**KEY, "key": "sk-two"}, timeout=9000)

    await roll_back(rest, server, 1)

    trail = await rest.ask(ROOT, "GET", "/audit", params={"action": "rollback"})
    (record,) = trail.json()["records"]
    assert (record["entity_type"], record["entity_id"]) == ("server", server["id"])
    assert record["user_id"] == OWNER.user_id
    assert record["changes"]["version"] == {"restored": 1, "made": 3}
    assert record["changes"]["secrets"] == ["apiKey.key"]
    assert record["changes"]["before"]["timeout"] == 9000
    assert "sk-" not in trail.text


async def test_a_version_in_use_and_one_that_is_not_there_are_refused(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url)

    in_use, absent = await roll_back(rest, server, 1), await roll_back(rest, server, 2)
    read = await get(rest, server, "/2")
    compared = await get(rest, server, "/1/diff", against=2)

    assert (in_use.status_code, in_use.json()["error"]) == (409, "conflict")
    assert {answer.status_code for answer in (absent, read, compared)} == {404}
    assert absent.json() == {"error": "not_found", "message": "The server has no version 2"}
    assert await numbers(rest, server) == [(1, "active", "registration")]


@pytest.mark.parametrize("path", ["/0", "/x", "/-1", "/99999999999", "/1/diff?against=0"])
async def test_what_is_no_version_is_refused(
    rest: Rest, upstream: PlainUpstream, path: str
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url)

    answer = await get(rest, server, path)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")


async def test_history_is_for_those_who_may_change_the_server(
    rest: Rest, upstream: PlainUpstream
) -> None:
    private = await rest.register(OWNER, "mine", upstream.url)
    shared = await rest.register(ROOT, "ours", upstream.url, scope="shared_app")
    await patch(rest, private, timeout=9000)
    await patch(rest, shared, ROOT, timeout=9000)
    paths = ("", "/1", "/1/diff")

    hidden = [await get(rest, private, path, OTHER) for path in paths]
    hidden.append(await roll_back(rest, private, 1, OTHER))
    seen = [await get(rest, shared, path, OTHER) for path in paths]
    seen.append(await roll_back(rest, shared, 1, OTHER))
    admin = await get(rest, private, "", ROOT)

    assert [answer.status_code for answer in hidden] == [404] * 4
    assert {answer.json()["message"] for answer in hidden} == {"Server not found"}
    assert [answer.status_code for answer in seen] == [403] * 4
    assert admin.status_code == 200
    told = {"action": "read", "outcome": "success"}
    looks = await rest.ask(ROOT, "GET", "/audit", params=told)
    assert [item["entity_id"] for item in looks.json()["records"]] == [private["id"]]


@pytest.mark.parametrize("where", ["If-Match", "If-Unmodified-Since", "body"])
async def test_a_rollback_from_an_old_reading_is_refused(
    rest: Rest, upstream: PlainUpstream, where: str
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url)
    later = await patch(rest, server, timeout=9000)
    old = server["updatedAt"]
    requests: dict[str, dict[str, Any]] = {
        "If-Match": {"headers": {"If-Match": f'"{old}"'}},
        "If-Unmodified-Since": {
            "headers": {"If-Unmodified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}
        },
        "body": {"json": {"updatedAt": old}},
    }

    refused = await roll_back(rest, server, 1, **requests[where])
    accepted = await roll_back(rest, server, 1, json={"updatedAt": later["updatedAt"]})

    assert (refused.status_code, refused.json()["error"]) == (409, "conflict")
    assert refused.json()["current_updated_at"] == later["updatedAt"]
    assert accepted.status_code == 200, accepted.text


async def test_a_body_that_says_something_else_is_refused(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url)

    unknown = await roll_back(rest, server, 1, json={"version": 1})
    text = await roll_back(rest, server, 1, content=b"{}")

    assert (unknown.status_code, text.status_code) == (422, 415)


async def test_a_version_whose_address_may_not_be_contacted_any_more_is_refused(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url)
    await patch(rest, server, timeout=9000)
    metadata = "http://169.254.169.254/latest"
    await rest.parts.database.collection("server_versions").update_one(
        {"server_id": ObjectId(server["id"]), "version": 1},
        {"$set": {"transport_config.url": metadata}},
    )

    answer = await roll_back(rest, server, 1)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")
    assert (await numbers(rest, server))[0] == (2, "active", "update")
    assert (await rest.call(OWNER, "GET", f"/{server['id']}")).json()["url"] == upstream.url


async def test_a_version_whose_upstream_is_away_comes_back_and_says_so(
    rest: Rest, upstream: PlainUpstream
) -> None:
    async with plain_upstream() as gone:
        server = await rest.register(OWNER, "weather", gone.url)
    await patch(rest, server, url=upstream.url)

    answer = await roll_back(rest, server, 1)

    body = answer.json()
    assert (answer.status_code, body["url"]) == (200, gone.url)
    assert body["errorMessage"]
    assert body["tools"] == "echo"


async def test_a_version_with_a_secret_that_no_key_opens_is_refused_and_named(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url, apiKey=KEY)
    await patch(rest, server, apiKey={**KEY, "key": "sk-two"})
    damaged = "gcm:00000000:" + "0" * 24 + ":" + "0" * 32
    await rest.parts.database.collection("server_versions").update_one(
        {"server_id": ObjectId(server["id"]), "version": 1}, {"$set": {"sealed": damaged}}
    )

    answer = await roll_back(rest, server, 1)
    shown = await get(rest, server, "/1")
    compared = await get(rest, server, "/1/diff")

    assert answer.status_code == 409
    assert answer.json()["unreadable"] == ["apiKey.key"]
    assert answer.json()["message"].startswith("Version 1 cannot be restored")
    assert shown.json()["unreadable"] == ["apiKey.key"]
    assert [change["change"] for change in compared.json()["changes"]] == ["unknown"]


async def test_a_sealed_secret_that_was_copied_to_another_server_opens_no_more(
    rest: Rest, upstream: PlainUpstream
) -> None:
    victim = await rest.register(OWNER, "victim", upstream.url, apiKey=KEY)
    thief = await rest.register(OTHER, "thief", upstream.url, apiKey={"key": "mine"})
    await patch(rest, thief, OTHER, timeout=9000)
    (secret,) = await stored(rest, "server_versions", server_id=ObjectId(victim["id"]))
    await rest.parts.database.collection("server_versions").update_one(
        {"server_id": ObjectId(thief["id"]), "version": 1},
        {"$set": {"sealed": secret["sealed"]}},
    )

    answer = await roll_back(rest, thief, 1, OTHER)

    assert (answer.status_code, answer.json()["unreadable"]) == (409, ["apiKey.key"])


async def test_a_secret_that_is_unreadable_now_makes_a_version_that_says_so(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url, apiKey=KEY)
    lost = Cipher("ee" * 32, CREDS_IV).encrypt_shared("lost")
    await rest.parts.database.collection("mcpservers").update_one(
        {"_id": ObjectId(server["id"])}, {"$set": {"config.apiKey.key": lost}}
    )

    await patch(rest, server, timeout=9000)
    await patch(rest, server, apiKey=KEY, timeout=None)

    assert await numbers(rest, server) == [
        (4, "active", "update"),
        (3, "former", "update"),
        (2, "former", "found"),
        (1, "former", "registration"),
    ]
    shown = {item["version"]: item["unreadable"] for item in await versions(rest, server)}
    assert shown == {1: [], 2: ["apiKey.key"], 3: ["apiKey.key"], 4: []}
    assert (await roll_back(rest, server, 3)).status_code == 409


async def test_what_users_stored_for_one_origin_does_not_follow_to_another(
    rest: Rest, upstream: PlainUpstream
) -> None:
    async with plain_upstream() as former:
        server = await rest.register(
            OWNER, "keyed", former.url, apiKey={"source": "user", "key": "of alice"}
        )
        await patch(rest, server, url=upstream.url)
        await rest.call(
            OWNER,
            "PUT",
            f"/{server['id']}/user-keys",
            json={"values": {"MCP_API_KEY": "for the newer"}},
        )
        former.seen.clear()

        answer = await roll_back(rest, server, 1)

    assert answer.status_code == 200, answer.text
    assert [head.get("authorization") for head in former.seen] == []
    assert await stored(rest, "pluginauths") == []


@pytest.mark.requirement("R-054")
async def test_a_deleted_server_leaves_no_versions(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(OWNER, "weather", upstream.url)
    await patch(rest, server, timeout=9000)
    kept = await rest.register(OWNER, "kept", upstream.url)

    await rest.call(OWNER, "DELETE", f"/{server['id']}")

    left = await stored(rest, "server_versions")
    assert [str(row["server_id"]) for row in left] == [kept["id"]]
    assert [str(row["owner_id"]) for row in await stored(rest, "mcp_tools")] == [kept["id"]]
    assert (await get(rest, server)).status_code == 404


async def test_pages_are_newest_first(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(OWNER, "weather", upstream.url)
    for timeout in range(1000, 1004):
        await patch(rest, server, timeout=timeout)

    page = await get(rest, server, per_page=2, page=2)
    beyond = await get(rest, server, per_page=2, page=9)

    assert [item["version"] for item in page.json()["versions"]] == [3, 2]
    assert page.json()["pagination"] == {
        "total": 5,
        "page": 2,
        "per_page": 2,
        "total_pages": 3,
    }
    assert (beyond.status_code, beyond.json()["versions"]) == (200, [])


async def found_server(rest: Rest, url: str, **config: Any) -> Doc:
    """Store a server as another application does."""
    now = rest.parts.clock.now()
    key = ObjectId()
    await rest.parts.database.collection("mcpservers").insert_one(
        {
            "_id": key,
            "serverName": "theirs",
            "author": ObjectId(OWNER.user_id),
            "config": {"url": url, "type": "streamable-http", **config},
            "createdAt": now,
            "updatedAt": now,
        }
    )
    return {"id": str(key)}


async def test_a_server_of_another_application_has_a_version_before_one_is_stored(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await found_server(rest, upstream.url)

    listed, one = await versions(rest, server), await get(rest, server, "/1")
    beyond = await get(rest, server, page=2)
    refused = await roll_back(rest, server, 1)
    before = await stored(rest, "server_versions")
    await patch(rest, server, timeout=9000)

    assert [(item["version"], item["origin"]) for item in listed] == [(1, "found")]
    assert one.json()["transportConfig"]["url"] == upstream.url
    assert beyond.json()["versions"] == []
    assert refused.status_code == 409
    assert before == []
    assert await numbers(rest, server) == [(2, "active", "update"), (1, "former", "found")]
    assert (await roll_back(rest, server, 1)).status_code == 200


async def test_what_another_application_changed_is_told_kept_and_can_be_undone(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "weather", upstream.url)
    elsewhere = f"{upstream.url}?elsewhere"
    await rest.parts.database.collection("mcpservers").update_one(
        {"_id": ObjectId(server["id"])}, {"$set": {"config.url": elsewhere}}
    )

    told = (await get(rest, server)).json()["changedElsewhere"]
    undone = await roll_back(rest, server, 1)

    assert told is True
    assert undone.json()["url"] == upstream.url
    assert await numbers(rest, server) == [
        (3, "active", "rollback"),
        (2, "former", "found"),
        (1, "former", "registration"),
    ]
    assert (await versions(rest, server))[1]["transportConfig"]["url"] == elsewhere


async def test_a_program_that_another_application_starts_cannot_be_brought_back(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await found_server(rest, upstream.url)
    config = {"type": "stdio", "command": "npx", "args": ["--key", "sk-x"], "env": {"T": "sk-y"}}
    servers = rest.parts.database.collection("mcpservers")
    key = {"_id": ObjectId(server["id"])}
    await servers.update_one(key, {"$set": {"config": config}})
    first = await patch(rest, server, url=upstream.url, type="streamable-http")

    answer, shown = await roll_back(rest, server, 1), await get(rest, server, "/1")

    assert first["url"] == upstream.url
    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")
    assert shown.json()["transportConfig"] == {
        "type": "stdio",
        "command": "npx",
        "args": "***",
        "env": "***",
    }
    assert "sk-" not in json_util.dumps(await stored(rest, "server_versions"))


async def test_changes_at_once_make_one_version_each(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(OWNER, "weather", upstream.url)

    answers = await asyncio.gather(
        *(
            rest.call(OWNER, "PATCH", f"/{server['id']}", json={"timeout": timeout})
            for timeout in range(2000, 2004)
        )
    )

    made = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 409}
    found = await versions(rest, server)
    assert [item["version"] for item in found] == list(range(len(made) + 1, 0, -1))
    assert [item["active"] for item in found] == [True] + [False] * len(made)
    current = (await rest.call(OWNER, "GET", f"/{server['id']}")).json()
    assert found[0]["transportConfig"]["timeout"] == current["timeout"]


async def test_no_answer_about_versions_shows_a_secret(
    rest: Rest, upstream: PlainUpstream
) -> None:
    secrets = {
        "apiKey": {"key": "SENTINEL-key"},
        "oauth": {
            "client_id": "me",
            "client_secret": "SENTINEL-client",
            "authorization_url": "https://as.example.com/authorize",
            "token_url": "https://as.example.com/token",
        },
        "headers": {"X-Auth-Token": "SENTINEL-header", "X.Secret.$key": "SENTINEL-odd"},
    }
    server = await rest.register(OWNER, "weather", upstream.url, **secrets)
    await patch(rest, server, headers={}, oauth=None, apiKey={"key": "SENTINEL-two"})

    answers = [
        await get(rest, server),
        await get(rest, server, "/1"),
        await get(rest, server, "/1/diff"),
        await roll_back(rest, server, 1),
    ]
    rows = await stored(rest, "server_versions")

    assert [answer.status_code for answer in answers] == [200] * 4
    shown = json.dumps([answer.text for answer in answers])
    assert "SENTINEL" not in shown
    assert "gcm:" not in shown
    assert "SENTINEL" not in json_util.dumps(rows)
    assert all(row["sealed"].startswith("gcm:") for row in rows)
    assert upstream.seen[-1]["x.secret.$key"] == "SENTINEL-odd"


@pytest.mark.requirement("E-22")
@pytest.mark.parametrize("odd", [*ODD, *ODD_CONFIGS], ids=str)
async def test_the_history_of_an_odd_server_is_answered_and_costs_nothing(
    rest: Rest, odd: dict[str, Any]
) -> None:
    now = rest.parts.clock.now()
    key = ObjectId()
    document = {
        "_id": key,
        "serverName": "odd",
        "author": ObjectId(ROOT.user_id),
        "config": {"url": "http://127.0.0.1:9/mcp", "type": "streamable-http"},
        "createdAt": now,
        "updatedAt": now,
        **odd,
    }
    await rest.parts.database.collection("mcpservers").insert_one(document)
    server = {"id": str(key)}

    answers = [
        await get(rest, server, "", ROOT),
        await get(rest, server, "/1", ROOT),
        await get(rest, server, "/1/diff", ROOT),
        await rest.call(ROOT, "PATCH", f"/{key}", json={"url": "http://127.0.0.1:9/other"}),
        await get(rest, server, "", ROOT),
        await get(rest, server, "/1/diff", ROOT),
        await roll_back(rest, server, 1, ROOT),
    ]

    assert [answer.status_code for answer in answers[:3]] == [200] * 3
    assert {answer.status_code for answer in answers[3:]} <= {200, 409, 422, 502}
    assert "sk-" not in "".join(answer.text for answer in answers)
