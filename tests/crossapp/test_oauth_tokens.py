"""Tokens of users for servers: either application uses what the other stored and renewed."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio
from mcp.server.mcpserver import MCPServer

from tests.crossapp.other_application import Doc, OtherApplication
from tests.crossapp.people import Person, create_server, person, until
from tests.fakes.oauth.protected_server import caller
from tests.fakes.oauth.provider import Client, Token
from tests.fakes.oauth.serving import RunningOAuth, serving_oauth
from tests.fakes.rest import BASE_URL, Rest
from tests.kit.authorizing import authorize

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

SLUG = "my-weather"
ACCESS = {"type": "mcp_oauth", "identifier": f"mcp:{SLUG}"}
REFRESH = {"type": "mcp_oauth_refresh", "identifier": f"mcp:{SLUG}:refresh"}
CLIENT = {"type": "mcp_oauth_client", "identifier": f"mcp:{SLUG}:client"}
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Connected:
    """A server with OAuth that the other application stored, and its owner."""

    ada: Person
    server: Doc
    oauth: RunningOAuth
    other: OtherApplication
    _browser: httpx.AsyncClient = field(repr=False)

    async def authorize(self) -> None:
        """Go through our flow."""
        path = f"/api/v1/mcp/{self.server['_id']}/oauth/initiate"
        begun = await self.ada.send("GET", path)
        seen = await authorize(self._browser, begun["authorizationUrl"])
        assert seen.is_connected, seen.text

    async def is_asked(self) -> bool:
        """Whether a call is answered with a link."""
        return "oauth/start" in (await self.ada.call_tool(SLUG)).text

    async def called_with(self) -> str:
        """Call the tool through the gateway; return the access token that the server saw."""
        answer = await self.ada.call_tool(SLUG)
        assert answer.status_code == 200, answer.text
        assert "ada" in answer.text, answer.text
        return self.oauth.protected.seen[-1]

    async def stored(self, kind: dict[str, str]) -> Doc | None:
        """Return a row as the other application finds it."""
        found: Doc | None = await self.other.call(
            "methods.findToken", {"userId": str(self.ada.user_id), **kind}
        )
        return found

    async def opened(self, kind: dict[str, str]) -> str:
        """Return the decrypted token of a row, as the other application reads it."""
        row = await self.stored(kind)
        assert row is not None
        await self.other.call("models.Token.validate", row)
        return str(await self.other.call("data.decryptV2", row["token"]))

    async def stores(self, token: Token) -> None:
        """Wait until the other application reads the access token of *token*.

        Whose call renewed it uses it before it is stored.
        """

        async def is_stored() -> bool:
            row = await self.stored(ACCESS)
            return row is not None and await self.opened(ACCESS) == token.access_token

        await until(is_stored)

    async def create(self, kind: dict[str, str], token: str, **fields: Any) -> None:
        """Let the other application store a row."""
        encrypted = await self.other.call("data.encryptV2", token)
        row = {"userId": self.ada.user_id, **kind, "token": encrypted, "expiresIn": HOUR}
        await self.other.call("methods.createToken", row | fields)

    async def update(self, kind: dict[str, str], token: str) -> None:
        """Let the other application replace the token of a row."""
        key = {"userId": str(self.ada.user_id), "identifier": kind["identifier"]}
        encrypted = await self.other.call("data.encryptV2", token)
        change = {**kind, "token": encrypted, "expiresIn": HOUR}
        await self.other.call("methods.updateToken", key, change)

    def issue(self, name: str, client_id: str = "theirs") -> Token:
        """Let the provider issue a pair to the other application."""
        scope, resource = "read", self.oauth.url
        token = Token(
            *(f"at-{name}", f"rt-{name}", client_id, "ada", scope, resource, name),
            time.time() + HOUR,
        )
        self.oauth.provider.tokens.append(token)
        return token


def _echo() -> Any:
    server = MCPServer("echo")

    @server.tool()
    def echo(text: str) -> str:
        """Say it again."""
        return f"{caller.get().user}: {text}"

    return server.streamable_http_app(stateless_http=True)


@pytest_asyncio.fixture(loop_scope="module")
async def connected(rest: Rest, other: OtherApplication) -> AsyncIterator[Connected]:
    """Return a server that nobody has authorised anything at."""
    mounts = {BASE_URL: httpx.ASGITransport(app=rest.app)}
    async with (
        serving_oauth(app=_echo()) as oauth,
        httpx.AsyncClient(mounts=mounts, timeout=30) as browser,
    ):
        ada = await person(rest, other, "ada")
        server = await create_server(other, ada, oauth.url, requiresOAuth=True)
        connected = Connected(ada, server, oauth, other, browser)
        await until(connected.is_asked)
        yield connected


async def test_what_a_flow_stored_is_found_and_opens(connected: Connected) -> None:
    await connected.authorize()

    issued = connected.oauth.provider.tokens[-1]
    assert await connected.opened(ACCESS) == issued.access_token
    assert await connected.opened(REFRESH) == issued.refresh_token
    client = json.loads(await connected.opened(CLIENT))
    assert client["client_id"] == issued.client_id
    assert client["redirect_uris"] == [f"{BASE_URL}/api/v1/mcp/oauth/callback"]
    row = await connected.stored(CLIENT)
    assert row is not None
    assert row["metadata"]["token_endpoint"] == f"{connected.oauth.issuer}/token"


async def test_a_token_that_the_other_application_stored_is_used(connected: Connected) -> None:
    issued = connected.issue("first")
    await connected.create(ACCESS, issued.access_token)
    await until(connected.is_asked, outcome=False)

    assert await connected.called_with() == issued.access_token


async def test_a_token_that_the_other_application_renewed_is_used_next(
    connected: Connected,
) -> None:
    await connected.authorize()
    await connected.called_with()
    renewed = connected.issue("renewed")

    await connected.update(ACCESS, renewed.access_token)
    await connected.update(REFRESH, str(renewed.refresh_token))

    # The reading that the authorization began may still use the former one.
    async def is_used() -> bool:
        return await connected.called_with() == renewed.access_token

    await until(is_used)
    assert connected.oauth.provider.counts["refresh"] == 0


async def test_a_token_that_we_renewed_is_what_the_other_application_reads(
    connected: Connected,
) -> None:
    await connected.authorize()
    await connected.called_with()
    connected.oauth.provider.expire()

    seen = await connected.called_with()

    newest = connected.oauth.provider.tokens[-1]
    assert seen == newest.access_token
    await connected.stores(newest)
    assert await connected.opened(REFRESH) == newest.refresh_token
    key = {"userId": connected.ada.user_id}
    assert len(await connected.other.call("models.Token.find", key)) == 3


async def test_a_refresh_token_and_client_of_the_other_application_are_used(
    connected: Connected,
) -> None:
    redirect_uri = "https://chat.example.org/api/mcp/my-weather/oauth/callback"
    provider = connected.oauth.provider
    provider.clients["theirs"] = Client("theirs", "", "none", (redirect_uri,))
    issued = connected.issue("first")
    client = {"client_id": "theirs", "redirect_uris": [redirect_uri]}
    metadata = provider.metadata()
    await connected.create(CLIENT, json.dumps(client), metadata=metadata)
    await connected.create(REFRESH, str(issued.refresh_token))
    await until(connected.is_asked, outcome=False)

    seen = await connected.called_with()

    newest = provider.tokens[-1]
    assert seen == newest.access_token
    await connected.stores(newest)
    assert await connected.opened(REFRESH) == newest.refresh_token != issued.refresh_token
    assert provider.counts["reuse"] == 0


async def test_rows_that_the_other_application_deleted_are_not_used(connected: Connected) -> None:
    await connected.authorize()
    await connected.called_with()

    for kind in (ACCESS, REFRESH, CLIENT):
        key = {"userId": str(connected.ada.user_id), "identifier": kind["identifier"]}
        await connected.other.call("methods.deleteTokens", key)

    await until(connected.is_asked)
