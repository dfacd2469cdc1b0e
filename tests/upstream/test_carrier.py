"""What carries the requests of discovery, against servers that answer as they like."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
from typing_extensions import override

from registry.upstream.aiohttp_transport import MAX_HEADER_BYTES, AiohttpTransport, UntrustedError
from registry.upstream.errors import UnsafeAddressError
from registry.upstream.guard import AddressInfo, CheckedAddress, Lookup, UrlGuard
from registry.upstream.http import ExchangeRecord, guarded_client
from tests.fakes.certificates import certificate_file

NAME = "upstream.test"
PATIENCE = {"connect": 0.5, "read": 0.3, "write": 0.5, "pool": 0.5}
Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Takes requests of a fixed answer and remembers them."""

    def __init__(self, answer: bytes, *, stays_silent: bool = False) -> None:
        self.port = 0
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._stays_silent = stays_silent
        self._over = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer on one connection."""
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                length = next(
                    (
                        int(line.partition(":")[2])
                        for line in head.splitlines()
                        if line.lower().startswith("content-length:")
                    ),
                    0,
                )
                self.bodies.append(await reader.readexactly(length))
                writer.write(self._answer)
                await writer.drain()
                if self._stays_silent:
                    await self._over.wait()
                if b"keep-alive" not in self._answer:
                    return
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    def end(self) -> None:
        """Be silent no longer."""
        self._over.set()


@asynccontextmanager
async def serving(
    answer: bytes, *, stays_silent: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server(answer, stays_silent=stays_silent)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = int(listener.sockets[0].getsockname()[1])
    async with listener:
        yield server
        server.end()


@pytest.fixture
async def carrier() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport(ssl.create_default_context())
    yield transport
    await transport.aclose()


async def asked(
    carrier: AiohttpTransport, url: str, method: str = "GET", **options: object
) -> httpx2.Response:
    extensions = {"timeout": PATIENCE, **options.pop("extensions", {})}  # type: ignore[dict-item]
    request = httpx2.Request(method, url, extensions=extensions, **options)  # type: ignore[arg-type]
    answer = await carrier.handle_async_request(request)
    try:
        await answer.aread()
    finally:
        await answer.aclose()
    return answer


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"


async def test_a_request_goes_out_as_it_is_and_its_answer_comes_back(
    carrier: AiohttpTransport,
) -> None:
    twice = b"X-Twice: one\r\nX-Twice: two\r\nConnection"
    answer = PLAIN.replace(b"200 OK", b"207 Well").replace(b"Connection", twice)
    async with serving(answer) as server:
        url = f"http://127.0.0.1:{server.port}/a%2Fb?q=%20x&q=y"
        headers = {"Host": NAME, "X-Mine": "1", "Accept": "text/event-stream"}
        got = await asked(carrier, url, "POST", headers=headers, content=b"body")

    lines = server.heads[0].split("\r\n")
    assert lines[0] == "POST /a%2Fb?q=%20x&q=y HTTP/1.1"
    assert sorted(line.lower() for line in lines[1:] if line) == sorted(
        [f"host: {NAME}", "x-mine: 1", "accept: text/event-stream", "content-length: 4"]
    )
    assert server.bodies == [b"body"]
    assert got.status_code == 207
    assert got.content == b"ok"
    assert got.headers.get_list("x-twice") == ["one", "two"]


async def test_one_connection_serves_one_request_after_the_other(
    carrier: AiohttpTransport,
) -> None:
    async with serving(PLAIN) as server:
        for _ in range(3):
            await asked(carrier, f"http://127.0.0.1:{server.port}/")

        assert len(server.heads) == 3
        assert server.connections == 1


async def test_redirects_cookies_and_compression_are_left_to_whoever_asked(
    carrier: AiohttpTransport,
) -> None:
    packed = b"\x1f\x8b not really"
    head = (
        "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\n"
        f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n"
        "Connection: keep-alive\r\n\r\n"
    )
    async with serving(head.encode() + packed) as server:
        url = f"http://127.0.0.1:{server.port}/"
        request = httpx2.Request("GET", url, extensions={"timeout": PATIENCE})
        got = await carrier.handle_async_request(request)
        assert isinstance(got.stream, httpx2.AsyncByteStream)
        body = b"".join([piece async for piece in got.stream])
        await got.aclose()
        again = await carrier.handle_async_request(request)
        await again.aclose()

    assert (got.status_code, got.headers["location"]) == (302, "/elsewhere")
    assert body == packed
    assert [head.partition(" HTTP")[0] for head in server.heads] == ["GET /", "GET /"]
    assert "cookie" not in server.heads[1].lower()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", httpx2.ReadError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", httpx2.ReadError),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            httpx2.TransportError,
        ),
        (
            b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (2 * MAX_HEADER_BYTES) + b"\r\n\r\n",
            httpx2.RemoteProtocolError,
        ),
    ],
    ids=["nothing", "no HTTP", "cut off", "bad chunk", "long header"],
)
async def test_what_is_no_http_is_a_transport_error(
    carrier: AiohttpTransport, answer: bytes, expected: type[Exception]
) -> None:
    async with serving(answer) as server:
        with pytest.raises(expected):
            await asked(carrier, f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"],
    ids=["before the head", "within the body"],
)
async def test_silence_is_a_timeout(carrier: AiohttpTransport, answer: bytes) -> None:
    async with serving(answer, stays_silent=True) as server:
        with pytest.raises(httpx2.ReadTimeout):
            await asked(carrier, f"http://127.0.0.1:{server.port}/")


async def test_nobody_listening_is_a_failed_connection(carrier: AiohttpTransport) -> None:
    with pytest.raises(httpx2.ConnectError):
        await asked(carrier, "http://127.0.0.1:1/")


async def test_a_stream_that_is_left_early_is_closed(carrier: AiohttpTransport) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: keep-alive\r\n"
    events = head + b"Transfer-Encoding: chunked\r\n\r\n5\r\ndata\n\r\n"
    async with serving(events, stays_silent=True) as server:
        request = httpx2.Request("GET", f"http://127.0.0.1:{server.port}/")
        got = await carrier.handle_async_request(request)
        assert isinstance(got.stream, httpx2.AsyncByteStream)
        async for piece in got.stream:
            assert piece == b"data\n"
            break
        await got.aclose()
        server.end()
        again = await carrier.handle_async_request(request)
        await again.aclose()

        assert server.connections == 2


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server that is `NAME`, and of clients that trust it."""
    file = certificate_file(tmp_path_factory.mktemp("tls") / "server.pem", NAME)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


