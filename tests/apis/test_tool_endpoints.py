"""Tools for clients that speak no MCP: described as OpenAPI, and called by HTTP."""

import uuid
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from openapi_core import OpenAPI

from registry.auth.identity import Role, Scope, UserContext
from tests.apis.conftest import Shop, registered
from tests.fakes.plain_upstream import plain_upstream
from tests.fakes.rest import BASE_URL, Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

READER = UserContext("d" * 24, "reader", Role.USER, frozenset({Scope.READ_SERVERS}))


def fresh() -> str:
    """Return a name that no other test has."""
    return f"end-{uuid.uuid4().hex[:8]}"


async def described(rest: Rest, user: UserContext, path: str) -> dict[str, Any]:
    """Return the document at a path."""
    answer = await rest.ask(user, "GET", f"{path}/openapi.json")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_an_api_is_described_by_the_tools_that_it_serves(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh(), title="The shop")
    await rest.follow()

    found = await described(rest, root, f"/apis/{made['id']}")

    below = f"/api/v1/apis/{made['id']}/tools"
    assert sorted(found["paths"]) == [
        f"{below}/{name}" for name in ("addPet", "listPets", "removePet", "showPet")
    ]
    assert found["info"]["title"] == "The shop"
    assert found["servers"] == [{"url": BASE_URL}]
    OpenAPI.from_dict(found).check_spec()


