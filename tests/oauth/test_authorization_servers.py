"""The registry's client at an authorization server: one for all users, until it has to change."""

import json
from collections.abc import AsyncIterator
from itertools import count

import pytest
from aiohttp import web

from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.core.clock import SystemClock
from registry.oauth.authorization_servers import AuthorizationServers
from registry.oauth.repository import OAuthClientRepository
from registry.oauth.values import OAuthServer
from registry.upstream.guard import UrlGuard
from registry.upstream.oauth.errors import AuthorizationServerUnavailableError
from registry.upstream.oauth.http import oauth_http
from registry.upstream.oauth.metadata import Discovered, OAuthDiscovery
from registry.upstream.oauth.registration import ClientRegistrar
from registry.upstream.oauth.values import AuthorizationServer, ProtectedResource
from tests.fakes.oauth.documents import Documents, serving_documents
from tests.oauth.conftest import REDIRECT_URI, NoServers

GUARD = UrlGuard(["127.0.0.0/8"])
SERVER = OAuthServer("3" * 24, "github", "github", "GitHub", "https://mcp.example", {}, None, None)


@pytest.fixture
async def host() -> AsyncIterator[Documents]:
    numbers = count(1)

    async def register(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"client_id": f"client-{next(numbers)}"}, status=201)

    async with serving_documents() as served:
        served.answers["/register"] = register
        yield served


@pytest.fixture
async def servers(database: Database, cipher: Cipher) -> AsyncIterator[AuthorizationServers]:
    async with oauth_http(GUARD, connect_timeout_seconds=5, total_timeout_seconds=10) as http:
        yield AuthorizationServers(
            NoServers(),
            OAuthDiscovery(http, GUARD),
            ClientRegistrar(http, keys=None),
            OAuthClientRepository(database, cipher, SystemClock()),
            redirect_uri=REDIRECT_URI,
            metadata_url=None,
        )


def found_at(host: Documents) -> Discovered:
    server = AuthorizationServer(
        host.url, None, f"{host.url}/token", registration_endpoint=f"{host.url}/register"
    )
    return Discovered(ProtectedResource(None), server)


async def client_id(
    servers: AuthorizationServers, host: Documents, scopes: tuple[str, ...] | None
) -> str:
    return (await servers.client(SERVER, found_at(host), scopes)).client_id


def scopes_of(host: Documents) -> list[str | None]:
    return [json.loads(body).get("scope") for body in host.bodies]


async def test_a_client_is_registered_once_for_all_that_ask_for_the_same(
    servers: AuthorizationServers, host: Documents
) -> None:
    assert await client_id(servers, host, ("read", "write")) == "client-1"
    assert await client_id(servers, host, ("write",)) == "client-1"
    assert await client_id(servers, host, None) == "client-1"

    assert scopes_of(host) == ["read write"]


async def test_a_client_is_registered_again_for_scopes_that_it_may_not_ask_for(
    servers: AuthorizationServers, host: Documents
) -> None:
    await client_id(servers, host, None)

    assert await client_id(servers, host, ("read",)) == "client-2"
    assert await client_id(servers, host, ("write",)) == "client-3"
    assert await client_id(servers, host, ("read", "write")) == "client-3"

    assert scopes_of(host) == [None, "read", "read write"]


async def test_a_registration_that_fails_leaves_the_client(
    servers: AuthorizationServers, host: Documents
) -> None:
    await client_id(servers, host, ("read",))
    host.answers["/register"] = 503

    with pytest.raises(AuthorizationServerUnavailableError):
        await client_id(servers, host, ("write",))

    assert await client_id(servers, host, ("read",)) == "client-1"


async def test_a_client_that_was_lost_is_registered_again(
    servers: AuthorizationServers, host: Documents
) -> None:
    await client_id(servers, host, ("read",))

    await servers.forget(SERVER, found_at(host).server, "client-1")

    assert await client_id(servers, host, ("read",)) == "client-2"
