"""The official client, through the gateway, to the official server: what users do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult
from pydantic import BaseModel

from registry.gateway.values import tool_entry
from registry.servers.values import Era, Transport
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.fakes import make_route
from tests.gateway.serving import serve

Mode = Literal["legacy", "auto", "2026-07-28"]
MODES: tuple[Mode, ...] = ("legacy", "auto", "2026-07-28")
TOOL_NAMES = ("echo", "count", "ask")


class Answer(BaseModel):
    """What the user is asked for."""

    name: str


def build_server() -> MCPServer[None]:
    """Return a server with everything that passes through."""
    server: MCPServer[None] = MCPServer(name="real", log_level="ERROR")

    @server.tool()
    def echo(text: str) -> str:
        return text

    @server.tool()
    async def count(ctx: Context[None], steps: int) -> int:
        for step in range(steps):
            await ctx.report_progress(step + 1, steps, f"step {step + 1}")
        return steps

    @server.tool()
    async def ask(ctx: Context[None]) -> str:
        result = await ctx.elicit("Who?", Answer)
        return result.data.name if result.action == "accept" else "nobody"

    @server.tool()
    def hidden() -> str:
        raise AssertionError

    @server.resource("note://today")
    def today() -> str:
        return "a note"

    @server.prompt()
    def greet(name: str) -> str:
        return f"Hello {name}"

    return server


@pytest.fixture
async def gateway(stack: AsyncExitStack, start_gateway: StartGateway) -> Gateway:
    """Return a gateway in front of an official server of both eras."""
    app = build_server().streamable_http_app()
    url = await stack.enter_async_context(serve(app, lifespan=True))
    tools = [
        tool_entry(name, f'{{"name":"{name}","inputSchema":{{"type":"object"}}}}')
        for name in TOOL_NAMES
    ]
    started: Gateway = await start_gateway(make_route(f"{url}/mcp", tools=tools))
    return started


@asynccontextmanager
async def connect(gateway: Gateway, mode: Mode, **options: Any) -> AsyncIterator[Client]:
    """Connect the official client as alice."""
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer alice"}, timeout=30) as http:
        transport = streamable_http_client(f"{gateway.url}/mcp/demo", http_client=http)
        async with Client(transport, mode=mode, **options) as client:
            yield client


def text(result: Any) -> str:
    """Return the text of a result's first content."""
    return str(result.content[0].text)


@pytest.mark.requirement("R-019")
@pytest.mark.parametrize("mode", MODES)
async def test_tools_are_listed_and_called(gateway: Gateway, mode: Mode) -> None:
    async with connect(gateway, mode) as client:
        listed = await client.list_tools()
        result = await client.call_tool("echo", {"text": "hello"})

    assert [tool.name for tool in listed.tools] == sorted(TOOL_NAMES)
    assert text(result) == "hello"


@pytest.mark.parametrize("mode", MODES)
async def test_an_unregistered_tool_of_the_upstream_cannot_be_called(
    gateway: Gateway, mode: Mode
) -> None:
    async with connect(gateway, mode) as client:
        with pytest.raises(MCPError, match="Unknown tool: hidden"):
            await client.call_tool("hidden", {})


@pytest.mark.parametrize("mode", MODES)
async def test_progress_reaches_the_client(gateway: Gateway, mode: Mode) -> None:
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with connect(gateway, mode) as client:
        result = await client.call_tool("count", {"steps": 3}, progress_callback=note)

    assert seen == [1, 2, 3]
    assert text(result) == "3"


@pytest.mark.parametrize("mode", MODES)
async def test_resources_and_prompts_pass_through(gateway: Gateway, mode: Mode) -> None:
    async with connect(gateway, mode) as client:
        resources = await client.list_resources()
        contents: Any = await client.read_resource("note://today")
        prompts = await client.list_prompts()
        prompt: Any = await client.get_prompt("greet", {"name": "Ann"})

    assert [str(resource.uri) for resource in resources.resources] == ["note://today"]
    assert contents.contents[0].text == "a note"
    assert [prompt.name for prompt in prompts.prompts] == ["greet"]
    assert prompt.messages[0].content.text == "Hello Ann"


async def test_a_legacy_server_can_ask_the_user_in_the_middle_of_a_call(gateway: Gateway) -> None:
    async def reply(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ann"})

    async with connect(gateway, "legacy", elicitation_callback=reply) as client:
        result = await client.call_tool("ask", {})

    assert text(result) == "Ann"


@pytest.mark.requirement("R-018")
@pytest.mark.parametrize("mode", MODES)
async def test_many_calls_at_once_get_their_own_answers(gateway: Gateway, mode: Mode) -> None:
    texts = [f"text {number}" for number in range(20)]

    async with connect(gateway, mode) as client:
        results = await asyncio.gather(
            *(client.call_tool("echo", {"text": sent}) for sent in texts)
        )

    assert [text(result) for result in results] == texts


async def test_an_auto_client_falls_back_to_the_handshake_on_a_legacy_server(
    gateway: Gateway,
) -> None:
    route = gateway.routes.routes["demo"]
    gateway.routes.routes["demo"] = make_route(
        route.url, eras=frozenset({Era.LEGACY}), tools=route.tools.values()
    )

    async with connect(gateway, "auto") as client:
        result = await client.call_tool("echo", {"text": "hello"})

    assert text(result) == "hello"


async def test_a_client_of_streamable_http_calls_a_server_of_the_old_transport(
    stack: AsyncExitStack, gateway: Gateway
) -> None:
    url = await stack.enter_async_context(serve(build_server().sse_app()))
    route = gateway.routes.routes["demo"]
    gateway.routes.routes["demo"] = make_route(
        f"{url}/sse", transport=Transport.SSE, tools=route.tools.values()
    )
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with connect(gateway, "auto") as client:
        listed = await client.list_tools()
        plain = await client.call_tool("echo", {"text": "hello"})
        reporting = await client.call_tool("count", {"steps": 2}, progress_callback=note)

    assert [tool.name for tool in listed.tools] == sorted(TOOL_NAMES)
    assert text(plain) == "hello"
    assert text(reporting) == "2"
    assert seen == [1, 2]


@pytest.mark.requirement("R-003")
@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_is_away_keeps_its_tools_and_only_calls_fail(
    start_gateway: StartGateway, mode: Mode
) -> None:
    away = await start_gateway(make_route("http://127.0.0.1:9/mcp"))

    async with connect(away, mode) as client:
        listed = await client.list_tools()
        if mode == "legacy":
            called = await client.call_tool("echo", {})
            assert called.is_error
            assert "cannot be reached" in str(called.content)
        else:
            with pytest.raises(MCPError, match="cannot be reached"):
                await client.call_tool("echo", {})

    assert [tool.name for tool in listed.tools] == ["add", "echo"]
