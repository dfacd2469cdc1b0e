"""The servers API over HTTP: what its answers hold."""

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId

from registry.auth.identity import UserContext
from registry.core.text import PATTERN_WORDS
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

NO_MODEL = {"state": "off", "problem": None}
ALL_RIGHTS = {"VIEW": True, "EDIT": True, "DELETE": True, "SHARE": True}

DEAD = "http://127.0.0.1:9/mcp"
KEY = "sk-live-0123456789"
SECRET = "oauth-secret-0123456789"
SECRETS = {
    "apiKey": {"key": KEY, "authorization_type": "custom", "custom_header": "X-Key"},
    "oauth": {
        "client_id": "me",
        "client_secret": SECRET,
        "authorization_url": "https://as.example.com/authorize",
        "token_url": "https://as.example.com/token",
    },
    "headers": {"X-Auth-Token": "header-secret-0123456789", "X-Team": "blue"},
}
VERBATIM_SCHEMA = (
    '{"type":"object","$defs":{"a.b":{"type":"integer","maximum":18446744073709551615}},'
    '"properties":{"n":{"$ref":"#/$defs/a.b","multipleOf":1.0}}}'
)


async def names(rest: Rest, user: UserContext, query: str = "") -> list[str]:
    answer = await rest.call(user, "GET", query)
    return [server["serverName"] for server in answer.json()["servers"]]


