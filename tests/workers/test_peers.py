"""Workers hand requests and messages to each other over unix sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import orjson
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.core.clock import SystemClock
from registry.core.drain import Drain
from registry.gateway.ports import PeerGone
from registry.gateway.transport.call_watch import ClientGone
from registry.http.server.connection import ConnectionLimits
from registry.http.server.server import Server
from registry.workers.peers import COUNTS, MESSAGES, SingleWorker, WorkerPeers
from registry.workers.relay import RELAY_HEADER, is_from_peer
from registry.workers.runtime_directory import RuntimeDirectory, runtime_directory
from tests.fakes.loopback import NO_CERTIFICATES
from tests.gateway.serving import serve

A, B = "aaaaaaaa", "bbbbbbbb"


@pytest.fixture
def folder() -> Iterator[Path]:
    with runtime_directory() as folder:
        yield folder


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


LIMITS = ConnectionLimits(100, 5.0, 5.0, 1024 * 1024)


@asynccontextmanager
async def worker(
    folder: Path, name: str, app: ASGIApp
) -> AsyncIterator[tuple[WorkerPeers, Server]]:
    """Serve *app* on a worker's unix socket."""
    peers = WorkerPeers(RuntimeDirectory(folder, name, 0))
    server = Server(app, Drain(), SystemClock(), LIMITS, delay_seconds=0, drain_seconds=1)

    async def counts(_message: bytes) -> bytes:
        return name.encode()

    async def connections(question: bytes) -> bytes:
        return name.encode() + question

    peer_server = peers.server(app, counts, connections)
    await server.listen_privately(peers.directory.socket_of(name), peer_server)
    try:
        yield peers, server
    finally:
        abort(server)
        assert server.private is not None
        server.private.close()


def abort(server: Server) -> None:
    """Cut all connections, as the death of the process does."""
    for connection in list(server.server_state.connections):
        connection.transport.abort()


async def body_of(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def forwarding(peers: WorkerPeers, to: str = B) -> ASGIApp:
    """Return an application that has another worker answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await body_of(receive)
        try:
            await peers.forward(to, scope, body, receive, send)
        except PeerGone:
            await answer(send, 410, b"gone")
        except ClientGone:
            pass

    return app


async def answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, 404, b"")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell what arrived."""
    told = {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "headers": sorted([k.decode(), v.decode()] for k, v in scope["headers"]),
        "client": scope["client"],
        "server": scope["server"],
        "from_peer": is_from_peer(scope),
        "body": (await body_of(receive)).decode(),
    }
    await answer(send, 207, orjson.dumps(told), (b"mcp-session-id", b"sealed"), (b"x", b"y"))


Front = Callable[[ASGIApp], Awaitable[str]]


@pytest.fixture
def front(stack: AsyncExitStack, folder: Path) -> Front:
    """Return a function that starts worker B with *app*, and A in front of it on a port."""

    async def start(app: ASGIApp) -> str:
        await stack.enter_async_context(worker(folder, B, app))
        peers, _ = await stack.enter_async_context(worker(folder, A, nothing))
        return await stack.enter_async_context(serve(forwarding(peers)))

    return start


async def test_a_request_arrives_at_the_other_worker_as_it_was_sent(front: Front) -> None:
    url = await front(echo)

    async with httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=30) as http:
        got = await http.post(
            f"{url}/mcp/a%20b?x=1&y=%2F",
            content=b'{"a":1}',
            headers=[
                ("Authorization", "Bearer t"),
                ("tracestate", "a=1"),
                ("tracestate", "b=2"),
                # What a client claims about its address is dropped.
                (RELAY_HEADER.decode(), '{"client":["6.6.6.6",1],"server":null,"scheme":"http"}'),
            ],
        )

    told = got.json()
    host, port = url.removeprefix("http://").split(":")
    assert (got.status_code, got.headers["mcp-session-id"], got.headers["x"]) == (
        207,
        "sealed",
        "y",
    )
    assert (told["method"], told["path"], told["raw_path"], told["query"], told["body"]) == (
        "POST",
        "/mcp/a b",
        "/mcp/a%20b",
        "x=1&y=%2F",
        '{"a":1}',
    )
    assert told["from_peer"] is True
    assert (told["client"][0], told["server"]) == ("127.0.0.1", [host, int(port)])
    assert [v for k, v in told["headers"] if k == "tracestate"] == ["a=1", "b=2"]
    assert [v for k, v in told["headers"] if k == "authorization"] == ["Bearer t"]
    assert [v for k, v in told["headers"] if k == "host"] == [f"{host}:{port}"]
    assert RELAY_HEADER.decode() not in {k for k, _ in told["headers"]}


