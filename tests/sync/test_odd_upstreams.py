"""Upstreams whose HTTP or streams are odd: read all the same, or refused in words that help."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.servers.errors import DiscoveryFailedError
from registry.servers.values import ConnectionSpec, Transport
from registry.sync.discovery import DiscoveryService
from registry.upstream.client import MAX_EVENTS
from registry.upstream.guard import UrlGuard
from registry.upstream.loops import Instance
from tests.fakes.certificates import certificate_file
from tests.fakes.upstreams import TOOL

Answering = Callable[[bytes], bytes]
DISCOVERY_SECONDS = 4.0
JSON = "Content-Type: application/json\r\n"
EVENTS = "Content-Type: text/event-stream\r\n"
NO_HTTP = "{origin} did not answer in HTTP."
OTHER_ID = "It answered under another id than that of the request."
RESULTS = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "odd", "version": "1"},
    },
    "tools/list": {"tools": [TOOL]},
}


def head(headers: bytes | str, size: int | None = None) -> bytes:
    raw = headers if isinstance(headers, bytes) else headers.encode()
    length = b"" if size is None else b"Content-Length: %d\r\n" % size
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + raw + length + b"\r\n"


def plain(headers: bytes | str) -> Answering:
    return lambda body: head(headers, len(body)) + body


def under_id(body: bytes, request_id: object) -> bytes:
    return json.dumps({**json.loads(body), "id": request_id}).encode()


def streamed(before: bytes) -> Answering:
    return lambda body: head(EVENTS) + before + b"data: " + body + b"\n\n"


TAKEN = b"HTTP/1.1 202 Taken\r\nContent-Length: 0\r\n\r\n"


async def asked(reader: asyncio.StreamReader) -> tuple[str, bytes | None]:
    """Return the method of a request, and the answer to its message if it wants one."""
    request = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = request.partition("content-length:")[2].partition("\r\n")[0].strip() or "0"
    message = json.loads(await reader.readexactly(int(length)) or b"{}")
    method = request.partition(" ")[0]
    if "id" not in message:
        return method, None
    result = RESULTS.get(message["method"])
    refused = {"error": {"code": -32601, "message": "No."}}
    told = refused if result is None else {"result": result}
    return method, json.dumps({"jsonrpc": "2.0", "id": message["id"], **told}).encode()


Serving = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serving, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Give the port at which each connection is served; leave when all of them are closed."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            await serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async with asyncio.TaskGroup() as group:

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            group.create_task(closing(reader, writer))

        server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=tls)
        async with server:
            yield int(server.sockets[0].getsockname()[1])


@asynccontextmanager
async def odd(answering: Answering, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run an upstream of the older era whose answers are made by *answering*."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, answer = await asked(reader)
        if method == "get":
            writer.write(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(TAKEN if answer is None else answering(answer))
        await writer.drain()

    async with listening(serve, tls) as port:
        yield port


@asynccontextmanager
async def conversing(opening: str) -> AsyncIterator[int]:
    """Run an upstream of the older transport whose stream begins with *opening*."""
    streams = list[asyncio.StreamWriter]()
    at = list[int]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, answer = await asked(reader)
        if method == "get":
            streams.append(writer)
            writer.write(head(EVENTS) + opening.format(port=at[0]).encode())
            await reader.read()
        else:
            writer.write(TAKEN)
            if answer is not None:
                streams[0].write(b"data: " + answer + b"\n\n")

    async with listening(serve) as port:
        at.append(port)
        yield port


@asynccontextmanager
async def old(events: bytes, *, breaks_off: bool = False) -> AsyncIterator[int]:
    """Serve a stream of the older transport that begins with *events*; give its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head("Content-Type: text/event-stream\r\n", 1_000_000_000) + events)
        await writer.drain()
        if not breaks_off:
            await reader.read()

    async with listening(serve) as port:
        yield port


