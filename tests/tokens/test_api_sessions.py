"""Tokens that we issue: generated, exchanged and revoked, over HTTP."""

import asyncio
import json
import uuid
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from bson import ObjectId, json_util
from jose import jwt
from structlog.testing import capture_logs

from packages.database.client import Doc
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, Scope, UserContext
from tests.fakes.rest import JWT_SECRET, Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
REFUSED = {"error": "unauthorized", "message": "The refresh token is invalid, expired or revoked."}
WIDE = [Scope.READ_SERVERS, Scope.WRITE_TOKENS]


@pytest.fixture
def user() -> UserContext:
    """Return a user of this test's own, because revocations are remembered."""
    return UserContext(uuid.uuid4().hex[:24], "vera", Role.USER, USER_SCOPES)


async def generate(rest: Rest, user: UserContext, *scopes: str, **more: Any) -> dict[str, Any]:
    sent = {"expires_in_hours": 8, **more, **({"requested_scopes": scopes} if scopes else {})}
    answer = await rest.ask(user, "POST", "/tokens/generate", json=sent)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["tokens"])


async def exchange(rest: Rest, refresh_token: str) -> httpx.Response:
    sent = {"refresh_token": refresh_token}
    return await rest.client.post("/api/v1/tokens/refresh-session", json=sent)