async def test_a_stream_is_relayed_as_it_comes(front: Front) -> None:
    seen = asyncio.Event()

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await seen.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    url = await front(streaming)

    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=30) as http,
        http.stream("GET", f"{url}/mcp/x") as got,
    ):
        pieces = []
        async for piece in got.aiter_bytes():
            pieces.append(piece)
            seen.set()

    assert pieces == [b"data: 1\n\n", b"data: 2\n\n"]
    assert got.headers["content-type"] == "text/event-stream"


async def test_a_client_that_goes_away_cancels_the_work_at_the_other_worker(front: Front) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        gone.set()

    url = await front(waiting)

    async with asyncio.timeout(30):
        async with (
            httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=30) as http,
            asyncio.TaskGroup() as group,
        ):
            asked = group.create_task(http.post(f"{url}/mcp/x", content=b"{}"))
            await begun.wait()
            asked.cancel()
        await gone.wait()


@pytest.mark.parametrize("length", [None, b"1000"])
async def test_a_worker_that_dies_in_the_middle_leaves_a_broken_answer(
    stack: AsyncExitStack, folder: Path, length: bytes | None
) -> None:
    begun = asyncio.Event()

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if length is None else [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        begun.set()
        await receive()
        await receive()

    _, dying = await stack.enter_async_context(worker(folder, B, half))
    peers, _ = await stack.enter_async_context(worker(folder, A, nothing))
    url = await stack.enter_async_context(serve(forwarding(peers)))

    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=30) as http,
        http.stream("GET", f"{url}/mcp/x") as got,
    ):
        pieces = got.aiter_bytes()
        first = await anext(pieces)
        abort(dying)
        with pytest.raises(
            httpx.RemoteProtocolError, match=r"without sending complete|incomplete"
        ):
            await anext(pieces)

    assert (got.status_code, first) == (200, b"half")


async def test_a_worker_that_dies_before_it_answers_is_gone(
    stack: AsyncExitStack, folder: Path
) -> None:
    begun = asyncio.Event()

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await receive()
        await receive()

    _, dying = await stack.enter_async_context(worker(folder, B, silent))
    peers, _ = await stack.enter_async_context(worker(folder, A, nothing))
    url = await stack.enter_async_context(serve(forwarding(peers)))

    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=30) as http,
        asyncio.TaskGroup() as group,
    ):
        asked = group.create_task(http.get(f"{url}/mcp/x"))
        await begun.wait()
        abort(dying)

    assert asked.result().status_code == 410


