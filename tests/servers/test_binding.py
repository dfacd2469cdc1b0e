"""Stored secrets stay with the origin they were given for."""

from typing import Any

import pytest

from registry.auth.identity import UserContext
from registry.core.errors import ValidationFailedError
from registry.servers.schemas import ServerCreate, ServerUpdate
from registry.servers.service import ServerService
from registry.servers.store import ServerRepositories
from registry.servers.values import ServerRecord
from tests.fakes.discovery import FakeDiscovery

pytestmark = pytest.mark.wire

URL = "https://mcp.example.com/mcp"
ELSEWHERE = "https://evil.example.com/mcp"
KEY = {"key": "sk-secret"}
CLIENT = {
    "client_id": "me",
    "client_secret": "of-ours",
    "token_url": "https://as.example.com/token",
}
HEADERS = {"X-Auth-Token": "t-secret", "X-Team": "blue"}


async def registered(
    servers: ServerService, user: UserContext, url: str = URL, **fields: object
) -> ServerRecord:
    request = ServerCreate.model_validate({"serverName": "weather", "url": url, **fields})
    return await servers.register(request, user, strict=False)


def update(**fields: object) -> ServerUpdate:
    return ServerUpdate.model_validate(fields)


@pytest.mark.parametrize(
    ("stored", "given", "field"),
    [
        ({"apiKey": KEY}, {}, "apiKey.key"),
        ({"apiKey": KEY}, {"apiKey": {"key": "***"}}, "apiKey.key"),
        ({"apiKey": KEY}, {"apiKey": {"authorization_type": "basic"}}, "apiKey.key"),
        ({"oauth": CLIENT}, {}, "oauth.client_secret"),
        ({"oauth": CLIENT}, {"oauth": {"scope": "x"}}, "oauth.client_secret"),
        ({"headers": HEADERS}, {}, "headers.X-Auth-Token"),
        ({"headers": HEADERS}, {"headers": {"x-auth-token": "***"}}, "headers.X-Auth-Token"),
    ],
)
@pytest.mark.parametrize(
    "url", [ELSEWHERE, "http://mcp.example.com/mcp", "https://mcp.example.com:8443/mcp"]
)
async def test_a_stored_secret_is_not_taken_to_another_origin(
    servers: ServerService,
    discovery: FakeDiscovery,
    alice: UserContext,
    root: UserContext,
    url: str,
    stored: dict[str, Any],
    given: dict[str, Any],
    field: str,
) -> None:
    server = await registered(servers, alice, **stored)
    asked = len(discovery.asked)

    with pytest.raises(ValidationFailedError) as refused:
        await servers.update(server.id, update(url=url, **given), root)

    assert refused.value.facts["details"][0]["field"] == field  # type: ignore[index]  # a list
    assert len(discovery.asked) == asked
    assert (await servers.get(server.id, alice)).config["url"] == URL


@pytest.mark.parametrize(
    "given",
    [
        {"url": ELSEWHERE, "apiKey": {"key": "new"}, "headers": {"X-Auth-Token": "new"}},
        {"url": ELSEWHERE, "apiKey": None, "headers": {"X-Team": "red"}},
        {"url": ELSEWHERE, "apiKey": {"source": "user"}, "headers": None},
        {"url": "https://mcp.example.com:443/other"},
    ],
)
async def test_a_url_changes_with_new_secrets_without_any_or_within_its_origin(
    servers: ServerService, alice: UserContext, given: dict[str, Any]
) -> None:
    server = await registered(servers, alice, apiKey=KEY, headers=HEADERS)

    changed = await servers.update(server.id, update(**given), alice)

    assert changed.config["url"] == given["url"]


async def test_a_client_secret_is_not_taken_to_another_authorization_server(
    servers: ServerService, alice: UserContext
) -> None:
    server = await registered(servers, alice, oauth=CLIENT)
    moved = {"token_url": "https://evil.example.com/token"}

    with pytest.raises(ValidationFailedError, match="client_secret"):
        await servers.update(server.id, update(oauth=moved), alice)
    changed = await servers.update(
        server.id, update(oauth={**moved, "client_secret": "new"}), alice
    )

    assert changed.config["oauth"]["token_url"] == moved["token_url"]  # type: ignore[call-overload, index]


async def test_keys_of_users_are_dropped_and_not_used_when_the_url_leads_elsewhere(
    servers: ServerService,
    repositories: ServerRepositories,
    discovery: FakeDiscovery,
    alice: UserContext,
) -> None:
    api_key = {"key": "of-alice", "source": "user"}
    server = await registered(servers, alice, apiKey=api_key)
    asked = len(discovery.asked)

    await servers.update(server.id, update(url=ELSEWHERE), alice)

    assert len(discovery.asked) == asked
    assert await repositories.plugin_auths.values(alice.user_id, "weather", None) == {}


@pytest.mark.parametrize(
    ("given", "headers"),
    [
        ({"key": "shared"}, {"X-Team": "blue"}),
        (None, {"X-Team": "blue"}),
        (
            {"source": "user", "authorization_type": "custom", "custom_header": "X-Own"},
            {"X-Team": "blue", "X-Own": "{{MCP_API_KEY}}"},
        ),
    ],
)
async def test_what_asks_users_for_their_key_goes_with_it(
    servers: ServerService,
    alice: UserContext,
    given: dict[str, Any] | None,
    headers: dict[str, str],
) -> None:
    own = {"key": "of-alice", "source": "user"}
    server = await registered(servers, alice, apiKey=own, headers={"X-Team": "blue"})

    changed = await servers.update(server.id, update(apiKey=given), alice)

    assert changed.config["headers"] == headers
    assert ("MCP_API_KEY" in str(changed.config.get("customUserVars"))) == ("X-Own" in headers)


@pytest.mark.parametrize("api_key", [{}, {"key": "***"}, {"authorization_type": "basic"}])
async def test_a_key_of_the_administrator_must_be_given_or_stored(
    servers: ServerService, alice: UserContext, api_key: dict[str, str]
) -> None:
    with pytest.raises(ValidationFailedError, match=r"apiKey\.key"):
        await registered(servers, alice, apiKey=api_key)
    server = await registered(servers, alice)
    with pytest.raises(ValidationFailedError, match=r"apiKey\.key"):
        await servers.update(server.id, update(apiKey=api_key), alice)
