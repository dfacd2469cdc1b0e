"""Between the gateway and an upstream: sessions, streams, and upstreams gone wrong."""

import asyncio
import gzip
import socket
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from registry.auth.errors import UnauthorizedError
from registry.core.clock import SystemClock
from registry.gateway.edge import stream_guard as streams
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.failing import error_of, outcome
from tests.gateway.fakes import PRIVATE, Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

WAIT_SECONDS = 30


async def open_session(request_: Request) -> None:
    """Hand out a session on initialize, and say which one came with other requests."""
    if request_.method == "POST" and request_.message["method"] == "initialize":
        await request_.result({}, mcp_session_id="upstream-session")
    else:
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": request_.headers})
        await request_.answer(200, body, mcp_session_id="upstream-session")


async def initialize(gateway: Gateway, user: str = "alice", slug: str = "demo") -> str:
    answer = await gateway.post(request("initialize"), user=user, slug=slug)
    return answer.headers["mcp-session-id"]


async def test_a_session_id_is_sealed_for_the_client_and_opened_for_the_upstream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = open_session

    sealed = await initialize(gateway)
    answer = await gateway.call(mcp_session_id=sealed)

    assert "upstream-session" not in sealed
    assert answer.json()["result"]["mcp-session-id"] == "upstream-session"
    assert answer.headers["mcp-session-id"] == sealed