async def test_tls_is_for_the_name_although_the_address_is_contacted(
    certified: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    for_server, for_client = certified
    names: list[str | None] = []
    for_server.sni_callback = lambda _socket, name, _context: names.append(name)
    carrier = AiohttpTransport(for_client)
    async with serving(PLAIN, tls=for_server) as server:
        url = f"https://127.0.0.1:{server.port}/"
        got = await asked(carrier, url, extensions={"sni_hostname": NAME})
        with pytest.raises(UntrustedError):
            await asked(carrier, url, extensions={"sni_hostname": "other.test"})
        with pytest.raises(UntrustedError):
            await asked(carrier, url)
    await carrier.aclose()

    assert got.content == b"ok"
    assert names[:2] == [NAME, "other.test"]
    assert len(server.heads) == 1


async def test_what_nobody_vouches_for_is_not_spoken_to(
    carrier: AiohttpTransport, certified: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async with serving(PLAIN, tls=certified[0]) as server:
        with pytest.raises(UntrustedError):
            await asked(
                carrier, f"https://127.0.0.1:{server.port}/", extensions={"sni_hostname": NAME}
            )

    assert server.heads == []


class Resolving(UrlGuard):
    """Answers each name with the same addresses, judged as ever."""

    def __init__(self, *hosts: str) -> None:
        super().__init__(("127.0.0.0/8", "::1/128"))
        self._hosts = hosts

    @override
    async def resolve(
        self, host: str, port: int, *, lookup: Lookup | None = None
    ) -> list[CheckedAddress]:
        async def look_up(_host: str, _port: int) -> list[AddressInfo]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in self._hosts
            ]

        return await super().resolve(host, port, lookup=look_up)


async def test_each_address_of_a_name_is_tried_until_one_takes_a_connection(
    carrier: AiohttpTransport,
) -> None:
    async with serving(PLAIN) as server:
        guard = Resolving("127.9.9.9", "127.8.8.8", "127.0.0.1")
        async with guarded_client(
            guard,
            ExchangeRecord(10_000),
            {},
            carrier,
            connect_timeout_seconds=5,
            read_timeout_seconds=5,
        ) as client:
            url = f"http://{NAME}:{server.port}/"
            answers = [await client.post(url, content=b"body") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert server.bodies == [b"body", b"body"]
    assert all(f"{NAME}:{server.port}" in head for head in server.heads)


async def test_a_name_none_of_whose_addresses_answers_is_a_failed_connection(
    carrier: AiohttpTransport,
) -> None:
    guard = Resolving("127.9.9.9", "127.8.8.8")
    async with guarded_client(
        guard,
        ExchangeRecord(10_000),
        {},
        carrier,
        connect_timeout_seconds=5,
        read_timeout_seconds=5,
    ) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get(f"http://{NAME}:1/")


async def test_one_address_that_may_not_be_contacted_is_enough(carrier: AiohttpTransport) -> None:
    async with serving(PLAIN) as server:
        guard, exchange = Resolving("127.0.0.1", "10.0.0.1"), ExchangeRecord(10_000)
        async with guarded_client(
            guard, exchange, {}, carrier, connect_timeout_seconds=5, read_timeout_seconds=5
        ) as client:
            with pytest.raises(UnsafeAddressError):
                await client.get(f"http://{NAME}:{server.port}/")

    assert server.connections == 0
