"""Policies through the API: who writes them, what is refused, what is recorded."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from bson import ObjectId

from packages.models.policies import AccessPolicy
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, Scope, UserContext
from registry.tools.naming import public_name
from tests.fakes.plain_upstream import ECHO, PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
OWNER = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
OTHER = UserContext("b" * 24, "bob", Role.USER, USER_SCOPES)
GROUP = "d" * 24
NOWHERE = "f" * 24
POLICIES = "/access/policies"
ECHO_LIST = f"[{ECHO}]"
WEIRD = "\u202e<script>%00{{7*7}}"


async def person(rest: Rest, *users: UserContext) -> None:
    await rest.parts.database.collection("users").insert_many(
        [
            {"_id": ObjectId(user.user_id), "username": user.username, "role": user.role.upper()}
            for user in users
        ]
    )


def body(name: str = "no drops", **changes: Any) -> dict[str, Any]:
    """Return a policy that denies tools to everyone."""
    return {
        "name": name,
        "effect": "deny",
        "target": {"tools": ["drop_*"]},
        "subjects": {"everyone": True},
        **changes,
    }


def about(server: dict[str, Any], *tools: str) -> dict[str, Any]:
    return {"owner_id": server["id"], "tools": list(tools)}


async def make(rest: Rest, user: UserContext = ROOT, **changes: Any) -> dict[str, Any]:
    answer = await rest.ask(user, "POST", POLICIES, json=body(**changes))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def names(rest: Rest, user: UserContext = ROOT, **query: Any) -> list[str]:
    answer = await rest.ask(user, "GET", POLICIES, params=query)
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()["policies"]]


async def records(rest: Rest, entity_type: str = "policy") -> list[dict[str, Any]]:
    found = rest.parts.database.collection("audit_logs").find({"entity_type": entity_type})
    return await found.sort([("timestamp", 1), ("_id", 1)]).to_list()


async def explained(rest: Rest, user: UserContext, **asked: Any) -> httpx.Response:
    return await rest.ask(user, "POST", "/access/explain", json=asked)


@pytest.mark.requirement("R-072")
async def test_a_policy_is_made_read_changed_and_removed(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await person(rest, OTHER)
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    made = await make(
        rest,
        description="For operators only.",
        effect="allow",
        target={**about(server, "echo", "drop_**"), "metadata": {"destructive": True}},
        subjects={"users": [OTHER.user_id.upper()], "roles": ["admin"], "scopes": ["ops"]},
    )

    read = await rest.ask(ROOT, "GET", f"{POLICIES}/{made['id']}")
    changed = await rest.ask(
        ROOT,
        "PATCH",
        f"{POLICIES}/{made['id'].upper()}",
        json={"is_enabled": False, "description": None},
        headers={"If-Match": read.headers["ETag"]},
    )
    removed = await rest.ask(ROOT, "DELETE", f"{POLICIES}/{made['id']}")
    gone = await rest.ask(ROOT, "GET", f"{POLICIES}/{made['id']}")

    assert made["target"] == {
        "source_type": "mcp",
        "owner_id": server["id"],
        "tools": ["echo", "drop_*"],
        "metadata": {"destructive": True},
    }
    assert made["subjects"] == {
        "users": [OTHER.user_id],
        "groups": [],
        "roles": ["admin"],
        "scopes": ["ops"],
        "everyone": False,
    }
    assert made["created_by"] == {"user_id": ROOT.user_id, "username": "root"}
    assert made["warnings"] == []
    after = {"consequence", "warnings"}
    assert read.json() == {name: made[name] for name in made if name not in after}
    assert changed.json()["is_enabled"] is False
    assert changed.json()["description"] is None
    assert changed.headers["ETag"] != read.headers["ETag"]
    assert (removed.status_code, gone.status_code) == (200, 404)
    told = [(item["action"], item["changes"]) for item in await records(rest)]
    assert [action for action, _ in told] == ["create", "update", "delete"]
    assert told[1][1] == {
        "before": {"description": "For operators only.", "is_enabled": True},
        "after": {"description": None, "is_enabled": False},
    }
    assert told[2][1]["before"]["effect"] == "allow"


async def test_lists_are_narrowed_and_cut_into_pages_by_name(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    await make(rest, name="b drops")
    await make(rest, name="a sums", target=about(server, "echo"), effect="allow")
    await make(rest, name="c all", target={}, is_enabled=False, description="(Everything)")

    assert await names(rest) == ["a sums", "b drops", "c all"]
    assert await names(rest, page=2, per_page=2) == ["c all"]
    assert await names(rest, tool="drop_table") == ["b drops", "c all"]
    assert await names(rest, tool="drop_table", per_page=1, page=2) == ["c all"]
    assert await names(rest, tool="echo", effect="allow") == ["a sums"]
    assert await names(rest, owner_id=server["id"]) == ["a sums"]
    assert await names(rest, enabled=False) == ["c all"]
    assert await names(rest, query="(every") == ["c all"]
    assert await names(rest, query="DROPS") == ["b drops"]


async def test_owners_write_about_their_servers_and_administrators_about_all(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    theirs = await make(rest, OWNER, name="mine", target=about(server, "echo"))
    everywhere = await make(rest, name="everywhere")
    path = f"{POLICIES}/{theirs['id']}"

    widened = await rest.ask(OWNER, "PATCH", path, json={"target": {"tools": ["echo"]}})
    global_one = await rest.ask(OWNER, "POST", POLICIES, json=body("all"))
    unseen = await rest.ask(OTHER, "POST", POLICIES, json=body("x", target=about(server)))
    foreign = [
        (await rest.ask(user, method, f"{POLICIES}/{one['id']}", json=sent)).status_code
        for user, one in ((OTHER, theirs), (OWNER, everywhere))
        for method, sent in (("GET", None), ("PATCH", {"is_enabled": False}), ("DELETE", None))
    ]

    assert await names(rest, OWNER) == ["mine"]
    assert await names(rest, OTHER) == []
    assert await names(rest, OTHER, owner_id=server["id"]) == []
    assert await names(rest) == ["everywhere", "mine"]
    assert [answer.status_code for answer in (widened, global_one, unseen)] == [403, 403, 422]
    assert foreign == [404] * 6


async def test_who_may_change_a_server_but_not_share_it_writes_no_policies_about_it(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await person(rest, ROOT, OTHER)
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    editor = {"updated": [{"type": "user", "id": OTHER.user_id, "role": "editor"}]}
    shared = await rest.ask(ROOT, "PUT", f"/permissions/mcpServer/{server['id']}", json=editor)
    made = await make(rest, target=about(server))

    refused = await rest.ask(OTHER, "POST", POLICIES, json=body("x", target=about(server)))
    unseen = await rest.ask(OTHER, "GET", f"{POLICIES}/{made['id']}")
    path = f"/{server['id']}"
    by_default = [
        await rest.call(OTHER, "PATCH", path, json={"defaultEffect": effect, "title": "Sums"})
        for effect in ("deny", "allow")
    ]
    denied = await records(rest)

    assert shared.status_code == 200, shared.text
    assert (refused.status_code, unseen.status_code) == (403, 404)
    assert [answer.status_code for answer in by_default] == [403, 200]
    assert await names(rest, OTHER) == []
    assert [item["outcome"] for item in denied] == ["success", "denied"]


async def test_without_the_scope_nothing_is_written_and_nothing_read(rest: Rest) -> None:
    narrow = replace(ROOT, scopes=ALL_SCOPES - {Scope.WRITE_ACCESS})

    answers = [
        await rest.ask(narrow, "GET", POLICIES),
        await rest.ask(narrow, "POST", POLICIES, json=body()),
        await rest.ask(
            narrow,
            "POST",
            "/access/explain",
            json={"path": "/mcp/x", "tool": "y", "user_id": NOWHERE},
        ),
    ]

    assert [answer.json()["error"] for answer in answers] == ["insufficient_scope"] * 3


async def test_a_name_is_given_once(rest: Rest) -> None:
    await make(rest, name="one")
    two = await make(rest, name="two")

    again = await rest.ask(ROOT, "POST", POLICIES, json=body("one"))
    renamed = await rest.ask(ROOT, "PATCH", f"{POLICIES}/{two['id']}", json={"name": "one"})

    assert [(answer.status_code, answer.json()["error"]) for answer in (again, renamed)] == [
        (409, "conflict")
    ] * 2
    assert len([item for item in await records(rest) if item["outcome"] == "success"]) == 2


async def test_a_name_is_unique_among_policies_about_the_same_server_alone(
    rest: Rest, upstream: PlainUpstream
) -> None:
    sums = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    mine = await rest.register(OWNER, "mine", upstream.url)
    await make(rest, name="one")
    of_sums = await make(rest, name="one", target=about(sums))
    await make(rest, OWNER, name="one", target=about(mine))

    again = await rest.ask(OWNER, "POST", POLICIES, json=body("one", target=about(mine)))
    moved = await rest.ask(
        ROOT, "PATCH", f"{POLICIES}/{of_sums['id']}", json={"target": about(mine)}
    )
    everywhere = await rest.ask(ROOT, "PATCH", f"{POLICIES}/{of_sums['id']}", json={"target": {}})

    assert [answer.status_code for answer in (again, moved, everywhere)] == [409] * 3
    assert again.json()["message"] == "A policy about this server with name 'one' already exists"
    assert await names(rest) == ["one"] * 3


async def test_lists_are_narrowed_to_what_applies_to_a_server_or_names_a_caller(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await person(rest, OTHER)
    sums = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    mine = await rest.register(OWNER, "mine", upstream.url)
    await make(rest, name="all")
    await make(rest, name="sums", target=about(sums), subjects={"users": [OTHER.user_id]})
    await make(rest, name="mine", target=about(mine), subjects={"roles": ["user"]})
    await make(rest, name="scoped", target=about(mine), subjects={"scopes": ["ops:all"]})

    async def naming(kind: str, subject_id: str) -> list[str]:
        return await names(rest, subject_type=kind, subject_id=subject_id)

    assert await names(rest, applies_to=sums["id"]) == ["all", "sums"]
    assert await names(rest, applies_to=mine["id"], query="s") == ["scoped"]
    assert await names(rest, OWNER, applies_to=mine["id"]) == ["mine", "scoped"]
    assert await names(rest, OWNER, applies_to=sums["id"]) == []
    assert await names(rest, applies_to=sums["id"], subject_type="everyone") == ["all"]
    assert await naming("user", OTHER.user_id.upper()) == ["sums"]
    assert await naming("group", GROUP) == []
    assert await naming("role", "user") == ["mine"]
    assert await naming("scope", "ops:all") == ["scoped"]


async def test_an_outdated_etag_changes_nothing(rest: Rest) -> None:
    made = await make(rest)
    path, old = f"{POLICIES}/{made['id']}", {"If-Match": f'"{made["etag"]}"'}
    await rest.ask(ROOT, "PATCH", path, json={"description": "newer"})

    changed = await rest.ask(ROOT, "PATCH", path, json={"effect": "allow"}, headers=old)
    removed = await rest.ask(ROOT, "DELETE", path, headers=old)
    kept = await rest.ask(ROOT, "GET", path)

    assert [answer.status_code for answer in (changed, removed)] == [409, 409]
    assert changed.json()["provided_etag"] == made["etag"]
    assert changed.json()["current_etag"] == kept.json()["etag"]
    assert kept.json()["effect"] == "deny"


async def test_of_many_changes_at_once_each_is_recorded_or_refused(rest: Rest) -> None:
    made = await make(rest)
    path, seen = f"{POLICIES}/{made['id']}", {"If-Match": f'"{made["etag"]}"'}

    answers = await asyncio.gather(
        *(
            rest.ask(ROOT, "PATCH", path, json={"description": f"by {number}"}, headers=seen)
            for number in range(6)
        )
    )

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    updates = [item for item in await records(rest) if item["action"] == "update"]
    assert sorted(item["outcome"] for item in updates) == ["failed"] * 5 + ["success"]


async def test_what_changes_nothing_is_not_recorded(rest: Rest) -> None:
    made = await make(rest)

    answer = await rest.ask(
        ROOT, "PATCH", f"{POLICIES}/{made['id']}", json={"effect": "deny", "is_enabled": True}
    )

    assert (answer.status_code, answer.json()["etag"]) == (200, made["etag"])
    assert [item["action"] for item in await records(rest)] == ["create"]


async def test_people_and_groups_must_exist_and_may_stay_when_they_are_gone(rest: Rest) -> None:
    await person(rest, OTHER)
    groups = rest.parts.database.collection("groups")
    await groups.insert_one({"_id": ObjectId(GROUP), "name": "finance", "memberIds": []})
    unknown = {"users": [OTHER.user_id, NOWHERE], "groups": [GROUP, "0" * 24]}

    refused = await rest.ask(ROOT, "POST", POLICIES, json=body(subjects=unknown))
    made = await make(rest, subjects={"users": [OTHER.user_id], "groups": [GROUP]})
    await groups.delete_many({})
    kept = {**made["subjects"], "roles": ["admin"]}
    later = await rest.ask(ROOT, "PATCH", f"{POLICIES}/{made['id']}", json={"subjects": kept})

    assert refused.status_code == 422
    assert refused.json()["unknown_subjects"] == [f"user:{NOWHERE}", f"group:{'0' * 24}"]
    assert later.status_code == 200, later.text


async def test_a_tool_that_is_not_there_yet_is_warned_of(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")

    own = await make(rest, name="own", target=about(server, "echo", "later", "drop_*"))
    everywhere = await make(rest, name="all", target={"tools": ["echo", "nowhere"]})
    by_scope = await make(rest, name="scope", target={}, subjects={"scopes": ["ops"]})

    assert own["warnings"] == ["No server has these tools now: later."]
    assert everywhere["warnings"] == ["No server has these tools now: nowhere."]
    assert "omit a scope" in by_scope["warnings"][0]


async def test_an_owner_is_told_what_a_policy_does_but_not_of_policies_about_all_servers(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await person(rest, OTHER)
    server = await rest.register(OWNER, "sums", upstream.url)
    allowed: dict[str, Any] = {"effect": "allow", "subjects": {"users": [OTHER.user_id]}}
    await make(rest, name="all", target={}, **allowed)

    own = await make(rest, OWNER, name="own", target=about(server, "echo"), **allowed)
    second = await make(rest, OWNER, name="second", target=about(server, "echo"), **allowed)
    as_root = await make(rest, name="root's", target=about(server, "add"), **allowed)

    path = f"{POLICIES}/{own['id']}"
    off = await rest.ask(OWNER, "PATCH", path, json={"is_enabled": False})
    gone = [await rest.ask(ROOT, "DELETE", f"{POLICIES}/{one['id']}") for one in (second, as_root)]
    closes = 'Closes "echo" to all others but 1 user and administrators.'
    opens = 'Opens "echo" to everyone to whom no policy denies it.'
    nothing = "Changes for nobody which tools they may use."
    assert (own["consequence"], second["consequence"]) == (closes, nothing)
    assert as_root["consequence"] == "Is about no tool that there is now."
    assert off.json()["consequence"] == nothing
    assert [answer.json()["consequence"] for answer in gone] == [nothing, as_root["consequence"]]
    later = await make(rest, OWNER, name="third", target=about(server, "echo"), **allowed)
    last = await rest.ask(OWNER, "DELETE", f"{POLICIES}/{later['id']}")
    assert (later["consequence"], last.json()["consequence"]) == (closes, opens)


@pytest.mark.requirement("R-133")
async def test_policies_about_a_server_go_with_it_in_one_record(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    await make(rest, name="gone", target=about(server))
    await make(rest, name="gone too", target=about(server, "echo"))
    await make(rest, name="stays")

    await rest.call(ROOT, "DELETE", f"/{server['id']}")

    deleted = [item for item in await records(rest, "server") if item["action"] == "delete"]
    assert await names(rest) == ["stays"]
    assert [item["changes"]["removed"]["policies"] for item in deleted] == [2]
    assert [item["action"] for item in await records(rest)] == ["create"] * 3


@pytest.mark.parametrize(
    "changed",
    [
        {"name": ""},
        {"name": "x" * 129},
        {"name": "a\nb"},
        {"name": None},
        {"name": {"$ne": ""}},
        {"effect": "forbid"},
        {"effect": None},
        {"is_enabled": "yes"},
        {"is_enabled": None},
        {"target": None},
        {"target": {"source_type": "soap"}},
        {"target": {"owner_id": "x"}},
        {"target": {"owner_id": NOWHERE}},
        {"target": {"tools": [""]}},
        {"target": {"tools": ["x" * 257]}},
        {"target": {"tools": ["a\x00b"]}},
        {"target": {"tools": "echo"}},
        {"target": {"tools": ["a"] * 1001}},
        {"target": {"metadata": {"destructive": "true"}}},
        {"target": {"metadata": {"destructive": 1}}},
        {"target": {"metadata": {"cost_tier": ""}}},
        {"target": {"metadata": {"$where": True}}},
        {"target": {"unknown": 1}},
        {"subjects": {}},
        {"subjects": None},
        {"subjects": {"everyone": False}},
        {"subjects": {"everyone": 1}},
        {"subjects": {"users": ["me"]}},
        {"subjects": {"users": ["f" * 24] * 1001}},
        {"subjects": {"roles": ["root"]}},
        {"subjects": {"scopes": ["two words"]}},
        {"subjects": {"scopes": ["x" * 129]}},
        {"subjects": {"scopes": ["ü"]}},
        {"description": "x" * 1025},
        {"created_by": "me"},
    ],
    ids=str,
)
async def test_what_is_no_policy_is_refused_before_anything_is_stored(
    rest: Rest, changed: dict[str, Any]
) -> None:
    answer = await rest.ask(ROOT, "POST", POLICIES, json=body() | changed)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")
    assert await names(rest) == []


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("GET", f"{POLICIES}/x", None, 422),
        ("GET", f"{POLICIES}/{NOWHERE}", None, 404),
        ("PATCH", f"{POLICIES}/{NOWHERE}", {"is_enabled": False}, 404),
        ("DELETE", f"{POLICIES}/{NOWHERE}", None, 404),
        ("GET", f"{POLICIES}?page=0", None, 422),
        ("GET", f"{POLICIES}?per_page=201", None, 422),
        ("GET", f"{POLICIES}?sort=name", None, 422),
        ("GET", f"{POLICIES}?owner_id=x", None, 422),
        ("GET", f"{POLICIES}?applies_to=x", None, 422),
        ("GET", f"{POLICIES}?subject_type=user", None, 422),
        ("GET", f"{POLICIES}?subject_type=user&subject_id=me", None, 422),
        ("GET", f"{POLICIES}?subject_type=everyone&subject_id={NOWHERE}", None, 422),
        ("GET", f"{POLICIES}?subject_type=pet&subject_id=x", None, 422),
        ("GET", f"{POLICIES}?subject_id={NOWHERE}", None, 422),
        ("POST", "/access/explain", {"tool": "x"}, 422),
        ("POST", "/access/explain", {"tool": "x", "path": "a", "server_id": NOWHERE}, 422),
        ("POST", "/access/explain", {"tool": "x", "server_id": NOWHERE}, 404),
        ("POST", "/access/explain", {"tool": "x", "path": "/mcp/nothing"}, 404),
        ("POST", "/access/explain", {"tool": "x", "path": "no path"}, 404),
        ("POST", "/access/explain", {"tool": "x", "path": "/mcp"}, 404),
        ("POST", "/access/explain", {"tool": "x__y"}, 404),
        ("POST", "/access/explain", {"tool": "__", "path": "/mcp/"}, 404),
        ("POST", "/access/explain", {"tool": "x", "path": WEIRD}, 404),
    ],
)
async def test_bad_input_gets_a_clear_answer(
    rest: Rest, method: str, path: str, sent: dict[str, Any] | None, status: int
) -> None:
    answer = await rest.ask(ROOT, method, path, json=sent)

    assert answer.status_code == status, answer.text
    assert answer.json()["message"]


async def test_an_empty_change_is_refused(rest: Rest) -> None:
    made = await make(rest)

    answers = [
        await rest.ask(ROOT, "PATCH", f"{POLICIES}/{made['id']}", json=sent)
        for sent in ({}, {"subjects": None}, {"name": None}, {"id": NOWHERE})
    ]

    assert [answer.status_code for answer in answers] == [422] * 4


async def test_a_policy_that_cannot_be_read_is_shown_and_can_be_removed(rest: Rest) -> None:
    made = await make(rest)
    policies = rest.parts.database.db.get_collection(AccessPolicy.Settings.name)
    await policies.update_one(
        {"_id": ObjectId(made["id"])},
        {"$set": {"effect": "perhaps", "users": "all", "updated_at": "now"}},
        bypass_document_validation=True,
    )
    path = f"{POLICIES}/{made['id']}"

    listed = (await rest.ask(ROOT, "GET", POLICIES)).json()["policies"]
    changed = await rest.ask(ROOT, "PATCH", path, json={"is_enabled": False})
    removed = await rest.ask(ROOT, "DELETE", path)

    assert [item["problem"] for item in listed] == ["unreadable: users, effect"]
    assert (changed.status_code, removed.status_code) == (409, 200)
    assert await names(rest) == []


async def test_an_explanation_says_which_step_stands_in_the_way(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await person(rest, OTHER)
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    asked = {"server_id": server["id"], "tool": "echo"}

    free = (await explained(rest, OTHER, **asked, user_id=None, scopes=None)).json()
    made = await make(
        rest, name="operators", effect="allow", target=about(server), subjects={"roles": ["admin"]}
    )
    refused = (await explained(rest, OTHER, **asked)).json()
    to_root = (await explained(rest, ROOT, **asked, user_id=OTHER.user_id)).json()
    by_root = (await explained(rest, ROOT, path="/mcp/sums", tool="echo")).json()
    missing = (await explained(rest, OTHER, server_id=server["id"], tool="nothing")).json()
    narrow = replace(OTHER, scopes=frozenset({Scope.READ_TOOLS}))
    without_scope = (await explained(rest, narrow, **asked)).json()
    await rest.call(
        ROOT,
        "PATCH",
        f"/{server['id']}",
        json={"callRules": {"confirm": "always"}, "defaultEffect": "deny"},
    )
    found = (await rest.ask(ROOT, "GET", "/registry/tools")).json()["tools"]
    stated = {"human_approval_required": True, "approvals_required": 2}
    tool = f"/registry/tools/{found[0]['id']}"
    await rest.ask(ROOT, "PATCH", tool, json={"tool_metadata": stated})
    demanding = (await explained(rest, ROOT, **asked)).json()
    await rest.ask(ROOT, "PATCH", tool, json={"tool_metadata": {"price_per_call": 2}})
    unbounded = (await explained(rest, ROOT, **asked)).json()
    budget = {"name": "small", "amount": 1, "subjects": {"everyone": True}}
    await rest.ask(ROOT, "POST", "/budgets", json=budget)
    dear = (await explained(rest, ROOT, **asked)).json()
    await rest.call(ROOT, "POST", f"/{server['id']}/toggle", json={"enabled": False})
    switched_off = (await explained(rest, ROOT, **asked)).json()

    assert free["allowed"] is True
    assert [reason["step"] for reason in free["reasons"]] == [
        "quarantine",
        "server",
        "tool",
        "access",
        "scope",
        "policy",
        "toolset",
        "limit",
    ]
    # Which policies there are is for those who may read them.
    assert (refused["allowed"], refused["policies"]) == (False, [])
    assert "operators" not in str(refused)
    assert (to_root["allowed"], to_root["policies"]) == (
        False,
        [
            {
                "id": made["id"],
                "name": "operators",
                "effect": "allow",
                "matched": False,
                "matched_by": [],
                "decisive": True,
            }
        ],
    )
    assert "Policies allow it to some only" in refused["message"]
    assert (free["warnings"], refused["warnings"]) == ([], [])
    assert [warning[:30] for warning in to_root["warnings"]] == ["The policies that allow this t"]
    assert (by_root["allowed"], by_root["policies"][0]["matched_by"]) == (True, ["role admin"])
    assert (missing["allowed"], missing["policies"]) == (False, [])
    assert "serves no tool of that name" in missing["message"]
    assert "lacks the scope invoke:tools" in without_scope["message"]
    assert "inactive" in switched_off["message"]
    assert [reason["step"] for reason in demanding["reasons"]][-3:] == [
        "limit",
        "confirmation",
        "approval",
    ]
    assert demanding["reasons"][-1]["message"].startswith("2 people must approve")
    assert (demanding["allowed"], demanding["warnings"]) == (True, [])
    assert [(one["step"], one["passed"]) for one in unbounded["reasons"]][-4:] == [
        ("limit", True),
        ("budget", True),
        ("confirmation", True),
        ("approval", True),
    ]
    assert (
        dear["allowed"],
        "A budget for such calls has less left than one costs" in dear["message"],
    ) == (
        False,
        True,
    )
    refusing = next(one for one in dear["reasons"] if one["step"] == "budget")
    assert "it starts again at " in refusing["message"]
    assert 0 < refusing["retry_after_ms"] <= 31 * 86_400_000


LONG = "a.name-of-a-server-that-is-longer-than-a-prefix-may-be"


@pytest.mark.parametrize(
    ("slug", "tool"), [("sums", "echo"), ("sums", "x.y/z"), (LONG, "echo"), ("a__b", "e" * 100)]
)
async def test_a_tool_is_explained_by_every_name_that_clients_see(
    rest: Rest, upstream: PlainUpstream, slug: str, tool: str
) -> None:
    upstream.tools = ECHO_LIST.replace("echo", tool)
    server = await rest.register(OWNER, slug, upstream.url)
    combined = public_name(slug, tool)

    answers = [
        await explained(rest, OWNER, path=f"/mcp/{slug}", tool=tool),
        await explained(rest, OWNER, path=f"/mcp/{slug}/", tool=tool),
        await explained(rest, OWNER, path=f"/mcp/{slug}", tool=combined),
        await explained(rest, OWNER, server_id=server["id"], tool=combined),
        await explained(rest, OWNER, path="/mcp", tool=combined),
        await explained(rest, OWNER, path="/mcp/", tool=combined),
        await explained(rest, OWNER, tool=combined),
    ]
    of_others = await explained(rest, OTHER, tool=combined)

    told = [answer.json() for answer in answers]
    assert [(said["allowed"], said["tool"], said["server_id"]) for said in told] == [
        (True, tool, server["id"])
    ] * len(answers)
    assert of_others.status_code == 404


async def test_a_tools_own_name_comes_before_one_that_only_looks_combined(
    rest: Rest, upstream: PlainUpstream
) -> None:
    odd = ECHO_LIST[1:-1].replace("echo", "sums__echo")
    upstream.tools = f"[{ECHO_LIST[1:-1]},{odd}]"
    await rest.register(OWNER, "sums", upstream.url)

    own = await explained(rest, OWNER, path="/mcp/sums", tool="sums__echo")
    combined = await explained(rest, OWNER, path="/mcp", tool="sums__echo")
    both = await explained(rest, OWNER, path="/mcp", tool="sums__sums__echo")

    told = [answer.json()["tool"] for answer in (own, combined, both)]
    assert told == ["sums__echo", "echo", "sums__echo"]


async def test_a_server_that_the_caller_does_not_see_is_explained_to_nobody(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)

    hidden = await explained(rest, OTHER, path="/mcp/sums", tool="echo")
    absent = await explained(rest, OTHER, path="/mcp/nothing", tool="echo")
    own = await explained(rest, OWNER, server_id=server["id"], tool="echo")

    assert (hidden.status_code, hidden.json()) == (absent.status_code, absent.json())
    assert hidden.status_code == 404
    assert own.json()["allowed"] is True


async def test_others_are_explained_to_those_who_may_share_the_server(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await person(rest, OTHER)
    await rest.parts.database.collection("groups").insert_one(
        {"_id": ObjectId(GROUP), "name": "finance", "memberIds": [OTHER.user_id]}
    )
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    await make(
        rest, effect="allow", target=about(server), subjects={"groups": [GROUP], "scopes": ["ops"]}
    )
    asked = {"server_id": server["id"], "tool": "echo"}

    member = (await explained(rest, ROOT, **asked, user_id=OTHER.user_id)).json()
    outsider = (await explained(rest, ROOT, **asked, user_id=OTHER.user_id, groups=[])).json()
    scoped = await explained(
        rest, ROOT, **asked, scopes=["read:tools", "invoke:tools", "ops"], roles=["user"]
    )
    nobody = await explained(rest, ROOT, **asked, user_id=NOWHERE)
    curious = await explained(rest, OTHER, **asked, user_id=OTHER.user_id)

    assert (member["allowed"], member["policies"][0]["matched_by"]) == (True, ["group"])
    assert outsider["allowed"] is False
    assert scoped.json()["policies"][0]["matched_by"] == ["scope ops"]
    assert scoped.json()["allowed"] is True
    assert (nobody.status_code, curious.status_code) == (422, 403)


async def test_an_owner_does_not_learn_the_groups_and_the_role_of_others(
    rest: Rest, upstream: PlainUpstream
) -> None:
    await person(rest, OTHER, ROOT)
    await rest.parts.database.collection("groups").insert_one(
        {"_id": ObjectId(GROUP), "name": "finance", "memberIds": [OTHER.user_id]}
    )
    server = await rest.register(OWNER, "sums", upstream.url)
    await rest.parts.database.collection("mcpservers").update_one(
        {"_id": ObjectId(server["id"])}, {"$unset": {"scope": ""}}
    )
    entry = {"principalType": "public", "resourceType": "mcpServer", "permBits": 1}
    await rest.parts.database.collection("aclentries").insert_one(
        {**entry, "resourceId": ObjectId(server["id"])}
    )
    await make(rest, OWNER, effect="allow", target=about(server), subjects={"groups": [GROUP]})
    asked = {"server_id": server["id"], "tool": "echo"}

    member = (await explained(rest, OWNER, **asked, user_id=OTHER.user_id)).json()
    admin = (await explained(rest, OWNER, **asked, user_id=ROOT.user_id)).json()
    supposed = await explained(
        rest, OWNER, **asked, user_id=OTHER.user_id, groups=[GROUP], roles=["user"]
    )
    by_root = (await explained(rest, ROOT, **asked, user_id=OTHER.user_id)).json()

    for told in (member, admin):
        assert told["allowed"] is False
        assert told["policies"][0]["matched_by"] == []
        assert told["message"].endswith("give them as `groups` and `roles` if they matter.)")
    assert [item["message"] for item in member["reasons"]] == [
        item["message"] for item in admin["reasons"]
    ]
    assert (supposed.json()["allowed"], by_root["allowed"]) == (True, True)


async def test_states_are_told_to_those_who_may_change_the_server_alone(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app", autoExpose="none")
    await make(rest, target=about(server))
    asked = {"server_id": server["id"], "tool": "echo"}

    by_root = (await explained(rest, ROOT, **asked)).json()
    by_other = (await explained(rest, OTHER, **asked)).json()
    unknown = (await explained(rest, OTHER, server_id=server["id"], tool="nothing")).json()

    assert "unselected and draft" in by_root["message"]
    assert by_other["message"] == unknown["message"]
    assert by_other["reasons"] == unknown["reasons"]
    assert by_other["policies"] == unknown["policies"] == []


async def test_an_administrator_is_explained_what_the_gateway_decides_about_private_servers(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "hers", upstream.url)
    asked = {"server_id": server["id"], "tool": "echo"}

    by_root = (await explained(rest, ROOT, **asked)).json()
    by_owner = (await explained(rest, OWNER, **asked)).json()
    headers = {
        "Authorization": f"Bearer {rest.token(ROOT)}",
        "Accept": "application/json, text/event-stream",
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    used = await rest.client.post("/mcp/hers", json=message, headers=headers)

    assert (by_root["allowed"], by_owner["allowed"], used.status_code) == (False, True, 404)
    assert "use it only if an ACL entry names them" in by_root["message"]