async def read(
    settings: Settings, url: str, transport: Transport = Transport.STREAMABLE_HTTP
) -> list[str]:
    service = DiscoveryService(
        UrlGuard(("127.0.0.0/8",)),
        Instance.of([bytes(32)]),
        settings=settings.model_copy(update={"discovery_timeout_seconds": DISCOVERY_SECONDS}),
        clock=SystemClock(),
        metrics=Metrics(),
    )
    found = await service.discover(ConnectionSpec(url, transport))
    return [tool.name for tool in found.snapshot.tools]


@pytest.mark.parametrize(
    "answering",
    [
        plain(JSON.encode() + b"X-Cafe: caf\xe9 \xff\r\n"),
        plain(JSON.encode() + b"Set-Cookie: a=\x80; Path=/\r\n"),
        plain("Content-Type: application/json; charset=\xe9\r\n".encode("latin-1")),
        plain(JSON + "".join(f"X-Many-{number}: x\r\n" for number in range(200))),
        plain(JSON + f"X-Long: {'x' * 60_000}\r\n"),
        plain(JSON + "Content-Encoding: \r\n"),
        plain(JSON + "Content-Encoding: identity\r\n"),
        streamed(b""),
        streamed(b"\xef\xbb\xbf"),
        streamed(b": still here\n\n" * 1_000),
        streamed(b"\n" * 10_000),
        streamed(b"retry: 5\nid: 1\n\n"),
    ],
    ids=[
        *("latin-1 header", "latin-1 cookie", "latin-1 type", "many headers", "long header"),
        *("no coding", "identity", "stream", "byte order mark", "comments", "empty lines", "id"),
    ],
)
async def test_what_is_merely_odd_is_read(settings: Settings, answering: Answering) -> None:
    async with odd(answering) as port:
        assert await read(settings, f"http://127.0.0.1:{port}/mcp") == [TOOL["name"]]


@pytest.mark.parametrize(
    ("answering", "told"),
    [
        (lambda _: b"SSH-2.0-OpenSSH_9.6\r\n\r\n", NO_HTTP),
        (plain(JSON + f"X-Long: {'x' * 200_000}\r\n"), NO_HTTP),
        (lambda body: head(JSON, 2 * len(body)) + body, "The connection to {origin} broke."),
        (plain(JSON + "Content-Encoding: gzip\r\n"), "It sent a compressed answer unasked."),
        (plain(""), "{origin} answered with no content type, not JSON."),
        (plain("Content-Type: text/plain\r\n"), "{origin} answered with text/plain, not JSON."),
        (lambda body: plain(JSON)(under_id(body, 99)), OTHER_ID),
        (lambda body: plain(JSON)(under_id(body, None)), OTHER_ID),
        (lambda body: streamed(b"")(under_id(body, "other")), OTHER_ID),
        (lambda body: head(JSON + f"Content-Length: {len(body)}\r\n", len(body)) + body, NO_HTTP),
    ],
    ids=[
        *("no HTTP", "too long a header", "broken off", "compressed", "no type", "text"),
        *("another id", "no id", "another id in a stream", "two lengths"),
    ],
)
async def test_what_cannot_be_read_is_told(
    settings: Settings, answering: Answering, told: str
) -> None:
    clock = SystemClock()
    began_at = clock.monotonic()

    async with odd(answering) as port:
        origin = f"http://127.0.0.1:{port}"
        with pytest.raises(DiscoveryFailedError) as caught:
            await read(settings, f"{origin}/mcp")

    assert caught.value.message == told.format(origin=origin)
    assert clock.monotonic() - began_at < DISCOVERY_SECONDS / 2


@pytest.mark.parametrize("error_id", [None, "server-error"])
async def test_an_error_under_no_id_of_ours_answers_the_request_that_it_came_for(
    settings: Settings, error_id: str | None
) -> None:
    def answering(body: bytes) -> bytes:
        return plain(JSON)(under_id(body, error_id) if b'"error"' in body else body)

    async with odd(answering) as port:
        assert await read(settings, f"http://127.0.0.1:{port}/mcp") == [TOOL["name"]]


