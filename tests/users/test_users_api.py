"""Users and groups over HTTP, where no other application keeps them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from registry.auth.identity import Role, Scope, UserContext
from tests.fakes.rest import Rest, rest_settings, running

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"


async def send(
    rest: Rest, user: UserContext, method: str, path: str, status: int, **request: Any
) -> dict[str, Any]:
    answer = await rest.ask(user, method, path, **request)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def add(rest: Rest, root: UserContext, email: str, **fields: object) -> dict[str, Any]:
    return await send(rest, root, "POST", "/users", 201, json={"email": email, **fields})


async def group(rest: Rest, root: UserContext, name: str, **fields: object) -> dict[str, Any]:
    return await send(rest, root, "POST", "/groups", 201, json={"name": name, **fields})


def context(user: dict[str, Any]) -> UserContext:
    role = Role(user["role"])
    return UserContext(user["id"], user["username"], role, frozenset({Scope.READ_SERVERS}))


async def recorded(rest: Rest, entity_type: str) -> list[tuple[str, str]]:
    rows = rest.parts.database.collection("audit_logs").find({"entity_type": entity_type})
    return [(row["action"], row["outcome"]) async for row in rows.sort("timestamp")]


async def test_a_user_is_stored_as_the_other_application_would(
    rest: Rest, root: UserContext
) -> None:
    user = await add(rest, root, " Ada@Example.ORG ", name="Ada L.", role="admin")

    stored = await rest.parts.database.collection("users").find_one({"_id": ObjectId(user["id"])})
    assert stored is not None
    assert {name: stored[name] for name in stored if name not in {"_id", "createdAt"}} == {
        "name": "Ada L.",
        "username": "ada",
        "email": "ada@example.org",
        "emailVerified": True,
        "provider": "registry",
        "role": "ADMIN",
        "updatedAt": stored["createdAt"],
        "__v": 0,
    }
    assert (user["role"], user["disabled"], user["provider"]) == ("admin", False, "registry")
    assert await recorded(rest, "user") == [("create", "success")]


async def test_users_are_listed_by_address_and_found_by_name(
    rest: Rest, root: UserContext
) -> None:
    for email in ("ben@example.org", "ada@example.org", "cleo@elsewhere.net"):
        await add(rest, root, email)

    everybody = await send(rest, root, "GET", "/users?per_page=2", 200)
    some = await send(rest, root, "GET", "/users?query=EXAMPLE.org", 200)

    assert [user["username"] for user in everybody["users"]] == ["ada", "ben"]
    assert everybody["pagination"]["total"] == 3
    assert [user["username"] for user in some["users"]] == ["ada", "ben"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "ada"},
        {"email": "ada@localhost"},
        {"email": "a da@example.org"},
        {"email": "ada@example.org", "role": "root"},
        {"email": "ada@example.org", "username": "a"},
        {"email": "ada@example.org", "username": "a" * 24},
        {"email": "ada@example.org", "name": "two\nlines"},
        {"email": "ada@example.org", "name": None},
        {"email": "ada@example.org", "password": "secret"},
    ],
    ids=str,
)
async def test_what_is_no_user_is_refused(
    rest: Rest, root: UserContext, body: dict[str, Any]
) -> None:
    refused = await send(rest, root, "POST", "/users", 422, json=body)

    assert refused["error"] == "validation_error"
    assert await rest.parts.database.collection("users").count_documents({}) == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"email": "ada@example.org", "username": "other"}, "email"),
        ({"email": "a@example.org", "username": "ADA"}, "username"),
    ],
)
async def test_an_address_and_a_username_are_one_users(
    rest: Rest, root: UserContext, fields: dict[str, str], field: str
) -> None:
    await add(rest, root, "ada@example.org")

    refused = await send(rest, root, "POST", "/users", 409, json=fields)

    assert (refused["error"], refused["field"]) == ("conflict", field)


async def test_a_user_is_changed_and_disabled_and_enabled(rest: Rest, root: UserContext) -> None:
    path = f"/users/{(await add(rest, root, 'ada@example.org'))['id']}"
    await add(rest, root, "ben@example.org", role="admin")
    users = rest.parts.database.collection("users")

    changed = await send(rest, root, "PATCH", path, 200, json={"name": "Ada", "role": "admin"})
    disabled = await send(rest, root, "PATCH", path, 200, json={"disabled": True})
    stored = await users.find_one({"username": "ada"})
    enabled = await send(rest, root, "PATCH", path, 200, json={"disabled": False})

    assert (changed["name"], changed["role"], changed["username"]) == ("Ada", "admin", "ada")
    assert (disabled["disabled"], enabled["disabled"]) == (True, False)
    assert stored is not None
    assert stored["disabled"] is True
    assert "disabled" not in (await users.find_one({"username": "ada"}) or {})
    assert len(await recorded(rest, "user")) == 5


@pytest.mark.parametrize("change", [{"disabled": True}, {"role": "user"}])
async def test_an_administrator_remains(
    rest: Rest, root: UserContext, change: dict[str, object]
) -> None:
    last = await add(rest, root, "ada@example.org", role="admin")
    gone = await add(rest, root, "ben@example.org", role="admin")
    await send(rest, root, "PATCH", f"/users/{gone['id']}", 200, json={"disabled": True})

    refused = await send(rest, root, "PATCH", f"/users/{last['id']}", 409, json=change)

    assert "last administrator cannot be removed" in refused["message"]
    assert (await send(rest, root, "GET", f"/users/{last['id']}", 200))["role"] == "admin"


async def test_a_change_that_changes_nothing_is_not_recorded(
    rest: Rest, root: UserContext
) -> None:
    user = await add(rest, root, "ada@example.org")

    await send(rest, root, "PATCH", f"/users/{user['id']}", 200, json={"role": "user"})

    assert await recorded(rest, "user") == [("create", "success")]


async def test_a_server_shared_with_a_group_is_seen_by_its_members(
    rest: Rest, root: UserContext
) -> None:
    ada, ben = await add(rest, root, "ada@example.org"), await add(rest, root, "ben@example.org")
    people = await group(rest, root, "Weather people", members=[ada["id"]])
    server = await rest.register(root, "weather", URL, scope="shared_user")
    entries = {"updated": [{"type": "group", "id": people["id"], "role": "viewer"}]}
    await send(rest, root, "PUT", f"/permissions/mcpServer/{server['id']}", 200, json=entries)

    seen = {
        user["username"]: [
            one["serverName"]
            for one in (await send(rest, context(user), "GET", "/servers", 200))["servers"]
        ]
        for user in (ada, ben)
    }

    assert seen == {"ada": ["weather"], "ben": []}


async def test_members_come_and_go(rest: Rest, root: UserContext) -> None:
    ada, ben = await add(rest, root, "ada@example.org"), await add(rest, root, "ben@example.org")
    people = await group(rest, root, "People", members=[ada["id"], ada["id"]])
    path = f"/groups/{people['id']}"

    change = {"add_members": [ben["id"], ada["id"]], "name": "Folk", "description": "All."}
    grown = await send(rest, root, "PATCH", path, 200, json=change)
    body = {"remove_members": [ada["id"]]}
    shrunk = await send(rest, root, "PATCH", path, 200, json=body)

    stored = await rest.parts.database.collection("groups").find_one({})
    assert [member["email"] for member in people["members"]] == ["ada@example.org"]
    assert [member["username"] for member in grown["members"]] == ["ada", "ben"]
    assert (grown["name"], grown["description"]) == ("Folk", "All.")
    assert [member["username"] for member in shrunk["members"]] == ["ben"]
    assert stored is not None
    assert stored["memberIds"] == [ben["id"]]
    assert (stored["source"], "idOnTheSource" in stored) == ("local", False)
    assert len(await recorded(rest, "group")) == 3


async def test_members_are_listed_by_the_id_of_their_source_where_they_have_one(
    rest: Rest, root: UserContext
) -> None:
    ada = await add(rest, root, "ada@example.org")
    users = rest.parts.database.collection("users")
    await users.update_one({}, {"$set": {"idOnTheSource": "ada@directory"}})

    people = await group(rest, root, "People", members=[ada["id"]])

    stored = await rest.parts.database.collection("groups").find_one({})
    assert stored is not None
    assert stored["memberIds"] == ["ada@directory"]
    assert [member["id"] for member in people["members"]] == [ada["id"]]


async def test_groups_are_listed_and_names_are_one_groups(rest: Rest, root: UserContext) -> None:
    first = await group(rest, root, "Zebras")
    await group(rest, root, "Ants")

    listed = await send(rest, root, "GET", "/groups", 200)
    taken = await send(rest, root, "POST", "/groups", 409, json={"name": "Zebras"})
    path = f"/groups/{first['id']}"
    renamed = await send(rest, root, "PATCH", path, 409, json={"name": "Ants"})

    assert [one["name"] for one in listed["groups"]] == ["Ants", "Zebras"]
    assert taken["error"] == renamed["error"] == "conflict"


@pytest.mark.parametrize("path", ["/groups", "/groups/" + "9" * 24])
async def test_who_is_no_user_joins_no_group(rest: Rest, root: UserContext, path: str) -> None:
    people = await group(rest, root, "People")
    nobody = "9" * 24

    created = {"name": "More", "members": [nobody]}
    new = await send(rest, root, "POST", "/groups", 422, json=created)
    change = {"add_members": [nobody]}
    changed = await send(rest, root, "PATCH", f"/groups/{people['id']}", 422, json=change)

    assert new["unknown_users"] == changed["unknown_users"] == [nobody]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/users"),
        ("POST", "/users"),
        ("GET", f"/users/{'1' * 24}"),
        ("PATCH", f"/users/{'1' * 24}"),
        ("POST", f"/users/{'1' * 24}/tokens"),
        ("GET", "/groups"),
        ("POST", "/groups"),
        ("GET", f"/groups/{'1' * 24}"),
        ("PATCH", f"/groups/{'1' * 24}"),
    ],
)
async def test_users_and_groups_are_for_administrators(
    rest: Rest, alice: UserContext, method: str, path: str
) -> None:
    body: dict[str, Any] = {}
    if method == "POST" and not path.endswith("/tokens"):
        body = {"name": "X"} if path == "/groups" else {"email": "ada@example.org"}
    request = {} if method == "GET" else {"json": body}

    refused = await send(rest, alice, method, path, 403, **request)

    assert refused["error"] == "forbidden"


@pytest.mark.parametrize("path", ["/users/", "/groups/"])
async def test_who_is_not_there_is_not_found(rest: Rest, root: UserContext, path: str) -> None:
    for method, request in (("GET", {}), ("PATCH", {"json": {"name": "New"}})):
        missing = await send(rest, root, method, path + "9" * 24, 404, **request)
        assert missing["error"] == "not_found"


async def test_an_administrator_issues_a_token_for_somebody(rest: Rest, root: UserContext) -> None:
    ada = await add(rest, root, "ada@example.org")

    body = {"requested_scopes": ["read:servers"], "expires_in_hours": 1, "description": "CI"}
    issued = await send(rest, root, "POST", f"/users/{ada['id']}/tokens", 201, json=body)

    verified = rest.parts.verifier.verify(issued["access_token"])
    assert (verified.user_id, verified.username, verified.role) == (ada["id"], "ada", Role.USER)
    assert verified.scopes == frozenset({Scope.READ_SERVERS})
    assert {name: issued[name] for name in issued if name not in {"access_token", "jti"}} == {
        "expires_in": 3600,
        "token_type": "Bearer",
        "user_id": ada["id"],
        "role": "user",
        "scope": "read:servers",
    }
    rows = rest.parts.database.collection("audit_logs").find({"action": "issue"})
    (record,) = await rows.to_list()
    assert (str(record["user_id"]), record["changes"]["after"]["user_id"]) == (
        root.user_id,
        ada["id"],
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"role": "admin"}, 403),
        ({"requested_scopes": ["read:audit"]}, 422),
        ({"requested_scopes": ["no:such"]}, 422),
        ({"expires_in_hours": 5000}, 422),
    ],
    ids=str,
)
async def test_a_token_for_somebody_has_no_more_than_they_have(
    rest: Rest, root: UserContext, body: dict[str, Any], status: int
) -> None:
    ada = await add(rest, root, "ada@example.org")

    await send(rest, root, "POST", f"/users/{ada['id']}/tokens", status, json=body)

    assert await rest.parts.database.collection("token_families").count_documents({}) == 0


async def test_a_token_for_somebody_has_no_more_than_the_token_it_was_issued_with(
    rest: Rest, root: UserContext
) -> None:
    narrow = replace(root, scopes=frozenset({Scope.WRITE_ACCESS, Scope.WRITE_TOKENS}))
    ada = await add(rest, root, "ada@example.org")
    path = f"/users/{ada['id']}/tokens"

    body = {"requested_scopes": ["invoke:tools"]}
    refused = await send(rest, narrow, "POST", path, 403, json=body)
    issued = await send(rest, narrow, "POST", path, 201, json={})

    assert refused["error"] == "insufficient_scope"
    assert issued["scope"] == "write:access write:tokens"


async def test_a_token_for_somebody_ends_with_the_token_it_was_issued_with(
    rest: Rest, root: UserContext
) -> None:
    ada = await add(rest, root, "ada@example.org")
    issued = await send(rest, root, "POST", f"/users/{ada['id']}/tokens", 201, json={})
    bearer = {"Authorization": f"Bearer {issued['access_token']}"}
    parent = rest.parts.verifier.verify(rest.token(root)).token_id
    before = await rest.client.get("/api/v1/servers", headers=bearer)

    body = {"jti": parent, "unrecorded": True}
    await send(rest, root, "POST", "/tokens/revoke", 200, json=body)
    after = await rest.client.get("/api/v1/servers", headers=bearer)

    assert (before.status_code, after.status_code) == (200, 401)


async def test_where_another_application_keeps_users_they_are_only_listed(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path, root: UserContext
) -> None:
    async with running(rest_settings(mongo_uri, key_files, tmp_path)) as rest:
        ada = {"username": "ada", "email": "ada@example.org", "role": "USER"}
        await rest.parts.database.collection("users").insert_one(ada)
        listed = await send(rest, root, "GET", "/users", 200)
        user_id = listed["users"][0]["id"]
        body: dict[str, Any] = {"email": "ben@example.org"}
        refused = [
            await send(rest, root, "POST", "/users", 403, json=body),
            await send(rest, root, "PATCH", f"/users/{user_id}", 403, json={"name": "Ada"}),
            await send(rest, root, "POST", "/groups", 403, json={"name": "People"}),
            await send(rest, root, "PATCH", f"/groups/{user_id}", 403, json={"name": "People"}),
        ]
        stored = await rest.parts.database.collection("users").find({}).to_list()

    assert [user["username"] for user in listed["users"]] == ["ada"]
    assert {one["user_directory"] for one in refused} == {"shared"}
    assert "USER_DIRECTORY" in refused[0]["message"]
    assert [user["username"] for user in stored] == ["ada"]
