"""A server is reached otherwise while calls are under way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp_types import TextContent

from registry.auth.identity import UserContext
from registry.core.settings import Settings
from tests.fakes.loopback import NO_CERTIFICATES
from tests.fakes.rest import Rest, running
from tests.gateway.serving import serve

pytestmark = pytest.mark.wire

PATIENCE_SECONDS = 20


@dataclass
class SlowServer:
    """An MCP server whose tool answers when it is let.

    Attributes:
        calls: How many calls arrived.
    """

    name: str
    url: str = ""
    calls: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> MCPServer:
        """Return the server."""
        server = MCPServer(self.name)

        @server.tool()
        async def where() -> str:
            """Say where this is."""
            self.calls += 1
            self.reached.set()
            await self.released.wait()
            return f"{self.name} {self.calls}"

        return server


async def started(stack: AsyncExitStack, name: str) -> SlowServer:
    server = SlowServer(name)
    app = server.app().streamable_http_app()
    server.url = f"{await stack.enter_async_context(serve(app, lifespan=True))}/mcp"
    return server


async def call(client: Client) -> str:
    result = await client.call_tool("where", {})
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


@asynccontextmanager
async def meeting(url: str, bearer: str, mode: str) -> AsyncIterator[Client]:
    """Connect the official client to a gateway path."""
    headers = {"Authorization": f"Bearer {bearer}", "Host": "127.0.0.1:7860"}
    async with httpx2.AsyncClient(
        headers=headers, timeout=PATIENCE_SECONDS, verify=NO_CERTIFICATES
    ) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@pytest.mark.requirement("R-051")
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_call_ends_where_it_began_and_the_next_goes_where_the_server_is_now(
    settings: Settings, root: UserContext, mode: str
) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE_SECONDS):
        former, newer = await started(stack, "former"), await started(stack, "newer")
        newer.released.set()
        rest: Rest = await stack.enter_async_context(running(settings))
        server = await rest.register(root, "moving", former.url, scope="shared_app")
        url = f"{await stack.enter_async_context(serve(rest.app))}/mcp/moving"
        bearer = rest.token(root)

        async def ask() -> str:
            async with meeting(url, bearer, mode) as client:
                return await call(client)

        async with asyncio.TaskGroup() as group:
            first = group.create_task(ask())
            await former.reached.wait()
            moved = await rest.call(root, "PATCH", f"/{server['id']}", json={"url": newer.url})
            second, former_calls = await ask(), former.calls
            former.released.set()
        restored = await rest.call(root, "POST", f"/{server['id']}/versions/1/rollback")
        third = await ask()

    assert (moved.status_code, restored.status_code) == (200, 200)
    assert (second, former_calls) == ("newer 1", 1)
    assert first.result() == "former 1"
    assert third == "former 2"
