"""What was issued is listed: own tokens, and all of them for administrators."""

import uuid
from dataclasses import replace
from typing import Any

import pytest
from bson import ObjectId
from jose import jwt

from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from tests.fakes.rest import JWT_SECRET, Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def user() -> UserContext:
    """Return a user of this test's own, because revocations are remembered."""
    return UserContext(uuid.uuid4().hex[:24], "vera", Role.USER, USER_SCOPES)


async def generate(rest: Rest, user: UserContext, **more: Any) -> dict[str, Any]:
    answer = await rest.ask(user, "POST", "/tokens/generate", json={"expires_in_hours": 8, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["tokens"])


async def issued(rest: Rest, user: UserContext, **query: Any) -> list[dict[str, Any]]:
    answer = await rest.ask(user, "GET", "/tokens/issued", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["tokens"])


async def test_users_see_their_own_tokens_and_no_value(
    rest: Rest, user: UserContext, bob: UserContext
) -> None:
    tokens = await generate(
        rest, user, description="nightly", requested_scopes=["read:servers", "read:tools"]
    )
    await generate(rest, bob)

    answer = await rest.ask(user, "GET", "/tokens/issued")

    (row,) = answer.json()["tokens"]
    claims = jwt.get_unverified_claims(tokens["access_token"])
    assert answer.json()["pagination"]["total"] == 1
    assert row == {
        **row,
        "jti": tokens["jti"],
        "session_id": claims["sid"],
        "user_id": user.user_id,
        "username": "vera",
        "role": "user",
        "scope": "read:servers read:tools",
        "description": "nightly",
        "renewed_at": None,
        "is_renewable": True,
        "revoked": False,
    }
    assert tokens["access_token"] not in answer.text
    assert tokens["refresh_token"] not in answer.text


async def test_administrators_see_all_and_narrow_them_to_a_user(
    rest: Rest, user: UserContext, bob: UserContext, root: UserContext
) -> None:
    for person in (user, bob, user):
        await generate(rest, person)

    everybodys = await issued(rest, root)
    one_users = await issued(rest, root, user_id=user.user_id.upper())
    second_page = await issued(rest, root, page=2, per_page=2)

    assert [row["user_id"] for row in everybodys] == [user.user_id, bob.user_id, user.user_id]
    assert [row["user_id"] for row in one_users] == [user.user_id] * 2
    assert second_page == everybodys[2:]


async def test_users_do_not_ask_for_anothers(
    rest: Rest, user: UserContext, bob: UserContext
) -> None:
    refused = await rest.ask(user, "GET", "/tokens/issued", params={"user_id": bob.user_id})
    own = await rest.ask(user, "GET", "/tokens/issued", params={"user_id": user.user_id})

    assert (refused.status_code, own.status_code) == (403, 200)


async def test_what_was_revoked_is_listed_as_such_with_what_came_of_it(
    rest: Rest, user: UserContext
) -> None:
    parent = await generate(rest, user)
    headers = {"Authorization": f"Bearer {parent['access_token']}"}
    made = await rest.client.post(
        "/api/v1/tokens/generate", json={"expires_in_hours": 1}, headers=headers
    )
    other = await generate(rest, user)

    await rest.ask(user, "POST", "/tokens/revoke", json={"jti": parent["jti"]})

    assert {row["jti"]: row["revoked"] for row in await issued(rest, user)} == {
        parent["jti"]: True,
        made.json()["tokens"]["jti"]: True,
        other["jti"]: False,
    }


async def test_all_tokens_of_a_user_are_listed_as_revoked_when_they_are(
    rest: Rest, user: UserContext, root: UserContext
) -> None:
    await generate(rest, user)

    await rest.ask(root, "POST", "/tokens/revoke", json={"user_id": user.user_id})

    assert [row["revoked"] for row in await issued(rest, root)] == [True]


async def test_a_renewed_token_is_listed_by_its_newest_jti(rest: Rest, user: UserContext) -> None:
    first = await generate(rest, user)
    body = {"refresh_token": first["refresh_token"]}
    second = (await rest.client.post("/api/v1/tokens/refresh-session", json=body)).json()["tokens"]

    (row,) = await issued(rest, user)

    assert second["jti"] != first["jti"]
    assert row["jti"] == second["jti"]
    assert row["renewed_at"] is not None


async def test_omitted_scopes_are_never_an_administrators(
    rest: Rest, user: UserContext, root: UserContext
) -> None:
    admin = replace(root, custom_scopes=frozenset({"finance:read"}))

    tokens = await generate(rest, admin)

    assert tokens["scope"].split() == sorted(USER_SCOPES)
    assert USER_SCOPES < ALL_SCOPES


@pytest.mark.parametrize(
    "unknown",
    [
        ["read:everything"],
        ["read:all", "write:all"],
        ["Read:Servers"],
        ["finance:read"],
    ],
    ids=str,
)
async def test_an_unknown_scope_is_refused_by_name(
    rest: Rest, root: UserContext, unknown: list[str]
) -> None:
    body = {"requested_scopes": ["read:servers", *unknown], "expires_in_hours": 1}

    answer = await rest.ask(root, "POST", "/tokens/generate", json=body)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")
    assert answer.json()["details"] == [
        {"field": "requested_scopes", "message": f"unknown scopes: {', '.join(unknown)}"}
    ]


async def test_tokens_of_the_other_application_hold_the_scopes_of_their_role(
    rest: Rest, user: UserContext
) -> None:
    await rest.parts.database.collection("users").insert_one(
        {"_id": ObjectId(user.user_id), "role": "ADMIN", "username": "vera"}
    )
    now = int(rest.parts.clock.now().timestamp())
    theirs = jwt.encode(
        {"id": user.user_id, "username": "vera", "iat": now, "exp": now + 60},
        JWT_SECRET,
        algorithm="HS256",
    )

    caller = await rest.parts.authenticator.authenticate(f"Bearer {theirs}")

    assert caller.held_scopes == ALL_SCOPES