def keys_of(value: Any) -> set[str]:
    """Return the names of all members at any depth."""
    if isinstance(value, dict):
        return set(value).union(*(keys_of(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(keys_of(item) for item in value))
    return set()


@pytest.mark.requirement("R-036")
@pytest.mark.requirement("R-043")
@pytest.mark.requirement("R-048")
@pytest.mark.requirement("R-049")
@pytest.mark.requirement("R-126")
@pytest.mark.requirement("R-052")
@pytest.mark.requirement("R-122")
async def test_a_registration_answers_the_whole_server_with_its_tools(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    answer = await rest.call(
        alice,
        "POST",
        json={"serverName": "plain", "title": "Plain", "url": upstream.url, "tags": ["demo"]},
    )

    body = answer.json()
    times = {name: body.pop(name) for name in ("lastConnected", "createdAt", "updatedAt")}
    synced = {name: body.pop(name) for name in ("lastSyncStartedAt", "lastSyncCompletedAt")}
    body.pop("initDuration")
    # Search hears of the server a moment later.
    assert body.pop("embedding") in (None, NO_MODEL)
    assert synced["lastSyncStartedAt"] <= synced["lastSyncCompletedAt"]
    assert answer.status_code == 201
    assert all(time.endswith("Z") for time in times.values())
    assert ObjectId.is_valid(body.pop("id"))
    assert body == {
        "serverName": "plain",
        "title": "Plain",
        "type": "streamable-http",
        "url": upstream.url,
        "requiresOAuth": False,
        "capabilities": '{"tools":{"listChanged":true}}',
        "tools": "echo",
        "toolFunctions": {
            "echo_mcp_plain": {
                "type": "function",
                "mcpToolName": "echo",
                "function": {
                    "name": "echo_mcp_plain",
                    "description": "Says it again.",
                    "parameters": {
                        "type": "object",
                        "properties": {"text": {"type": "string"}},
                        "required": ["text"],
                    },
                },
            }
        },
        "author": alice.user_id,
        "autoExpose": "all",
        "syncMode": "manual",
        "lastSyncStatus": "success",
        "permissions": ALL_RIGHTS,
        "scope": "private_user",
        "status": "active",
        "connection_state": "connected",
        "is_recently_active": True,
        "path": "/mcp/plain",
        "tags": ["demo"],
        "numTools": 1,
        "numStars": 0,
        "lastError": None,
        "errorMessage": None,
    }


@pytest.mark.requirement("R-139")
async def test_both_spellings_of_a_field_are_understood(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    answer = await rest.call(alice, "POST", json={"server_name": "plain", "url": upstream.url})

    assert (answer.status_code, answer.json()["serverName"]) == (201, "plain")


@pytest.mark.requirement("R-035")
@pytest.mark.requirement("R-112")
@pytest.mark.requirement("R-111")
async def test_answers_are_flat(rest: Rest, upstream: PlainUpstream, alice: UserContext) -> None:
    created = await rest.register(alice, "plain", upstream.url, **SECRETS)
    listed = (await rest.call(alice, "GET")).json()
    detail = (await rest.call(alice, "GET", f"/{created['id']}")).json()

    unwanted = {"config", "_id", "server_id", "registry", "__v"}
    assert unwanted.isdisjoint(keys_of([created, listed, detail]))


@pytest.mark.requirement("R-113")
@pytest.mark.parametrize("case", ["register", "list", "detail", "update"])
async def test_secrets_are_masked_in_every_answer(
    rest: Rest, upstream: PlainUpstream, alice: UserContext, case: str
) -> None:
    created = await rest.register(alice, "plain", upstream.url, **SECRETS)
    path = f"/{created['id']}"
    listed = (await rest.call(alice, "GET")).json()["servers"][0]
    answers = {
        "register": created,
        "list": listed,
        "detail": (await rest.call(alice, "GET", path)).json(),
        "update": (await rest.call(alice, "PATCH", path, json={"title": "New"})).json(),
    }

    shown = answers[case]

    assert shown["apiKey"] == {
        "key": "***",
        "source": "admin",
        "authorization_type": "custom",
        "custom_header": "X-Key",
    }
    assert shown["oauth"] == {**SECRETS["oauth"], "client_secret": "***"}
    assert shown["headers"] == {"X-Auth-Token": "***", "X-Team": "blue"}
    assert "0123456789" not in json.dumps(shown)


@pytest.mark.requirement("E-14")
@pytest.mark.requirement("R-118")
async def test_lists_leave_tool_functions_out_and_details_hold_them(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    created = await rest.register(alice, "plain", upstream.url)

    listed = (await rest.call(alice, "GET")).json()["servers"][0]
    detail = (await rest.call(alice, "GET", f"/{created['id']}")).json()

    assert "toolFunctions" not in listed
    assert list(detail["toolFunctions"]) == ["echo_mcp_plain"]


@pytest.mark.requirement("R-120")
async def test_a_detail_of_a_server_that_never_answered_says_so(
    rest: Rest, alice: UserContext
) -> None:
    created = await rest.register(alice, "dead", DEAD)

    detail = (await rest.call(alice, "GET", f"/{created['id']}")).json()

    assert detail["status"] == "error"
    assert detail["lastConnected"] is None
    assert detail["lastError"].endswith("Z")
    assert detail["errorMessage"] == "Could not connect to http://127.0.0.1:9."
    assert (detail["tools"], detail["numTools"], detail["toolFunctions"]) == ("", 0, {})


@pytest.mark.requirement("R-120")
@pytest.mark.requirement("R-039")
async def test_a_detail_holds_every_member_that_is_stored(rest: Rest, alice: UserContext) -> None:
    shown = {
        "title": "Whole",
        "description": "All of it.",
        "type": "sse",
        "url": "https://whole.example.com/sse",
        "oauth": {
            "client_id": "me",
            "authorization_url": "https://login.example/authorize",
            "token_url": "https://login.example/token",
        },
        "requiresOAuth": True,
        "oauthMetadata": {
            "resource": "https://whole.example.com",
            "authorization_servers": ["https://login.example"],
            "scopes_supported": ["read"],
            "bearer_methods_supported": ["header"],
            "resource_name": "Whole",
        },
        "capabilities": '{"tools":{}}',
        "tools": "echo",
        "toolFunctions": {"echo_mcp_whole": {"type": "function", "function": {"name": "echo"}}},
        "initDuration": 12,
    }
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    times = dict.fromkeys(("lastConnected", "lastError", "createdAt", "updatedAt"), moment)
    document = {
        "serverName": "whole",
        "author": ObjectId(alice.user_id),
        "config": shown | {"apiKey": {"key": "00", "source": "admin"}},
        "scope": "private_user",
        "status": "error",
        "path": "/mcp/whole",
        "tags": ["a"],
        "numTools": 1,
        "numStars": 5,
        "errorMessage": "It was away.",
        **times,
    }
    stored = await rest.parts.database.collection("mcpservers").insert_one(dict(document))
    await rest.follow()

    detail = (await rest.call(alice, "GET", f"/{stored.inserted_id}")).json()

    del document["config"]
    added = ("permissions", "syncMode", "connection_state", "is_recently_active", "embedding")
    assert detail == {
        **document,
        **shown,
        **dict.fromkeys(times, "2026-01-01T00:00:00.000Z"),
        # Users have tokens of their own, and this one has not connected.
        "lastConnected": None,
        **{name: detail[name] for name in added},
        "id": str(stored.inserted_id),
        "author": alice.user_id,
        "apiKey": {"key": "***", "source": "admin"},
    }


@pytest.mark.requirement("R-124")
async def test_a_strict_registration_of_a_dead_server_is_refused(
    rest: Rest, alice: UserContext
) -> None:
    answer = await rest.call(
        alice, "POST", "?strict=true", json={"serverName": "dead", "url": DEAD}
    )

    assert (answer.status_code, answer.json()) == (
        502,
        {"error": "upstream_error", "message": "Could not connect to http://127.0.0.1:9."},
    )


async def test_a_taken_name_is_a_conflict(rest: Rest, alice: UserContext) -> None:
    await rest.register(alice, "dead", DEAD)

    answer = await rest.call(alice, "POST", json={"serverName": "dead", "url": DEAD})

    assert (answer.status_code, answer.json()) == (
        409,
        {
            "error": "conflict",
            "message": "A server with serverName 'dead' already exists",
            "field": "serverName",
        },
    )


@pytest.mark.requirement("R-139")
@pytest.mark.requirement("R-117")
async def test_a_list_says_where_its_page_stands(rest: Rest, alice: UserContext) -> None:
    for number in range(5):
        await rest.register(alice, f"s{number}", DEAD)

    first = (await rest.call(alice, "GET", "?page=1&per_page=2")).json()
    beyond = (await rest.call(alice, "GET", "?page=9&per_page=2")).json()

    totals = {"total": 5, "per_page": 2, "total_pages": 3}
    assert first["pagination"] == {**totals, "page": 1}
    assert len(first["servers"]) == 2
    assert beyond == {"servers": [], "pagination": {**totals, "page": 9}}


@pytest.mark.requirement("R-119")
async def test_pages_follow_the_last_change_and_neither_repeat_nor_skip(
    rest: Rest, alice: UserContext
) -> None:
    for number in range(5):
        await rest.register(alice, f"s{number}", DEAD)
    # Equal times leave the order to the id.
    same = {"updatedAt": rest.parts.clock.now()}
    servers = rest.parts.database.collection("mcpservers")
    await servers.update_many({"serverName": {"$in": ["s1", "s2", "s3"]}}, {"$set": same})
    await rest.follow()

    pages = [await names(rest, alice, f"?page={page}&per_page=2") for page in (1, 2, 3)]

    assert pages == [["s1", "s2"], ["s3", "s4"], ["s0"]]


@pytest.mark.requirement("R-114")
@pytest.mark.parametrize(
    ("text", "found"),
    [("FINDME", ["named-findme", "titled", "tagged", "described"]), (".*", []), ("find.e", [])],
)
async def test_a_search_looks_at_names_titles_descriptions_and_tags(
    rest: Rest, alice: UserContext, text: str, found: list[str]
) -> None:
    await rest.register(alice, "other", DEAD)
    await rest.register(alice, "tagged", DEAD, tags=["findme"])
    await rest.register(alice, "titled", DEAD, title="To findme")
    await rest.register(alice, "described", DEAD, description="I FindMe here")
    await rest.register(alice, "named-findme", DEAD)

    answer = await rest.call(alice, "GET", params={"query": text})

    assert [server["serverName"] for server in answer.json()["servers"]] == found


@pytest.mark.requirement("R-040")
@pytest.mark.requirement("R-115")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?scope=shared_app", ["shared"]),
        ("?status=inactive", ["off"]),
        ("?scope=private_user&status=active", ["on"]),
        ("?status=error", []),
    ],
)
async def test_lists_are_narrowed_by_scope_and_status(
    rest: Rest, upstream: PlainUpstream, root: UserContext, query: str, found: list[str]
) -> None:
    await rest.register(root, "on", upstream.url)
    await rest.register(root, "shared", upstream.url, scope="shared_app")
    off = await rest.register(root, "off", upstream.url)
    await rest.call(root, "POST", f"/{off['id']}/toggle", json={"enabled": False})

    assert await names(rest, root, query) == found


@pytest.mark.requirement("R-247")
async def test_administrators_narrow_a_list_to_one_author(
    rest: Rest, root: UserContext, alice: UserContext, bob: UserContext
) -> None:
    await rest.register(alice, "hers", DEAD)
    await rest.register(bob, "his", DEAD)

    assert await names(rest, root, f"?author={alice.user_id.upper()}") == ["hers"]


async def test_users_may_not_narrow_a_list_to_another_author(
    rest: Rest, alice: UserContext, bob: UserContext
) -> None:
    answer = await rest.call(alice, "GET", f"?author={bob.user_id}")

    assert (answer.status_code, answer.json()) == (
        403,
        {
            "error": "forbidden",
            "message": "Listing the servers of another author needs the role ADMIN, which this "
            "token's user does not have.",
            "role": "ADMIN",
        },
    )


@pytest.mark.requirement("R-250")
@pytest.mark.requirement("R-121")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"title": "Mine"}),
        ("PUT", "", {"title": "Mine"}),
        ("POST", "/toggle", {"enabled": False}),
        ("POST", "/refresh", None),
        ("GET", "/tools", None),
    ],
)
async def test_anothers_private_server_looks_like_none(
    rest: Rest,
    alice: UserContext,
    bob: UserContext,
    method: str,
    path: str,
    body: dict[str, object] | None,
) -> None:
    created = await rest.register(alice, "hers", DEAD)

    answer = await rest.call(bob, method, f"/{created['id']}{path}", json=body)

    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "not_found", "message": "Server not found"},
    )


