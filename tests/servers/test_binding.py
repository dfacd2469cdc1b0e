"""Stored secrets stay with the origin they were given for."""

from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from packages.database.client import Database, Transaction
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.errors import ValidationFailedError
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.schemas import ServerCreate, ServerUpdate
from registry.servers.service import ServerService
from registry.servers.values import ServerRecord
from tests.fakes.discovery import FakeDiscovery

pytestmark = pytest.mark.wire

URL = "https://mcp.example.com/mcp"
ELSEWHERE = "https://evil.example.com/mcp"
KEY = {"key": "sk-secret"}
CLIENT = {
    "client_id": "me",
    "client_secret": "of-ours",
    "authorization_url": "https://as.example.com/authorize",
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


SAME_ORIGIN = "https://mcp.example.com/other"


async def edited_by(
    database: Database, servers: ServerService, user: UserContext, root: UserContext, **stored: Any
) -> ServerRecord:
    """Return a shared server that *user* may edit but does not own."""
    server = await registered(servers, root, scope="shared_user", **stored)
    await database.collection("aclentries").insert_one(
        {
            "principalType": "user",
            "principalId": ObjectId(user.user_id),
            "principalModel": "User",
            "resourceType": "mcpServer",
            "resourceId": ObjectId(server.id),
            "permBits": 3,
        }
    )
    return server


@pytest.mark.parametrize(
    ("stored", "given", "field"),
    [
        ({"apiKey": KEY}, {"url": SAME_ORIGIN}, "apiKey.key"),
        ({"apiKey": KEY}, {"url": SAME_ORIGIN, "apiKey": {"key": "***"}}, "apiKey.key"),
        ({"apiKey": KEY}, {"url": f"{URL}?x=1"}, "apiKey.key"),
        ({"oauth": CLIENT}, {"url": SAME_ORIGIN}, "oauth.client_secret"),
        ({"headers": HEADERS}, {"url": SAME_ORIGIN}, "headers.X-Auth-Token"),
        (
            {"oauth": CLIENT},
            {"oauth": {"token_url": "https://as.example.com/other"}},
            "oauth.client_secret",
        ),
    ],
)
async def test_an_editor_takes_no_stored_secret_to_another_path(
    database: Database,
    servers: ServerService,
    discovery: FakeDiscovery,
    alice: UserContext,
    root: UserContext,
    stored: dict[str, Any],
    given: dict[str, Any],
    field: str,
) -> None:
    server = await edited_by(database, servers, alice, root, **stored)
    asked = len(discovery.asked)

    with pytest.raises(ValidationFailedError) as refused:
        await servers.update(server.id, update(**given), alice)
    changed = await servers.update(server.id, update(**given), root)

    assert refused.value.facts["details"][0]["field"] == field  # type: ignore[index]  # a list
    assert len(discovery.asked) == asked + 1
    assert changed.updated_at != server.updated_at


async def test_an_editor_changes_the_path_with_new_secrets(
    database: Database, servers: ServerService, alice: UserContext, root: UserContext
) -> None:
    server = await edited_by(database, servers, alice, root, apiKey=KEY)

    changed = await servers.update(
        server.id, update(url=SAME_ORIGIN, apiKey={"key": "new"}), alice
    )
    titled = await servers.update(server.id, update(url=SAME_ORIGIN, title="Mine"), alice)

    assert changed.config["url"] == SAME_ORIGIN
    assert titled.config["title"] == "Mine"


@pytest.mark.parametrize(
    ("is_by_owner", "kept"), [(True, {"MCP_API_KEY": "of-alice"}), (False, {})]
)
async def test_keys_of_users_follow_a_path_that_an_owner_changes_alone(
    database: Database,
    servers: ServerService,
    repositories: ServerRepositories,
    alice: UserContext,
    root: UserContext,
    *,
    is_by_owner: bool,
    kept: dict[str, str],
) -> None:
    server = await edited_by(database, servers, alice, root, apiKey={"source": "user"})

    async def store(tx: Transaction) -> None:
        now = SystemClock().now()
        await repositories.plugin_auths.store(alice.user_id, "weather", "of-alice", now, tx)

    await database.transaction(store)

    changer = root if is_by_owner else alice
    await servers.update(server.id, update(url=SAME_ORIGIN), changer)

    assert await repositories.plugin_auths.values(alice.user_id, "weather", None) == kept


async def test_a_client_secret_is_not_taken_to_another_authorization_server(
    servers: ServerService, alice: UserContext
) -> None:
    server = await registered(servers, alice, oauth=CLIENT)
    moved = {"token_url": "https://evil.example.com/token"}
    # The server would say where the secret is sent.
    found = dict.fromkeys(("authorization_url", "token_url"))

    for oauth in (moved, found):
        with pytest.raises(ValidationFailedError, match="client_secret"):
            await servers.update(server.id, update(oauth=oauth), alice)
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
    ("given", "are_kept"),
    [
        ({"oauth": {"scope": "more"}}, True),
        ({"url": SAME_ORIGIN}, True),
        ({"oauth": {"token_url": "https://as.example.com/other", "client_secret": "x"}}, False),
        ({"oauth": {"client_id": "another"}}, False),
        ({"oauth": None}, False),
        ({"url": ELSEWHERE, "oauth": {**CLIENT, "scope": "x"}}, False),
    ],
    ids=str,
)
async def test_tokens_of_users_do_not_follow_a_server_to_another_place(
    database: Database,
    servers: ServerService,
    alice: UserContext,
    given: dict[str, Any],
    *,
    are_kept: bool,
) -> None:
    server = await registered(servers, alice, oauth=CLIENT, requiresOAuth=True)
    now = SystemClock().now()
    kinds = {"mcp_oauth": "", "mcp_oauth_refresh": ":refresh", "mcp_oauth_client": ":client"}
    rows = [
        {
            "userId": ObjectId(alice.user_id),
            "type": kind,
            "identifier": f"mcp:weather{suffix}",
            "token": "t",
            "createdAt": now,
            "expiresAt": now + timedelta(hours=1),
        }
        for kind, suffix in kinds.items()
    ]
    await database.collection("tokens").insert_many(rows)

    await servers.update(server.id, update(**given), alice)

    kept = await database.collection("tokens").distinct("type")
    assert sorted(kept) == (sorted(kinds) if are_kept else [])


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
