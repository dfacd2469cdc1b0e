"""The first call of a server that nobody has authorised the registry at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult

from registry.auth.identity import ALL_SCOPES, Role, UserContext
from tests.fakes.oauth.serving import serving_oauth
from tests.fakes.rest import rest_settings, running
from tests.gateway.serving import serve
from tests.kit.browser import Browser, browser_at

pytestmark = pytest.mark.wire

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
PATHS = pytest.mark.parametrize(
    ("path", "tool"), [("/mcp/protected", "whoami"), ("/mcp", "protected__whoami")]
)
URL_ELICITATION_REQUIRED = -32042


class FirstUser:
    """The first user of a registry, with a browser.

    Args:
        gateway: Base URL of the registry.
        token: Of the user.
    """

    def __init__(self, gateway: str, token: str, browser: Browser) -> None:
        self._gateway = gateway
        self._token = token
        self.browser = browser

    @asynccontextmanager
    async def client(
        self, path: str, mode: str, *, action: Any = "accept"
    ) -> AsyncIterator[Client]:
        """Connect a client that opens links, or declines to."""

        async def opened(context: Any, params: ElicitRequestParams) -> ElicitResult:
            assert isinstance(params, ElicitRequestURLParams)
            if action == "accept":
                assert (await self.browser.authorise(params.url)).status == 200
            return ElicitResult(action=action)

        async with (
            httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {self._token}"}, timeout=60
            ) as http,
            Client(
                streamable_http_client(f"{self._gateway}{path}", http_client=http),
                mode=mode,
                elicitation_callback=opened,
            ) as client,
        ):
            yield client


@pytest.fixture
async def first(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> AsyncIterator[FirstUser]:
    settings = rest_settings(mongo_uri, key_files, tmp_path)
    async with (
        serving_oauth() as oauth,
        running(settings) as rest,
        browser_at(rest) as browser,
        serve(rest.app) as gateway,
    ):
        await rest.register(ROOT, "protected", oauth.url, requiresOAuth=True, scope="shared_app")
        yield FirstUser(gateway, rest.token(ROOT), browser)


@PATHS
async def test_the_first_call_goes_on_after_the_authorization(
    first: FirstUser, path: str, tool: str
) -> None:
    async with first.client(path, "2026-07-28") as client:
        listed = await client.list_tools()
        result = await client.call_tool(tool, {})
        again = await client.list_tools()

    assert listed.tools == []
    assert result.content[0].text == "ada"  # type: ignore[union-attr]
    if path != "/mcp":
        assert len(again.tools) == 3


@PATHS
async def test_a_client_of_the_handshakes_era_is_asked_too(
    first: FirstUser, path: str, tool: str
) -> None:
    async with first.client(path, "legacy") as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(tool, {})
        assert caught.value.error.code == URL_ELICITATION_REQUIRED
        link = caught.value.error.data["elicitations"][0]["url"]
        await first.browser.authorise(link)

        result = await client.call_tool(tool, {})

    assert result.content[0].text == "ada"  # type: ignore[union-attr]


async def test_who_declines_is_told_that_they_did(first: FirstUser) -> None:
    async with first.client("/mcp/protected", "2026-07-28", action="decline") as client:
        with pytest.raises(MCPError, match="declined"):
            await client.call_tool("whoami", {})


async def test_a_tool_that_the_server_lacks_is_unknown_once_it_was_read(first: FirstUser) -> None:
    async with first.client("/mcp/protected", "2026-07-28") as client:
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("nothing", {})
