"""Changes by one program leave alone what the other one wrote."""

from typing import Any

import pytest
from bson import ObjectId

from tests.crossapp.other_application import Doc, OtherApplication
from tests.crossapp.people import TOKENS, Person, create_server, person, until
from tests.crossapp.upstream import RecordingUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

KEY = "the-key"
FOREIGN_ROOT = {"proxyPassUrl": "http://proxy.example", "future": {"a": [1, {"b": None}]}}
FOREIGN_CONFIG: dict[str, Any] = {
    "oauthRefreshCoordination": True,
    "obo": {"scopes": "a b"},
    "requestHeaders": {"X-Trace": "on"},
    "serverInstructions": "Be kind.",
}
OURS = ("scope", "status", "path", "tags", "numStars", "registry", "createdAt")


async def stored(rest: Rest, server_id: object) -> Doc:
    document = await rest.parts.database.collection("mcpservers").find_one(
        {"_id": ObjectId(str(server_id))}
    )
    assert document is not None
    return document


async def foreign_server(
    rest: Rest, other: OtherApplication, author: Person, upstream: RecordingUpstream
) -> Doc:
    server = await create_server(
        other,
        author,
        upstream.url,
        apiKey={
            "source": "admin",
            "authorization_type": "bearer",
            "key": await other.call("data.encryptV2", KEY),
        },
        **FOREIGN_CONFIG,
    )
    # A later release may have fields that these packages do not know.
    await rest.parts.database.collection("mcpservers").update_one(
        {"_id": server["_id"]}, {"$set": FOREIGN_ROOT}
    )
    return server


