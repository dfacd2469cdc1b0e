"""What our API writes, the other application's models, validators and decryption accept."""

import re
from datetime import datetime
from typing import Any

import pytest

from packages.database.encryption import Cipher
from registry.core.clock import SystemClock
from registry.tokens.plugin_auths import PluginAuthRepository
from tests.crossapp.other_application import Doc, OtherApplication
from tests.crossapp.people import PERMISSIONS, TOKENS, Person, person
from tests.crossapp.upstream import RecordingUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

KEY = "k3y:with-colon"
CLIENT_SECRET = "cl1ent-s3cret"
VIEW, SHARE_BIT = 1, 8
CIPHERTEXT = re.compile(r"[0-9a-f]{32}:(?:[0-9a-f]{32})+")
ENDPOINTS = {
    "authorization_url": "https://login.example/authorize",
    "token_url": "https://login.example/token",
}


async def register(who: Person, upstream: RecordingUpstream, **fields: object) -> Doc:
    body = {"serverName": "weather", "url": upstream.url, **fields}
    return await who.ask("POST", status=201, json=body)


async def found(other: OtherApplication, name: str = "weather") -> Doc:
    server: Doc = await other.call("methods.findMCPServerByServerName", name)
    return server


async def accessible(other: OtherApplication, who: Person, bit: int) -> list[str]:
    principals = await other.call("methods.getUserPrincipals", {"userId": who.user_id})
    ids = await other.call("methods.findAccessibleResources", principals, "mcpServer", bit)
    return [str(item) for item in ids]


@pytest.mark.requirement("R-315")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"title": "The Weather", "description": "Rain or shine.", "timeout": 30_000},
        {"apiKey": {"source": "admin", "authorization_type": "bearer", "key": KEY}},
        {
            "apiKey": {
                "source": "admin",
                "authorization_type": "custom",
                "custom_header": "X-Weather",
                "key": KEY,
            }
        },
        {"oauth": {"client_id": "me", "client_secret": CLIENT_SECRET, **ENDPOINTS}},
        {"apiKey": {"source": "user", "authorization_type": "bearer", "key": KEY}},
        {"headers": {"X-Region": "north"}},
    ],
    ids=["bare", "described", "bearer", "custom", "oauth", "user key", "headers"],
)
async def test_a_registered_server_passes_the_other_applications_validator(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream, fields: dict[str, Any]
) -> None:
    ada = await person(rest, other, "ada")
    registered = await register(ada, upstream, **fields)

    server = await found(other)
    verdict = await other.call("provider.MCPOptionsSchema.safeParse", server["config"])

    assert verdict["success"], verdict["issues"]
    assert (str(server["_id"]), server["author"]) == (registered["id"], ada.user_id)
    assert (verdict["data"]["type"], verdict["data"]["url"]) == ("streamable-http", upstream.url)


