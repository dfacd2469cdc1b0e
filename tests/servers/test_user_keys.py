"""Values of users' own for servers that ask for them: stored, told of, used and removed."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from packages.database.encryption import FieldRef, StoredForm, stored_form
from registry.auth.identity import Scope, UserContext
from registry.wiring.keys import build_cipher
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
SECRET = "sk-sentinel-4410"
OWN_KEY = {"source": "user", "authorization_type": "bearer"}
VARIABLES = {
    "REGION": {"title": "Region", "description": "Where you are"},
    "ACCOUNT": {"title": "Account", "description": ""},
}
TEMPLATES = {
    "X-Region": "{{REGION}}",
    "X-Account": "id-{{ACCOUNT}}",
    "X-Who": "{{LIBRECHAT_USER_ID}}",
    "X-Other": "{{LIBRECHAT_USER_EMAIL}}",
}


async def shared(rest: Rest, root: UserContext, url: str = URL, **fields: Any) -> str:
    server = await rest.register(root, "weather", url, scope="shared_app", **fields)
    return str(server["id"])


async def put(rest: Rest, user: UserContext, server_id: str, **values: str | None) -> Any:
    return await rest.call(user, "PUT", f"/{server_id}/user-keys", json={"values": values})


async def is_set(rest: Rest, user: UserContext, server_id: str) -> dict[str, bool]:
    answer = await rest.call(user, "GET", f"/{server_id}/user-keys")
    return {item["name"]: item["isSet"] for item in answer.json()["variables"]}


async def called_with(
    rest: Rest, user: UserContext, upstream: PlainUpstream
) -> tuple[dict[str, str], Any]:
    """Call the tool through the gateway; return what arrived upstream, and the answer."""
    before = len(upstream.seen)
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "hi"}},
    }
    headers = {
        "Authorization": f"Bearer {rest.token(user)}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2025-11-25",
    }
    answer = await rest.client.post("/mcp/weather", json=body, headers=headers)
    arrived = upstream.seen[before:]
    return (arrived[-1] if arrived else {}), answer


async def test_each_user_stores_values_and_is_told_which_are_missing(
    rest: Rest, root: UserContext, alice: UserContext, bob: UserContext
) -> None:
    server_id = await shared(rest, root, customUserVars=VARIABLES, headers=TEMPLATES)

    answer = await put(rest, alice, server_id, REGION="north")

    assert answer.status_code == 200
    first = answer.json()["variables"][0]
    assert first.pop("updatedAt") is not None
    assert first == {
        "name": "REGION",
        "title": "Region",
        "description": "Where you are",
        "isSet": True,
    }
    assert await is_set(rest, alice, server_id) == {"REGION": True, "ACCOUNT": False}
    assert await is_set(rest, bob, server_id) == {"REGION": False, "ACCOUNT": False}


async def test_the_gateway_uses_the_callers_values_and_nobody_elses(
    rest: Rest,
    root: UserContext,
    alice: UserContext,
    bob: UserContext,
    upstream: PlainUpstream,
) -> None:
    server_id = await shared(
        rest, root, upstream.url, customUserVars=VARIABLES, headers=TEMPLATES, apiKey=OWN_KEY
    )
    for user, key in ((alice, "alices"), (bob, "{{REGION}}"), (root, "roots")):
        await put(rest, user, server_id, REGION=f"{key}-region", ACCOUNT=key, MCP_API_KEY=key)
    assert (await rest.call(root, "POST", f"/{server_id}/refresh")).json()["numTools"] == 1

    seen = [(await called_with(rest, user, upstream))[0] for user in (alice, bob)]

    assert [
        (got.get("authorization"), got.get("x-region"), got.get("x-account"), got.get("x-who"))
        for got in seen
    ] == [
        ("Bearer alices", "alices-region", "id-alices", alice.user_id),
        ("Bearer {{REGION}}", "{{REGION}}-region", "id-{{REGION}}", bob.user_id),
    ]
    assert not any("x-other" in got for got in seen)


async def test_the_first_values_of_an_editor_make_the_tools_known(
    rest: Rest, root: UserContext, alice: UserContext, upstream: PlainUpstream
) -> None:
    server_id = await shared(rest, root, upstream.url, apiKey=OWN_KEY)
    before = (await rest.call(alice, "GET", f"/{server_id}")).json()

    await put(rest, alice, server_id, MCP_API_KEY="alices")
    unread = (await rest.call(alice, "GET", f"/{server_id}")).json()
    await put(rest, root, server_id, MCP_API_KEY="roots")
    after = (await rest.call(alice, "GET", f"/{server_id}")).json()

    assert "user-keys" in before["notice"]
    assert (unread["tools"], after["tools"]) == ("", "echo")
    assert "notice" not in after


async def test_who_stores_a_key_hears_whether_the_server_takes_it(
    rest: Rest, root: UserContext, alice: UserContext, upstream: PlainUpstream
) -> None:
    server_id = await shared(rest, root, upstream.url, apiKey=OWN_KEY)
    upstream.takes_key = "right"

    wrong = (await put(rest, alice, server_id, MCP_API_KEY="wrong")).json()
    right = (await put(rest, alice, server_id, MCP_API_KEY="right")).json()
    upstream.redirects_to = "http://127.0.0.1:9/mcp"
    unknown = (await put(rest, alice, server_id, MCP_API_KEY="right")).json()
    removed = (await put(rest, alice, server_id, MCP_API_KEY=None)).json()

    assert wrong["variables"][0]["isSet"] is True
    assert [answer["check"]["accepted"] for answer in (wrong, right, unknown)] == [
        False,
        True,
        None,
    ]
    assert wrong["check"]["message"]
    assert "check" not in removed


async def test_a_call_without_the_callers_values_says_which_are_missing(
    rest: Rest, root: UserContext, alice: UserContext, upstream: PlainUpstream
) -> None:
    server_id = await shared(rest, root, upstream.url, customUserVars=VARIABLES, headers=TEMPLATES)
    await put(rest, root, server_id, REGION="r", ACCOUNT="a")
    await rest.call(root, "POST", f"/{server_id}/refresh")
    await put(rest, alice, server_id, REGION="north")

    headers, answer = await called_with(rest, alice, upstream)

    assert headers == {}
    assert "ACCOUNT" in answer.text
    assert "REGION" not in answer.text


async def test_a_value_that_cannot_be_decrypted_is_told_of(
    rest: Rest, root: UserContext, alice: UserContext, upstream: PlainUpstream
) -> None:
    server_id = await shared(rest, root, upstream.url, apiKey=OWN_KEY)
    await put(rest, root, server_id, MCP_API_KEY="roots")
    await put(rest, alice, server_id, MCP_API_KEY="alices")
    auths = rest.parts.database.collection("pluginauths")
    await auths.update_many({}, {"$set": {"value": "00" * 16}})

    headers, answer = await called_with(rest, alice, upstream)
    refreshed = await rest.call(root, "POST", f"/{server_id}/refresh")

    assert headers == {}
    assert "MCP_API_KEY cannot be decrypted" in answer.text
    assert (refreshed.status_code, refreshed.json()["error"]) == (502, "upstream_error")


async def test_a_header_with_a_value_that_nobody_is_asked_for_is_refused(
    rest: Rest, root: UserContext
) -> None:
    headers = {"X-Region": "{{REGOIN}}"}
    body = {"serverName": "weather", "url": URL, "customUserVars": VARIABLES, "headers": headers}

    refused = await rest.call(root, "POST", json=body)
    server_id = await shared(rest, root, customUserVars=VARIABLES, headers=TEMPLATES)
    changed = await rest.call(root, "PATCH", f"/{server_id}", json={"customUserVars": None})

    assert refused.status_code == 422
    assert "{{REGOIN}}" in refused.json()["message"]
    assert changed.status_code == 422


async def test_a_removed_value_is_used_no_more(
    rest: Rest, root: UserContext, alice: UserContext, upstream: PlainUpstream
) -> None:
    server_id = await shared(rest, root, upstream.url, apiKey=OWN_KEY)
    await put(rest, root, server_id, MCP_API_KEY="roots")
    await rest.call(root, "POST", f"/{server_id}/refresh")
    await put(rest, alice, server_id, MCP_API_KEY="alices")
    assert (await called_with(rest, alice, upstream))[0]["authorization"] == "Bearer alices"

    deleted = await rest.call(alice, "DELETE", f"/{server_id}/user-keys/MCP_API_KEY")
    again = await rest.call(alice, "DELETE", f"/{server_id}/user-keys")

    assert (deleted.status_code, again.status_code) == (204, 404)
    assert (await called_with(rest, alice, upstream))[0] == {}
    assert await is_set(rest, root, server_id) == {"MCP_API_KEY": True}


async def test_values_lie_where_and_as_the_other_application_keeps_them(
    rest: Rest, root: UserContext, alice: UserContext
) -> None:
    server_id = await shared(rest, root, apiKey=OWN_KEY)
    await put(rest, alice, server_id, MCP_API_KEY=SECRET)

    stored = await rest.parts.database.collection("pluginauths").find_one({})

    assert stored is not None
    value = stored["value"]
    assert stored_form(value) is StoredForm.V1
    reference = FieldRef("pluginauths", str(stored["_id"]), "value")
    assert build_cipher(rest.parts.settings).decrypt(value, reference) == SECRET
    assert (stored["userId"], stored["pluginKey"], stored["authField"]) == (
        alice.user_id,
        "mcp_weather",
        "MCP_API_KEY",
    )


async def test_the_mask_leaves_a_value_and_null_removes_it(
    rest: Rest, root: UserContext, alice: UserContext
) -> None:
    server_id = await shared(rest, root, customUserVars=VARIABLES)
    await put(rest, alice, server_id, REGION="north", ACCOUNT="a")

    await put(rest, alice, server_id, REGION="***", ACCOUNT=None)

    assert await is_set(rest, alice, server_id) == {"REGION": True, "ACCOUNT": False}
    user_keys = rest.parts.database.collection("pluginauths")
    assert await user_keys.count_documents({}) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"UNHEARD_OF": "x"},
        {"REGION": ""},
        {"REGION": "two\nlines"},
        {"REGION": "snow\u2603"},
        {"REGION": 5},
        {"REGION": "x" * 8193},
        {"not a name": "x"},
        {"$where": "x"},
        {},
    ],
)
async def test_nonsense_is_refused_and_stores_nothing(
    rest: Rest, root: UserContext, alice: UserContext, values: dict[str, Any]
) -> None:
    server_id = await shared(rest, root, customUserVars=VARIABLES)

    answer = await rest.call(
        alice,
        "PUT",
        f"/{server_id}/user-keys",
        json={"values": {"ACCOUNT": "a", **values}} if values else {"values": {}},
    )

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")
    assert await rest.parts.database.collection("pluginauths").count_documents({}) == 0


async def test_a_server_that_is_not_visible_asks_for_nothing(
    rest: Rest, alice: UserContext, bob: UserContext
) -> None:
    server = await rest.register(alice, "mine", URL, apiKey=OWN_KEY)

    answers = [
        await rest.call(bob, "GET", f"/{server['id']}/user-keys"),
        await put(rest, bob, server["id"], MCP_API_KEY="x"),
        await rest.call(bob, "DELETE", f"/{server['id']}/user-keys"),
        await put(rest, bob, str(ObjectId()), MCP_API_KEY="x"),
    ]

    assert {answer.status_code for answer in answers} == {404}


async def test_changes_are_recorded_without_the_values(
    rest: Rest, root: UserContext, alice: UserContext
) -> None:
    server_id = await shared(rest, root, apiKey=OWN_KEY)
    await put(rest, alice, server_id, MCP_API_KEY=SECRET)
    await rest.call(alice, "DELETE", f"/{server_id}/user-keys")

    logs = rest.parts.database.collection("audit_logs")
    stored = await logs.find({"entity_type": "user_key"}).sort("_id").to_list()

    assert SECRET not in json.dumps(stored, default=str)
    assert [(item["action"], item["changes"]) for item in stored] == [
        ("update", {"after": {"MCP_API_KEY": "***"}, "secrets": ["MCP_API_KEY"]}),
        ("delete", {"before": {"MCP_API_KEY": "***"}}),
    ]


async def test_reading_and_storing_take_their_scopes(
    rest: Rest, root: UserContext, alice: UserContext
) -> None:
    server_id = await shared(rest, root, apiKey=OWN_KEY)
    narrow = UserContext(alice.user_id, "alice", alice.role, frozenset({Scope.READ_SERVERS}))

    answers = [
        await rest.call(narrow, "GET", f"/{server_id}/user-keys"),
        await put(rest, narrow, server_id, MCP_API_KEY="x"),
    ]

    assert [(answer.status_code, answer.json()["scope"]) for answer in answers] == [
        (403, "read:servers read:tokens"),
        (403, "read:servers write:tokens"),
    ]


async def test_variables_are_changed_and_kept_like_any_other_member(
    rest: Rest, root: UserContext
) -> None:
    server_id = await shared(rest, root, customUserVars=VARIABLES)
    more = {"REGION": {"title": "Region", "description": "", "sensitive": False}}

    changed = await rest.call(root, "PATCH", f"/{server_id}", json={"customUserVars": more})
    with_key = await rest.call(root, "PATCH", f"/{server_id}", json={"apiKey": OWN_KEY})
    without = await rest.call(root, "PATCH", f"/{server_id}", json={"customUserVars": None})

    assert changed.json()["customUserVars"] == more
    assert set(with_key.json()["customUserVars"]) == {"REGION", "MCP_API_KEY"}
    assert set(without.json()["customUserVars"]) == {"MCP_API_KEY"}


async def test_a_key_for_a_former_bearer_of_the_name_is_not_sent_to_the_next(
    rest: Rest, root: UserContext, alice: UserContext, upstream: PlainUpstream
) -> None:
    await rest.parts.database.collection("pluginauths").insert_one(
        {
            "userId": alice.user_id,
            "pluginKey": "mcp_weather",
            "authField": "MCP_API_KEY",
            "value": build_cipher(rest.parts.settings).encrypt_fixed_iv("for another"),
            "updatedAt": rest.parts.clock.now() - timedelta(days=1),
        }
    )
    server_id = await shared(rest, root, upstream.url, apiKey=OWN_KEY)
    await put(rest, root, server_id, MCP_API_KEY="roots")

    headers, _ = await called_with(rest, alice, upstream)
    assert headers == {}
    assert await is_set(rest, alice, server_id) == {"MCP_API_KEY": False}
    await rest.call(root, "DELETE", f"/{server_id}")
    left = await rest.parts.database.collection("pluginauths").find({}).to_list()
    assert [row["userId"] for row in left] == [alice.user_id]


async def test_a_key_that_is_stored_while_its_server_is_removed_does_not_stay(
    rest: Rest, root: UserContext, alice: UserContext
) -> None:
    server_id = await shared(rest, root, apiKey=OWN_KEY)

    answers = await asyncio.gather(
        *(put(rest, alice, server_id, MCP_API_KEY=f"key {number}") for number in range(5)),
        rest.call(root, "DELETE", f"/{server_id}"),
    )

    assert {answer.status_code for answer in answers} <= {200, 204, 404, 409}
    if answers[-1].status_code == 409:
        assert (await rest.call(root, "DELETE", f"/{server_id}")).status_code == 204
    assert await rest.parts.database.collection("pluginauths").count_documents({}) == 0


async def test_of_many_that_store_one_value_at_once_one_row_is_left_and_can_be_replaced(
    rest: Rest, root: UserContext, alice: UserContext
) -> None:
    server_id = await shared(rest, root, apiKey=OWN_KEY)
    await asyncio.gather(
        *(put(rest, alice, server_id, MCP_API_KEY=f"key {number}") for number in range(8))
    )

    await put(rest, alice, server_id, MCP_API_KEY="the last")

    rows = await rest.parts.database.collection("pluginauths").find({}).to_list()
    reference = FieldRef("pluginauths", str(rows[0]["_id"]), "value")
    cipher = build_cipher(rest.parts.settings)
    assert [cipher.decrypt(row["value"], reference) for row in rows] == ["the last"]
