"""Servers of the HTTP+SSE transport (2024-11-05): what they get, and what can go wrong there."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
import pytest

from registry.servers.values import Era, Transport
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.failing import error_of, outcome
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.raw_old import HELLO, WAIT_SECONDS, raw_old
from tests.gateway.serving import serve

RESULT: dict[str, Any] = {"result": {"content": []}}
LOG = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x"}}
OLD = {"accept": "text/event-stream"}


class OldServer:
    """A server of the transport; *said* is what it sends when the tool is called."""

    def __init__(self, *said: dict[str, Any], endpoint: str = "/messages?id=1") -> None:
        self.endpoint = endpoint
        self.said = said
        self.received: list[dict[str, Any]] = []
        self.queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.answers_messages_with = b"Accepted"

    @property
    def methods(self) -> list[str | None]:
        """The methods of what it received."""
        return [message.get("method") for message in self.received]

    async def __call__(self, received: Request) -> None:
        """Behave as an upstream."""
        if received.method == "GET":
            await self._stream(received)
            return
        await received.start(202, content_length="8", content_type="text/plain")
        await received.chunk(self.answers_messages_with, more=False)
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
                result = {"protocolVersion": "2024-11-05", "capabilities": {}}
                self._answer(message, {"result": result})
            case "tools/call":
                for said in self.said:
                    is_answer = "result" in said or ("error" in said and "method" not in said)
                    self.queue.put_nowait(said if not is_answer else self._to(message, said))
            case _:
                pass

    def _answer(self, message: dict[str, Any], said: dict[str, Any]) -> None:
        self.queue.put_nowait(self._to(message, said))

    def _to(self, message: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": message["id"], **said}


@pytest.fixture
async def gateway(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> Gateway:
    """Return a gateway in front of an upstream of the old transport."""
    url = await stack.enter_async_context(serve(upstream))
    started: Gateway = await start_gateway(
        make_route(f"{url}/sse", transport=Transport.SSE, idle_timeout_seconds=1)
    )
    return started


async def begin(gateway: Gateway, **capabilities: Any) -> str:
    """Begin a session of streamable HTTP."""
    hello = request("initialize", {**HELLO["params"], "capabilities": capabilities})
    return str((await gateway.post(hello)).headers["mcp-session-id"])


def events(answer: httpx.Response) -> list[Any]:
    """Return the messages of an event stream."""
    found = [event.partition(b"\n")[2] for event in answer.content.strip().split(b"\n\n")]
    return [orjson.loads(event.replace(b"data: ", b"")) for event in found]


async def test_a_call_says_hello_calls_and_hangs_up(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = OldServer(RESULT)

    answer = await gateway.call()

    assert answer.json() == {"jsonrpc": "2.0", "id": 1, **RESULT}
    assert answer.headers["content-type"] == "application/json"
    assert server.methods == ["initialize", "notifications/initialized", "tools/call"]
    async with asyncio.timeout(WAIT_SECONDS):
        await server.closed.wait()


@pytest.mark.requirement("R-235")
async def test_credentials_go_to_the_stream_and_to_the_endpoint(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = OldServer(RESULT)

    await gateway.call(cookie="a=b")
    async with raw_old(gateway) as client:
        await client.hello()

    assert {sent.method for sent in upstream.requests} == {"GET", "POST"}
    assert {sent.headers["authorization"] for sent in upstream.requests} == {
        "Bearer upstream-secret"
    }
    assert all("cookie" not in sent.headers for sent in upstream.requests)


async def test_what_comes_before_the_result_is_streamed(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = OldServer(LOG, RESULT)

    answer = await gateway.call()

    assert answer.headers["content-type"] == "text/event-stream"
    assert events(answer) == [LOG, {"jsonrpc": "2.0", "id": 1, **RESULT}]


async def test_what_a_client_cannot_be_asked_is_declined_here(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    ping = {"jsonrpc": "2.0", "id": "p", "method": "ping"}
    sampling = {"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage"}
    server = upstream.behaviour = OldServer(ping, sampling, RESULT)

    answer = await gateway.call()

    assert answer.json()["result"] == {"content": []}
    assert server.received[3:] == [
        {"jsonrpc": "2.0", "id": "p", "result": {}},
        {
            "jsonrpc": "2.0",
            "id": "s",
            "error": {"code": -32601, "message": "The client does not support this."},
        },
    ]


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254/messages", "//127.0.0.1:1/m"])
async def test_an_endpoint_of_another_origin_is_refused(
    gateway: Gateway, upstream: ScriptedUpstream, endpoint: str
) -> None:
    upstream.behaviour = OldServer(endpoint=endpoint)

    called = await gateway.call()
    opened = await gateway.http.get("/mcp/demo", headers=head(**OLD))

    assert [outcome(called), outcome(opened)] == [502, 502]
    assert "another origin" in error_of(called)["message"]
    assert "another origin" in error_of(opened)["message"]


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"data: {}\n\n",
        b"event: endpoint\ndata: http://[\n\n",
        b"event: endpoint\ndata: /m\n\ndata: {\n\n",
        b"event: endpoint\ndata: /m\n\n",
        b"event: endpoint\ndata: /m\n\ndata: " + b'{"id":null,"error":{}}\n\n',
    ],
)
async def test_a_stream_that_ends_or_makes_no_sense_gives_a_clear_error(
    gateway: Gateway, upstream: ScriptedUpstream, stream: bytes
) -> None:
    async def behave(received: Request) -> None:
        if received.method == "GET":
            await received.start(content_type="text/event-stream")
            await received.chunk(stream, more=False)
        else:
            await received.answer(202, b"")

    upstream.behaviour = behave

    answer = await gateway.call()

    assert outcome(answer) == 502
    assert answer.json()["id"] == 1


@pytest.mark.parametrize("status", [200, 302, 401, 404, 500])
async def test_an_answer_that_is_no_stream_gives_a_clear_error(
    gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    async def page(received: Request) -> None:
        await received.answer(status, b"<html>", content_type="text/html")

    upstream.behaviour = page

    called = await gateway.call()
    opened = await gateway.http.get("/mcp/demo", headers=head(**OLD))

    assert [outcome(called), outcome(opened)] == [502, 502]


async def test_a_silent_stream_is_given_up(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.behaviour = upstream.hang
    url = gateway.routes.routes["demo"].url
    gateway.routes.routes["demo"] = make_route(
        url, transport=Transport.SSE, idle_timeout_seconds=0.05
    )

    called = await gateway.call()
    opened = await gateway.http.get("/mcp/demo", headers=head(**OLD))

    assert [outcome(called), outcome(opened)] == [504, 504]


async def test_the_handshake_needs_no_server(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    answer = await gateway.post(request("initialize", {"protocolVersion": "2025-06-18"}))
    noted = await gateway.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
    pinged = await gateway.post(request("ping"))

    assert answer.json()["result"]["protocolVersion"] == "2025-06-18"
    assert "tools" in answer.json()["result"]["capabilities"]
    assert noted.status_code == 202
    assert pinged.json()["result"] == {}
    assert upstream.requests == []


async def test_an_endless_answer_to_a_message_is_not_read(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = OldServer(RESULT)

    async def flood(received: Request) -> None:
        if received.method == "GET":
            await server(received)
            return
        server._take(received.message)
        await received.start(200, content_length="4000000000", content_type="text/plain")
        await received.chunk(b"x" * 1000)
        await received.wait_for_disconnect()

    upstream.behaviour = flood

    answer = await gateway.call()

    assert answer.json()["result"] == {"content": []}


async def test_a_client_of_the_same_transport_has_the_servers_stream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = OldServer(LOG, RESULT)

    async with raw_old(gateway) as client:
        hello = await client.hello()
        server.queue.put_nowait({"jsonrpc": "2.0", "id": 7, "method": "roots/list"})
        asked = await client.message()
        await client.send({"jsonrpc": "2.0", "id": 7, "result": {"roots": []}})
        await client.send(request("tools/call", {"name": "echo", "arguments": {}}, "c"))
        log, answer = await client.message(), await client.message()
        await client.send(request("tools/list", request_id="l"))
        listed = await client.message()
    async with asyncio.timeout(WAIT_SECONDS):
        await server.closed.wait()

    assert hello["result"]["protocolVersion"] == "2024-11-05"
    assert asked == {"jsonrpc": "2.0", "id": 7, "method": "roots/list"}
    assert server.received[2] == {"jsonrpc": "2.0", "id": 7, "result": {"roots": []}}
    assert (log, answer["id"]) == (LOG, "c")
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["add", "echo"]
    assert server.methods == ["initialize", "notifications/initialized", None, "tools/call"]
    assert [sent.method for sent in upstream.requests].count("GET") == 1


async def test_a_stream_that_the_server_ends_ends_for_the_client(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = OldServer()

    async with raw_old(gateway) as client:
        await client.hello()
        server.queue.put_nowait(None)
        event = await client.event()

    assert event == ("end", "")


async def test_a_message_that_the_server_refuses_is_answered_on_the_stream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = OldServer()

    async def refuses(received: Request) -> None:
        if received.method == "GET":
            await server(received)
        else:
            await received.answer(500, b"no", content_type="text/plain")

    upstream.behaviour = refuses

    async with raw_old(gateway) as client:
        taken = await client.send(request("tools/call", {"name": "echo", "arguments": {}}, "c"))
        answer = await client.message()
        noted = await client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    assert taken.status_code == 202
    assert (answer["id"], answer["error"]["message"]) == (
        "c",
        "The server demo answered HTTP 500.",
    )
    assert noted.status_code == 500


async def test_a_server_that_is_back_is_asked_again_by_everybody(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    async def fail(received: Request) -> None:
        await received.answer(503, b"{}")

    upstream = ScriptedUpstream(fail)
    url = await stack.enter_async_context(serve(upstream))
    gateway: Gateway = await start_gateway(
        make_route(f"{url}/sse", transport=Transport.SSE),
        gateway_breaker_failures=1,
        gateway_breaker_cool_down_seconds=0.1,
    )

    failed = await gateway.call()
    paused = await gateway.call()
    upstream.behaviour = OldServer(RESULT)
    async with asyncio.timeout(WAIT_SECONDS):
        while outcome(await gateway.call()) != 200:
            pass
    upstream.behaviour = OldServer(RESULT)
    again = await gateway.call()

    assert (outcome(failed), outcome(paused)) == (502, 503)
    assert outcome(again) == 200


@pytest.mark.parametrize(
    "answer",
    [b"", b"null", b'"x"', b"[]", b"{", b'{"detail":"no"}', b'{"a":' * 900 + b"1" + b"}" * 900],
)
@pytest.mark.parametrize("era", list(Era))
async def test_an_answer_that_is_no_message_gives_a_clear_error(
    stack: AsyncExitStack, start_gateway: StartGateway, era: Era, answer: bytes
) -> None:
    async def speak(received: Request) -> None:
        message = received.message if received.body else {}
        if message.get("method") == "initialize":
            await received.result({"protocolVersion": "2025-11-25", "capabilities": {}})
        elif "id" in message:
            await received.answer(200, answer)
        else:
            await received.answer(202, b"")

    url = await stack.enter_async_context(serve(ScriptedUpstream(speak)))
    gateway: Gateway = await start_gateway(make_route(f"{url}/mcp", eras=frozenset({era})))

    params = {"name": "demo__echo", "arguments": {}}
    told = await gateway.post(request("tools/call", params), slug="")

    assert outcome(told) == 502
    assert error_of(told)["data"]["error"] == "upstream_error"
