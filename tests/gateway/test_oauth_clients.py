"""The official clients at a server, written with the official SDK, that wants OAuth."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError
from mcp_types import ElicitResult

from registry.auth.identity import UserContext
from registry.gateway.values import tool_entry
from registry.servers.values import Era
from tests.conftest import ALICE, BOB
from tests.fakes.oauth.access_tokens import make_oauth_server, token_of
from tests.fakes.oauth.provider import Token
from tests.fakes.oauth.serving import RunningOAuth, serving_oauth
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.fakes import make_route
from tests.gateway.meeting import Speech, connected, text

SERVER = "demo".ljust(24, "0")
LINK = "https://registry.test/start/flow-alice-demo?"
TOOLS = {
    "whoami": '{"name":"whoami","inputSchema":{"type":"object","properties":{}}}',
    "change": '{"name":"change","inputSchema":{"type":"object"}}',
}
NEVER = 4e9
SPEECHES = pytest.mark.parametrize("speech", [*Speech])
PATHS = pytest.mark.parametrize("path", ["/mcp/demo", "/mcp"])


@dataclass
class Place:
    """A gateway in front of a server that wants access tokens."""

    gateway: Gateway
    running: RunningOAuth

    def authorise(self, user: UserContext, scope: str = "read") -> str:
        """Let a user have authorised the registry; return the token."""
        value = self.issue(user, scope)
        self.gateway.routes.tokens.give(user.user_id, SERVER, value)
        return value

    def issue(self, user: UserContext, scope: str = "read") -> str:
        """Return a new token of a user that the gateway does not have."""
        provider = self.running.provider
        value = f"at-{user.username}-{len(provider.tokens)}"
        provider.tokens.append(
            Token(value, None, "c", user.username, scope, self.running.url, value, NEVER)
        )
        return value

    def revoke(self, value: str) -> None:
        """Let the provider accept a token no more."""
        token = self.running.provider.find(value)
        assert token is not None
        token.is_revoked = True


@pytest.fixture
async def place(stack: AsyncExitStack, start_gateway: StartGateway) -> Place:
    """Return a gateway in front of the SDK's server."""
    running = await stack.enter_async_context(serving_oauth())
    route = make_route(
        running.url,
        oauth=make_oauth_server(SERVER, running.url),
        headers={},
        eras=frozenset(Era),
        tools=[tool_entry(name, definition) for name, definition in TOOLS.items()],
    )
    return Place(await start_gateway(route), running)


def named(path: str, tool: str) -> str:
    """Return the name of a tool at a path."""
    return tool if path == "/mcp/demo" else f"demo__{tool}"


@SPEECHES
@PATHS
async def test_each_user_calls_with_their_own_token(
    place: Place, speech: Speech, path: str
) -> None:
    place.authorise(ALICE)
    place.authorise(BOB)
    url = place.gateway.url

    said = []
    for user in ("alice", "bob"):
        async with connected(url, speech, path, user) as client:
            said.append(text(await client.call_tool(named(path, "whoami"), {})))

    assert said == ["alice", "bob"]


@SPEECHES
@PATHS
async def test_a_client_that_opens_no_urls_gets_the_link(
    place: Place, speech: Speech, path: str
) -> None:
    async with connected(place.gateway.url, speech, path) as client:
        listed = await client.list_tools()
        result = await client.call_tool(named(path, "whoami"), {})

    assert {tool.name for tool in listed.tools} == {named(path, name) for name in TOOLS}
    assert result.is_error
    assert LINK in text(result)
    assert place.running.protected.seen == []


@SPEECHES
@PATHS
async def test_a_session_that_began_without_a_token_goes_on_with_one(
    place: Place, speech: Speech, path: str
) -> None:
    async with connected(place.gateway.url, speech, path) as client:
        before = await client.call_tool(named(path, "whoami"), {})
        place.authorise(ALICE)
        after = await client.call_tool(named(path, "whoami"), {})

    assert before.is_error
    assert text(after) == "alice"


@pytest.mark.parametrize("speech", [Speech.MODERN, Speech.AUTO])
@PATHS
async def test_the_call_goes_on_once_its_user_has_finished(
    place: Place, speech: Speech, path: str
) -> None:
    opened: list[str] = []

    async def visit(_: Any, params: Any) -> ElicitResult:
        opened.append(params.url)
        asyncio.get_running_loop().call_later(0.2, place.authorise, ALICE)
        return ElicitResult(action="accept")

    url = place.gateway.url
    async with connected(url, speech, path, elicitation_callback=visit) as client:
        result = await client.call_tool(named(path, "whoami"), {})

    assert opened == [LINK]
    assert text(result) == "alice"


@pytest.mark.parametrize("speech", [Speech.LEGACY, Speech.OLD])
@PATHS
async def test_a_client_of_the_handshakes_era_is_told_where_to_go(
    place: Place, speech: Speech, path: str
) -> None:
    async def visit(*_: Any) -> ElicitResult:
        return ElicitResult(action="accept")

    url = place.gateway.url
    async with connected(url, speech, path, elicitation_callback=visit) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(named(path, "whoami"), {})
        place.authorise(ALICE)
        after = await client.call_tool(named(path, "whoami"), {})

    required = UrlElicitationRequiredError.from_error(caught.value.error)
    [page] = required.elicitations
    assert page.url == LINK
    assert text(after) == "alice"


@SPEECHES
@PATHS
async def test_a_token_that_expired_during_a_session_is_renewed(
    place: Place, speech: Speech, path: str
) -> None:
    former = place.authorise(ALICE)
    tokens = place.gateway.routes.tokens
    async with connected(place.gateway.url, speech, path) as client:
        before = await client.call_tool(named(path, "whoami"), {})
        place.revoke(former)
        tokens.next[ALICE.user_id, SERVER] = token_of(place.issue(ALICE))
        after = await client.call_tool(named(path, "whoami"), {})

    assert (text(before), text(after)) == ("alice", "alice")
    assert tokens.rejected == [former]


@SPEECHES
@PATHS
async def test_a_revoked_authorization_ends_what_goes_on(
    place: Place, speech: Speech, path: str
) -> None:
    place.authorise(ALICE)
    async with connected(place.gateway.url, speech, path) as client:
        await client.call_tool(named(path, "whoami"), {})
        seen = len(place.running.protected.seen)
        del place.gateway.routes.tokens.held[ALICE.user_id, SERVER]
        after = await client.call_tool(named(path, "whoami"), {})

        assert after.is_error
        assert LINK in text(after)
        assert len(place.running.protected.seen) == seen


@SPEECHES
async def test_missing_scopes_are_asked_for(place: Place, speech: Speech) -> None:
    place.authorise(ALICE)

    async with connected(place.gateway.url, speech) as client:
        result = await client.call_tool("change", {"value": "x"})
        place.authorise(ALICE, "read write")
        after = await client.call_tool("change", {"value": "x"})

    assert result.is_error
    assert f"{LINK}read+write" in text(result)
    assert text(after) == "alice wrote x"
