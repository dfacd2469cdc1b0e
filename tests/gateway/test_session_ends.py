"""What is over: sessions that ended, calls that were cancelled, tasks that nobody keeps."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import orjson
import pytest

from registry.gateway.edge.session_seal import MAX_ENDED, SessionSeal
from registry.gateway.errors import SessionUnknown
from registry.servers.values import Era
from tests.fakes.clock import FakeClock
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import LegacyServer, notice
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.peers import FakeWorkers
from tests.gateway.raw_old import raw_old
from tests.gateway.serving import serve

LEGACY = frozenset({Era.LEGACY})
HELLO = request(
    "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
)
LIST = request("tools/list")


async def plainly(received: Request) -> None:
    """Answer at once."""
    await received.result({"content": []})


async def two_workers(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> list[Gateway]:
    """Return two workers of one gateway."""
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=LEGACY)
    workers = FakeWorkers()
    gateways = [await start_gateway(route, peers=workers.peer(name * 8)) for name in "ab"]
    workers.serve({name * 8: one.endpoint for name, one in zip("ab", gateways, strict=True)})
    return gateways


@pytest.mark.parametrize("path", ["/mcp", "/mcp/demo"])
async def test_an_ended_session_is_unknown_to_every_worker(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream, path: str
) -> None:
    upstream.behaviour = LegacyServer(plainly)
    first, second = await two_workers(stack, start_gateway, upstream)
    greeted = await first.http.post(path, json=HELLO, headers=head())
    headers = head(mcp_session_id=greeted.headers["mcp-session-id"])
    before = [(await one.http.post(path, json=LIST, headers=headers)) for one in (first, second)]

    ended = await second.http.delete(path, headers=headers)

    after = [(await one.http.post(path, json=LIST, headers=headers)) for one in (first, second)]
    assert [answer.status_code for answer in before] == [200, 200]
    assert ended.status_code == 200
    assert [answer.status_code for answer in after] == [404, 404]


async def test_a_session_that_the_server_does_not_end_goes_on(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    server = LegacyServer(plainly)

    async def keep(received: Request) -> None:
        if received.method == "DELETE":
            await received.answer(405, b"{}")
        else:
            await server(received)

    upstream.behaviour = keep
    gateway, _ = await two_workers(stack, start_gateway, upstream)
    greeted = await gateway.http.post("/mcp/demo", json=HELLO, headers=head())
    headers = head(mcp_session_id=greeted.headers["mcp-session-id"])

    await gateway.http.delete("/mcp/demo", headers=headers)

    listed = await gateway.http.post("/mcp/demo", json=LIST, headers=headers)
    assert listed.status_code == 200


def test_the_oldest_ended_session_is_forgotten_first() -> None:
    seal = SessionSeal([b"k" * 32], lifetime=timedelta(hours=1), clock=FakeClock())
    sealed = [seal.seal(name, principal="p", server_id="s") for name in ("first", "last")]
    seal.end(sealed[0])
    for number in range(MAX_ENDED - 1):
        seal.end(str(number))
    with pytest.raises(SessionUnknown):
        seal.open(sealed[0], principal="p", server_id="s")

    seal.end(sealed[1])

    assert seal.open(sealed[0], principal="p", server_id="s") == "first"
    with pytest.raises(SessionUnknown):
        seal.open(sealed[1], principal="p", server_id="s")


async def test_a_cancelled_call_gets_no_answer(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = LegacyServer(upstream.hang)
    gateway, _ = await two_workers(stack, start_gateway, upstream)
    greeted = await gateway.http.post("/mcp", json=HELLO, headers=head())
    headers = head(mcp_session_id=greeted.headers["mcp-session-id"])
    call = request("tools/call", {"name": "demo__echo", "arguments": {}}, "c")

    calling = asyncio.ensure_future(gateway.http.post("/mcp", json=call, headers=headers))
    await wait_for_call(upstream)
    await gateway.http.post("/mcp", json=notice("cancelled", {"requestId": "c"}), headers=headers)
    answer = await calling

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    assert b"data: {" not in answer.content


async def test_a_client_of_the_old_transport_gets_none_either(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = LegacyServer(upstream.hang)
    gateway, _ = await two_workers(stack, start_gateway, upstream)
    call = request("tools/call", {"name": "demo__echo", "arguments": {}}, "c")

    async with raw_old(gateway, "/mcp") as client:
        await client.hello()
        await client.send(call)
        await wait_for_call(upstream)
        await client.send(notice("cancelled", {"requestId": "c"}))
        await client.send(request("ping", request_id="p"))
        told = await client.message()

    assert told == {"jsonrpc": "2.0", "id": "p", "result": {}}


async def wait_for_call(upstream: ScriptedUpstream) -> None:
    """Wait until a tool is being called."""
    async with asyncio.timeout(30):
        while not any(b"tools/call" in sent.body for sent in upstream.requests):
            upstream.arrived.clear()
            await upstream.arrived.wait()


async def test_a_call_that_is_to_be_a_task_is_refused_where_nobody_keeps_tasks(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    greeted = await gateway.http.post("/mcp", json=HELLO, headers=head())
    headers = head(mcp_session_id=greeted.headers["mcp-session-id"])
    params: Any = {"name": "demo__echo", "arguments": {}, "task": {"ttl": 1000}}

    answer = await gateway.http.post(
        "/mcp", content=orjson.dumps(request("tools/call", params)), headers=headers
    )

    error = answer.json()["error"]
    assert (error["code"], error["message"]) == (
        -32602,
        "Tasks are not supported at this path; send tools/call without params.task.",
    )
    assert upstream.requests == []