async def test_a_registered_server_passes_the_model_itself(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    await register(ada, upstream)
    server = await found(other)

    await other.call("models.MCPServer.validate", server)

    assert isinstance(server["createdAt"], datetime)
    assert isinstance(server["updatedAt"], datetime)


async def test_the_secrets_of_a_server_open(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    await register(
        ada,
        upstream,
        apiKey={"source": "admin", "authorization_type": "bearer", "key": KEY},
        oauth={"client_id": "me", "client_secret": CLIENT_SECRET, **ENDPOINTS},
    )
    config = (await found(other))["config"]
    stored = [config["apiKey"]["key"], config["oauth"]["client_secret"]]

    opened = [await other.call("data.decryptV2", value) for value in stored]

    assert opened == [KEY, CLIENT_SECRET]
    assert all(CIPHERTEXT.fullmatch(value) for value in stored)


async def test_a_changed_secret_opens(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    api_key = {"source": "admin", "authorization_type": "bearer", "key": "the first"}
    server = await register(ada, upstream, apiKey=api_key)

    await ada.ask("PATCH", f"/{server['id']}", json={"apiKey": {**api_key, "key": KEY}})

    config = (await found(other))["config"]
    assert await other.call("data.decryptV2", config["apiKey"]["key"]) == KEY


async def test_tools_have_the_keys_that_the_other_application_looks_for(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    await register(ada, upstream)

    config = (await found(other))["config"]

    functions = config["toolFunctions"]
    assert list(functions) == ["echo_mcp_weather"]
    assert functions["echo_mcp_weather"]["function"] == {
        "name": "echo_mcp_weather",
        "description": "Says it again.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
        },
    }
    assert config["tools"] == "echo"


async def test_the_author_and_nobody_else_finds_a_private_server(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada, ben = await person(rest, other, "ada"), await person(rest, other, "ben")

    server = await register(ada, upstream)

    assert await accessible(other, ada, VIEW) == [server["id"]]
    assert await accessible(other, ada, SHARE_BIT) == [server["id"]]
    assert await accessible(other, ben, VIEW) == []


async def test_everybody_finds_a_server_that_is_shared_with_everyone(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    boss = await person(rest, other, "boss", role="ADMIN")
    ben = await person(rest, other, "ben")

    server = await register(boss, upstream, scope="shared_app")

    listed = await other.call(
        "methods.getListMCPServersByIds",
        {"ids": await other.call("methods.findPublicResourceIds", "mcpServer", VIEW)},
    )
    assert await accessible(other, ben, VIEW) == [server["id"]]
    assert await accessible(other, ben, SHARE_BIT) == []
    assert [item["serverName"] for item in listed["data"]] == ["weather"]


async def test_our_acl_entries_name_the_seeded_roles(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    boss = await person(rest, other, "boss", role="ADMIN")
    await register(boss, upstream, scope="shared_app")
    server = await found(other)

    entries = await other.call("methods.findEntriesByResource", "mcpServer", server["_id"])

    roles = {
        name: (await other.call("methods.findRoleByIdentifier", f"mcpServer_{name}"))["_id"]
        for name in ("owner", "viewer")
    }
    assert {item["principalType"]: item["roleId"] for item in entries} == {
        "user": roles["owner"],
        "public": roles["viewer"],
    }
    for entry in entries:
        await other.call("models.AclEntry.validate", entry)


async def test_a_deleted_server_leaves_nothing_behind(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    server = await register(ada, upstream)

    answer = await rest.client.delete(f"/api/v1/servers/{server['id']}", headers=ada.authorization)

    assert answer.status_code == 204
    assert await found(other) is None
    assert await accessible(other, ada, VIEW) == []


async def test_a_users_key_that_was_registered_opens(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    await register(
        ada, upstream, apiKey={"source": "user", "authorization_type": "bearer", "key": KEY}
    )

    stored = await other.call(
        "methods.findOnePluginAuth",
        {
            "userId": str(ada.user_id),
            "pluginKey": "mcp_weather",
            "authField": "MCP_API_KEY",
        },
    )

    assert await other.call("data.decrypt", stored["value"]) == KEY
    await other.call("models.PluginAuth.validate", stored)


async def test_a_users_key_that_was_replaced_is_still_one_document(
    rest: Rest, other: OtherApplication, cipher: Cipher
) -> None:
    auths = PluginAuthRepository(rest.parts.database, cipher)
    now = SystemClock().now()
    key = {"userId": "a" * 24, "pluginKey": "mcp_weather", "authField": "MCP_API_KEY"}
    first = {**key, "value": await other.call("data.encrypt", "the first")}
    await other.call("methods.updatePluginAuth", first)

    await rest.parts.database.transaction(
        lambda tx: auths.store("a" * 24, "weather", KEY, now, tx)
    )

    found_keys = await other.call(
        "methods.findPluginAuthsByKeys", {"userId": "a" * 24, "pluginKeys": ["mcp_weather"]}
    )
    assert [await other.call("data.decrypt", item["value"]) for item in found_keys] == [KEY]


@pytest.mark.parametrize(
    ("kind", "stored_type", "identifier"),
    [
        ("oauth_access", "mcp_oauth", "mcp:weather"),
        ("oauth_refresh", "mcp_oauth_refresh", "mcp:weather:refresh"),
    ],
)
async def test_a_token_is_found_and_opens(
    rest: Rest, other: OtherApplication, kind: str, stored_type: str, identifier: str
) -> None:
    ada = await person(rest, other, "ada")
    metadata = {"server_name": "weather", "scope": "read"}
    body = {"type": kind, "identifier": "mine", "token": "the token", "metadata": metadata}
    stored = await ada.send("POST", TOKENS, status=201, json=body)

    token = await other.call(
        "methods.findToken",
        {"userId": str(ada.user_id), "type": stored_type, "identifier": identifier},
    )

    assert str(token["_id"]) == stored["id"]
    assert await other.call("data.decryptV2", token["token"]) == "the token"
    assert isinstance(token["createdAt"], datetime)
    assert isinstance(token["expiresAt"], datetime)
    await other.call("models.Token.validate", token)


async def test_a_token_that_we_replaced_is_still_one_document(
    rest: Rest, other: OtherApplication
) -> None:
    ada = await person(rest, other, "ada")
    key = {"userId": ada.user_id, "type": "mcp_oauth", "identifier": "mcp:weather"}
    encrypted = await other.call("data.encryptV2", "the first")
    await other.call("methods.createToken", {**key, "token": encrypted, "expiresIn": 60})

    body = {"type": "oauth_access", "identifier": "weather", "token": "the second"}
    metadata = {"server_name": "weather"}
    await ada.send("POST", TOKENS, status=201, json={**body, "metadata": metadata})

    tokens = await other.call("models.Token.find", key)
    assert [await other.call("data.decryptV2", item["token"]) for item in tokens] == ["the second"]


async def test_what_we_share_is_what_the_other_application_finds(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    boss = await person(rest, other, "boss", role="ADMIN")
    ben = await person(rest, other, "ben")
    await other.call("methods.seedDefaultRoles")
    body = {"serverName": "weather", "url": upstream.url}
    server = await boss.ask("POST", status=201, json=body)

    async def bits() -> dict[str, bool]:
        held = {}
        for name, bit in (("view", 1), ("edit", 2), ("share", 8)):
            found = await other.call(
                "methods.findAccessibleResources",
                [
                    {"principalType": "user", "principalId": ben.user_id},
                    {"principalType": "role", "principalId": "USER"},
                    {"principalType": "public"},
                ],
                "mcpServer",
                bit,
            )
            held[name] = server["id"] in [str(key) for key in found]
        return held

    seen = []
    for change in (
        {"updated": [{"type": "user", "id": str(ben.user_id), "role": "editor"}]},
        {"updated": [{"type": "user", "id": str(ben.user_id), "role": "viewer"}]},
        {"removed": [{"type": "user", "id": str(ben.user_id)}]},
        {"updated": [{"type": "role", "id": "USER", "role": "viewer"}]},
        {"removed": [{"type": "role", "id": "USER"}], "public": True},
        {"public": False},
    ):
        await boss.send("PUT", f"{PERMISSIONS}/{server['id']}", json=change)
        seen.append(await bits())
        assert (await ben.sees() == ["weather"]) is seen[-1]["view"]

    nothing = {"view": False, "edit": False, "share": False}
    view = {**nothing, "view": True}
    assert seen == [{**view, "edit": True}, view, nothing, view, view, nothing]
    stored = await other.call("models.AclEntry.find", {})
    for entry in stored:
        await other.call("models.AclEntry.validate", entry)


async def test_a_users_key_that_we_store_opens(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    own_key = {"source": "user", "authorization_type": "bearer"}
    body = {"serverName": "weather", "url": upstream.url, "apiKey": own_key}
    server = await ada.ask("POST", status=201, json=body)

    values = {"MCP_API_KEY": KEY}
    await ada.ask("PUT", f"/{server['id']}/user-keys", json={"values": values})

    found = await other.call(
        "methods.findPluginAuthsByKeys",
        {"userId": str(ada.user_id), "pluginKeys": ["mcp_weather"]},
    )
    assert [await other.call("data.decrypt", item["value"]) for item in found] == [KEY]