async def test_a_document_that_is_known_is_not_sent_again(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    await rest.follow()
    path = f"/apis/{made['id']}/openapi.json"
    first = await rest.ask(root, "GET", path)

    again = await rest.ask(root, "GET", path, headers={"If-None-Match": first.headers["etag"]})
    row = await tool_named(rest, root, made["name"], "listPets")
    await rest.ask(
        root, "PATCH", f"/registry/tools/{row['id']}", json={"exposure_state": "disabled"}
    )
    await rest.follow()
    later = await rest.ask(root, "GET", path, headers={"If-None-Match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")
    assert later.status_code == 200
    assert not any("listPets" in path for path in later.json()["paths"])


async def test_calls_are_made_and_answered_by_what_the_tool_returns(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    await rest.follow()
    below = f"/apis/{made['id']}/tools"

    listed = await rest.ask(root, "POST", f"{below}/listPets", json={"limit": 3})
    shown = await rest.ask(root, "POST", f"{below}/showPet", json={"petId": "a/b"})
    bare = await rest.ask(root, "POST", f"{below}/listPets")

    assert shop.called() == ["GET /pets?limit=3", "GET /pets/a%2Fb", "GET /pets"]
    assert (listed.status_code, listed.json()) == (200, {"result": {"path": "/pets?limit=3"}})
    assert shown.json() == {"path": "/pets/a%2Fb"}
    assert bare.status_code == 200
    assert rest.token(root) not in str([dict(one.headers) for one in shop.api.seen])


async def test_failures_have_a_fitting_status_and_the_one_envelope(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    await rest.follow()
    below = f"/apis/{made['id']}/tools"

    async def busy(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"why": "busy"}, status=429, headers={"Retry-After": "7"})

    async def missing(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"why": "no such pet"}, status=404)

    unknown = await rest.ask(root, "POST", f"{below}/nothing", json={})
    invalid = await rest.ask(root, "POST", f"{below}/listPets", json={"limit": "many"})
    no_object = await rest.ask(root, "POST", f"{below}/listPets", json=[1])
    shop.api.answers = missing
    not_there = await rest.ask(root, "POST", f"{below}/showPet", json={"petId": "1"})
    shop.api.answers = busy
    limited = await rest.ask(root, "POST", f"{below}/showPet", json={"petId": "1"})
    foreign = await rest.ask(root, "POST", f"/servers/{made['id']}/tools/listPets", json={})
    forbidden = await rest.ask(READER, "POST", f"{below}/listPets", json={})

    assert (unknown.status_code, unknown.json()["error"]) == (404, "not_found")
    assert (invalid.status_code, invalid.json()["error"]) == (422, "invalid_arguments")
    assert "/limit" in invalid.json()["message"]
    assert (no_object.status_code, no_object.json()["error"]) == (422, "validation_error")
    assert (not_there.status_code, not_there.json()["error"]) == (422, "tool_error")
    assert not_there.json()["upstream_status"] == 404
    assert "no such pet" in not_there.json()["message"]
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    assert foreign.status_code == 404
    assert (forbidden.status_code, forbidden.json()["error"]) == (403, "insufficient_scope")


async def tool_named(rest: Rest, user: UserContext, owner: str, name: str) -> dict[str, Any]:
    """Return a tool's row by its name."""
    rows = (await rest.ask(user, "GET", f"/registry/tools?query={owner}")).json()["tools"]
    return next(dict(row) for row in rows if row["name"] == name)


async def test_policies_hold_for_documents_and_calls(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    body = {
        "name": fresh(),
        "effect": "deny",
        "subjects": {"everyone": True},
        "target": {"owner_id": made["id"], "tools": ["listPets"]},
    }
    refused = await rest.ask(root, "POST", "/access/policies", json=body)
    await rest.follow()

    found = await described(rest, root, f"/apis/{made['id']}")
    denied = await rest.ask(root, "POST", f"/apis/{made['id']}/tools/listPets", json={})
    allowed = await rest.ask(root, "POST", f"/apis/{made['id']}/tools/showPet", json={"petId": 1})

    assert refused.status_code == 201, refused.text
    assert not any("listPets" in path for path in found["paths"])
    assert denied.status_code == 404
    assert allowed.status_code == 422
    assert shop.called() == []


async def test_limits_confirmation_and_quarantine_hold(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    row = await tool_named(rest, root, made["name"], "removePet")
    await rest.ask(
        root,
        "PATCH",
        f"/registry/tools/{row['id']}",
        json={"tool_metadata": {"confirm": "always"}},
    )
    limit = {
        "name": fresh(),
        "target": {"owner_id": made["id"], "tools": ["listPets"]},
        "rates": [{"count": 1, "per": "minute"}],
    }
    stored = await rest.ask(root, "POST", "/limits", json=limit)
    await rest.follow()
    below = f"/apis/{made['id']}/tools"

    asked = await rest.ask(root, "POST", f"{below}/removePet", json={"petId": "1"})
    narrow = replace(root, scopes=root.scopes - {Scope.CONFIRM_TOOLS})
    address = f"{below}/removePet?confirm=true"
    unable = await rest.ask(narrow, "POST", address, json={"petId": "1"})
    confirmed = await rest.ask(root, "POST", address, json={"petId": "1"})
    first = await rest.ask(root, "POST", f"{below}/listPets", json={})
    second = await rest.ask(root, "POST", f"{below}/listPets", json={})
    put = await rest.ask(
        root,
        "POST",
        "/access/quarantine",
        json={"kind": "server", "subject": made["id"], "reason": "test"},
    )
    await rest.follow()
    stopped = await rest.ask(root, "POST", f"{below}/showPet", json={"petId": "1"})

    assert stored.status_code == 201, stored.text
    assert (asked.status_code, asked.json()["error"]) == (403, "confirmation_required")
    assert (unable.status_code, unable.json()["error"]) == (403, "confirmation_required")
    assert confirmed.is_success, confirmed.text
    assert first.status_code == 200
    assert (second.status_code, second.json()["error"]) == (429, "rate_limited")
    assert int(second.headers["retry-after"]) >= 1
    assert put.status_code == 201, put.text
    assert (stopped.status_code, stopped.json()["error"]) == (403, "quarantined")
    assert shop.called() == ["DELETE /pets/1", "GET /pets"]


async def test_servers_and_toolsets_are_described_and_called_too(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    async with plain_upstream() as upstream:
        server = await rest.register(root, fresh(), upstream.url)
        toolset = (
            await rest.ask(
                root,
                "POST",
                "/toolsets",
                json={
                    "name": fresh(),
                    "entries": [
                        {"server": made["name"], "tool": "listPets"},
                        {"server": server["serverName"], "tool": "*"},
                    ],
                },
            )
        ).json()
        await rest.follow()
        of_server = await described(rest, root, f"/servers/{server['id']}")
        of_toolset = await described(rest, root, f"/toolsets/{toolset['id']}")
        name = next(path for path in of_toolset["paths"] if "listPets" in path)
        called = await rest.client.post(
            name, json={}, headers={"Authorization": f"Bearer {rest.token(root)}"}
        )
        failed = await rest.ask(
            root, "POST", f"/servers/{server['id']}/tools/echo", json={"text": "x"}
        )
        await rest.call(root, "DELETE", f"/{server['id']}")

    assert list(of_server["paths"]) == [f"/api/v1/servers/{server['id']}/tools/echo"]
    assert len(of_toolset["paths"]) == 2
    assert called.json() == {"result": {"path": "/pets"}}
    assert (failed.status_code, failed.json()["error"]) == (502, "upstream_error")
    assert failed.json()["message"] == "Method not found"
