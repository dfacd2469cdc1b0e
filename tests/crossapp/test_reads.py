"""What the other application writes, our API reads and our gateway serves."""

from datetime import timedelta

import pytest
from bson import ObjectId

from registry.core.clock import SystemClock
from tests.crossapp.other_application import OtherApplication
from tests.crossapp.people import TOKENS, create_server, person, share, until
from tests.crossapp.upstream import RecordingUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

KEY = "k3y:with-colon"
CLIENT_SECRET = "cl1ent-s3cret"


@pytest.mark.requirement("E-22")
async def test_a_server_with_secrets_is_listed_and_shown_with_masks(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    created = await create_server(
        other,
        ada,
        upstream.url,
        apiKey={
            "source": "admin",
            "authorization_type": "bearer",
            "key": await other.call("data.encryptV2", KEY),
        },
        oauth={
            "client_id": "me",
            "client_secret": await other.call("data.encryptV2", CLIENT_SECRET),
            "authorization_url": "https://login.example/authorize",
            "token_url": "https://login.example/token",
        },
    )

    await rest.follow()

    listed = await ada.ask("GET")
    shown = await ada.ask("GET", f"/{created['_id']}")

    assert [server["id"] for server in listed["servers"]] == [str(created["_id"])]
    assert (shown["serverName"], shown["path"]) == ("my-weather", "/mcp/my-weather")
    assert (shown["scope"], shown["status"]) == ("private_user", "active")
    assert shown["apiKey"] == {
        "key": "***",
        "source": "admin",
        "authorization_type": "bearer",
    }
    assert shown["oauth"]["client_secret"] == "***"
    assert (shown["numTools"], list(shown["toolFunctions"])) == (1, ["echo_mcp_my-weather"])


@pytest.mark.parametrize(
    ("api_key", "header", "value"),
    [
        ({"authorization_type": "bearer"}, "authorization", f"Bearer {KEY}"),
        ({"authorization_type": "custom", "custom_header": "X-Weather"}, "x-weather", KEY),
        ({"authorization_type": "custom"}, "x-api-key", KEY),
    ],
    ids=["bearer", "custom", "custom without a name"],
)
async def test_the_gateway_sends_the_key_that_the_other_application_encrypted(
    rest: Rest,
    other: OtherApplication,
    upstream: RecordingUpstream,
    api_key: dict[str, str],
    header: str,
    value: str,
) -> None:
    ada = await person(rest, other, "ada")
    encrypted = await other.call("data.encryptV2", KEY)
    await create_server(
        other, ada, upstream.url, apiKey={"source": "admin", "key": encrypted, **api_key}
    )
    await ada.until_served("my-weather")

    answer = await ada.call_tool("my-weather", "rain")

    assert answer.json()["result"]["content"] == [{"type": "text", "text": "rain"}]
    assert upstream.calls[-1][header] == value


async def test_a_users_key_that_the_other_application_stored_is_sent_for_that_user_only(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada, ben = await person(rest, other, "ada"), await person(rest, other, "ben")
    server = await create_server(
        other,
        ada,
        upstream.url,
        apiKey={"source": "user", "authorization_type": "bearer"},
        headers={"Authorization": "Bearer {{MCP_API_KEY}}"},
        customUserVars={"MCP_API_KEY": {"title": "API Key", "description": "Yours"}},
    )
    await share(other, server, "public", None, "mcpServer_viewer")
    for who, key in ((ada, "adas-key"), (ben, "bens-key")):
        await other.call(
            "methods.updatePluginAuth",
            {
                "userId": str(who.user_id),
                "pluginKey": "mcp_my-weather",
                "authField": "MCP_API_KEY",
                "value": await other.call("data.encrypt", key),
            },
        )
    await ben.until_served("my-weather")

    await ada.call_tool("my-weather")
    await ben.call_tool("my-weather")

    sent = [call["authorization"] for call in upstream.calls[-2:]]
    assert sent == ["Bearer adas-key", "Bearer bens-key"]


async def test_oauth_tokens_of_the_other_application_are_read(
    rest: Rest, other: OtherApplication
) -> None:
    ada = await person(rest, other, "ada")
    ben = await person(rest, other, "ben")
    kinds = {"mcp_oauth": "mcp:weather", "mcp_oauth_refresh": "mcp:weather:refresh"}
    created = {
        kind: await other.call(
            "methods.createToken",
            {
                "userId": ada.user_id,
                "type": kind,
                "identifier": identifier,
                "token": await other.call("data.encryptV2", f"value of {kind}"),
                "expiresIn": 3600,
            },
        )
        for kind, identifier in kinds.items()
    }

    read = [await ada.send("GET", f"{TOKENS}/{row['_id']}") for row in created.values()]

    assert [
        (item["type"], item["identifier"], item["token"], item["metadata"]) for item in read
    ] == [
        ("oauth_access", "weather", "value of mcp_oauth", {"server_name": "weather"}),
        (
            "oauth_refresh",
            "weather_refresh",
            "value of mcp_oauth_refresh",
            {"server_name": "weather"},
        ),
    ]
    await ben.send("GET", f"{TOKENS}/{created['mcp_oauth']['_id']}", status=404)


async def test_a_users_key_of_the_other_application_is_told_of(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    own_key = {"source": "user", "authorization_type": "bearer"}
    body = {"serverName": "weather", "url": upstream.url, "apiKey": own_key}
    server = await ada.ask("POST", status=201, json=body)
    key = {"userId": str(ada.user_id), "pluginKey": "mcp_weather", "authField": "MCP_API_KEY"}
    stored = {**key, "value": await other.call("data.encrypt", KEY)}
    await other.call("methods.updatePluginAuth", stored)

    told = await ada.ask("GET", f"/{server['id']}/user-keys")

    assert [(item["name"], item["isSet"]) for item in told["variables"]] == [("MCP_API_KEY", True)]


async def test_a_token_that_the_other_application_signed_logs_in_with_the_stored_role(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    boss = await person(rest, other, "boss", role="ADMIN")
    await create_server(other, ada, upstream.url)
    await rest.follow()

    seen = [await who.sees() for who in (ada, boss)]

    assert seen == [["my-weather"], ["my-weather"]]
    await boss.ask("GET", "/stats")
    await ada.ask("GET", "/stats", status=403)


@pytest.mark.parametrize(
    ("principal", "access_role"),
    [
        ("user", "mcpServer_viewer"),
        ("user", "mcpServer_editor"),
        ("user", "mcpServer_owner"),
        ("group by id", "mcpServer_viewer"),
        ("group by source id", "mcpServer_editor"),
        ("role", "mcpServer_viewer"),
        ("public", "mcpServer_viewer"),
    ],
)
async def test_an_acl_entry_shows_a_server_in_rest_and_through_the_gateway(
    rest: Rest,
    other: OtherApplication,
    upstream: RecordingUpstream,
    principal: str,
    access_role: str,
) -> None:
    ada = await person(rest, other, "ada")
    source = {"idOnTheSource": "directory-7"} if principal == "group by source id" else {}
    ben = await person(rest, other, "ben", **source)
    group = await other.call(
        "methods.createGroup", {"name": "Forecasters", "source": "local", "memberIds": []}
    )
    await other.call("methods.addUserToGroup", ben.user_id, group["_id"])
    server = await create_server(other, ada, upstream.url)
    await ada.until_served("my-weather")
    before = (await ben.sees(), await ben.may_call("my-weather"))
    named = {"user": ben.user_id, "role": "USER", "public": None}.get(principal, group["_id"])

    await share(other, server, principal.partition(" ")[0], named, access_role)

    await ben.until_served("my-weather")
    assert before == ([], False)
    assert await ben.sees() == ["my-weather"]


async def test_leaving_a_group_ends_what_it_gave(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada, ben = await person(rest, other, "ada"), await person(rest, other, "ben")
    group = await other.call(
        "methods.createGroup",
        {"name": "Forecasters", "source": "local", "memberIds": [str(ben.user_id)]},
    )
    server = await create_server(other, ada, upstream.url)
    await share(other, server, "group", group["_id"], "mcpServer_viewer")
    await ben.until_served("my-weather")

    await other.call("methods.removeUserFromGroup", ben.user_id, group["_id"])

    await ben.until_served("my-weather", served=False)
    assert await ben.sees() == []


async def test_a_revoked_entry_hides_the_server_again(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada, ben = await person(rest, other, "ada"), await person(rest, other, "ben")
    server = await create_server(other, ada, upstream.url)
    await share(other, server, "user", ben.user_id, "mcpServer_viewer")
    await ben.until_served("my-weather")

    await other.call("methods.revokePermission", "user", ben.user_id, "mcpServer", server["_id"])

    await ben.until_served("my-weather", served=False)
    assert await ben.sees() == []


async def test_an_entry_that_expires_ends_by_itself(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada, ben = await person(rest, other, "ada"), await person(rest, other, "ben")
    server = await create_server(other, ada, upstream.url)
    # Its own methods take an expiry in the newest release only; the documents may have one in all.
    entry = {
        "principalType": "user",
        "principalModel": "User",
        "principalId": ben.user_id,
        "resourceType": "mcpServer",
        "resourceId": server["_id"],
        "permBits": 1,
        "expiredAt": SystemClock().now() + timedelta(seconds=2.5),
    }
    await rest.parts.database.collection("aclentries").insert_one(entry)
    await ben.until_served("my-weather")

    await ben.until_served("my-weather", served=False)

    assert await ben.sees() == []


async def test_an_entry_for_another_kind_of_resource_gives_nothing(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada, ben = await person(rest, other, "ada"), await person(rest, other, "ben")
    server = await create_server(other, ada, upstream.url)
    await other.call(
        "methods.grantPermission", "user", ben.user_id, "agent", server["_id"], 15, ada.user_id
    )

    assert await ben.sees() == []


async def test_two_servers_of_one_title_have_names_and_paths_of_their_own(
    rest: Rest, other: OtherApplication, upstream: RecordingUpstream
) -> None:
    ada = await person(rest, other, "ada")
    for _ in range(2):
        await create_server(other, ada, upstream.url)
    await rest.follow()

    async def both_are_served() -> bool:
        answers = [await ada.may_call(name) for name in ("my-weather", "my-weather-2")]
        return all(answers)

    assert await ada.sees() == ["my-weather", "my-weather-2"]
    assert ObjectId.is_valid((await ada.ask("GET"))["servers"][0]["id"])
    await until(both_are_served)
