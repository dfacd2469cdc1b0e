"""Plays the suite's scenarios for clients that authorise: a registry between client and server.

For each scenario someone registers the server of the suite, calls its tool through the gateway
with the official SDK's client, and opens the links that come back.
"""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2
import orjson
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from registry.auth.identity import USER_SCOPES, Role, UserContext
from tests.fakes.rest import Rest
from tests.gateway.serving import serve
from tests.kit.authorizing import authorize

PROGRAM = Path(__file__).with_name("client.mjs")
"""What the suite starts for each scenario: it has it played here."""

TOOL = "test-tool"
TOOLS_SECONDS = 30
POLL_SECONDS = 0.2
NO_USE_SECONDS = 2.0
"""How long the registry says that it cannot connect before its user authorises again."""

LINK = re.compile(r"http\S+/oauth/start\?\S+")
MAX_ROUNDS = 3
URL_ELICITATION_REQUIRED = -32042
MODES = {"2025-11-25": "legacy", "2026-07-28": "2026-07-28"}


class ScenarioStoppedError(Exception):
    """The registry, or its user, went no further."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario of the suite.

    Attributes:
        url: Of the suite's server.
        context: What a client is configured with.
    """

    name: str
    revision: str
    url: str
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuthorizingClient:
    """Someone with a client, a browser, and an account of the registry.

    Attributes:
        gateway: Base URL of the registry.
    """

    rest: Rest
    gateway: str

    async def play(self, scenario: Scenario) -> None:
        """Register the server, authorise the registry there, and call its tool twice.

        Raises:
            ScenarioStoppedError: It went no further.
        """
        user_id = uuid.uuid4().hex[:24]
        user = UserContext(user_id, f"user-{user_id}", Role.USER, USER_SCOPES)
        slug = f"suite-{user_id}"
        async with httpx.AsyncClient(timeout=30) as browser:
            oauth = await _configured(scenario, browser)
            server = await self.rest.register(
                user, slug, scenario.url, requiresOAuth=True, oauth=oauth
            )
            if "grant_types_supported" not in oauth:
                await self._connect(user, server["id"], browser)
            await self._call(scenario, slug, self.rest.token(user), browser)

    async def _connect(
        self, user: UserContext, server_id: str, browser: httpx.AsyncClient
    ) -> None:
        """Authorise the registry until it knows the tools, as who gives up after a few times."""
        for _ in range(MAX_ROUNDS):
            begun = await self.rest.ask(user, "GET", f"/mcp/{server_id}/oauth/initiate")
            assert begun.status_code == 200, begun.text
            await _open(browser, begun.json()["authorizationUrl"])
            if await self._reads_tools(user, server_id):
                return
        raise ScenarioStoppedError("The tools were not read.")

    async def _reads_tools(self, user: UserContext, server_id: str) -> bool:
        """Wait until the tools are known, or the registry cannot connect for a while."""
        clock = self.rest.parts.clock
        begun_at = connected_at = clock.monotonic()
        while not await self._knows_tools(user, server_id):
            now = clock.monotonic()
            if await self._is_connected(user):
                connected_at = now
            if now - connected_at > NO_USE_SECONDS or now - begun_at > TOOLS_SECONDS:
                return False
            await clock.sleep(POLL_SECONDS)
        return True

    async def _is_connected(self, user: UserContext) -> bool:
        answer = await self.rest.ask(user, "GET", "/mcp/connection/status")
        assert answer.status_code == 200, answer.text
        return all(
            status["authorized"] and status["connectionState"] != "error"
            for status in answer.json()["connectionStatus"].values()
        )

    async def _knows_tools(self, user: UserContext, server_id: str) -> bool:
        answer = await self.rest.call(user, "GET", f"/{server_id}")
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["numTools"])

    async def _call(
        self, scenario: Scenario, slug: str, token: str, browser: httpx.AsyncClient
    ) -> None:
        async def opened(context: Any, params: ElicitRequestParams) -> ElicitResult:
            assert isinstance(params, ElicitRequestURLParams)
            await _open(browser, params.url)
            return ElicitResult(action="accept")

        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
            Client(
                streamable_http_client(f"{self.gateway}/mcp/{slug}", http_client=http),
                mode=MODES[scenario.revision],
                elicitation_callback=opened,
                cache=None,
            ) as client,
        ):
            async with asyncio.timeout(TOOLS_SECONDS):
                while not (await client.list_tools()).tools:
                    await self.rest.parts.clock.sleep(POLL_SECONDS)
            for _ in range(2):
                await _called(client, browser)


async def _called(client: Client, browser: httpx.AsyncClient) -> None:
    """Call the tool, opening what must be opened first."""
    for _ in range(MAX_ROUNDS):
        try:
            result: Any = await client.call_tool(TOOL, {})
        except MCPError as error:
            if error.code != URL_ELICITATION_REQUIRED:
                raise ScenarioStoppedError(str(error)) from error
            for asked in error.data["elicitations"]:
                await _open(browser, asked["url"])
            continue
        if not result.is_error:
            return
        said = result.content[0].text
        link = LINK.search(said)
        if link is None:
            raise ScenarioStoppedError(said)
        await _open(browser, link[0])
    raise ScenarioStoppedError("Authorised again and again.")


async def _open(browser: httpx.AsyncClient, link: str) -> None:
    seen = await authorize(browser, link)
    if not seen.is_connected:
        raise ScenarioStoppedError(seen.text)


async def _configured(scenario: Scenario, http: httpx.AsyncClient) -> dict[str, Any]:
    """Return the `oauth` of the server's configuration, as someone who was given a client has it.

    A secret is stored only with the two addresses; they are read where the suite publishes them.
    """
    context = scenario.context
    if "client_secret" not in context:
        return {}
    origin = scenario.url.removesuffix("/mcp")
    resource = (await http.get(f"{origin}/.well-known/oauth-protected-resource/mcp")).json()
    issuer = context.get("issuer") or resource["authorization_servers"][0]
    published = (await http.get(f"{issuer}/.well-known/oauth-authorization-server")).json()
    grants = published["grant_types_supported"]
    return {
        "client_id": context["client_id"],
        "client_secret": context["client_secret"],
        "authorization_url": published["authorization_endpoint"],
        "token_url": published["token_endpoint"],
        "token_exchange_method": "basic_auth_header",
        **({} if "authorization_code" in grants else {"grant_types_supported": grants}),
    }


@asynccontextmanager
async def playing(rest: Rest, gateway: str, names: frozenset[str]) -> AsyncIterator[str]:
    """Yield the URL at which scenarios are played, of those in *names*."""
    client = AuthorizingClient(rest, gateway)

    async def play(request: Request) -> JSONResponse:
        scenario = Scenario(**orjson.loads(await request.body()))
        if scenario.name not in names:
            return JSONResponse({"code": 1, "said": "Not played."})
        try:
            await client.play(scenario)
        except ScenarioStoppedError as stopped:
            return JSONResponse({"code": 1, "said": str(stopped)})
        return JSONResponse({"code": 0, "said": ""})

    async with serve(Starlette(routes=[Route("/", play, methods=["POST"])])) as url:
        yield url
