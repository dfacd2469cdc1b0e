"""Answers that are sent whole leave as any other would."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config

from registry.core.asgi import body_of
from registry.core.clock import SystemClock
from registry.http.server.connection import ConnectionLimits, JoiningProtocol, OpenConnections
from tests.gateway.serving import serve

SECONDS = 30
Header = tuple[bytes, bytes]


class Scripted:
    """Answers each request with what the test says, and keeps what it knew of it."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: Sequence[Header] = [(b"Content-Length", b"2"), (b"X-Own", b"a b\tc")]
        self.pieces = [b"{}"]
        self.bodies: list[bytes | None] = []
        self.received: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self.bodies += [body_of(scope), body_of({**scope})]
        message = await receive()
        self.received.append(message["body"])
        while message.get("more_body"):
            message = await receive()
            self.received.append(message["body"])
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": self.headers,
            }
        )
        *more, last = self.pieces
        for piece in more:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": last})


@pytest.fixture
def app() -> Scripted:
    return Scripted()


Ask = Callable[..., Awaitable[bytes]]


@pytest.fixture
async def ask(app: Scripted) -> AsyncIterator[Ask]:
    """Return a function that sends requests over one connection, and returns all that comes."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(app, http=JoiningProtocol))

        async def ask(*requests: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2]))
            writer.write(b"".join(requests))
            async with asyncio.timeout(SECONDS):
                answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

        yield ask


def request(method: str = "GET", body: bytes = b"", *, closes: bool = True) -> bytes:
    end = "Connection: close\r\n" if closes else ""
    head = f"{method} /a%20b?c HTTP/1.1\r\nHost: t\r\n{end}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def test_an_answer_that_says_how_long_it_is_leaves_as_it_is(ask: Ask) -> None:
    assert await ask(request()) == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-own: a b\tc\r\nconnection: close\r\n\r\n{}"
    )


async def test_requests_behind_one_another_are_answered_in_their_order(ask: Ask) -> None:
    answer = await ask(request(closes=False), request("POST", b"x", closes=False), request())

    heads = answer.split(b"{}")
    assert [head.count(b"connection: close") for head in heads] == [0, 0, 1, 0]


async def test_a_body_in_pieces_arrives_whole(app: Scripted, ask: Ask) -> None:
    app.headers, app.pieces = [(b"content-length", b"6")], [b"", b"ab", b"cd", b"ef"]

    assert (await ask(request())).endswith(b"\r\n\r\nabcdef")


@pytest.mark.parametrize(
    ("method", "status", "headers", "expected"),
    [
        (
            "HEAD",
            200,
            [(b"content-length", b"2")],
            b"content-length: 2\r\nconnection: close\r\n\r\n",
        ),
        ("GET", 204, [], b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
        ("GET", 200, [], b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        ("GET", 200, [(b"transfer-encoding", b"chunked")], b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ],
)
async def test_other_answers_go_the_long_way(
    app: Scripted, ask: Ask, method: str, status: int, headers: Sequence[Header], expected: bytes
) -> None:
    app.status, app.headers = status, headers
    app.pieces = [b""] if status == 204 else [b"{}"]

    assert (await ask(request(method))).endswith(expected)


@pytest.mark.parametrize(
    "header", [(b"X-A", b"a\r\nX-B: b"), (b"X-A", b"\0"), (b"X A", b"a"), (b"X:A", b"a")]
)
async def test_a_header_cannot_become_two(app: Scripted, ask: Ask, header: Header) -> None:
    app.headers = [(b"content-length", b"2"), header]

    answer = await ask(request())

    assert b"X-B" not in answer
    assert answer.startswith(b"HTTP/1.1 500") or answer == b""


@pytest.mark.parametrize("length", [b"1", b"3"])
async def test_a_length_that_is_wrong_ends_the_connection(
    app: Scripted, ask: Ask, length: bytes
) -> None:
    app.headers = [(b"content-length", length)]

    answer = await ask(request(closes=False))

    # The connection ended, and with it an answer that is not as long as it says.
    assert len(answer.partition(b"\r\n\r\n")[2]) != int(length)


async def test_a_body_that_came_with_its_head_is_told_beside_it(app: Scripted, ask: Ask) -> None:
    await ask(request("POST", b"first", closes=False), request("POST", b"second"))

    assert app.received == [b"first", b"second"]
    # A copy of the scope is of another request.
    assert app.bodies == [b"first", None, b"second", None]


async def test_a_client_that_leaves_is_noticed_while_a_further_request_of_it_waits() -> None:
    has_begun, was_told = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        has_begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        was_told.set()

    connections = OpenConnections(ConnectionLimits(head_seconds=0.2))
    async with serve(app, http=partial(JoiningProtocol, open_connections=connections)) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2]))
        async with asyncio.timeout(SECONDS):
            writer.write(request(closes=False))
            await has_begun.wait()
            writer.write(request())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            await was_told.wait()


async def test_an_answer_that_ends_after_its_head_ends_the_connection() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        raise OSError("no body after all")

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(app, http=JoiningProtocol))
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2]))
        writer.write(request(closes=False))
        async with asyncio.timeout(SECONDS):
            answer = await reader.read()
        writer.close()

    assert answer == b""


@pytest.mark.parametrize("size", [0, 5, 200_000])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_wish_for_another_protocol_is_left_unheard_and_costs_nothing(
    app: Scripted,
    ask: Ask,
    size: int,
    is_chunked: bool,  # noqa: FBT001 - a parameter of a test
) -> None:
    body = b"x" * size
    framing, sent = b"Content-Length: %d" % size, body
    if is_chunked:
        framing, sent = b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
        sent = sent if size else b"0\r\n\r\n"
    wish = (
        b"POST / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n" + framing + b"\r\n\r\n"
    )

    answer = await ask(wish, sent, wish + sent, request())

    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert b"".join(app.received) == body + body


async def test_many_such_wishes_in_one_piece_are_all_answered(ask: Ask) -> None:
    wish = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

    answer = await ask(wish * 600 + request())

    assert answer.count(b"HTTP/1.1 200 OK") == 601


async def test_such_a_wish_does_not_excuse_a_body_without_an_end(ask: Ask) -> None:
    answer = await ask(
        b"POST / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        b"Transfer-Encoding: gzip\r\n\r\nx"
    )

    assert answer.startswith(b"HTTP/1.1 400")


async def test_connections_that_nobody_uses_are_closed(app: Scripted) -> None:
    connections = OpenConnections(ConnectionLimits(head_seconds=0.2))

    def impatient(config: Config, **rest: Any) -> JoiningProtocol:
        config.timeout_keep_alive = 1
        return JoiningProtocol(config, open_connections=connections, **rest)

    async with serve(app, http=impatient) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2]))
        writer.write(request(closes=False))
        began = SystemClock().monotonic()
        async with asyncio.timeout(SECONDS):
            answer = await reader.read()
        seconds = SystemClock().monotonic() - began
        writer.close()
        await writer.wait_closed()

    assert answer.endswith(b"{}")
    assert 0.9 < seconds < 3


async def test_the_rest_of_a_request_that_was_answered_does_not_keep_its_connection_open() -> None:
    connections = OpenConnections(ConnectionLimits(head_seconds=0.2))

    def impatient(config: Config, **rest: Any) -> JoiningProtocol:
        config.timeout_keep_alive = 0
        return JoiningProtocol(config, open_connections=connections, **rest)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    async with serve(app, http=impatient) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2]))
        async with asyncio.timeout(SECONDS):
            writer.write(request("POST", b"abc", closes=False)[:-2])
            await reader.readuntil(b"{}")
            writer.write(b"b")
            rest = await reader.read()
        writer.close()

    assert rest == b""
