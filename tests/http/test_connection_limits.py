"""What clients may not do to a process: endless heads, silence, answers that nobody reads."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import orjson
import pytest
from starlette.types import Receive, Scope, Send

from registry.core.clock import SystemClock
from registry.http.server.connection import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    ConnectionLimits,
    protocol_within,
)
from tests.gateway.serving import serve

SECONDS = 30
SHORT = 0.2
REQUEST = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"
PIECE = b"x" * 65536


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Application:
    """Answers the headers of the request, or without end."""

    def __init__(self) -> None:
        self.requests = 0
        self.sent_bytes = 0
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self.requests += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/endless":
            await self._go_on(receive, send)
            return
        names = [name.decode() for name, _ in scope["headers"]]
        await send({"type": "http.response.body", "body": orjson.dumps(names)})

    async def _go_on(self, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as tasks:
            gone = tasks.create_task(wait_for_disconnect(receive))
            while not gone.done():
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
                self.sent_bytes += len(PIECE)
        self.ended.set()


@pytest.fixture
def app() -> Application:
    """Return the application."""
    return Application()


Start = Callable[..., Awaitable[tuple[str, int]]]


@pytest.fixture
async def start(app: Application) -> AsyncIterator[Start]:
    """Return a function that serves *app* within limits."""
    async with AsyncExitStack() as stack:

        async def start(**limits: float) -> tuple[str, int]:
            protocol = protocol_within(ConnectionLimits(**limits))  # type: ignore[arg-type]
            url = await stack.enter_async_context(serve(app, http=protocol))
            return "127.0.0.1", int(url.rpartition(":")[2])

        yield start


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[tuple[str, int]], Awaitable[Streams]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Return a function that opens a connection, which is closed at the end."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(address: tuple[str, int]) -> Streams:
        reader, writer = await asyncio.open_connection(*address)
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def said(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the connection ends."""
    collected = b""
    async with asyncio.timeout(SECONDS):
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                collected += piece
    return collected


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_a_head_that_is_too_long_is_refused(
    start: Start, connect: Connect, app: Application
) -> None:
    reader, writer = await connect(await start())

    writer.write(b"GET / HTTP/1.1\r\nx: ")
    for _ in range(16):
        writer.write(PIECE)
    answer = await said(reader)

    assert status(answer) == 431
    assert app.requests == 0


async def test_too_many_headers_are_refused(
    start: Start, connect: Connect, app: Application
) -> None:
    reader, writer = await connect(await start())

    writer.write(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n")
    answer = await said(reader)

    assert status(answer) == 431
    assert b"connection: close" in answer
    assert app.requests == 0


async def test_as_many_headers_as_may_be_are_taken(start: Start, connect: Connect) -> None:
    reader, writer = await connect(await start())
    lines = b"".join(b"h%d: v\r\n" % number for number in range(MAX_HEADERS - 1))

    writer.write(b"GET / HTTP/1.1\r\n" + lines + b"connection: close\r\n\r\n")
    answer = await said(reader)

    assert status(answer) == 200


async def test_a_large_body_before_a_pipelined_request_is_no_head(
    start: Start, connect: Connect
) -> None:
    reader, writer = await connect(await start())
    body = b"x" * (2 * MAX_HEAD_BYTES)

    writer.write(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body))
    await writer.drain()
    await SystemClock().sleep(0.05)
    writer.write(body + b"GET / HTTP/1.1\r\nconn")
    await writer.drain()
    await SystemClock().sleep(0.05)
    writer.write(b"ection: close\r\n\r\n")
    answer = await said(reader)

    assert answer.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    ("sent", "answered"), [(b"", b""), (b"GET / HTTP/1.1\r\nho", b"HTTP/1.1 408")]
)
async def test_a_head_that_does_not_come_is_not_waited_for(
    start: Start, connect: Connect, sent: bytes, answered: bytes
) -> None:
    reader, writer = await connect(await start(head_seconds=SHORT))

    writer.write(sent)
    answer = await said(reader)

    assert answer.startswith(answered)
    assert bool(answer) is bool(answered)


