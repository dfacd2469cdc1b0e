"""Secrets that another program stored in clear: masked wherever servers and versions are shown."""

import json
from typing import Any

import pytest
from bson import ObjectId

from registry.auth.identity import UserContext
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

SENTINEL = "SENTINEL"


async def stored_elsewhere(rest: Rest, user: UserContext, url: str) -> dict[str, Any]:
    """Return a server that another program gave secrets in the places where it keeps them."""
    server = await rest.register(user, "sums", url)
    await rest.parts.database.collection("mcpservers").update_one(
        {"_id": ObjectId(server["id"])},
        {
            "$set": {
                "config.url": f"{url}?api_key={SENTINEL}",
                "config.headers": {"X-Zugang": SENTINEL, "X-Mix": f"{SENTINEL}-{{{{KEY}}}}"},
                "config.customUserVars": {"KEY": {"title": "Key", "description": ""}},
                "config.oauth": {"token_url": f"https://as.example.com/?key={SENTINEL}"},
            }
        },
    )
    await rest.parts.database.collection("server_versions").delete_many({})
    return server


async def test_they_are_in_no_answer_version_or_record(
    rest: Rest, upstream: PlainUpstream, alice: UserContext, root: UserContext
) -> None:
    server = await stored_elsewhere(rest, alice, upstream.url)
    path = f"/{server['id']}"

    whole = await rest.call(alice, "GET", path)
    titled = await rest.call(alice, "PATCH", path, json={"title": "Sums"})
    sent_back = await rest.call(
        alice,
        "PATCH",
        path,
        json={name: whole.json()[name] for name in ("url", "headers", "oauth")},
    )
    moved = await rest.call(
        alice, "PATCH", path, json={"url": upstream.url, "headers": None, "oauth": None}
    )
    answers = [
        whole,
        titled,
        sent_back,
        moved,
        await rest.call(alice, "GET"),
        await rest.call(alice, "GET", f"{path}/versions"),
        await rest.call(alice, "GET", f"{path}/versions/1"),
        await rest.call(alice, "GET", f"{path}/versions/1/diff"),
        await rest.ask(root, "GET", "/audit?limit=100"),
    ]
    found = {
        name: await rest.parts.database.collection(name).find({}).to_list()
        for name in ("server_versions", "audit_logs")
    }

    assert (titled.status_code, sent_back.status_code, moved.status_code) == (200, 200, 200)
    assert whole.json()["url"] == sent_back.json()["url"] == f"{upstream.url}?api_key=***"
    assert whole.json()["headers"] == {"X-Zugang": "***", "X-Mix": "***"}
    assert SENTINEL not in json.dumps([answer.text for answer in answers])
    assert SENTINEL not in json.dumps(found, default=str)


async def test_they_come_back_with_the_version_that_had_them(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    server = await stored_elsewhere(rest, alice, upstream.url)
    path = f"/{server['id']}"
    rows = rest.parts.database.collection("mcpservers")
    before = (await rows.find({}).to_list())[0]["config"]
    await rest.call(
        alice, "PATCH", path, json={"url": upstream.url, "headers": None, "oauth": None}
    )

    restored = await rest.call(alice, "POST", f"{path}/versions/1/rollback")

    after = (await rows.find({}).to_list())[0]["config"]
    assert restored.status_code == 200, restored.text
    assert (after["url"], after["headers"]) == (before["url"], before["headers"])


async def test_an_address_with_a_secret_is_refused(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    url = f"{upstream.url}?api_key={SENTINEL}"
    server = await rest.register(alice, "sums", upstream.url)

    answers = [
        await rest.call(alice, "POST", json={"serverName": "more", "url": url}),
        await rest.call(alice, "POST", "/connection", json={"url": url}),
        await rest.call(alice, "PATCH", f"/{server['id']}", json={"url": url}),
        await rest.call(
            alice,
            "PATCH",
            f"/{server['id']}",
            json={"oauth": {"token_url": "https://a.example/?key=x"}},
        ),
    ]

    assert [answer.status_code for answer in answers] == [422] * 4
    fields = [answer.json()["details"][0]["field"] for answer in answers]
    assert fields == ["url", "url", "url", "oauth.token_url"]
    assert SENTINEL not in json.dumps([answer.text for answer in answers])


async def test_a_version_that_names_the_environment_is_not_brought_back(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    server = await rest.register(alice, "sums", upstream.url)
    await rest.parts.database.collection("mcpservers").update_one(
        {"_id": ObjectId(server["id"])}, {"$set": {"config.headers": {"X-A": "${CREDS_KEY}"}}}
    )
    await rest.parts.database.collection("server_versions").delete_many({})
    path = f"/{server['id']}"
    await rest.call(alice, "PATCH", path, json={"headers": None})

    answer = await rest.call(alice, "POST", f"{path}/versions/1/rollback")

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")
    assert answer.json()["details"][0]["field"] == "headers.X-A"
