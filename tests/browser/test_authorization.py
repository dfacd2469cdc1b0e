"""People authorise the registry in a real browser while their clients wait."""

import json
import platform
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult

from registry.auth.identity import UserContext
from tests.clients.launching import run_program
from tests.conftest import ALICE, BOB
from tests.fakes.oauth.serving import RunningOAuth, free_port, serving_oauth
from tests.fakes.rest import Rest, rest_settings, running
from tests.gateway.serving import serve
from tests.npm.programs import INSTALL_SECONDS, install, require_program

HERE = Path(__file__).parent
PROGRAM = HERE / "open_link.mjs"
SLUG = "notes"
URL_ELICITATION_REQUIRED = -32042
LEGACY, MODERN = "legacy", "2026-07-28"
MODES = pytest.mark.parametrize("mode", [LEGACY, MODERN])

pytestmark = [
    pytest.mark.node,
    pytest.mark.wire,
    pytest.mark.timeout(INSTALL_SECONDS + 60),
    pytest.mark.asyncio(loop_scope="module"),
]


@dataclass(frozen=True, slots=True)
class Browser:
    """A Chromium without a window.

    Attributes:
        folder: Where pictures of the pages go.
    """

    folder: Path

    async def open(
        self, link: str, *, user: str = "ada", decision: str = "allow", scripts: bool = False
    ) -> Any:
        """Open a link, press its button, decide, and return what was seen."""
        packaged = (platform.system(), platform.machine()) == ("Linux", "x86_64")
        asked = {
            "link": link,
            "user": user,
            "decision": decision,
            "scripts": scripts,
            "folder": str(self.folder),
            "browser": "" if packaged else require_program("chromium"),
        }
        return await run_program(require_program("node"), str(PROGRAM), json.dumps(asked))


@dataclass(frozen=True, slots=True)
class Place:
    """A registry with a server that wants OAuth, which everybody may use.

    Attributes:
        gateway: Base URL of the registry.
    """

    rest: Rest
    gateway: str
    oauth: RunningOAuth
    server_id: str
    browser: Browser

    async def link(self, user: UserContext) -> str:
        """Return a link that a user asked for."""
        begun = await self.rest.ask(user, "GET", f"/mcp/{self.server_id}/oauth/initiate")
        return str(begun.json()["authorizationUrl"])

    async def until_read(self) -> None:
        """Wait until the tools are known."""
        while not (await self.rest.call(ALICE, "GET", f"/{self.server_id}")).json()["numTools"]:
            await self.rest.parts.clock.sleep(0.1)

    async def say(self, user: UserContext, mode: str, account: str = "ada") -> str:
        """Ask the server who someone is there; links are opened, and agreed to as *account*."""

        async def opened(context: Any, params: ElicitRequestParams) -> ElicitResult:
            assert isinstance(params, ElicitRequestURLParams)
            await self.browser.open(params.url, user=account)
            return ElicitResult(action="accept")

        headers = {"Authorization": f"Bearer {self.rest.token(user)}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(
                streamable_http_client(f"{self.gateway}/mcp/{SLUG}", http_client=http),
                mode=mode,
                elicitation_callback=opened,
            ) as client,
        ):
            try:
                result: Any = await client.call_tool("whoami", {})
            except MCPError as error:
                # In the handshake's era clients open the link and repeat the call by themselves.
                if error.code != URL_ELICITATION_REQUIRED:
                    raise
                await self.browser.open(error.data["elicitations"][0]["url"], user=account)
                result = await client.call_tool("whoami", {})
        return str(result.content[0].text)

    async def state(self, user: UserContext) -> Any:
        """Return what a user is told of their connection."""
        answer = await self.rest.ask(user, "GET", f"/mcp/connection/status/{self.server_id}")
        return answer.json()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """Return a browser, whose packages are installed first."""
    install(HERE, require_program("npm"))
    return Browser(tmp_path_factory.mktemp("pages"))


@pytest_asyncio.fixture(loop_scope="module")
async def place(
    browser: Browser,
    root: UserContext,
    mongo_uri: str,
    key_files: tuple[Path, Path],
    tmp_path: Path,
) -> AsyncIterator[Place]:
    """Return a registry with a server whose tools nobody has seen yet."""
    port = free_port()
    settings = rest_settings(mongo_uri, key_files, tmp_path, public_url=f"http://127.0.0.1:{port}")
    async with (
        running(settings) as rest,
        serve(rest.app, port=port) as gateway,
        serving_oauth() as oauth,
    ):
        oauth.provider.switches.consent = "page"
        server = await rest.register(root, SLUG, oauth.url, requiresOAuth=True)
        path = f"/permissions/mcpServer/{server['id']}"
        shared = await rest.ask(root, "PUT", path, json={"public": True})
        assert shared.status_code == 200, shared.text
        yield Place(rest, gateway, oauth, server["id"], browser)


@MODES
async def test_a_call_goes_on_after_its_user_agreed_in_the_browser(
    place: Place, mode: str
) -> None:
    await place.browser.open(await place.link(BOB), user="ben")
    await place.until_read()

    assert await place.say(ALICE, mode) == "ada"
    assert await place.say(BOB, mode) == "ben"


@MODES
async def test_after_a_revocation_the_next_call_asks_again(place: Place, mode: str) -> None:
    await place.browser.open(await place.link(ALICE))
    await place.until_read()
    assert await place.say(ALICE, mode) == "ada"

    revoked = await place.rest.ask(ALICE, "DELETE", f"/mcp/{place.server_id}/oauth/token")
    assert revoked.json()["revokedAtProvider"]
    authorized = place.oauth.provider.counts["authorize"]

    assert await place.say(ALICE, mode, account="ada-again") == "ada-again"
    assert place.oauth.provider.counts["authorize"] == authorized + 1


@pytest.mark.parametrize("scripts", [False, True])
async def test_the_pages_say_whose_account_and_what_became_of_it(
    place: Place, *, scripts: bool
) -> None:
    seen = await place.browser.open(await place.link(ALICE), scripts=scripts)

    titles = [page["title"] for page in seen["pages"]]
    assert titles == [f"Connect {SLUG}", "Sign in", f"{SLUG} is connected"]
    assert "account alice" in seen["pages"][0]["text"]
    assert seen["complaints"] == []
    assert seen["cookies"] == [
        {"httpOnly": True, "sameSite": "Lax", "path": "/api/v1/mcp/oauth/callback"}
    ]


async def test_who_denies_is_not_connected(place: Place) -> None:
    seen = await place.browser.open(await place.link(ALICE), decision="deny")

    assert seen["pages"][-1]["title"] == "Not connected"
    assert place.oauth.provider.tokens == []


async def test_a_second_user_sees_nothing_of_the_first(place: Place) -> None:
    before = await place.state(BOB)

    await place.browser.open(await place.link(ALICE))
    await place.until_read()
    await place.say(ALICE, MODERN)

    alice, bob = await place.state(ALICE), await place.state(BOB)
    assert (alice["authorized"], bob["authorized"]) == (True, False)
    assert bob["connectionStatus"] == before["connectionStatus"] != alice["connectionStatus"]
