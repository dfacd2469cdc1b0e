"""Reading of servers at which users authorise the registry."""

from typing import Any

import pytest

from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.json import JsonObject
from registry.servers.errors import CredentialsRefusedError, DiscoveryFailedError
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService
from registry.servers.values import ConnectionSpec, Discovered, ServerRecord
from tests.fakes.discovery import FakeDiscovery, found, tool
from tests.fakes.oauth.states import TokensOfUsers
from tests.kit.servers import read_and_store, server_service

URL = "https://mcp.example/mcp"
METADATA: JsonObject = {"resource": URL, "authorization_servers": ["https://as.example"]}


def takes(*tokens: str) -> Any:
    """Return an upstream that takes some tokens."""

    def answer(connection: ConnectionSpec) -> Discovered:
        if connection.headers.get("Authorization") in {f"Bearer {one}" for one in tokens}:
            return found(tool("whoami"))
        raise CredentialsRefusedError("It answered 401.")

    return answer


@pytest.fixture
def discovery() -> FakeDiscovery:
    return FakeDiscovery(answer=takes("good"), metadata=METADATA)


@pytest.fixture
def tokens() -> TokensOfUsers:
    return TokensOfUsers()


@pytest.fixture
def servers(
    database: Database,
    repositories: ServerRepositories,
    cipher: Cipher,
    discovery: FakeDiscovery,
    tokens: TokensOfUsers,
    clock: SystemClock,
) -> ServerService:
    upstreams = read_and_store(
        database, repositories, cipher, discovery, clock=clock, tokens=tokens
    )
    return server_service(repositories, cipher, upstreams, clock=clock)


async def registered(
    servers: ServerService, user: UserContext, *, strict: bool = False, **fields: Any
) -> ServerRecord:
    body = {"serverName": "github", "url": URL, "requiresOAuth": True, **fields}
    return await servers.register(ServerCreate.model_validate(body), user, strict=strict)


@pytest.mark.requirement("R-125")
async def test_its_tools_are_read_with_the_token_of_the_user_who_asks(
    servers: ServerService, tokens: TokensOfUsers, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    before = server.error_message
    tokens.known[alice.user_id] = ["good"]

    refreshed = await servers.refresh(server.id, alice)

    assert "Nobody has authorised" in (before or "")
    assert (refreshed.failure, refreshed.unread) == (None, None)
    assert (refreshed.server.error_message, refreshed.server.tool_names) == (None, ("whoami",))
    assert tokens.asked[-1].config["oauthMetadata"] == METADATA


async def test_a_token_that_is_refused_is_renewed_once(
    servers: ServerService, tokens: TokensOfUsers, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    tokens.known[alice.user_id] = ["expired", "good"]
    renewed = await servers.refresh(server.id, alice)
    tokens.known[alice.user_id] = ["expired", "expired too", "good"]

    refused = await servers.refresh(server.id, alice)

    assert (renewed.failure, renewed.server.tool_names) == (None, ("whoami",))
    assert refused.failure == "The server refuses a new access token of the user."
    assert (refused.server.tool_names, refused.server.status) == (("whoami",), "active")


async def test_a_token_that_does_not_suffice_is_not_renewed(
    servers: ServerService,
    discovery: FakeDiscovery,
    tokens: TokensOfUsers,
    alice: UserContext,
) -> None:
    def forbids(_: ConnectionSpec) -> Discovered:
        raise CredentialsRefusedError("It answered 403.", is_forbidden=True)

    discovery.answer = forbids
    server = await registered(servers, alice)
    tokens.known[alice.user_id] = ["good"]

    refreshed = await servers.refresh(server.id, alice)

    assert refreshed.failure == "It answered 403."
    assert tokens.known[alice.user_id] == ["good"]


async def test_known_tools_stay_while_nobody_is_authorised(
    servers: ServerService, tokens: TokensOfUsers, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    tokens.known[alice.user_id] = ["good"]
    await servers.refresh(server.id, alice)
    tokens.known.clear()

    refreshed = await servers.refresh(server.id, alice)

    assert "has not authorised the registry" in (refreshed.unread or "")
    assert refreshed.failure is None
    assert (refreshed.server.tool_names, refreshed.server.error_message) == (("whoami",), None)


async def test_a_renewal_that_is_impossible_now_is_no_failure_of_the_server(
    servers: ServerService, tokens: TokensOfUsers, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    tokens.is_away = True

    refreshed = await servers.refresh(server.id, alice)

    assert (refreshed.failure, refreshed.server.status) == (None, "active")
    assert "could not be renewed now" in (refreshed.unread or "")


async def test_metadata_that_is_published_no_more_is_removed(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    discovery.metadata = {**METADATA, "authorization_servers": ["https://other.example"]}
    moved = (await servers.refresh(server.id, alice)).server.config["oauthMetadata"]
    discovery.metadata = None

    refreshed = await servers.refresh(server.id, alice)

    assert moved == {**METADATA, "authorization_servers": ["https://other.example"]}
    assert "oauthMetadata" not in refreshed.server.config


CLIENT_CREDENTIALS = {
    "client_id": "registry",
    "client_secret": "secret",
    "token_url": "https://as.example/token",
    "authorization_url": "https://as.example/authorize",
    "grant_types_supported": ["client_credentials"],
}


async def test_a_server_with_client_credentials_is_read_when_it_is_registered(
    servers: ServerService, tokens: TokensOfUsers, alice: UserContext
) -> None:
    tokens.known[alice.user_id] = ["good"]

    server = await registered(servers, alice, oauth=CLIENT_CREDENTIALS)

    assert (server.status, server.error_message) == ("active", None)
    assert server.tool_names == ("whoami",)
    assert tokens.asked[-1].id == server.id


async def test_one_that_cannot_be_read_is_not_registered_where_that_is_asked_for(
    servers: ServerService, tokens: TokensOfUsers, alice: UserContext
) -> None:
    tokens.is_away = True

    with pytest.raises(DiscoveryFailedError):
        await registered(servers, alice, strict=True, oauth=CLIENT_CREDENTIALS)

    assert await servers.find_by_name("github", alice) is None


async def test_no_token_is_asked_for_where_a_server_takes_none(
    servers: ServerService,
    discovery: FakeDiscovery,
    tokens: TokensOfUsers,
    alice: UserContext,
) -> None:
    discovery.answer = lambda _: found(tool("echo"))
    server = await registered(servers, alice, requiresOAuth=False)

    refreshed = await servers.refresh(server.id, alice)

    assert (refreshed.unread, refreshed.server.tool_names) == (None, ("echo",))
    assert tokens.asked == []