@pytest.mark.requirement("R-315")
async def test_a_patch_keeps_every_field_that_it_does_not_name(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    server = await foreign_server(rest, other, ada, upstream)
    before = await stored(rest, server["_id"])

    await ada.ask("PATCH", f"/{server['_id']}", json={"description": "Rain.", "tags": ["sky"]})

    after = await stored(rest, server["_id"])
    assert after["config"] == {**before["config"], "description": "Rain."}
    assert after["updatedAt"] > before["updatedAt"]
    assert {name: after[name] for name in before if name not in {"config", "updatedAt"}} == {
        name: before[name] for name in before if name not in {"config", "updatedAt"}
    }
    assert after["tags"] == ["sky"]


async def test_a_refresh_keeps_every_field_but_what_it_learnt(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    server = await foreign_server(rest, other, ada, upstream)
    before = await stored(rest, server["_id"])

    await ada.ask("POST", f"/{server['_id']}/refresh")

    after = await stored(rest, server["_id"])
    assert {name: after[name] for name in FOREIGN_ROOT} == FOREIGN_ROOT
    assert {name: after["config"][name] for name in FOREIGN_CONFIG} == FOREIGN_CONFIG
    assert after["config"]["apiKey"] == before["config"]["apiKey"]
    assert list(after["config"]["toolFunctions"]) == ["echo_mcp_my-weather"]


async def test_what_we_changed_is_what_the_other_application_reads(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    server = await foreign_server(rest, other, ada, upstream)

    await ada.ask("PATCH", f"/{server['_id']}", json={"title": "Sky", "apiKey": {"key": "***"}})
    await ada.ask("POST", f"/{server['_id']}/refresh")

    config = (await other.call("methods.findMCPServerByServerName", "my-weather"))["config"]
    verdict = await other.call("provider.MCPOptionsSchema.safeParse", config)
    assert verdict["success"], verdict["issues"]
    assert config["title"] == "Sky"
    assert await other.call("data.decryptV2", config["apiKey"]["key"]) == KEY


async def test_a_replaced_config_leaves_our_fields_and_the_server_works_on(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    body = {"serverName": "weather", "url": upstream.url, "tags": ["sky"]}
    registered = await ada.ask("POST", status=201, json=body)
    before = await stored(rest, registered["id"])

    await other.call(
        "methods.updateMCPServer",
        "weather",
        {"config": await whole_config(other, upstream, title="Replaced")},
    )

    after = await stored(rest, registered["id"])
    assert {name: after[name] for name in OURS} == {name: before[name] for name in OURS}
    shown = await ada.ask("GET", f"/{registered['id']}")
    assert (shown["title"], shown["tags"]) == ("Replaced", ["sky"])
    assert (await ada.ask("GET", f"/{registered['id']}/tools"))["numTools"] == 1

    async def sends_the_new_key() -> bool:
        answer = await ada.call_tool("weather", "rain")
        assert answer.json()["result"]["content"][0]["text"] == "rain"
        return upstream.calls[-1].get("authorization") == f"Bearer {KEY}"

    await until(sends_the_new_key)


async def whole_config(
    other: OtherApplication, upstream: RecordingUpstream, **config: object
) -> Doc:
    """Return what the other application stores in place of ours: it read no tools."""
    return {
        "type": "streamable-http",
        "url": upstream.url,
        "apiKey": {
            "source": "admin",
            "authorization_type": "bearer",
            "key": await other.call("data.encryptV2", KEY),
        },
        **config,
    }


async def test_a_refresh_after_a_replaced_config_tells_the_tools_again(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    body = {"serverName": "weather", "url": upstream.url}
    registered = await ada.ask("POST", status=201, json=body)
    config = await whole_config(other, upstream)
    await other.call("methods.updateMCPServer", "weather", {"config": config})

    await ada.ask("POST", f"/{registered['id']}/refresh")

    server = await other.call("methods.findMCPServerByServerName", "weather")
    assert list(server["config"]["toolFunctions"]) == ["echo_mcp_weather"]
    assert server["config"]["tools"] == "echo"
    assert server["config"]["apiKey"] == config["apiKey"]


async def test_a_change_by_the_other_application_is_a_change_for_ours(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    body = {"serverName": "weather", "url": upstream.url}
    registered = await ada.ask("POST", status=201, json=body)
    config = await whole_config(other, upstream)
    await other.call("methods.updateMCPServer", "weather", {"config": config})

    outdated = {"title": "Sky", "updatedAt": registered["updatedAt"]}
    answer = await ada.ask("PATCH", f"/{registered['id']}", status=409, json=outdated)

    assert answer["error"] == "conflict"


async def test_a_server_that_the_other_application_deletes_is_gone(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    body = {"serverName": "weather", "url": upstream.url}
    registered = await ada.ask("POST", status=201, json=body)

    await other.call("methods.deleteMCPServer", "weather")

    await ada.until_served("weather", served=False)
    await ada.ask("GET", f"/{registered['id']}", status=404)
    assert await ada.sees() == []


async def test_a_token_survives_an_update_by_the_other_application(
    rest: Rest, other: OtherApplication
) -> None:
    ada = await person(rest, other, "ada")
    metadata = {"server_name": "weather", "scope": "read"}
    body = {"type": "oauth_access", "identifier": "mine", "token": "one", "metadata": metadata}
    stored = await ada.send("POST", TOKENS, status=201, json=body)

    await other.call(
        "methods.updateToken",
        {"userId": str(ada.user_id), "identifier": "mcp:weather"},
        {"token": await other.call("data.encryptV2", "the second"), "expiresIn": 3600},
    )

    token = await ada.send("GET", f"{TOKENS}/{stored['id']}")
    assert {name: token[name] for name in ("identifier", "token", "metadata")} == {
        "identifier": "mine",
        "token": "the second",
        "metadata": metadata,
    }


@pytest.mark.parametrize(
    ("metadata", "loaded"),
    [
        ({"server_name": "weather"}, {"server_name": "weather"}),
        ({"own": {"a.b": 1, "$c": 2}}, {"own": {"a.b": 1, "$c": 2}}),
        ({"server_name": "weather", "a.b": 1}, None),
        ({"server_name": "weather", "$c": 2}, None),
    ],
    ids=["plain", "inside", "dot", "dollar"],
)
async def test_a_key_that_its_maps_refuse_costs_a_loaded_token_all_metadata(
    rest: Rest, other: OtherApplication, metadata: dict[str, Any], loaded: object
) -> None:
    ada = await person(rest, other, "ada")
    body = {
        "type": "oauth_access",
        "identifier": "mine",
        "token": "the token",
        "metadata": {"server_name": "weather"},
    }
    await ada.send("POST", TOKENS, status=201, json=body)
    # Our API refuses the last two for that reason, so they are written past it.
    await rest.parts.database.collection("tokens").update_one({}, {"$set": {"metadata": metadata}})

    document = await other.call("models.Token.findOne", {"type": "mcp_oauth"})
    plain = await other.call("methods.findToken", {"type": "mcp_oauth"})

    assert document.get("metadata") == loaded
    assert plain["metadata"] == metadata
    refused = {**body, "metadata": metadata}
    status = 201 if metadata == {"server_name": "weather"} else 422
    await ada.send("POST", TOKENS, status=status, json=refused)
