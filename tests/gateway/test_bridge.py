"""Servers of the old HTTP+SSE transport: what is answered here, and what can go wrong there."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

from registry.servers.values import Transport
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

WAIT_SECONDS = 5


class OldServer:
    """A server of the HTTP+SSE transport; *said* is what it sends when the tool is called."""

    def __init__(self, endpoint: str = "/messages?id=1", *said: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.said = said
        self.received: list[dict[str, Any]] = []
        self.queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def __call__(self, received: Request) -> None:
        """Behave as an upstream."""
        if received.method == "GET":
            await self._stream(received)
        else:
            await received.start(202, content_length="8", content_type="text/plain")
            await received.chunk(b"Accepted", more=False)
            self._take(received.message)

    async def _stream(self, received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.chunk(f"event: endpoint\r\ndata: {self.endpoint}\r\n\r\n: hi\r\n".encode())
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(self._write(received))
            await received.wait_for_disconnect()
            writing.cancel()
        self.closed.set()

    async def _write(self, received: Request) -> None:
        while (message := await self.queue.get()) is not None:
            text = orjson.dumps(message).replace(b",", b",\ndata: ", 1)
            await received.chunk(b"event: message\ndata: " + text + b"\n\n")
        await received.chunk(b"", more=False)

    def _take(self, message: dict[str, Any]) -> None:
        self.received.append(message)
        match message.get("method"):
            case "initialize":
                self.queue.put_nowait({"jsonrpc": "2.0", "id": message["id"], "result": {}})
            case "tools/call":
                for said in self.said:
                    self.queue.put_nowait(said)
            case _:
                pass


@pytest.fixture
async def bridge(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> Gateway:
    """Return a gateway in front of an upstream of the old transport."""
    url = await stack.enter_async_context(serve(upstream))
    started: Gateway = await start_gateway(
        make_route(f"{url}/sse", transport=Transport.SSE, idle_timeout_seconds=1)
    )
    return started


RESULT = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
LOG = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x"}}


async def test_a_call_says_hello_calls_and_hangs_up(
    bridge: Gateway, upstream: ScriptedUpstream
) -> None:
    server = OldServer("/messages?id=1", RESULT)
    upstream.behaviour = server

    answer = await bridge.call()

    assert answer.json() == RESULT
    assert answer.headers["content-type"] == "application/json"
    assert [message["method"] for message in server.received] == [
        "initialize",
        "notifications/initialized",
        "tools/call",
    ]
    async with asyncio.timeout(WAIT_SECONDS):
        await server.closed.wait()


@pytest.mark.requirement("R-235")
async def test_credentials_go_to_the_stream_and_to_the_endpoint(
    bridge: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = OldServer("/messages?id=1", RESULT)

    await bridge.call(cookie="a=b")

    assert {sent.headers["authorization"] for sent in upstream.requests} == {
        "Bearer upstream-secret"
    }
    assert all("cookie" not in sent.headers for sent in upstream.requests)


async def test_what_comes_before_the_result_is_streamed(
    bridge: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = OldServer("/messages?id=1", LOG, RESULT)

    answer = await bridge.call()

    assert answer.headers["content-type"] == "text/event-stream"
    events = [event.partition(b"\n")[2] for event in answer.content.strip().split(b"\n\n")]
    assert [orjson.loads(event.replace(b"data: ", b"")) for event in events] == [LOG, RESULT]


async def test_what_the_server_asks_is_declined_here(
    bridge: Gateway, upstream: ScriptedUpstream
) -> None:
    ping = {"jsonrpc": "2.0", "id": "p", "method": "ping"}
    sampling = {"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage"}
    server = OldServer("/messages?id=1", ping, sampling, RESULT)
    upstream.behaviour = server

    answer = await bridge.call()

    assert answer.json() == RESULT
    assert server.received[3:] == [
        {"jsonrpc": "2.0", "id": "p", "result": {}},
        {
            "jsonrpc": "2.0",
            "id": "s",
            "error": {"code": -32601, "message": "Not available here"},
        },
    ]


async def test_an_endpoint_of_another_origin_is_refused(
    bridge: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = OldServer("http://169.254.169.254/messages")

    answer = await bridge.call()

    assert answer.status_code == 502
    assert "another origin" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"data: {}\n\n",
        b"event: endpoint\ndata: http://[\n\n",
        b"event: endpoint\ndata: /m\n\ndata: {\n\n",
        b"event: endpoint\ndata: /m\n\n",
        b'event: endpoint\ndata: /m\n\ndata: {"id":"gateway-initialize","error":{}}\n\n',
    ],
)
async def test_a_stream_that_ends_or_makes_no_sense_gives_a_clear_error(
    bridge: Gateway, upstream: ScriptedUpstream, stream: bytes
) -> None:
    async def behave(received: Request) -> None:
        if received.method == "GET":
            await received.start(content_type="text/event-stream")
            await received.chunk(stream, more=False)
        else:
            await received.answer(202, b"")

    upstream.behaviour = behave

    answer = await bridge.call()

    assert answer.status_code == 502
    assert answer.json()["id"] == 1


@pytest.mark.parametrize("status", [200, 302, 401, 404, 500])
async def test_an_answer_that_is_no_stream_gives_a_clear_error(
    bridge: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    async def page(received: Request) -> None:
        await received.answer(status, b"<html>", content_type="text/html")

    upstream.behaviour = page

    answer = await bridge.call()

    assert answer.status_code == 502


async def test_a_silent_stream_is_given_up(bridge: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.behaviour = upstream.hang
    url = bridge.routes.routes["demo"].url
    bridge.routes.routes["demo"] = make_route(
        url, transport=Transport.SSE, idle_timeout_seconds=0.05
    )

    answer = await bridge.call()

    assert answer.status_code == 504


async def test_the_handshake_needs_no_server(bridge: Gateway, upstream: ScriptedUpstream) -> None:
    answer = await bridge.post(request("initialize", {"protocolVersion": "2025-06-18"}))
    noted = await bridge.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
    pinged = await bridge.post(request("ping"))

    result = answer.json()["result"]
    assert result["protocolVersion"] == "2025-06-18"
    assert result["capabilities"] == {"tools": {}}
    assert noted.status_code == 202
    assert pinged.json()["result"] == {}
    assert upstream.requests == []


async def test_what_only_a_session_could_answer_is_no_known_method(bridge: Gateway) -> None:
    answer = await bridge.post(request("resources/list"))

    assert answer.status_code == 200
    assert answer.json()["error"]["code"] == -32601


async def test_there_is_no_stream_to_open(bridge: Gateway) -> None:
    answer = await bridge.http.get("/mcp/demo", headers=head())

    assert answer.status_code == 405


async def test_an_endless_answer_to_a_message_is_not_read(
    bridge: Gateway, upstream: ScriptedUpstream
) -> None:
    server = OldServer("/messages?id=1", RESULT)

    async def flood(received: Request) -> None:
        if received.method == "GET":
            await server(received)
            return
        server._take(received.message)
        await received.start(200, content_length="4000000000", content_type="text/plain")
        await received.chunk(b"x" * 1000)
        await received.wait_for_disconnect()

    upstream.behaviour = flood

    answer = await bridge.call()

    assert answer.json() == RESULT


async def test_a_server_of_the_old_transport_is_not_said_to_speak_the_new_protocol(
    bridge: Gateway,
) -> None:
    answer = await bridge.post(request("server/discover"))

    assert answer.json()["error"]["code"] == -32601
