"""Sharing servers: entries and scope as one truth, over HTTP."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from bson import ObjectId

from registry.auth.identity import Scope, UserContext
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
GROUP = "9" * 24
CAROL = "f" * 24


@pytest.fixture
def carol(alice: UserContext) -> UserContext:
    """Return a third plain user."""
    return replace(alice, user_id=CAROL, username="carol")


async def people(
    rest: Rest, *users: UserContext, members: list[UserContext] | None = None
) -> None:
    """Store users, and a group with *members*."""
    database = rest.parts.database
    await database.collection("users").insert_many(
        [
            {
                "_id": ObjectId(user.user_id),
                "username": user.username,
                "name": user.username.title(),
                "email": f"{user.username}@example.com",
                "role": user.role.upper(),
            }
            for user in users
        ]
    )
    await database.collection("groups").insert_one(
        {
            "_id": ObjectId(GROUP),
            "name": "Weather people",
            "memberIds": [user.user_id for user in members or []],
            "source": "local",
        }
    )
    rest.parts.authenticator.forget_users()


async def call(
    rest: Rest, user: UserContext, method: str, path: str, **request: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {rest.token(user)}", **request.pop("headers", {})}
    return await rest.client.request(
        method, f"/api/v1/permissions{path}", headers=headers, **request
    )


async def share(rest: Rest, user: UserContext, server_id: str, **body: Any) -> httpx.Response:
    return await call(rest, user, "PUT", f"/mcpServer/{server_id}", json=body)


async def visible(rest: Rest, user: UserContext) -> list[str]:
    return [item["serverName"] for item in (await rest.call(user, "GET")).json()["servers"]]


async def entries(rest: Rest) -> set[tuple[str, str | None, int]]:
    stored = await rest.parts.database.collection("aclentries").find({}).to_list()
    return {
        (item["principalType"], str(item.get("principalId") or "") or None, item["permBits"])
        for item in stored
    }


def viewer(kind: str, key: str, role: str = "viewer") -> dict[str, str]:
    return {"type": kind, "id": key, "role": role}


@pytest.mark.requirement("R-245")
@pytest.mark.requirement("R-242")
async def test_a_server_shared_with_a_group_appears_for_its_members_and_goes_again(
    rest: Rest, root: UserContext, alice: UserContext, bob: UserContext
) -> None:
    await people(rest, root, alice, bob, members=[bob])
    server = await rest.register(root, "weather", URL)
    assert (await visible(rest, bob), await visible(rest, alice)) == ([], [])

    answer = await share(rest, root, server["id"], updated=[viewer("group", GROUP)])

    assert answer.status_code == 200
    assert answer.json()["scope"] == "shared_user"
    assert (await visible(rest, bob), await visible(rest, alice)) == (["weather"], [])
    detail = (await rest.call(bob, "GET", f"/{server['id']}")).json()
    assert detail["permissions"] == {"VIEW": True, "EDIT": False, "DELETE": False, "SHARE": False}
    await share(rest, root, server["id"], removed=[{"type": "group", "id": GROUP}])
    assert await visible(rest, bob) == []
    assert (await rest.call(root, "GET", f"/{server['id']}")).json()["scope"] == "private_user"


async def test_the_answer_tells_who_has_what(
    rest: Rest, root: UserContext, bob: UserContext
) -> None:
    await people(rest, root, bob)
    server = await rest.register(root, "weather", URL, scope="shared_user")
    ends = (rest.parts.clock.now() + timedelta(hours=1)).isoformat()

    await share(
        rest,
        root,
        server["id"],
        updated=[{**viewer("user", bob.user_id, "editor"), "expiresAt": ends}],
        public=True,
    )

    answer = (await call(rest, root, "GET", f"/mcpServer/{server['id']}")).json()
    mine, bobs = sorted(answer["principals"], key=lambda item: str(item["role"]), reverse=True)
    assert (mine["id"], mine["role"]) == (root.user_id, "owner")
    assert {
        name: bobs[name] for name in ("type", "id", "name", "role", "accessRoleId", "permBits")
    } == {
        "type": "user",
        "id": bob.user_id,
        "name": "Bob",
        "role": "editor",
        "accessRoleId": "mcpServer_editor",
        "permBits": 3,
    }
    assert bobs["expiresAt"] is not None
    assert (answer["public"], answer["scope"]) == (True, "shared_app")
    assert answer["publicAccessRoleId"] == "mcpServer_viewer"


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("editor", 200), ("owner", 200)])
async def test_a_role_allows_what_it_says(
    rest: Rest, root: UserContext, bob: UserContext, role: str, status: int
) -> None:
    await people(rest, root, bob)
    server = await rest.register(root, "weather", URL)
    await share(rest, root, server["id"], updated=[viewer("user", bob.user_id, role)])

    edited = await rest.call(bob, "PATCH", f"/{server['id']}", json={"title": "mine"})
    shared = await share(rest, bob, server["id"], updated=[viewer("role", "USER")])
    deleted = await rest.call(bob, "DELETE", f"/{server['id']}")

    owner = role == "owner"
    assert edited.status_code == status
    assert shared.status_code == (200 if owner else 403)
    assert deleted.status_code == (204 if owner else 403)


async def test_scope_and_entries_follow_each_other(
    rest: Rest, root: UserContext, bob: UserContext
) -> None:
    await people(rest, root, bob)
    server = await rest.register(root, "weather", URL)
    path = f"/{server['id']}"
    own = ("user", root.user_id, 15)
    seen = []

    for change in (
        rest.call(root, "PATCH", path, json={"scope": "shared_app"}),
        share(rest, root, server["id"], updated=[viewer("user", bob.user_id)]),
        share(rest, root, server["id"], public=False),
        share(rest, root, server["id"], public=True),
        rest.call(root, "PATCH", path, json={"scope": "private_user"}),
    ):
        assert (await change).status_code == 200
        scope = (await rest.call(root, "GET", path)).json()["scope"]
        seen.append((scope, await entries(rest)))

    assert seen == [
        ("shared_app", {own, ("public", None, 1)}),
        ("shared_app", {own, ("public", None, 1), ("user", bob.user_id, 1)}),
        ("shared_user", {own, ("user", bob.user_id, 1)}),
        ("shared_app", {own, ("public", None, 1), ("user", bob.user_id, 1)}),
        ("private_user", {own}),
    ]


@pytest.mark.requirement("R-243")
async def test_only_administrators_share_what_is_private(
    rest: Rest, alice: UserContext, bob: UserContext
) -> None:
    await people(rest, alice, bob)
    server = await rest.register(alice, "mine", URL)

    named = await share(rest, alice, server["id"], updated=[viewer("user", bob.user_id)])
    public = await share(rest, alice, server["id"], public=True)

    assert (named.status_code, public.status_code) == (403, 403)
    assert "administrator" in named.json()["message"]
    assert await entries(rest) == {("user", alice.user_id, 15)}


async def test_somebody_elses_server_is_not_there(
    rest: Rest, alice: UserContext, bob: UserContext
) -> None:
    await people(rest, alice, bob)
    server = await rest.register(alice, "mine", URL)
    unknown = "0" * 24

    answers = [
        await call(rest, bob, "GET", f"/mcpServer/{key}") for key in (server["id"], unknown)
    ] + [await share(rest, bob, key, public=True) for key in (server["id"], unknown)]

    assert {(answer.status_code, answer.text) for answer in answers} == {
        (404, '{"error":"not_found","message":"Server not found"}')
    }


async def test_the_last_owner_stays(rest: Rest, root: UserContext, bob: UserContext) -> None:
    await people(rest, root, bob)
    server = await rest.register(root, "weather", URL)
    ends = (rest.parts.clock.now() + timedelta(hours=1)).isoformat()
    me = {"type": "user", "id": root.user_id}

    answers = [
        await share(rest, root, server["id"], removed=[me]),
        await share(rest, root, server["id"], updated=[{**me, "role": "viewer"}]),
        await share(
            rest, root, server["id"], updated=[{**me, "role": "owner", "expiresAt": ends}]
        ),
        await share(rest, root, server["id"], principals=[viewer("user", bob.user_id, "editor")]),
    ]

    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [
        (409, "conflict")
    ] * 4
    moved = await share(
        rest, root, server["id"], updated=[viewer("user", bob.user_id, "owner")], removed=[me]
    )
    assert moved.status_code == 200
    assert await entries(rest) == {("user", bob.user_id, 15)}


async def test_two_owners_cannot_remove_each_other_at_once(
    rest: Rest, root: UserContext, bob: UserContext, carol: UserContext
) -> None:
    await people(rest, root, bob, carol)
    server = await rest.register(root, "weather", URL)
    both = [viewer("user", bob.user_id, "owner"), viewer("user", carol.user_id, "owner")]
    assert (await share(rest, root, server["id"], principals=both)).status_code == 200

    answers = await asyncio.gather(
        share(rest, bob, server["id"], removed=[{"type": "user", "id": carol.user_id}]),
        share(rest, carol, server["id"], removed=[{"type": "user", "id": bob.user_id}]),
    )

    assert sorted(answer.status_code for answer in answers) in ([200, 403], [200, 404], [200, 409])
    assert len(await entries(rest)) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"updated": [{"type": "user", "id": "0" * 24, "role": "viewer"}]},
        {"updated": [{"type": "group", "id": "0" * 24, "role": "viewer"}]},
        {"updated": [{"type": "role", "id": "WIZARD", "role": "viewer"}]},
        {"updated": [{"type": "user", "id": "b" * 24, "role": "wizard"}]},
        {"updated": [{"type": "user", "id": "b" * 24}]},
        {"updated": [{"type": "user", "id": "b", "role": "viewer"}]},
        {"updated": [{"type": "martian", "id": "b" * 24, "role": "viewer"}]},
        {"updated": [{"type": "public", "id": "", "role": "viewer"}]},
        {
            "updated": [
                {
                    "type": "user",
                    "id": "b" * 24,
                    "role": "viewer",
                    "expiresAt": "2020-01-01T00:00Z",
                }
            ]
        },
        {
            "updated": [
                {"type": "user", "id": "b" * 24, "role": "viewer"},
                {"type": "user", "id": "B" * 24, "role": "owner"},
            ]
        },
        {"principals": [], "updated": [{"type": "user", "id": "b" * 24, "role": "viewer"}]},
        {"public": True, "publicAccessRoleId": "mcpServer_owner"},
        {"public": "yes please"},
        {"unheard": "of"},
        {},
    ],
)
async def test_nonsense_is_refused_and_changes_nothing(
    rest: Rest, root: UserContext, bob: UserContext, body: dict[str, Any]
) -> None:
    await people(rest, root, bob)
    server = await rest.register(root, "weather", URL)

    answer = await share(rest, root, server["id"], **body)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")
    assert await entries(rest) == {("user", root.user_id, 15)}


async def test_an_outdated_etag_is_a_conflict(
    rest: Rest, root: UserContext, bob: UserContext
) -> None:
    await people(rest, root, bob)
    server = await rest.register(root, "weather", URL)
    path = f"/mcpServer/{server['id']}"
    etag = (await call(rest, root, "GET", path)).headers["etag"]
    body = {"updated": [viewer("user", bob.user_id)]}

    first = await call(rest, root, "PUT", path, json=body, headers={"If-Match": etag})
    second = await call(rest, root, "PUT", path, json={"public": True}, headers={"If-Match": etag})

    assert (first.status_code, second.status_code) == (200, 409)
    assert second.json()["current_etag"] == first.headers["etag"].strip('"')


async def test_an_entry_that_ended_gives_nothing(
    rest: Rest, root: UserContext, bob: UserContext
) -> None:
    await people(rest, root, bob)
    server = await rest.register(root, "weather", URL, scope="shared_user")
    acl = rest.parts.database.collection("aclentries")
    await acl.insert_one(
        {
            "principalType": "user",
            "principalId": ObjectId(bob.user_id),
            "resourceType": "mcpServer",
            "resourceId": ObjectId(server["id"]),
            "permBits": 15,
            "expiredAt": rest.parts.clock.now() - timedelta(seconds=1),
        }
    )

    assert await visible(rest, bob) == []
    answer = (await call(rest, root, "GET", f"/mcpServer/{server['id']}")).json()
    assert [item["id"] for item in answer["principals"]] == [root.user_id]


async def test_sharing_is_recorded_once(rest: Rest, root: UserContext, bob: UserContext) -> None:
    await people(rest, root, bob)
    server = await rest.register(root, "weather", URL)
    await share(rest, root, server["id"], updated=[viewer("user", bob.user_id)])
    await share(rest, root, server["id"], updated=[viewer("user", bob.user_id)])

    logs = rest.parts.database.collection("audit_logs")
    stored = await logs.find({"action": "share"}).to_list()

    assert [item["changes"] for item in stored] == [
        {
            "before": {"scope": "private_user"},
            "after": {"scope": "shared_user", f"user:{bob.user_id}": "viewer"},
        }
    ]


async def test_people_are_found_by_part_of_a_name(
    rest: Rest, root: UserContext, alice: UserContext, bob: UserContext
) -> None:
    await people(rest, root, alice, bob)

    async def found(user: UserContext, **query: Any) -> list[dict[str, Any]]:
        answer = await call(rest, user, "GET", "/search-principals", params=query)
        return list(answer.json()["results"])

    assert await found(alice, q="BO") == [
        {"type": "user", "id": bob.user_id, "name": "Bob", "username": "bob"}
    ]
    assert [item["id"] for item in await found(alice, q="weather")] == [GROUP]
    assert [item["id"] for item in await found(alice, q="adm")] == ["ADMIN"]
    assert await found(alice, q=".*") == []
    assert await found(alice, q="bob", types="group") == []
    assert (await found(root, q="bob"))[0]["email"] == "bob@example.com"
    assert [item["id"] for item in await found(root, q="b@exam")] == [bob.user_id]
    assert await found(alice, q="@exam") == []


async def test_searching_and_sharing_take_their_scope(rest: Rest, alice: UserContext) -> None:
    narrow = replace(alice, scopes=frozenset({Scope.READ_SERVERS, Scope.WRITE_SERVERS}))

    answers = [
        await call(rest, narrow, "GET", "/search-principals", params={"q": "bob"}),
        await share(rest, narrow, "0" * 24, public=True),
    ]

    assert [(a.status_code, a.json().get("scope")) for a in answers] == [(403, "write:access")] * 2


@pytest.mark.parametrize(
    "dead", [{"permBits": 0}, {"permBits": 33}, {"permBits": 1, "expires": True}]
)
async def test_a_public_entry_of_no_lasting_use_makes_no_server_public(
    rest: Rest, root: UserContext, alice: UserContext, bob: UserContext, dead: dict[str, Any]
) -> None:
    await people(rest, root, bob)
    server = await rest.register(root, "weather", URL)
    entry: dict[str, Any] = {
        "principalType": "public",
        "resourceType": "mcpServer",
        "resourceId": ObjectId(server["id"]),
        "permBits": dead["permBits"],
    }
    if dead.get("expires"):
        entry["expiredAt"] = rest.parts.clock.now() + timedelta(hours=1)
    await rest.parts.database.collection("aclentries").insert_one(entry)

    answer = await share(rest, root, server["id"], updated=[viewer("user", bob.user_id)])

    assert (answer.json()["scope"], answer.json()["public"]) == ("shared_user", False)
    assert await visible(rest, alice) == []
    assert await entries(rest) == {("user", root.user_id, 15), ("user", bob.user_id, 1)}


@pytest.mark.parametrize("principal", [{"principalType": "robot"}, {"principalType": "user"}])
async def test_an_entry_that_names_nobody_gives_nobody_anything(
    rest: Rest, root: UserContext, alice: UserContext, principal: dict[str, Any]
) -> None:
    await people(rest, root, alice)
    server = await rest.register(root, "weather", URL, scope="shared_user")
    await rest.parts.database.collection("aclentries").insert_one(
        {
            **principal,
            "principalId": "USER",
            "resourceType": "mcpServer",
            "resourceId": ObjectId(server["id"]),
            "permBits": 15,
        }
    )

    answers = [
        await call(rest, alice, "GET", f"/mcpServer/{server['id']}"),
        await share(rest, alice, server["id"], updated=[viewer("user", alice.user_id, "owner")]),
        await rest.call(alice, "GET", f"/{server['id']}"),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert await visible(rest, alice) == []


async def test_what_was_answered_may_be_sent_back_though_somebody_is_gone_by_now(
    rest: Rest, root: UserContext, bob: UserContext, carol: UserContext
) -> None:
    await people(rest, root, bob, carol)
    server = await rest.register(root, "weather", URL)
    both = [viewer("user", bob.user_id), viewer("user", carol.user_id)]
    answer = (await share(rest, root, server["id"], updated=both)).json()
    await rest.parts.database.collection("users").delete_one({"_id": ObjectId(bob.user_id)})

    again = await share(rest, root, server["id"], principals=answer["principals"])

    assert again.status_code == 200
    assert len(await entries(rest)) == 3


async def test_a_thousand_entries_are_written_at_once(rest: Rest, root: UserContext) -> None:
    await people(rest, root)
    keys = [ObjectId() for _ in range(1000)]
    users = rest.parts.database.collection("users")
    await users.insert_many([{"_id": key, "username": str(key), "role": "USER"} for key in keys])
    server = await rest.register(root, "weather", URL)

    answer = await share(
        rest, root, server["id"], updated=[viewer("user", str(key)) for key in keys]
    )

    assert (answer.status_code, len(answer.json()["principals"])) == (200, 1001)


async def test_an_author_whose_entry_is_removed_is_out(
    rest: Rest, root: UserContext, alice: UserContext, bob: UserContext
) -> None:
    await people(rest, root, alice, bob)
    server = await rest.register(alice, "weather", URL)
    await share(rest, root, server["id"], updated=[viewer("user", bob.user_id, "owner")])
    assert await visible(rest, alice) == ["weather"]

    await share(rest, root, server["id"], removed=[{"type": "user", "id": alice.user_id}])

    assert await visible(rest, alice) == []
    assert (await rest.call(alice, "GET", f"/{server['id']}")).status_code == 404