@pytest.mark.requirement("R-128")
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_put_changes_given_fields_alone_just_as_patch_does(
    rest: Rest, alice: UserContext, method: str
) -> None:
    created = await rest.register(alice, "dead", DEAD, title="Old", tags=["kept"])

    answer = await rest.call(alice, method, f"/{created['id']}", json={"title": "New"})

    expected = {
        **created,
        "title": "New",
        "updatedAt": answer.json()["updatedAt"],
        # What was tried before is no news of what is configured now.
        "connection_state": "disconnected",
    }
    assert (answer.status_code, answer.json()) == (200, expected)


@pytest.mark.requirement("R-129")
async def test_a_whole_answer_may_be_sent_back(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    created = await rest.register(alice, "plain", upstream.url, **SECRETS)

    answer = await rest.call(
        alice, "PUT", f"/{created['id']}", json={**created, "description": "More"}
    )

    assert (answer.status_code, answer.json().get("description")) == (200, "More")
    sent = upstream.seen[-1]
    assert (sent["x-key"], sent["x-team"]) == (KEY, "blue")
    assert sent["x-auth-token"] == SECRETS["headers"]["X-Auth-Token"]


OAUTH = {
    "authorization_url": "https://login.example/authorize",
    "token_url": "https://login.example/token",
    "client_id": "registry",
    "grant_types_supported": ["authorization_code"],
    "code_challenge_methods_supported": ["S256"],
    "response_types_supported": ["code"],
    "token_endpoint_auth_methods_supported": ["client_secret_basic"],
    "revocation_endpoint": "https://login.example/revoke",
    "revocation_endpoint_auth_methods_supported": ["client_secret_basic"],
    "skip_code_challenge_check": False,
}
"""All members that the published schema names."""


@pytest.mark.requirement("R-129")
async def test_a_whole_answer_with_all_published_oauth_members_may_be_sent_back(
    rest: Rest, alice: UserContext
) -> None:
    created = await rest.register(alice, "dead", DEAD, oauth=OAUTH)
    stored = rest.parts.database.db["mcpservers"]
    # The published schema allows further members, which the other application may have stored.
    await stored.update_one({"serverName": "dead"}, {"$set": {"config.oauth.audience": "x"}})
    whole = (await rest.call(alice, "GET", f"/{created['id']}")).json()

    answer = await rest.call(alice, "PUT", f"/{created['id']}", json={**whole, "title": "More"})
    other = await rest.call(
        alice, "PATCH", f"/{created['id']}", json={"oauth": {**whole["oauth"], "audience": "y"}}
    )

    assert answer.status_code == 200, answer.text
    assert answer.json()["oauth"] == {**OAUTH, "audience": "x"}
    assert (other.status_code, other.json()["details"]) == (
        422,
        [{"field": "oauth.audience", "message": "is not a known field"}],
    )


async def test_a_whole_answer_may_be_sent_back_after_a_call_has_moved_its_times(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    created = await rest.register(alice, "plain", upstream.url)
    before = {
        **created,
        "lastConnected": "2026-01-01T00:00:00.000Z",
        "lastError": "2026-01-01T00:00:00.000Z",
        "errorMessage": "It was away.",
        "connection_state": "error",
        "is_recently_active": False,
    }

    answer = await rest.call(
        alice, "PUT", f"/{created['id']}", json={**before, "description": "More"}
    )

    told = answer.json()
    assert (answer.status_code, told["description"]) == (200, "More")
    assert (told["lastConnected"] >= created["lastConnected"], told["errorMessage"]) == (
        True,
        None,
    )


@pytest.mark.requirement("R-048")
@pytest.mark.requirement("R-130")
async def test_an_outdated_update_tells_both_times(rest: Rest, alice: UserContext) -> None:
    created = await rest.register(alice, "dead", DEAD)
    path = f"/{created['id']}"
    newer = (await rest.call(alice, "PATCH", path, json={"title": "Newer"})).json()

    answer = await rest.call(
        alice, "PATCH", path, json={"title": "Older", "updatedAt": created["updatedAt"]}
    )

    assert answer.status_code == 409
    assert answer.json() == {
        "error": "conflict",
        "message": "Server was modified by another process",
        "current_updated_at": newer["updatedAt"],
        "provided_updated_at": created["updatedAt"],
    }


@pytest.mark.requirement("R-130")
async def test_an_etag_guards_an_update(rest: Rest, alice: UserContext) -> None:
    created = await rest.register(alice, "dead", DEAD)
    path = f"/{created['id']}"
    tag = (await rest.call(alice, "GET", path)).headers["ETag"]

    first = await rest.call(alice, "PATCH", path, json={"title": "1"}, headers={"If-Match": tag})
    second = await rest.call(alice, "PATCH", path, json={"title": "2"}, headers={"If-Match": tag})
    anyway = await rest.call(alice, "PATCH", path, json={"title": "3"}, headers={"If-Match": "*"})

    assert [first.status_code, second.status_code, anyway.status_code] == [200, 409, 200]
    assert first.headers["ETag"] == f'"{first.json()["updatedAt"]}"'


async def test_a_strange_etag_is_refused_by_name(rest: Rest, alice: UserContext) -> None:
    created = await rest.register(alice, "dead", DEAD)

    answer = await rest.call(
        alice, "PATCH", f"/{created['id']}", json={}, headers={"If-Match": '"abc"'}
    )

    assert (answer.status_code, answer.json()["error"]) == (412, "precondition_failed")
    assert answer.json()["message"].startswith("If-Match is not an ETag of this resource")


@pytest.mark.requirement("R-132")
async def test_a_second_delete_finds_nothing(rest: Rest, alice: UserContext) -> None:
    created = await rest.register(alice, "dead", DEAD)

    first = await rest.call(alice, "DELETE", f"/{created['id']}")
    second = await rest.call(alice, "DELETE", f"/{created['id']}")

    assert (first.status_code, first.content) == (204, b"")
    assert (second.status_code, second.json()) == (
        404,
        {"error": "not_found", "message": "Server not found"},
    )


@pytest.mark.requirement("R-132")
async def test_deleting_anothers_private_server_is_forbidden_in_these_words(
    rest: Rest, alice: UserContext, bob: UserContext
) -> None:
    created = await rest.register(alice, "hers", DEAD)

    answer = await rest.call(bob, "DELETE", f"/{created['id']}")

    assert (answer.status_code, answer.json()) == (
        403,
        {"error": "forbidden", "message": "Cannot delete another user's private server"},
    )


@pytest.mark.requirement("R-134")
@pytest.mark.parametrize(
    ("enabled", "status", "message"),
    [
        (True, "active", "Server enabled successfully"),
        (False, "inactive", "Server disabled successfully"),
    ],
)
async def test_a_toggle_answers_the_new_state_however_often(
    rest: Rest,
    upstream: PlainUpstream,
    alice: UserContext,
    *,
    enabled: bool,
    status: str,
    message: str,
) -> None:
    created = await rest.register(alice, "plain", upstream.url)
    path = f"/{created['id']}/toggle"

    first = (await rest.call(alice, "POST", path, json={"enabled": enabled})).json()
    second = (await rest.call(alice, "POST", path, json={"enabled": enabled})).json()

    assert first == second
    assert first == {
        "id": created["id"],
        "serverName": "plain",
        "status": status,
        "enabled": enabled,
        "message": message,
        "updatedAt": first["updatedAt"],
        "permissions": ALL_RIGHTS,
    }


@pytest.mark.requirement("R-244")
async def test_users_change_their_own_servers_and_not_the_shared_ones_that_they_see(
    rest: Rest, root: UserContext, alice: UserContext
) -> None:
    created = await rest.register(root, "shared", DEAD, scope="shared_app")
    path = f"/{created['id']}"

    seen = await rest.call(alice, "GET", path)
    changed = await rest.call(alice, "PATCH", path, json={"title": "Mine"})
    deleted = await rest.call(alice, "DELETE", path)

    own = await rest.register(alice, "own", DEAD)
    path = f"/{own['id']}"
    answers = [
        await rest.call(alice, "PATCH", path, json={"title": "Mine"}),
        await rest.call(alice, "DELETE", path),
    ]

    assert [seen.status_code, changed.status_code, deleted.status_code] == [200, 403, 403]
    assert [answer.status_code for answer in answers] == [200, 204]


@pytest.mark.requirement("R-243")
async def test_users_may_not_register_shared_servers(rest: Rest, alice: UserContext) -> None:
    answer = await rest.call(
        alice, "POST", json={"serverName": "s", "url": DEAD, "scope": "shared_app"}
    )

    assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")


@pytest.mark.requirement("R-003")
@pytest.mark.requirement("R-135")
async def test_tools_are_answered_in_their_own_form_from_the_database(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    created = await rest.register(alice, "plain", upstream.url)
    asked = len(upstream.seen)

    answer = (await rest.call(alice, "GET", f"/{created['id']}/tools")).json()

    assert len(upstream.seen) == asked
    assert answer == {
        "id": created["id"],
        "serverName": "plain",
        "tools": [
            {
                "name": "echo",
                "description": "Says it again.",
                "inputSchema": {
                    "type": "object",
                    "properties": {"text": {"type": "string"}},
                    "required": ["text"],
                },
            }
        ],
        "numTools": 1,
        "capabilities": {"tools": {"listChanged": True}},
        "permissions": ALL_RIGHTS,
        "cached": True,
        "retrievedAt": created["lastConnected"],
    }


@pytest.mark.requirement("E-15")
@pytest.mark.requirement("E-16")
async def test_schemas_come_back_as_they_were_sent(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    upstream.tools = f'[{{"name":"big","inputSchema":{VERBATIM_SCHEMA}}}]'
    created = await rest.register(alice, "plain", upstream.url)

    tools = await rest.call(alice, "GET", f"/{created['id']}/tools")

    assert VERBATIM_SCHEMA in tools.text


@pytest.mark.requirement("R-136")
async def test_a_refresh_answers_what_it_found(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    created = await rest.register(alice, "plain", upstream.url)
    upstream.tools = '[{"name":"one","inputSchema":{"type":"object"}},{"name":"x y"}]'

    answer = await rest.call(alice, "POST", f"/{created['id']}/refresh")

    body = answer.json()
    assert answer.status_code == 200
    assert body["lastConnected"] > created["lastConnected"]
    assert [problem["name"] for problem in body.pop("toolProblems")] == ["x y"]
    assert {(one["name"], one["change"]) for one in body.pop("changes")} == {
        ("echo", "removed"),
        ("one", "added"),
    }
    for name in ("lastConnected", "updatedAt", "initDuration"):
        assert body.pop(name)
    assert body == {
        "id": created["id"],
        "serverName": "plain",
        "status": "active",
        "lastError": None,
        "errorMessage": None,
        "numTools": 1,
        "capabilities": '{"tools":{"listChanged":true}}',
        "tools": "one",
        "ok": True,
        "message": "Server health check successful",
        "permissions": ALL_RIGHTS,
    }


@pytest.mark.requirement("R-136")
async def test_a_failed_refresh_says_why_and_keeps_the_tools(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    created = await rest.register(alice, "plain", upstream.url)
    upstream.redirects_to = "http://127.0.0.1:9/mcp"

    answer = (await rest.call(alice, "POST", f"/{created['id']}/refresh")).json()

    assert answer["ok"] is False
    assert answer["message"].startswith("Server health check failed: ")
    assert answer["lastConnected"] == created["lastConnected"]
    assert answer["lastError"] is not None
    assert (answer["tools"], answer["numTools"]) == ("echo", 1)


async def test_a_connection_is_tried_without_storing_anything(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    answer = await rest.call(alice, "POST", "/connection", json={"url": upstream.url})

    body = answer.json()
    assert answer.status_code == 200
    assert (body["ok"], body["numTools"], body["tools"][0]["name"]) == (True, 1, "echo")
    assert body["protocolVersion"] == "2025-11-25"
    assert await names(rest, alice) == []


async def test_a_connection_is_tried_with_the_body_of_a_registration(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    registration = {
        "serverName": "plain",
        "url": upstream.url,
        "type": "http",
        "scope": "private_user",
        "tags": ["one"],
        "autoExpose": "none",
        "syncMode": "manual",
    }

    tried = await rest.call(alice, "POST", "/connection", json=registration)
    registered = await rest.call(alice, "POST", json=registration)

    assert (tried.status_code, tried.json()["ok"]) == (200, True)
    assert (registered.status_code, registered.json()["type"]) == (201, "streamable-http")


@pytest.mark.parametrize("path", ["", "/connection"])
async def test_a_registration_may_ask_for_less_patience(
    rest: Rest, upstream: PlainUpstream, alice: UserContext, path: str
) -> None:
    upstream.released.clear()
    body = {"serverName": "slow", "url": upstream.url, "initTimeout": 50}

    async with asyncio.timeout(10):
        answer = await rest.call(alice, "POST", path, json=body)

    assert "within 0.05 s" in answer.text


async def test_a_server_that_requires_oauth_says_that_nobody_has_authorised_it(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    created = await rest.register(alice, "github", upstream.url, requiresOAuth=True)

    refreshed = (await rest.call(alice, "POST", f"/{created['id']}/refresh")).json()
    without = await rest.call(alice, "PATCH", f"/{created['id']}", json={"requiresOAuth": False})

    assert (created["status"], created["tools"]) == ("active", "")
    assert "Nobody has authorised the registry at this server yet" in created["errorMessage"]
    assert (refreshed["ok"], refreshed["errorMessage"]) == (False, created["errorMessage"])
    assert (without.json()["errorMessage"], without.json()["tools"]) == (None, "echo")


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "words"),
    [
        ("GET", "/not-an-id", None, "server_id", "must be an id: 24 hexadecimal characters"),
        ("POST", "", {"serverName": "two words", "url": DEAD}, "serverName", "must be letters"),
        (
            "POST",
            "",
            {"serverName": "x", "url": DEAD, "path": "/other"},
            "path",
            "must be /mcp/ and one name",
        ),
    ],
)
async def test_what_does_not_fit_is_told_in_words(
    rest: Rest, alice: UserContext, method: str, path: str, body: Any, field: str, words: str
) -> None:
    answer = await rest.call(alice, method, path, json=body)

    (detail,) = answer.json()["details"]
    assert (answer.status_code, detail["field"]) == (422, field)
    assert detail["message"].startswith(words)


async def test_every_pattern_of_the_api_is_told_in_words(rest: Rest) -> None:
    document = (await rest.client.get("/api/v1/openapi.json")).text

    patterns = {
        json.loads(text) for text in re.findall(r'"pattern":("(?:[^"\\\\]|\\\\.)*")', document)
    }
    assert patterns - PATTERN_WORDS.keys() == set()


async def test_an_address_without_mcp_is_told_to_try_it(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    root = upstream.url.removesuffix("/mcp")

    answer = await rest.call(alice, "POST", "/connection", json={"url": root})

    assert answer.status_code == 502
    assert f"try {upstream.url}" in answer.json()["message"]


async def test_a_connection_that_fails_says_why(rest: Rest, alice: UserContext) -> None:
    answer = await rest.call(alice, "POST", "/connection", json={"url": DEAD})

    assert (answer.status_code, answer.json()["message"]) == (
        502,
        "Could not connect to http://127.0.0.1:9.",
    )


@pytest.mark.requirement("R-139")
@pytest.mark.requirement("R-137")
async def test_statistics_are_no_server_and_name_every_kind(
    rest: Rest, upstream: PlainUpstream, root: UserContext
) -> None:
    await rest.register(root, "plain", upstream.url, scope="shared_user")

    answer = await rest.call(root, "GET", "/stats")

    body = answer.json()
    assert answer.status_code == 200
    tokens = body.pop("tokens_by_type")
    assert set(tokens.values()) == {0}
    assert body == {
        "total_servers": 1,
        "servers_by_scope": {"shared_app": 0, "shared_user": 1, "private_user": 0},
        "servers_by_status": {"active": 1, "inactive": 0, "error": 0},
        "servers_by_transport": {"streamable-http": 1, "sse": 0},
        "total_tokens": 0,
        "active_tokens": 0,
        "expired_tokens": 0,
        "active_users": 0,
        "total_tools": 1,
    }


@pytest.mark.requirement("R-137")
async def test_statistics_are_for_administrators(rest: Rest, alice: UserContext) -> None:
    answer = await rest.call(alice, "GET", "/stats")

    assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")


@pytest.mark.requirement("R-003")
@pytest.mark.requirement("R-049")
@pytest.mark.requirement("R-322")
@pytest.mark.requirement("E-22")
async def test_a_bare_document_of_the_other_application_is_shown_with_defaults(
    rest: Rest, alice: UserContext
) -> None:
    servers = rest.parts.database.collection("mcpservers")
    document = {
        "serverName": "bare",
        "author": ObjectId(alice.user_id),
        "config": {"url": "http://user:pass@example.com/sse", "requiresOAuth": "odd"},
    }
    inserted = await servers.insert_one(document)
    await rest.follow()

    listed = (await rest.call(alice, "GET")).json()["servers"]
    detail = (await rest.call(alice, "GET", f"/{inserted.inserted_id}")).json()

    assert listed == [
        {
            "id": str(inserted.inserted_id),
            "serverName": "bare",
            "url": "http://example.com/sse",
            "requiresOAuth": False,
            "tools": "",
            "author": alice.user_id,
            "scope": "private_user",
            "status": "active",
            "path": "/mcp/bare",
            "tags": [],
            "numTools": 0,
            "numStars": 0,
            "lastConnected": None,
            "createdAt": None,
            "updatedAt": None,
            "permissions": ALL_RIGHTS,
            "connection_state": "disconnected",
            "is_recently_active": False,
        }
    ]
    assert detail.pop("embedding") in (None, NO_MODEL)
    assert detail == {
        **listed[0],
        "toolFunctions": {},
        "lastError": None,
        "errorMessage": None,
        "syncMode": "manual",
    }
    assert await servers.find_one({}) == {**document, "_id": inserted.inserted_id}


async def test_trying_a_server_whose_users_bring_keys_needs_one(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    body = {"url": upstream.url, "apiKey": {"source": "user"}}

    without = await rest.call(alice, "POST", "/connection", json=body)
    body = {"url": upstream.url, "apiKey": {"source": "user", "key": KEY}}
    with_key = await rest.call(alice, "POST", "/connection", json=body)

    assert without.json()["details"] == [
        {"field": "apiKey.key", "message": "is needed to try this server"}
    ]
    assert (with_key.status_code, upstream.seen[-1]["authorization"]) == (200, f"Bearer {KEY}")


async def test_a_server_whose_name_does_not_resolve_is_stored_with_its_error(
    rest: Rest, alice: UserContext
) -> None:
    created = await rest.register(
        alice, "lost", "http://nowhere.invalid/mcp", apiKey={"source": "user"}
    )

    assert created["status"] == "error"
    assert created["errorMessage"] == "The name nowhere.invalid cannot be resolved."


@pytest.mark.requirement("R-138")
async def test_a_path_with_a_slash_too_many_is_not_redirected(
    rest: Rest, root: UserContext
) -> None:
    answer = await rest.call(root, "GET", "/")

    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


async def test_a_refresh_without_the_callers_own_key_does_not_claim_success(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    created = await rest.register(alice, "plain", upstream.url, apiKey={"source": "user"})

    answer = (await rest.call(alice, "POST", f"/{created['id']}/refresh")).json()

    assert answer["lastConnected"] is None
    assert answer["message"] == (
        "The server was not asked: it needs an API key of your own, and you have stored none"
    )


async def test_rules_for_calls_can_be_set_replaced_and_taken_back(
    rest: Rest, alice: UserContext, upstream: PlainUpstream
) -> None:
    rules = {"validate": "report", "validateOutput": "enforce", "confirm": "never"}
    server = await rest.register(
        alice, "sums", upstream.url, callRules=rules, defaultEffect="deny"
    )
    path = f"/{server['id']}"

    changed = await rest.call(alice, "PATCH", path, json={"callRules": {"confirm": "always"}})
    same = await rest.call(alice, "PATCH", path, json={"callRules": {"confirm": "always"}})
    opened = await rest.call(alice, "PATCH", path, json={"defaultEffect": "allow"})
    back = await rest.call(alice, "PATCH", path, json={"callRules": None, "defaultEffect": None})
    unclear = await rest.call(alice, "PATCH", path, json={"defaultEffect": "maybe"})
    unnamed = await rest.call(alice, "PATCH", path, json={"title": "Sums"})
    odd = [{"validate": "maybe"}, {"approve": "x"}, [], "on", {"validateOutput": 3}]
    wrong = [await rest.call(alice, "PATCH", path, json={"callRules": one}) for one in odd]

    assert server["callRules"] == rules
    assert changed.json()["callRules"] == {"confirm": "always"}
    assert same.json()["updatedAt"] == changed.json()["updatedAt"]
    assert "callRules" not in back.json()
    assert [one.json().get("consequence") for one in (opened, back, unnamed)] == [
        'Opens "echo" to everyone to whom no policy denies it.',
        "Changes for nobody which tools they may use.",
        None,
    ]
    assert server["consequence"] == 'Closes "echo" to all others but administrators.'
    assert (server["defaultEffect"], opened.json()["defaultEffect"]) == ("deny", "allow")
    assert "defaultEffect" not in back.json()
    assert unclear.status_code == 422
    assert [answer.status_code for answer in wrong] == [422] * len(odd)


async def test_what_becomes_of_new_and_changed_tools_can_be_set_and_taken_back(
    rest: Rest, alice: UserContext, upstream: PlainUpstream
) -> None:
    server = await rest.register(alice, "sums", upstream.url, onChange="block")

    changed = await rest.call(
        alice, "PATCH", f"/{server['id']}", json={"autoExpose": "none", "onChange": "hold"}
    )
    back = await rest.call(alice, "PATCH", f"/{server['id']}", json={"onChange": None})
    wrong = await rest.call(alice, "PATCH", f"/{server['id']}", json={"onChange": "ignore"})
    empty = await rest.call(alice, "PATCH", f"/{server['id']}", json={"autoExpose": None})

    assert server["onChange"] == "block"
    assert (changed.json()["autoExpose"], changed.json()["onChange"]) == ("none", "hold")
    assert changed.json()["updatedAt"] > server["updatedAt"]
    assert "onChange" not in back.json()
    assert (wrong.status_code, empty.status_code) == (422, 422)