async def test_a_head_in_drops_is_not_waited_for_either(
    start: Start, connect: Connect, app: Application
) -> None:
    reader, writer = await connect(await start(head_seconds=SHORT))
    clock = SystemClock()

    async def drip() -> None:
        writer.write(b"GET / HTTP/1.1\r\n")
        while not writer.is_closing():
            writer.write(b"a: b\r\n")
            await clock.sleep(SHORT / 10)

    async with asyncio.TaskGroup() as tasks:
        dripping = tasks.create_task(drip())
        answer = await said(reader)
        dripping.cancel()

    assert status(answer) == 408
    assert app.requests == 0


async def test_a_connection_between_two_requests_is_left_alone(
    start: Start, connect: Connect
) -> None:
    reader, writer = await connect(await start(head_seconds=SHORT))
    writer.write(REQUEST)
    async with asyncio.timeout(SECONDS):
        await reader.readuntil(b"0\r\n\r\n")
        await SystemClock().sleep(3 * SHORT)

        writer.write(REQUEST)
        again = await reader.readuntil(b"0\r\n\r\n")

    assert status(again) == 200


async def test_connections_beyond_the_limit_are_told_to_come_back(
    start: Start, connect: Connect
) -> None:
    address = await start(max_connections=1)
    first, writing = await connect(address)
    writing.write(REQUEST)
    async with asyncio.timeout(SECONDS):
        served = await first.readuntil(b"\r\n")

    reader, writer = await connect(address)
    refused = await said(reader)
    writing.close()
    await said(first)
    await SystemClock().sleep(0.05)
    third, writer = await connect(address)
    writer.write(REQUEST)
    async with asyncio.timeout(SECONDS):
        served_again = await third.readuntil(b"\r\n")

    assert status(refused) == 503
    assert b"retry-after" in refused
    assert status(served) == status(served_again) == 200


async def test_trailers_are_no_headers(start: Start, connect: Connect) -> None:
    reader, writer = await connect(await start())

    writer.write(
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        b"0\r\nauthorization: Bearer alice\r\n\r\n"
    )
    answer = await said(reader)

    assert status(answer) == 200
    assert b"authorization" not in answer


async def test_a_body_without_end_is_cut_off(start: Start, connect: Connect) -> None:
    reader, writer = await connect(await start(max_body_bytes=65536))
    sent = 0

    writer.write(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
    with suppress(ConnectionError):
        async with asyncio.timeout(SECONDS):
            while True:
                writer.write(b"10000\r\n" + PIECE + b"\r\n")
                await writer.drain()
                sent += len(PIECE)

    assert sent < 16 * 1024 * 1024
    assert reader.at_eof() or reader.exception() is not None


def deaf_client(address: tuple[str, int]) -> socket.socket:
    """Return a connection that takes as little as can be from the kernel."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(address)
    client.sendall(b"GET /endless HTTP/1.1\r\nhost: test\r\n\r\n")
    return client


async def test_a_client_that_reads_nothing_pauses_its_answer_and_is_cut_off(
    start: Start, app: Application
) -> None:
    address = await start(write_seconds=SHORT)

    with deaf_client(address):
        async with asyncio.timeout(SECONDS):
            await app.ended.wait()

    # What kernel and transport hold, and no more.
    assert app.sent_bytes < 16 * 1024 * 1024


async def test_a_client_that_reads_slowly_is_served_on(start: Start, app: Application) -> None:
    address = await start(write_seconds=SHORT)
    clock, loop = SystemClock(), asyncio.get_running_loop()

    with deaf_client(address) as client:
        client.setblocking(False)
        for _ in range(15):
            await loop.sock_recv(client, 16 * 1024)
            await clock.sleep(SHORT / 4)
        is_served = not app.ended.is_set()

    assert is_served
    async with asyncio.timeout(SECONDS):
        await app.ended.wait()
