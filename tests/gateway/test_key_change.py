"""Changing the key of stored credentials under traffic, as two replicas go through it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from bson import ObjectId
from mcp.server.mcpserver import MCPServer
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.settings import Settings
from registry.main import application
from registry.operations.rotation import rotate, survey
from registry.wiring.components import Components
from registry.wiring.keys import build_cipher
from tests.conftest import CREDS_IV, CREDS_KEY
from tests.gateway.serving import serve

pytestmark = [pytest.mark.wire, pytest.mark.requirement("R-305")]

NEW_KEY = "c4" * 32
CALLS = 10
"""How many calls each caller makes at least before the rotation, and again after it."""

OTHER_SECRETS = 300
"""Tokens besides, so that the rotation takes its time."""

INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


@dataclass(frozen=True, slots=True)
class Replica:
    """A running registry."""

    url: str
    parts: Components


@dataclass
class Caller:
    """Calls a tool over and over, and fails with the first call that does.

    Attributes:
        calls: How many calls were answered.
    """

    http: httpx.AsyncClient
    urls: tuple[str, ...]
    headers: dict[str, str]
    calls: int = 0
    stopping: bool = False
    session: str = field(default="", init=False)

    async def post(self, url: str, method: str, params: dict[str, Any]) -> httpx.Response:
        """Send a request in the era of the handshake."""
        head = self.headers | ({"mcp-session-id": self.session} if self.session else {})
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = await self.http.post(url, json=body, headers=head)
        assert answer.status_code == 200, answer.text
        return answer

    async def run(self) -> None:
        """Open a session at the first replica and call at all of them in turn."""
        opened = await self.post(self.urls[0], "initialize", INITIALIZE)
        self.session = opened.headers["mcp-session-id"]
        while not self.stopping:
            url = self.urls[self.calls % len(self.urls)]
            answer = await self.post(url, "tools/call", {"name": "hello", "arguments": {}})
            assert "hello yourself" in answer.text
            self.calls += 1

    async def reaches(self, calls: int) -> None:
        """Wait until so many calls were answered."""
        while self.calls < calls:
            await SystemClock().sleep(0.01)


def guarded(app: ASGIApp) -> ASGIApp:
    """Let only requests with the right key pass to *app*."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and dict(scope["headers"]).get(b"authorization") != b"Bearer sk-1"
        ):
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await app(scope, receive, send)

    return guard


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    server = MCPServer("upstream")

    @server.tool()
    def hello() -> str:
        """Greet."""
        return "hello yourself"

    async with serve(guarded(server.streamable_http_app()), lifespan=True) as url:
        yield f"{url}/mcp"


def with_keys(settings: Settings, current: str, readable: str) -> Settings:
    keys = {"creds_key": SecretStr(current), "creds_keys_readable": (SecretStr(readable),)}
    return settings.model_copy(update=keys)


async def start(stack: AsyncExitStack, settings: Settings) -> Replica:
    app, parts = await stack.enter_async_context(application(settings))
    return Replica(await stack.enter_async_context(serve(app)), parts)


@pytest.mark.requirement("R-305")
async def test_no_call_fails_while_the_key_is_changed(
    settings: Settings, database: Database, upstream: str, alice: UserContext
) -> None:
    before = with_keys(settings, CREDS_KEY, NEW_KEY)
    after = with_keys(settings, NEW_KEY, CREDS_KEY)
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
        # One replica was restarted with the new key, the other one only reads it so far.
        first, second = await start(stack, before), await start(stack, after)
        bearer = first.parts.issuer.issue(
            user_id=alice.user_id,
            username=alice.username,
            role=alice.role,
            scopes=alice.scopes,
            lifetime=timedelta(hours=1),
            is_service_account=True,
        )
        headers = {
            "authorization": f"Bearer {bearer}",
            "accept": "application/json, text/event-stream",
        }
        for replica, name, source in (
            (first, "keyed", "admin"),
            (first, "personal", "user"),
            (second, "newer", "admin"),
        ):
            created = await http.post(
                f"{replica.url}/api/v1/servers",
                json={
                    "serverName": name,
                    "url": upstream,
                    "apiKey": {"key": "sk-1", "source": source},
                },
                headers=headers,
            )
            assert created.status_code == 201, created.text
        await add_tokens(database, Cipher(CREDS_KEY, CREDS_IV))
        for name in ("keyed", "personal", "newer"):
            for replica in (first, second):
                await known(replica, name)

        callers = [
            Caller(http, tuple(f"{replica.url}/mcp/{name}" for replica in order), headers)
            for name in ("keyed", "personal", "newer")
            for order in ((first, second), (second, first))
        ]
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(caller.run())
            await reach(callers, CALLS)
            done = await rotate(database, build_cipher(after))
            await reach(callers, CALLS + max(caller.calls for caller in callers))
            for caller in callers:
                caller.stopping = True

    assert done.is_complete
    assert done.rewritten == {
        "mcpservers": 1,
        "tokens": OTHER_SECRETS,
        "pluginauths": 1,
        "server_versions": 1,
    }
    assert (await survey(database, Cipher(NEW_KEY, CREDS_IV))).is_clean


async def reach(callers: list[Caller], calls: int) -> None:
    for caller in callers:
        await caller.reaches(calls)


async def known(replica: Replica, name: str) -> None:
    while replica.parts.snapshot.route(name) is None:
        await SystemClock().sleep(0.01)


async def add_tokens(database: Database, cipher: Cipher) -> None:
    await database.collection("tokens").insert_many(
        [
            {
                "userId": ObjectId("b" * 24),
                "type": "mcp_oauth",
                "identifier": f"mcp:{number}",
                "token": cipher.encrypt_shared("bearer"),
                "createdAt": datetime(2026, 1, 1, tzinfo=UTC),
                "expiresAt": datetime(2099, 1, 1, tzinfo=UTC),
            }
            for number in range(OTHER_SECRETS)
        ]
    )