@pytest.mark.parametrize("event", [b"\n\n", b": ping\n\n", b"id: 1\n\n", b"\r"])
async def test_a_flood_of_events_is_ended_and_holds_up_nobody(
    settings: Settings, event: bytes
) -> None:
    longest = 0.0
    clock = SystemClock()

    async def watch() -> None:
        nonlocal longest
        while True:
            before = clock.monotonic()
            await clock.sleep(0.01)
            longest = max(longest, clock.monotonic() - before)

    async with odd(streamed(event * (4 * MAX_EVENTS))) as port, asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        with pytest.raises(DiscoveryFailedError) as caught:
            await read(settings, f"http://127.0.0.1:{port}/mcp")
        watching.cancel()

    assert caught.value.message == f"It sent more than {MAX_EVENTS} events."
    assert longest < 2


async def test_a_certificate_that_nobody_vouches_for_is_told(
    settings: Settings, tmp_path: Path
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate_file(tmp_path / "server.pem", "upstream.test"))
    async with odd(plain(JSON), tls) as port:
        origin = f"https://127.0.0.1:{port}"
        with pytest.raises(DiscoveryFailedError) as caught:
            await read(settings, f"{origin}/mcp")

    told = f"The certificate of {origin} is not trusted, or is for another name."
    assert caught.value.message == told


@pytest.mark.parametrize(
    ("events", "breaks_off", "told"),
    [
        (
            b"event: endpoint\ndata: http://example.com/messages\n\n",
            False,
            "It wants messages to be sent to another origin, which is not done.",
        ),
        (b"event: endpoint\ndata: http://[::1\n\n", False, "Its endpoint is no URL."),
        (b": ping\n\n" * (MAX_EVENTS + 1), False, f"It sent more than {MAX_EVENTS} events."),
        (b": ping\n\n", True, "The connection to {origin} broke."),
        (b"event: endpoint\ndata: /post\n\n", True, "The connection to {origin} broke."),
    ],
    ids=["another origin", "no URL", "flood", "broken off", "broken off later"],
)
async def test_a_stream_that_opens_no_conversation_is_left_at_once(
    settings: Settings, events: bytes, told: str, *, breaks_off: bool
) -> None:
    clock = SystemClock()
    began_at = clock.monotonic()

    async with old(events, breaks_off=breaks_off) as port:
        origin = f"http://127.0.0.1:{port}"
        with pytest.raises(DiscoveryFailedError) as caught:
            await read(settings, f"{origin}/sse", Transport.SSE)

    assert caught.value.message == told.format(origin=origin)
    assert clock.monotonic() - began_at < DISCOVERY_SECONDS / 2


@pytest.mark.parametrize(
    "endpoint",
    [
        "/post",
        "post?session=1",
        "http://localhost:{port}/post",
        "http://LOCALHOST:{port}/post#here",
        "http://some:body@localhost:{port}/post",
        "//localhost:{port}//post",
    ],
)
async def test_an_endpoint_of_the_same_origin_is_taken_however_it_is_written(
    settings: Settings, endpoint: str
) -> None:
    event = f"event: endpoint\ndata: {endpoint}\n\n"

    async with conversing(event) as port:
        tools = await read(settings, f"http://localhost:{port}/sse", Transport.SSE)

    assert tools == [TOOL["name"]]


async def test_what_comes_before_the_endpoint_is_nothing_to_anybody(settings: Settings) -> None:
    early = 'data: {{"jsonrpc":"2.0","method":"notifications/message"}}\n\n'

    async with conversing(early + "event: endpoint\ndata: /post\n\n") as port:
        tools = await read(settings, f"http://127.0.0.1:{port}/sse", Transport.SSE)

    assert tools == [TOOL["name"]]


async def test_a_stream_that_names_no_endpoint_is_told(settings: Settings) -> None:
    async with old(b": ping\n\n") as port:
        origin = f"http://127.0.0.1:{port}"
        with pytest.raises(DiscoveryFailedError) as caught:
            await read(settings, f"{origin}/sse", Transport.SSE)

    seconds = f"{DISCOVERY_SECONDS:g}"
    assert caught.value.message == f"The stream of {origin} named no endpoint within {seconds} s."