@pytest.mark.parametrize("method", ["tools/call", "tools/list", "ping"])
async def test_anothers_session_is_not_found(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    upstream.behaviour = open_session
    sealed = await initialize(gateway)
    upstream.requests.clear()

    answer = await gateway.post(
        request(method, {"name": "echo"}), user="bob", mcp_session_id=sealed
    )

    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "Session not found; initialize a new one."
    assert upstream.requests == []


async def test_a_session_of_another_server_is_not_found(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = open_session
    gateway.routes.routes["other"] = make_route(gateway.routes.routes["demo"].url, slug="other")
    sealed = await initialize(gateway)

    answer = await gateway.post(request("ping"), slug="other", mcp_session_id=sealed)

    assert answer.status_code == 404


@pytest.mark.parametrize("session_id", ["upstream-session", "", "AAAA", "é" * 3, "A" * 5000])
async def test_an_id_that_is_not_sealed_is_not_found(
    gateway: Gateway, upstream: ScriptedUpstream, session_id: str
) -> None:
    headers = httpx.Headers({**head(), "mcp-session-id": session_id}, encoding="utf-8")

    answer = await gateway.http.post("/mcp/demo", json=request("ping"), headers=headers)

    assert answer.status_code in {400, 404}
    assert upstream.requests == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_get_and_delete_carry_the_session_and_are_guarded_by_it(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    upstream.behaviour = open_session
    sealed = await initialize(gateway)

    own = await gateway.http.request(method, "/mcp/demo", headers=head(mcp_session_id=sealed))
    foreign = await gateway.http.request(
        method, "/mcp/demo", headers=head("bob", mcp_session_id=sealed)
    )

    assert own.status_code == 200
    assert foreign.status_code == 404
    assert [sent.method for sent in upstream.requests] == ["POST", method]
    assert upstream.requests[1].headers["mcp-session-id"] == "upstream-session"


async def test_a_session_that_the_upstream_forgot_is_reported_so_that_clients_start_anew(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = open_session
    sealed = await initialize(gateway)
    body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}'

    async def forget(received: Request) -> None:
        await received.answer(404, body)

    upstream.behaviour = forget

    answer = await gateway.call(mcp_session_id=sealed)

    assert (answer.status_code, answer.content) == (404, body)


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_stream_reaches_the_client_chunk_by_chunk(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    seen = asyncio.Event()

    async def stream(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.chunk(b"data: 1\n\n")
        async with asyncio.timeout(WAIT_SECONDS):
            await seen.wait()
        await received.chunk(b"data: 2\n\n", more=False)

    upstream.behaviour = stream
    body = orjson.dumps(request("tools/call", {"name": "echo"})) if method == "POST" else None
    chunks: list[bytes] = []

    async with gateway.http.stream(method, "/mcp/demo", content=body, headers=head()) as answer:
        async for chunk in answer.aiter_raw():
            chunks.append(chunk)
            seen.set()

    assert chunks == [b"data: 1\n\n", b"data: 2\n\n"]
    assert answer.headers["x-accel-buffering"] == "no"


async def test_the_head_of_a_silent_stream_comes_at_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def silent(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.wait_for_disconnect()

    upstream.behaviour = silent

    async with (
        asyncio.timeout(WAIT_SECONDS),
        gateway.http.stream("GET", "/mcp/demo", headers=head()) as answer,
    ):
        assert answer.status_code == 200


async def test_a_large_answer_of_unknown_length_arrives_whole(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    piece = b'"' + b"x" * 100_000 + b'"'

    async def large(received: Request) -> None:
        await received.start(content_type="application/json")
        await received.chunk(b"[" + piece)
        await received.chunk(b"," + piece)
        await received.chunk(b"]", more=False)

    upstream.behaviour = large

    answer = await gateway.call()

    assert answer.content == b"[" + piece + b"," + piece + b"]"


async def test_a_large_answer_of_known_length_keeps_its_length(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    body = b'"' + b"x" * 1_000_000 + b'"'

    async def large(received: Request) -> None:
        await received.answer(200, body)

    upstream.behaviour = large
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(make_route(f"{url}/mcp", headers={}))

    answer = await gateway.call()

    assert answer.content == body
    assert answer.headers["content-length"] == str(len(body))


async def test_an_answer_compressed_against_our_wish_is_unpacked(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def compressed(received: Request) -> None:
        await received.answer(200, gzip.compress(b'{"a":1}'), content_encoding="gzip")

    upstream.behaviour = compressed

    answer = await gateway.call()

    assert answer.content == b'{"a":1}'
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("begins", [False, True], ids=["before the head", "within the stream"])
async def test_a_client_that_disconnects_cancels_the_upstream_request(
    gateway: Gateway, upstream: ScriptedUpstream, *, begins: bool
) -> None:
    async def hang(received: Request) -> None:
        if begins:
            await received.start(content_type="text/event-stream")
            await received.chunk(b"data: 1\n\n")
        await upstream.hang(received)

    upstream.behaviour = hang
    target = urlsplit(gateway.url)
    body = orjson.dumps(request("tools/call", {"name": "echo"}))
    _, writer = await asyncio.open_connection(target.hostname, target.port)
    lines = [f"{name}: {value}\r\n" for name, value in head(host=target.netloc).items()]
    writer.write(
        f"POST /mcp/demo HTTP/1.1\r\n{''.join(lines)}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    async with asyncio.timeout(WAIT_SECONDS):
        await upstream.arrived.wait()

    writer.close()

    async with asyncio.timeout(WAIT_SECONDS):
        await upstream.gone.wait()
    assert gateway.count("tools/call", "disconnected") == 1


async def test_an_upstream_that_hangs_is_given_up(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    url = await stack.enter_async_context(serve(upstream))
    upstream.behaviour = upstream.hang
    gateway = await start_gateway(make_route(url, idle_timeout_seconds=0.1))

    answer = await gateway.call()

    assert outcome(answer) == 504
    assert error_of(answer)["message"] == "The server demo did not begin to answer in time."
    assert gateway.count("tools/call", "timeout") == 1


@pytest.mark.requirement("E-04")
async def test_an_upstream_that_streams_for_ever_is_cut_off(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def endless(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        async with asyncio.TaskGroup() as tasks:
            gone = tasks.create_task(received.wait_for_disconnect())
            while not gone.done():
                # Many at a time: only a full buffer lets the gateway have its turn.
                await received.chunk(b": still here\n\n" * 1000)
        upstream.gone.set()

    upstream.behaviour = endless
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(make_route(url), gateway_total_timeout_seconds=0.2)

    answer = await gateway.call()

    assert answer.status_code == 200
    async with asyncio.timeout(WAIT_SECONDS):
        await upstream.gone.wait()
    assert gateway.count("tools/call", "timeout") == 1


async def test_a_standing_stream_outlives_the_limits_of_calls(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    finish = asyncio.Event()

    async def quiet(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await finish.wait()
        await received.chunk(b"data: late\n\n", more=False)

    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(
        make_route(url, idle_timeout_seconds=0.05), gateway_total_timeout_seconds=0.1
    )
    upstream.behaviour = quiet
    async with gateway.http.stream("GET", "/mcp/demo", headers=head()) as stream:
        upstream.behaviour = upstream.hang
        timed_out = await gateway.call()
        finish.set()
        events = await stream.aread()

    assert outcome(timed_out) == 504
    assert events == b"data: late\n\n"


async def test_standing_streams_leave_connections_for_calls(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def quiet(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.wait_for_disconnect()

    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(make_route(url), gateway_streams_per_server=1)
    upstream.behaviour = quiet

    async with gateway.http.stream("GET", "/mcp/demo", headers=head()) as first:
        second = await gateway.http.get("/mcp/demo", headers=head())

    assert (first.status_code, second.status_code) == (200, 503)


async def test_an_upstream_that_is_not_there_is_named(start_gateway: StartGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    gateway = await start_gateway(make_route(f"http://127.0.0.1:{port}/mcp"))

    answer = await gateway.call()

    assert (answer.status_code, answer.json()["id"]) == (200, 1)
    assert error_of(answer) == {
        "code": 502,
        "message": "The server demo cannot be reached.",
        "data": {"error": "upstream_error"},
    }


async def test_a_dead_upstream_does_not_touch_calls_to_others(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    gateway.routes.routes["dead"] = make_route("http://127.0.0.1:9/mcp", slug="dead")

    dead, alive = await asyncio.gather(
        gateway.post(request("tools/call", {"name": "echo"}), slug="dead"), gateway.call()
    )

    assert (outcome(dead), outcome(alive)) == (502, 200)


@pytest.mark.parametrize("status", [401, 403])
async def test_an_upstreams_refusal_of_its_credentials_is_not_the_clients_fault(
    gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    async def refuse(received: Request) -> None:
        await received.answer(status, b"{}", www_authenticate="Bearer")

    upstream.behaviour = refuse

    answer = await gateway.call()

    assert outcome(answer) == 502
    assert "www-authenticate" not in answer.headers
    assert "rejected the credentials" in error_of(answer)["message"]


@pytest.mark.requirement("E-04")
async def test_a_redirect_is_not_followed(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def redirect(received: Request) -> None:
        await received.answer(307, b"", location="http://169.254.169.254/")

    upstream.behaviour = redirect

    answer = await gateway.call()

    assert outcome(answer) == 502
    assert "169.254" not in answer.text
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("answered", "passed_on"), [(200, 502), (404, 404), (429, 429), (500, 502), (503, 503)]
)
async def test_a_page_instead_of_json_is_not_passed_on(
    gateway: Gateway, upstream: ScriptedUpstream, answered: int, passed_on: int
) -> None:
    async def page(received: Request) -> None:
        await received.answer(answered, b"<script>", content_type="text/html")

    upstream.behaviour = page

    answer = await gateway.call()

    assert outcome(answer) == passed_on
    assert answer.headers["content-type"] == "application/json"
    assert "script" not in answer.text


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_an_upstreams_json_errors_keep_status_and_body(
    gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}'

    async def fail(received: Request) -> None:
        await received.answer(status, body)

    upstream.behaviour = fail

    answer = await gateway.call()

    assert (answer.status_code, answer.content) == (status, body)


async def test_an_upstream_that_does_not_speak_http_is_reported(
    start_gateway: StartGateway,
) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gateway = await start_gateway(make_route(f"http://127.0.0.1:{port}/"))

        answer = await gateway.call()

    assert outcome(answer) == 502


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-ty",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_an_upstream_that_hangs_up_gives_a_clear_error(
    start_gateway: StartGateway, said: bytes
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gateway = await start_gateway(make_route(f"http://127.0.0.1:{port}/"))

        answer = await gateway.call()

    assert outcome(answer) == 502


@pytest.mark.requirement("E-04")
async def test_half_a_streamed_answer_does_not_look_whole(
    start_gateway: StartGateway, gateway: Gateway
) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n1\r\n[\r\n"
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gateway.routes.routes["demo"] = make_route(f"http://127.0.0.1:{port}/")

        with pytest.raises(httpx.RemoteProtocolError):
            await gateway.call()


async def test_an_early_answer_does_not_spoil_the_connection_for_the_next_call(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def refuse(received: Request) -> None:
        await received.answer(413, b"{}")

    accepted = upstream.behaviour
    upstream.behaviour = refuse
    large: dict[str, Any] = {"name": "echo", "arguments": {"text": "x" * 1_000_000}}
    refused = await gateway.post(request("tools/call", large))
    upstream.behaviour = accepted

    answer = await gateway.call()

    assert (refused.status_code, answer.status_code) == (413, 200)


async def test_calls_are_never_sent_twice(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    calls = 0

    async def count_and_hang_up(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal calls
        await reader.readuntil(b"\r\n\r\n")
        calls += 1
        writer.close()

    async with await asyncio.start_server(count_and_hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gateway.routes.routes["demo"] = make_route(f"http://127.0.0.1:{port}/")

        await gateway.call()

    assert calls == 1


@pytest.mark.requirement("R-018")
@pytest.mark.requirement("R-231")
async def test_calls_one_after_another_share_a_connection(start_gateway: StartGateway) -> None:
    connections: list[asyncio.StreamWriter] = []

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while sent := await reader.readuntil(b"\r\n\r\n"):
            length = int(sent.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n"
                b'{"result":{}}'
            )

    async with await asyncio.start_server(answer_all, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gateway = await start_gateway(make_route(f"http://127.0.0.1:{port}/"))

        answers = [await gateway.call() for _ in range(3)]
        for connection in connections:
            connection.close()
            await connection.wait_closed()

    assert [answer.content for answer in answers] == [b'{"result":{}}'] * 3
    assert len(connections) == 1


async def test_an_answer_that_nobody_asked_for_reaches_nobody(
    start_gateway: StartGateway,
) -> None:
    stray = asyncio.Event()

    async def answer_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while sent := await reader.readuntil(b"\r\n\r\n"):
                length = int(sent.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                asked = orjson.loads(await reader.readexactly(length))
                body = orjson.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {}})
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
                answer = head + str(len(body)).encode() + b"\r\n\r\n" + body
                writer.write(answer)
                await stray.wait()
                writer.write(answer)
        writer.close()

    async with await asyncio.start_server(answer_twice, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gateway = await start_gateway(make_route(f"http://127.0.0.1:{port}/"))
        call = {"name": "echo", "arguments": {}}
        await gateway.post(request("tools/call", call, "of alice"))
        stray.set()
        await SystemClock().sleep(0.05)

        answer = await gateway.post(request("tools/call", call, "of bob"), user="bob")

    assert answer.json()["id"] == "of bob"


@pytest.mark.parametrize("how", ["removed", "forbidden", "expired"])
async def test_a_standing_stream_ends_with_the_right_to_it(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def never_end(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.chunk(b": hello\n\n")
        await received.wait_for_disconnect()

    monkeypatch.setattr(streams, "RECHECK_SECONDS", 0.05)
    upstream.behaviour = never_end
    route = gateway.routes.routes["demo"]

    async with asyncio.timeout(30), gateway.http.stream("GET", "/mcp/demo", headers=head()) as got:
        chunks = got.aiter_raw()
        first = await anext(chunks)
        if how == "removed":
            del gateway.routes.routes["demo"]
        elif how == "forbidden":
            gateway.routes.routes["demo"] = replace(route, facts=PRIVATE)
        else:
            gateway.authenticate.problem = UnauthorizedError("The bearer token has expired.")
        rest = [chunk async for chunk in chunks]

    assert (got.status_code, first, rest) == (200, b": hello\n\n", [])


async def test_a_standing_stream_ends_as_soon_as_a_change_is_known(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def never_end(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.chunk(b": hello\n\n")
        await received.wait_for_disconnect()

    upstream.behaviour = never_end
    # Well below the time after which it is looked at anyway.
    async with asyncio.timeout(30), gateway.http.stream("GET", "/mcp/demo", headers=head()) as got:
        chunks = got.aiter_raw()
        await anext(chunks)
        gateway.authenticate.problem = UnauthorizedError("The bearer token was revoked.")
        gateway.routes.change.set()
        assert [chunk async for chunk in chunks] == []


async def test_a_standing_stream_goes_on_as_long_as_it_is_allowed(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tick(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        for _ in range(5):
            await received.chunk(b": tick\n\n")
            await SystemClock().sleep(0.03)
        await received.chunk(b"", more=False)

    monkeypatch.setattr(streams, "RECHECK_SECONDS", 0.01)
    upstream.behaviour = tick

    answer = await gateway.http.get("/mcp/demo", headers=head())

    assert answer.content == b": tick\n\n" * 5


async def test_a_call_that_the_end_of_the_server_cuts_off_is_told_so(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    reached = asyncio.Event()

    async def hang(received: Request) -> None:
        reached.set()
        await received.wait_for_disconnect()

    upstream.behaviour = hang
    sent: list[Any] = []
    body = orjson.dumps(request("tools/call", {"name": "echo", "arguments": {}}))
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = head(host=urlsplit(gateway.url).netloc)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/mcp/demo",
        "server": ("127.0.0.1", urlsplit(gateway.url).port),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        call = group.create_task(gateway.endpoint(scope, receive, send))
        await reached.wait()
        call.cancel()

    assert sent[0]["status"] == 200
    assert b"The gateway is shutting down; try again." in sent[1]["body"]
