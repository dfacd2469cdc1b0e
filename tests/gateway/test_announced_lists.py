"""Lists that a server says have changed: who listens for that, and what clients are told after."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.values import tool_entry
from registry.servers.values import Era, Transport
from tests.fakes.own_stream import OwnStreamServer, Session
from tests.fakes.telling import TellingServer
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import EVENTS, event, notice
from tests.gateway.fakes import FakeRoutes, Request, ScriptedUpstream, make_route
from tests.gateway.raw_old import raw_old
from tests.gateway.serving import serve
from tests.kit.waiting import until

LEGACY = frozenset({Era.LEGACY})
TELLS: dict[str, Any] = {"tools": {"listChanged": True}}
TOOLS_CHANGED = "notifications/tools/list_changed"


def changes(gateway: Gateway) -> float:
    """Return how often a server said that a list changed."""
    name = "mcp_gateway_upstream_list_changes_total"
    return gateway.metrics.registry.get_sample_value(name) or 0


async def plainly(session: Session, message: Any) -> Any:
    """Answer a call."""
    return {"content": []}


async def begin(gateway: Gateway, path: str) -> dict[str, str]:
    """Begin a session; return the headers of requests in it."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    answer = await gateway.http.post(path, json=request("initialize", params), headers=head())
    return head(mcp_session_id=answer.headers["mcp-session-id"])


async def test_servers_are_listened_to_while_a_client_holds_a_stream(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    server = OwnStreamServer(plainly)
    url = await stack.enter_async_context(serve(server))
    gateway = await start_gateway(
        make_route(f"{url}/mcp", eras=LEGACY, capabilities=TELLS),
        gateway_upstream_session_idle_seconds=0.2,
    )
    headers = await begin(gateway, "/mcp")

    async with gateway.http.stream("GET", "/mcp", headers=headers):
        await until(lambda: any(one.stream for one in server.sessions.values()))
        (session,) = server.sessions.values()
        session.say(TOOLS_CHANGED)
        await until(lambda: changes(gateway) == 1)

    await until(lambda: server.ended == [session.name])


async def test_no_more_servers_are_listened_to_than_may_be(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    servers = [OwnStreamServer(plainly) for _ in range(3)]
    urls = [await stack.enter_async_context(serve(server)) for server in servers]
    gateway = await start_gateway(
        *(
            make_route(f"{url}/mcp", slug=f"s{number}", eras=LEGACY, capabilities=TELLS)
            for number, url in enumerate(urls)
        ),
        gateway_watched_servers=2,
    )
    headers = await begin(gateway, "/mcp")

    async with gateway.http.stream("GET", "/mcp", headers=headers):
        await until(lambda: sum(len(server.sessions) for server in servers) == 2)

    feeds = gateway.metrics.registry.get_sample_value("mcp_gateway_notification_feeds")
    assert feeds in {0, 2}


async def test_a_server_of_the_old_transport_is_heard_by_its_clients_stream(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    server = TellingServer(is_sse=True)
    url = await stack.enter_async_context(serve(server))
    gateway = await start_gateway(
        make_route(f"{url}/mcp", transport=Transport.SSE, eras=LEGACY, capabilities=TELLS)
    )

    async with raw_old(gateway) as client:
        await client.hello()
        server.tell(TOOLS_CHANGED)
        told = await client.message()
        asked = asyncio.ensure_future(client.send(request("tools/list", request_id="l")))
        await until(lambda: changes(gateway) == 1)
        new = tool_entry("new", '{"name":"new","inputSchema":{"type":"object"}}')
        gateway.routes.replace(
            make_route(f"{url}/mcp", transport=Transport.SSE, eras=LEGACY, tools=[new])
        )
        await asked
        listed = await client.message()

    assert told["method"] == TOOLS_CHANGED
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["new"]


async def test_a_list_that_is_asked_for_after_an_announcement_is_the_new_one(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def announce(received: Request) -> None:
        await received.start(**EVENTS)
        await received.chunk(event(notice("tools/list_changed")))
        answer = {"jsonrpc": "2.0", "id": received.message["id"], "result": {"content": []}}
        await received.chunk(event(answer), more=False)

    upstream.behaviour = announce
    await gateway.call()

    asked = asyncio.ensure_future(gateway.post(request("tools/list")))
    await until(lambda: changes(gateway) == 1)
    new = tool_entry("new", '{"name":"new","inputSchema":{"type":"object"}}')
    gateway.routes.replace(make_route(gateway.routes.routes["demo"].url, tools=[new]))
    listed = await asked

    assert [tool["name"] for tool in listed.json()["result"]["tools"]] == ["new"]


async def test_a_list_that_does_not_change_is_waited_for_once_and_not_for_long() -> None:
    routes = FakeRoutes(make_route())
    lists = AnnouncedLists(routes, SystemClock(), Metrics(), lambda _: None, wait_seconds=0.05)
    lists.add(routes.routes["demo"])

    async with asyncio.timeout(30):
        first = await lists.wait("demo")
        second = await lists.wait("demo")
        other = await lists.wait("other")

    assert (first, second, other) == (False, False, False)


@pytest.mark.parametrize("text", ["x", orjson.dumps(TOOLS_CHANGED).decode()])
async def test_what_only_speaks_of_a_change_does_no_harm(
    gateway: Gateway, upstream: ScriptedUpstream, text: str
) -> None:
    async def answer(received: Request) -> None:
        await received.result({"content": [{"type": "text", "text": text}]})

    upstream.behaviour = answer

    called = await gateway.call()

    assert called.json()["result"]["content"][0]["text"] == text