async def using(
    rest: Rest, token: str, path: str = "/servers", method: str = "GET", **request: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return await rest.client.request(method, f"/api/v1{path}", headers=headers, **request)


async def revoke(rest: Rest, user: UserContext, **what: str) -> httpx.Response:
    return await rest.ask(user, "POST", "/tokens/revoke", json=what)


def claims_of(token: str) -> dict[str, Any]:
    return dict(jwt.get_unverified_claims(token))


PARAMETERS = defaultdict(
    lambda: "f" * 24, version="1", resource_type="mcpServer", name="MCP_API_KEY"
)
"""Of paths; all others are ids."""


async def records(rest: Rest) -> list[Doc]:
    found = rest.parts.database.collection("audit_logs").find({"entity_type": "session"})
    return await found.sort([("timestamp", 1), ("_id", 1)]).to_list()


async def families(rest: Rest) -> list[Doc]:
    return await rest.parts.database.collection("token_families").find({}).to_list()


async def known(rest: Rest, user: UserContext, role: str = "USER") -> None:
    await rest.parts.database.collection("users").update_one(
        {"_id": ObjectId(user.user_id)},
        {"$set": {"role": role, "username": user.username}},
        upsert=True,
    )


@pytest.mark.requirement("R-265")
async def test_a_pair_is_generated(rest: Rest, user: UserContext) -> None:
    sent = {
        "requested_scopes": ["write:servers", "read:servers"],
        "expires_in_hours": 8,
        "description": "Token for automation",
    }
    answer = await rest.ask(user, "POST", "/tokens/generate", json=sent)

    body = answer.json()
    tokens = body["tokens"]
    access, refresh = claims_of(tokens["access_token"]), claims_of(tokens["refresh_token"])
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert body == {
        "success": True,
        "tokens": {
            "jti": access["jti"],
            "access_token": tokens["access_token"],
            "refresh_token": tokens["refresh_token"],
            "expires_in": 28800,
            "refresh_expires_in": 86400,
            "token_type": "Bearer",
            "scope": "write:servers read:servers",
        },
    }
    for token in (tokens["access_token"], tokens["refresh_token"]):
        header = jwt.get_unverified_header(token)
        assert (header["alg"], header["kid"]) == ("RS256", rest.parts.keys.kid)
    assert access["exp"] - access["iat"] == 28800
    assert refresh["exp"] - refresh["iat"] == 86400
    assert access["sid"] == refresh["sid"]
    assert (access["role"], access["user_id"]) == ("user", user.user_id)
    assert access["scope"] == "read:servers write:servers"


@pytest.mark.requirement("R-265")
async def test_a_long_access_token_has_a_refresh_token_that_is_as_long(
    rest: Rest, user: UserContext
) -> None:
    tokens = await generate(rest, user, expires_in_hours=48)

    assert tokens["refresh_expires_in"] == tokens["expires_in"] == 48 * 3600
    assert tokens["scope"].split() == sorted(user.scopes)


@pytest.mark.requirement("R-266")
async def test_scopes_that_the_caller_lacks_are_named_all(rest: Rest, user: UserContext) -> None:
    scopes = ["read:servers", "read:audit", "write:tools"]
    user = replace(user, scopes=frozenset({Scope.READ_SERVERS, Scope.WRITE_TOKENS}))
    sent = {"requested_scopes": scopes, "expires_in_hours": 1}

    answer = await rest.ask(user, "POST", "/tokens/generate", json=sent)

    assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_scope")
    assert answer.json()["scope"] == "read:audit write:tools"
    assert await families(rest) == []


@pytest.mark.requirement("R-266")
async def test_scopes_that_only_policies_know_are_handed_on_by_their_bearers_alone(
    rest: Rest, user: UserContext
) -> None:
    bearer = replace(user, custom_scopes=frozenset({"finance:read", "ops"}))
    wanted = {"requested_scopes": ["read:tools", "finance:read"], "expires_in_hours": 1}

    usual = await generate(rest, bearer)
    some = await generate(rest, bearer, "read:tools", "finance:read")
    renewed = (await exchange(rest, some["refresh_token"])).json()["tokens"]
    refused = [
        await rest.ask(other, "POST", "/tokens/generate", json=wanted)
        for other in (user, replace(user, role=Role.ADMIN, scopes=ALL_SCOPES))
    ]

    assert usual["scope"].split() == sorted(user.scopes)
    assert some["scope"] == renewed["scope"] == "read:tools finance:read"
    assert claims_of(renewed["access_token"])["scope"].split() == ["finance:read", "read:tools"]
    assert [answer.status_code for answer in refused] == [422, 422]
    assert {answer.json()["message"] for answer in refused} == {
        "requested_scopes: unknown scopes: finance:read"
    }


async def test_a_demoted_user_keeps_no_scope_that_only_policies_know(
    rest: Rest, user: UserContext
) -> None:
    root = replace(
        user, role=Role.ADMIN, scopes=ALL_SCOPES, custom_scopes=frozenset({"finance:read"})
    )
    await known(rest, root, "ADMIN")
    tokens = await generate(rest, root, *sorted(root.held_scopes))
    await known(rest, root, "USER")

    renewed = (await exchange(rest, tokens["refresh_token"])).json()["tokens"]

    assert "finance:read" in tokens["scope"].split()
    assert renewed["scope"].split() == sorted(USER_SCOPES)


@pytest.mark.requirement("R-266")
@pytest.mark.parametrize(
    "changed",
    [
        {"expires_in_hours": 0},
        {"expires_in_hours": -1},
        {"expires_in_hours": 721},
        {"expires_in_hours": 10**9},
        {"expires_in_hours": 1.5},
        {"expires_in_hours": "8"},
        {"expires_in_hours": True},
        {"expires_in_hours": None},
        {"requested_scopes": []},
        {"requested_scopes": ["read everything"]},
        {"requested_scopes": ['read"everything']},
        {"requested_scopes": [""]},
        {"requested_scopes": "read:servers"},
        {"description": "a" * 257},
        {"description": "a\nb"},
        {"role": "admin"},
    ],
    ids=str,
)
async def test_a_pair_that_makes_no_sense_is_refused(
    rest: Rest, user: UserContext, changed: dict[str, Any]
) -> None:
    sent = {"expires_in_hours": 1, **changed}

    answer = await rest.ask(user, "POST", "/tokens/generate", json=sent)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")


@pytest.mark.requirement("R-267")
@pytest.mark.parametrize("role", Role)
async def test_a_generated_token_may_do_what_it_says_and_nothing_else(
    rest: Rest, user: UserContext, role: Role
) -> None:
    owner = UserContext(user.user_id, "vera", role, ALL_SCOPES)
    token = (await generate(rest, owner, "read:servers"))["access_token"]
    operations = (await rest.client.get("/api/v1/openapi.json")).json()["paths"]
    closed = [
        (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in operations.items()
        for method, operation in methods.items()
        if operation.get("security") and path.startswith("/api/v1")
    ]

    refused = {
        (method, path)
        for method, path in closed
        if (await using(rest, token, path.format_map(PARAMETERS), method)).json().get("error")
        == "insufficient_scope"
    }

    allowed = set(closed) - refused
    assert (await using(rest, token)).status_code == 200
    assert ("GET", "/servers") in allowed
    assert {one for one in allowed if one[0] != "GET"} == {("POST", "/search")}
    assert {path for _, path in allowed if path.startswith("/tokens")} == set()
    answer = await rest.client.post(
        "/mcp/anything",
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        content=b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}',
    )
    assert answer.status_code in {403, 406}


@pytest.mark.requirement("R-265")
async def test_neither_token_stands_in_for_the_other(rest: Rest, user: UserContext) -> None:
    tokens = await generate(rest, user)

    assert (await using(rest, tokens["refresh_token"])).status_code == 401
    gateway = await rest.client.post(
        "/mcp/anything",
        headers={
            "Authorization": f"Bearer {tokens['refresh_token']}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        },
        content=b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}',
    )
    assert gateway.status_code == 401
    assert (await exchange(rest, tokens["access_token"])).json() == REFUSED
    assert (await using(rest, tokens["access_token"])).status_code == 200


@pytest.mark.requirement("R-265")
async def test_a_refresh_token_is_exchanged_once(rest: Rest, user: UserContext) -> None:
    first = await generate(rest, user, "read:tokens", "read:servers", expires_in_hours=2)

    answer = await exchange(rest, first["refresh_token"])

    second = answer.json()["tokens"]
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert (second["scope"], second["expires_in"]) == ("read:tokens read:servers", 7200)
    assert (await using(rest, second["access_token"])).status_code == 200
    assert (await exchange(rest, second["refresh_token"])).status_code == 200


@pytest.mark.requirement("R-265")
async def test_a_refresh_token_that_comes_back_ends_the_whole_family(
    rest: Rest, user: UserContext
) -> None:
    first = await generate(rest, user)
    second = (await exchange(rest, first["refresh_token"])).json()["tokens"]
    assert (await using(rest, second["access_token"])).status_code == 200

    reused = await exchange(rest, first["refresh_token"])

    assert (reused.status_code, reused.json()) == (401, REFUSED)
    assert (await exchange(rest, second["refresh_token"])).json() == REFUSED
    for tokens in (first, second):
        assert (await using(rest, tokens["access_token"])).status_code == 401
    found = await records(rest)
    assert [row["action"] for row in found] == ["issue", "refresh", "revoke"]
    assert found[2]["reason"] == "refresh token reused"


@pytest.mark.requirement("R-265")
async def test_of_twenty_exchanges_at_once_one_wins_and_the_family_ends(
    rest: Rest, user: UserContext
) -> None:
    first = await generate(rest, user)

    answers = await asyncio.gather(*(exchange(rest, first["refresh_token"]) for _ in range(20)))

    good = [answer for answer in answers if answer.status_code == 200]
    assert len(good) == 1
    assert {answer.status_code for answer in answers} == {200, 401}
    winner = good[0].json()["tokens"]
    assert (await using(rest, winner["access_token"])).status_code == 401
    assert (await exchange(rest, winner["refresh_token"])).json() == REFUSED
    actions = [row["action"] for row in await records(rest)]
    assert sorted(actions) == ["issue", "refresh", "revoke"]


def forged(rest: Rest, kind: str, tokens: dict[str, Any]) -> str:
    good = claims_of(tokens["refresh_token"])
    keys = rest.parts.keys

    def sign(**changed: Any) -> str:
        claims = {**good, **changed}
        headers = {"kid": keys.kid}
        return str(jwt.encode(claims, keys.private_pem, algorithm="RS256", headers=headers))

    made: dict[str, str] = {
        "malformed": "abc",
        "not ascii": "ä.ö.ü",
        "another algorithm": str(jwt.encode(good, JWT_SECRET, algorithm="HS256")),
        "expired": sign(exp=good["iat"] - 60),
        "of no family": sign(sid="0" * 32),
        "of another user": sign(sub="e" * 24),
        "for another use": sign(token_use="access"),
        "signature cut": tokens["refresh_token"][:-4],
        "too long": "a" * 5000,
    }
    return made[kind]


@pytest.mark.requirement("R-265")
@pytest.mark.parametrize(
    "kind",
    [
        "malformed",
        "not ascii",
        "another algorithm",
        "expired",
        "of no family",
        "of another user",
        "for another use",
        "signature cut",
        "too long",
    ],
)
async def test_what_is_no_good_refresh_token_is_refused_in_one_way(
    rest: Rest, user: UserContext, kind: str
) -> None:
    tokens = await generate(rest, user)

    answer = await exchange(rest, forged(rest, kind, tokens))

    assert (answer.status_code, answer.json()) == (401, REFUSED)
    assert (await exchange(rest, tokens["refresh_token"])).status_code == 200


async def test_an_exchange_takes_small_bodies_only(rest: Rest) -> None:
    large = {"refresh_token": "a" * 9000}
    assert (
        await rest.client.post("/api/v1/tokens/refresh-session", json=large)
    ).status_code == 413
    for body in ({}, {"refresh_token": ""}, {"refresh_token": 1}, {"refresh_token": "a", "x": 1}):
        answer = await rest.client.post("/api/v1/tokens/refresh-session", json=body)
        assert answer.status_code == 422


@pytest.mark.requirement("R-249")
async def test_a_demoted_user_gets_no_more_than_users_get(rest: Rest, user: UserContext) -> None:
    owner = UserContext(user.user_id, "vera", Role.ADMIN, ALL_SCOPES)
    await known(rest, user, "ADMIN")
    first = await generate(rest, owner, "read:servers", "read:audit")
    await known(rest, user, "USER")

    second = (await exchange(rest, first["refresh_token"])).json()["tokens"]
    await known(rest, user, "ADMIN")
    third = (await exchange(rest, second["refresh_token"])).json()["tokens"]

    assert first["scope"] == "read:servers read:audit"
    for tokens in (second, third):
        assert tokens["scope"] == "read:servers"
        assert claims_of(tokens["access_token"])["role"] == "user"


async def test_a_demoted_users_old_token_generates_none_of_an_administrator(
    rest: Rest, user: UserContext
) -> None:
    owner = UserContext(user.user_id, "vera", Role.ADMIN, ALL_SCOPES)
    await known(rest, user, "USER")
    wider = {"expires_in_hours": 8, "requested_scopes": ["read:servers", "read:audit"]}

    refused = await rest.ask(owner, "POST", "/tokens/generate", json=wider)
    tokens = await generate(rest, owner, "read:servers")

    assert (refused.status_code, refused.json()["scope"]) == (403, "read:audit")
    assert tokens["scope"] == "read:servers"
    assert claims_of(tokens["access_token"])["role"] == "user"


@pytest.mark.parametrize("change", ["removed", "disabled"])
async def test_an_administrator_who_is_out_gets_no_renewable_pair(
    rest: Rest, user: UserContext, change: str
) -> None:
    await known(rest, user, "ADMIN")
    token = rest.parts.issuer.issue(
        user_id=user.user_id,
        username="vera",
        role=Role.ADMIN,
        scopes=ALL_SCOPES,
        lifetime=timedelta(minutes=5),
    )
    body = {"expires_in_hours": 1}
    before = await using(rest, token, "/tokens/generate", "POST", json=body)
    users = rest.parts.database.collection("users")
    if change == "removed":
        await users.delete_one({"_id": ObjectId(user.user_id)})
    else:
        await users.update_one({"_id": ObjectId(user.user_id)}, {"$set": {"disabled": True}})
    rest.parts.authenticator.forget_users()

    answer = await using(rest, token, "/tokens/generate", "POST", json=body)
    renewed = await exchange(rest, before.json()["tokens"]["refresh_token"])

    assert (before.status_code, answer.status_code) == (200, 401)
    assert renewed.json() == REFUSED


async def test_a_disabled_users_family_ends(rest: Rest, user: UserContext) -> None:
    await known(rest, user)
    tokens = await generate(rest, user)
    users = rest.parts.database.collection("users")
    await users.update_one({"_id": ObjectId(user.user_id)}, {"$set": {"disabled": True}})
    refused = await exchange(rest, tokens["refresh_token"])
    await users.update_one({"_id": ObjectId(user.user_id)}, {"$unset": {"disabled": ""}})

    answer = await exchange(rest, tokens["refresh_token"])

    assert refused.json() == answer.json() == REFUSED
    assert (await records(rest))[-1]["reason"] == "user is disabled"


async def test_what_a_service_account_generates_is_of_a_service_account(
    rest: Rest, user: UserContext
) -> None:
    first = await generate(rest, user)

    renewed = (await exchange(rest, first["refresh_token"])).json()["tokens"]

    for tokens in (first, renewed):
        assert claims_of(tokens["access_token"])["service_account"] is True
        assert (await using(rest, tokens["access_token"])).status_code == 200


async def test_a_generated_token_of_a_user_who_is_gone_generates_no_other(
    rest: Rest, user: UserContext
) -> None:
    await known(rest, user)
    token = (await generate(rest, user))["access_token"]
    await rest.parts.database.collection("users").delete_one({"_id": ObjectId(user.user_id)})
    rest.parts.authenticator.forget_users()

    body = {"expires_in_hours": 1}
    answer = await using(rest, token, "/tokens/generate", "POST", json=body)

    assert answer.status_code == 401


@pytest.mark.requirement("R-249")
async def test_a_user_who_is_gone_gets_nothing_any_more(rest: Rest, user: UserContext) -> None:
    await known(rest, user)
    tokens = await generate(rest, user)
    await rest.parts.database.collection("users").delete_one({"_id": ObjectId(user.user_id)})

    answer = await exchange(rest, tokens["refresh_token"])

    assert answer.json() == REFUSED
    assert (await using(rest, tokens["access_token"])).status_code == 401
    assert (await records(rest))[-1]["reason"] == "user is gone"


@pytest.mark.requirement("R-266")
async def test_nothing_outlives_the_family_nor_what_it_was_generated_with(
    rest: Rest, user: UserContext
) -> None:
    parent = await generate(rest, user)
    end = rest.parts.clock.now() + timedelta(hours=3)
    rows = rest.parts.database.collection("token_families")
    await rows.update_many({}, {"$set": {"expires_at": end}})

    answer = await using(
        rest, parent["access_token"], "/tokens/generate", "POST", json={"expires_in_hours": 100}
    )
    renewed = (await exchange(rest, parent["refresh_token"])).json()["tokens"]

    child = answer.json()["tokens"]
    for tokens in (child, renewed):
        assert tokens["expires_in"] <= 3 * 3600
        assert tokens["refresh_expires_in"] <= 3 * 3600
    await rows.update_many({}, {"$set": {"expires_at": rest.parts.clock.now()}})
    assert (await exchange(rest, renewed["refresh_token"])).json() == REFUSED


@pytest.mark.requirement("R-266")
async def test_a_generated_token_hands_on_no_more_than_it_has(
    rest: Rest, user: UserContext
) -> None:
    narrow = await generate(rest, user, *WIDE)
    wider = {"requested_scopes": ["write:servers"], "expires_in_hours": 1}

    answer = await using(rest, narrow["access_token"], "/tokens/generate", "POST", json=wider)
    same = await using(
        rest, narrow["access_token"], "/tokens/generate", "POST", json={"expires_in_hours": 1}
    )

    assert answer.json()["scope"] == "write:servers"
    assert answer.status_code == 403
    assert same.json()["tokens"]["scope"] == "read:servers write:tokens"


async def test_generations_are_bounded(rest: Rest, user: UserContext) -> None:
    token = (await generate(rest, user, *WIDE))["access_token"]
    statuses = []
    for _ in range(17):
        answer = await using(rest, token, "/tokens/generate", "POST", json={"expires_in_hours": 1})
        statuses.append(answer.status_code)
        token = answer.json().get("tokens", {}).get("access_token", token)

    assert statuses == [200] * 15 + [403] * 2


@pytest.mark.requirement("R-267")
async def test_revoking_a_token_ends_its_family_and_all_that_came_of_it(
    rest: Rest, user: UserContext
) -> None:
    parent = await generate(rest, user, *WIDE)
    made = await using(
        rest, parent["access_token"], "/tokens/generate", "POST", json={"expires_in_hours": 1}
    )
    child = made.json()["tokens"]
    bystander = await generate(rest, user)
    jti = claims_of(parent["access_token"])["jti"]

    answer = await revoke(rest, user, jti=jti)
    again = await revoke(rest, user, jti=jti)

    assert answer.json() == {"revoked": True, "already_revoked": False, "jti": jti}
    assert again.json() == {"revoked": True, "already_revoked": True, "jti": jti}
    for tokens in (parent, child):
        assert (await using(rest, tokens["access_token"])).status_code == 401
        assert (await exchange(rest, tokens["refresh_token"])).json() == REFUSED
    assert (await using(rest, bystander["access_token"])).status_code == 200
    assert [row["action"] for row in await records(rest)] == ["issue"] * 3 + ["revoke"]


@pytest.mark.requirement("R-267")
async def test_the_presented_token_is_revoked_with_what_was_generated_with_it(
    rest: Rest, user: UserContext
) -> None:
    own = rest.token(user)
    child = await generate(rest, user)

    answer = await revoke(rest, user, jti=claims_of(own)["jti"])

    assert answer.json()["already_revoked"] is False
    assert (await using(rest, own)).status_code == 401
    assert (await using(rest, child["access_token"])).status_code == 401
    assert (await exchange(rest, child["refresh_token"])).json() == REFUSED


@pytest.mark.requirement("R-249")
@pytest.mark.requirement("R-267")
async def test_all_tokens_of_a_user_are_revoked_of_whatever_kind(
    rest: Rest, user: UserContext, root: UserContext
) -> None:
    await known(rest, user)
    tokens = await generate(rest, user)
    now = int(rest.parts.clock.now().timestamp())
    theirs = jwt.encode(
        {"id": user.user_id, "username": "vera", "iat": now, "exp": now + 60},
        JWT_SECRET,
        algorithm="HS256",
    )
    accepted = [rest.token(user), tokens["access_token"], theirs]
    before = [(await using(rest, token)).status_code for token in accepted]

    first = await revoke(rest, root, user_id=user.user_id)
    second = await revoke(rest, root, user_id=user.user_id)

    assert before == [200] * 3
    assert first.json() == {"revoked": True, "already_revoked": False, "user_id": user.user_id}
    assert second.status_code == 200
    assert [(await using(rest, token)).status_code for token in accepted] == [401] * 3
    assert (await exchange(rest, tokens["refresh_token"])).json() == REFUSED


async def test_users_revoke_all_of_their_own(rest: Rest, user: UserContext) -> None:
    assert (await revoke(rest, user, user_id=user.user_id)).status_code == 200
    assert (await rest.ask(user, "GET", "/servers")).status_code == 401


@pytest.mark.requirement("R-267")
@pytest.mark.requirement("R-268")
async def test_what_is_anothers_or_nobodys_looks_the_same(
    rest: Rest, user: UserContext, bob: UserContext
) -> None:
    jti = claims_of((await generate(rest, user))["access_token"])["jti"]
    whats = [{"jti": jti}, {"jti": "unknown"}, {"user_id": user.user_id}, {"user_id": "e" * 24}]

    answers = [await revoke(rest, bob, **what) for what in whats]

    assert {(answer.status_code, answer.text) for answer in answers} == {
        (404, '{"error":"not_found","message":"Token not found"}')
    }
    assert (await rest.ask(user, "GET", "/servers")).status_code == 200


@pytest.mark.requirement("R-267")
async def test_administrators_revoke_tokens_that_are_not_on_record(
    rest: Rest, user: UserContext, root: UserContext
) -> None:
    token = rest.token(user)
    jti = claims_of(token)["jti"]
    assert (await using(rest, token)).status_code == 200

    unknown = await revoke(rest, root, jti=jti)
    still = await using(rest, token)
    body = {"jti": jti, "unrecorded": True}
    told = await rest.ask(root, "POST", "/tokens/revoke", json=body)
    again = await revoke(rest, root, jti=jti)

    assert (unknown.status_code, unknown.json()["error"]) == (404, "not_found")
    assert jti in unknown.json()["message"]
    assert still.status_code == 200
    assert told.json() == {"revoked": True, "already_revoked": False, "jti": jti}
    assert again.json()["already_revoked"] is True
    assert (await using(rest, token)).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"jti": "a", "user_id": "a" * 24},
        {"jti": ""},
        {"jti": "a\nb"},
        {"jti": "a" * 257},
        {"jti": {"$ne": None}},
        {"user_id": "someone"},
        {"jti": None, "user_id": None},
        {"token": "a"},
        {"jti": "a", "unrecorded": "yes"},
    ],
    ids=str,
)
async def test_a_revocation_names_one_thing(
    rest: Rest, user: UserContext, body: dict[str, Any]
) -> None:
    assert (await rest.ask(user, "POST", "/tokens/revoke", json=body)).status_code == 422


@pytest.mark.requirement("R-265")
async def test_no_token_is_kept_recorded_or_logged(rest: Rest, user: UserContext) -> None:
    with capture_logs() as logs:
        first = await generate(rest, user, description="for automation")
        second = (await exchange(rest, first["refresh_token"])).json()["tokens"]
        await exchange(rest, first["refresh_token"])

    collections = [
        await rest.parts.database.collection(name).find({}).to_list()
        for name in ("token_families", "revoked_tokens", "audit_logs")
    ]
    everything = json_util.dumps(collections) + json.dumps(logs, default=str)
    for tokens in (first, second):
        for token in (tokens["access_token"], tokens["refresh_token"]):
            assert token not in everything
            assert token.rpartition(".")[2] not in everything
    issued = (await records(rest))[0]
    assert issued["changes"]["after"]["description"] == "for automation"


async def test_the_database_refuses_a_family_that_never_ends(rest: Rest) -> None:
    rows = rest.parts.database.collection("token_families")
    with pytest.raises(Exception, match="validation"):
        await rows.insert_one({"_id": "x", "user_id": ObjectId("a" * 24)})