async def test_a_slow_client_slows_the_other_worker_down(front: Front) -> None:
    sent = 0

    async def plenty(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(512):
            await send({"type": "http.response.body", "body": b"x" * 2**17, "more_body": True})
            sent += 2**17
        await send({"type": "http.response.body", "body": b""})

    url = await front(plenty)
    host, port = url.removeprefix("http://").split(":")

    reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
    writer.write(b"GET /mcp/x HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    before = -1
    async with asyncio.timeout(10):
        while sent != before:
            before = sent
            await SystemClock().sleep(0.3)
    writer.close()

    assert 0 < sent < 2**24


async def test_a_forwarded_request_is_never_forwarded_again(
    stack: AsyncExitStack, folder: Path
) -> None:
    async def back(scope: Scope, receive: Receive, send: Send) -> None:
        await forwarding(second, to=A)(scope, receive, send)

    second, _ = await stack.enter_async_context(worker(folder, B, back))
    first, _ = await stack.enter_async_context(worker(folder, A, echo))
    url = await stack.enter_async_context(serve(forwarding(first)))

    async with httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=30) as http:
        got = await http.get(f"{url}/mcp/x")

    assert (got.status_code, got.text) == (410, "gone")


@pytest.mark.parametrize(
    "name", ["cccccccc", A, "", "../../x", "dead0000", "BBBBBBBB", "b" * 9, f"{B}\n"]
)
async def test_an_id_that_is_nobodys_is_gone_at_once(
    stack: AsyncExitStack, folder: Path, name: str
) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(folder / "dead0000.sock"))
    await stack.enter_async_context(worker(folder, B, echo))
    peers, _ = await stack.enter_async_context(worker(folder, A, echo))
    url = await stack.enter_async_context(serve(forwarding(peers, to=name)))

    async with asyncio.timeout(30), httpx.AsyncClient(verify=NO_CERTIFICATES) as http:
        got = await http.get(f"{url}/mcp/x")
        told = await peers.send(name, b"hello")

    assert (got.status_code, told) == (410, None)


async def test_messages_are_answered_by_those_who_are_there(
    stack: AsyncExitStack, folder: Path
) -> None:
    first, _ = await stack.enter_async_context(worker(folder, A, nothing))
    for name in (B, "cccccccc"):
        other, _ = await stack.enter_async_context(worker(folder, name, nothing))

        async def reply(message: bytes, name: str = name) -> bytes:
            return message + name.encode()

        other.listen(reply)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(folder / "dead0000.sock"))

    one = await first.send(B, b"to-")
    every = await first.broadcast(b"to-")
    counts = await first.counts()

    assert one == b"to-bbbbbbbb"
    assert sorted(every) == [b"to-bbbbbbbb", b"to-cccccccc"]
    assert counts == {B: b"bbbbbbbb", "cccccccc": b"cccccccc", "dead0000": None}


async def test_one_that_hangs_does_not_hold_up_the_others(
    stack: AsyncExitStack, folder: Path
) -> None:
    first, _ = await stack.enter_async_context(worker(folder, A, nothing))
    hanging, _ = await stack.enter_async_context(worker(folder, B, nothing))
    good, _ = await stack.enter_async_context(worker(folder, "cccccccc", nothing))

    async def never(_message: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def at_once(_message: bytes) -> bytes:
        return b"here"

    hanging.listen(never)
    good.listen(at_once)

    async with asyncio.timeout(10):
        replies = await first.broadcast(b"")

    assert replies == [b"here"]


async def test_a_handler_that_fails_is_no_reply(stack: AsyncExitStack, folder: Path) -> None:
    first, _ = await stack.enter_async_context(worker(folder, A, nothing))
    other, _ = await stack.enter_async_context(worker(folder, B, nothing))

    async def failing(_message: bytes) -> bytes:
        raise ValueError("no")

    other.listen(failing)

    assert await first.send(B, b"") is None


@pytest.mark.parametrize("path", [MESSAGES, COUNTS])
async def test_what_is_forwarded_cannot_reach_the_internal_paths(front: Front, path: str) -> None:
    url = await front(echo)

    async with httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=30) as http:
        got = await http.post(f"{url}{path}", content=b"{}")

    assert (got.status_code, got.json()["path"]) == (207, path)


async def test_a_folder_is_private_and_goes_away() -> None:
    with runtime_directory() as folder:
        mode = folder.stat().st_mode & 0o777
        longest = str(RuntimeDirectory(folder, A, 0).socket_of(A))

    assert mode == 0o700
    assert len(longest.encode()) < 104
    assert not folder.exists()


async def test_alone_everybody_is_gone() -> None:
    alone = SingleWorker(A)

    with pytest.raises(PeerGone):
        await alone.forward(B, {}, b"", asyncio.Event, asyncio.Event)  # type: ignore[arg-type]  # never used
    assert (await alone.send(B, b""), await alone.broadcast(b"")) == (None, [])
