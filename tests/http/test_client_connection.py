"""What comes over a connection to an upstream, however it is cut."""

import asyncio
import gzip
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import ClientError, ClientPayloadError, ServerDisconnectedError
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from registry.core.clock import SystemClock
from registry.http.client.connection import (
    INFLATED_BYTES,
    MAX_BUFFERED_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    Headers,
    InvalidHttpError,
    ResponseBody,
    UpstreamConnection,
)
from tests.kit.waiting import others_ran

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = OK + b'Transfer-Encoding: chunked\r\n\r\n2\r\n{"\r\n3\r\na":\r\n2\r\n1}\r\n0\r\n\r\n'
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"
TICK_SECONDS = 0.05
BROKEN = (ClientError, InvalidHttpError)


class Socket(asyncio.Transport):
    """A transport that keeps what is written, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_reading_paused = False
        self.is_closed = False

    @override
    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    @override
    def get_write_buffer_size(self) -> int:
        return 0

    @override
    def pause_reading(self) -> None:
        self.is_reading_paused = True

    @override
    def resume_reading(self) -> None:
        self.is_reading_paused = False

    @override
    def is_closing(self) -> bool:
        return self.is_closed

    @override
    def close(self) -> None:
        self.is_closed = True


def connect() -> tuple[UpstreamConnection, Socket]:
    """Return a connection that nothing was asked over yet."""
    connection, socket = UpstreamConnection(asyncio.get_running_loop()), Socket()
    connection.connection_made(socket)
    return connection, socket


async def ask(
    connection: UpstreamConnection, *pieces: bytes, then_ends: bool = False
) -> tuple[int, Headers, ResponseBody]:
    """Ask something, and let *pieces* come in answer."""
    asked = asyncio.ensure_future(connection.ask(b"GET / HTTP/1.1\r\n\r\n"))
    await others_ran()
    for piece in pieces:
        connection.data_received(piece)
    if then_ends:
        connection.connection_lost(None)
    return await asked


async def read(*pieces: bytes, then_ends: bool = False) -> tuple[int, Headers, bytes]:
    """Return what comes of *pieces* over a new connection."""
    connection, _ = connect()
    status, headers, body = await ask(connection, *pieces, then_ends=then_ends)
    return status, headers, await body.read()


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (WHOLE, 200, b"{}"),
        (CHUNKED, 200, b'{"a":1}'),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + WHOLE,
            200,
            b"{}",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", 202, b""),
        (WHOLE.replace(b"\r\n", b"\n"), 200, b"{}"),
        (WHOLE.replace(b"OK\r\n", b"OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"), 200, b"{}"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nxyz", 101, b""),
        (CHUNKED.replace(b"0\r\n\r\n", b"0\r\nContent-Type: x\r\n\r\n"), 200, b'{"a":1}'),
    ],
)
async def test_answers_are_read_however_they_are_framed(
    answer: bytes, status: int, body: bytes
) -> None:
    found = await read(answer)

    assert (found[0], found[2]) == (status, body)


async def test_only_headers_that_matter_are_kept_and_their_names_are_lower_case() -> None:
    _, headers, _ = await read(
        OK + b"CONTENT-TYPE:  text/plain \r\nSet-Cookie: a=b\r\nMcp-Session-Id: s\r\n"
        b"mcp-session-id: t\r\nContent-Length: 0\r\n\r\n"
    )

    assert headers == {"content-type": "text/plain", "mcp-session-id": "s", "content-length": "0"}


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(1, 90), max_size=12), answer=st.sampled_from([WHOLE, CHUNKED]))
def test_where_an_answer_is_cut_changes_nothing(cuts: Sequence[int], answer: bytes) -> None:
    edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[begin:end] for begin, end in pairwise(edges)]

    assert asyncio.run(read(*pieces)) == asyncio.run(read(answer))


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    connection, _ = connect()
    _, _, body = await ask(connection, OK + b"Content-Type: text/event-stream\r\n\r\ndata")
    connection.data_received(b": 1\n\n")
    connection.connection_lost(None)

    assert await body.read() == b"data: 1\n\n"
    assert not connection.is_fit()


GZIPPED_AND_CHUNKED = CHUNKED.replace(b"OK\r\n", b"OK\r\nTransfer-Encoding: gzip\r\n")


@pytest.mark.parametrize("answer", [WHOLE[:-1], CHUNKED[:-3], GZIPPED_AND_CHUNKED[:-3]])
async def test_an_answer_that_breaks_off_is_no_answer(answer: bytes) -> None:
    with pytest.raises(ClientPayloadError):
        await read(answer, then_ends=True)


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_a_connection_that_closes_before_the_head_says_so(beginning: bytes) -> None:
    with pytest.raises(ServerDisconnectedError):
        await read(*([beginning] if beginning else []), then_ends=True)


async def test_pieces_that_came_before_the_end_are_read() -> None:
    connection, _ = connect()
    _, _, body = await ask(connection, OK + b"Content-Length: 9\r\n\r\nfirst", then_ends=True)
    pieces = body.iter_any()

    assert await anext(pieces) == b"first"
    with pytest.raises(ClientPayloadError):
        await anext(pieces)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/7.3 200 OK\r\n\r\n",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        # RFC 9112 6.3 allows to take equal ones as one, and does not ask for it.
        OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: -2\r\n\r\n{}",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Bad Name : x\r\nContent-Length: 0\r\n\r\n",
        OK + b"A: b\r\n" * (MAX_HEADERS + 1) + b"Content-Length: 0\r\n\r\n",
        OK + b"A: " + b"x" * MAX_HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n",
        OK + b"A: " + b"x" * (2 * MAX_HEAD_BYTES),
        OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_what_is_no_http_is_refused_and_the_connection_closed(answer: bytes) -> None:
    connection, socket = connect()

    with pytest.raises(InvalidHttpError):
        await ask(connection, answer)

    assert socket.is_closed
    assert not connection.is_fit()


async def test_a_chunk_that_is_none_ends_the_body_with_an_error() -> None:
    connection, _ = connect()
    _, _, body = await ask(connection, OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    connection.data_received(b"zz\r\n")

    with pytest.raises(InvalidHttpError):
        await body.read()


@pytest.mark.parametrize("line", [b"A: ", b"A: b\r\n", b""], ids=["one", "many", "extension"])
async def test_what_follows_a_body_without_end_ends_it_with_an_error(line: bytes) -> None:
    connection, socket = connect()
    start = b"2\r\n{}\r\n" + (b"0\r\n" + line if line else b"2;")
    _, _, body = await ask(connection, OK + b"Transfer-Encoding: chunked\r\n\r\n" + start)
    for _ in range(3):
        connection.data_received((line if line.endswith(b"\n") else b"x") * MAX_HEAD_BYTES)

    assert socket.is_closed
    with pytest.raises(InvalidHttpError):
        await body.read()


@pytest.mark.parametrize(
    ("answer", "is_fit"),
    [
        (WHOLE, True),
        (CHUNKED, True),
        (WHOLE.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), False),
        (WHOLE.replace(b"1.1", b"1.0"), False),
        (WHOLE[:-1], False),
    ],
)
async def test_a_connection_serves_again_if_its_answer_ended(answer: bytes, is_fit: bool) -> None:  # noqa: FBT001 - a parameter of a test
    connection, _ = connect()

    await ask(connection, answer)

    assert connection.is_settled() is is_fit


@pytest.mark.parametrize("together", [True, False])
async def test_a_second_answer_spoils_the_connection_and_not_the_first(together: bool) -> None:  # noqa: FBT001 - a parameter of a test
    connection, socket = connect()

    status, _, body = await ask(connection, WHOLE + WHOLE if together else WHOLE)
    if not together:
        connection.data_received(WHOLE)

    assert (status, await body.read()) == (200, b"{}")
    assert socket.is_closed
    assert not connection.is_settled()


async def test_an_upstream_is_not_read_faster_than_its_answer() -> None:
    connection, socket = connect()
    piece = b"x" * 1024
    length = 2 * MAX_BUFFERED_BYTES
    _, _, body = await ask(connection, OK + b"Content-Length: %d\r\n\r\n" % length)
    sent = 0
    while not socket.is_reading_paused:
        connection.data_received(piece)
        sent += len(piece)
    pieces = body.iter_any()
    first = await anext(pieces)

    assert sent <= MAX_BUFFERED_BYTES + len(piece)
    assert len(first) == sent
    assert not socket.is_reading_paused


async def test_a_long_answer_that_comes_at_once_leaves_the_connection_readable() -> None:
    connection, socket = connect()
    text = b"x" * (MAX_BUFFERED_BYTES + 1)
    _, _, body = await ask(connection, OK + b"Content-Length: %d\r\n\r\n" % len(text) + text)

    assert await body.read() == text
    assert connection.is_settled()
    assert not socket.is_reading_paused


async def test_an_upstream_that_may_not_send_is_not_silent() -> None:
    connection, _ = connect()
    text = b"x" * (MAX_BUFFERED_BYTES + 1)
    head = OK + b"Content-Length: %d\r\n\r\n" % (len(text) + 1)
    _, _, body = await ask(connection, head)
    connection.data_received(text)

    connection.read_timeout = TICK_SECONDS
    connection.start_timeout()
    await asyncio.sleep(2 * TICK_SECONDS)  # noqa: TID251 - what must not happen
    connection.data_received(b"x")

    assert await body.read() == text + b"x"


async def test_an_upstream_that_may_send_again_and_does_not_is_silent() -> None:
    connection, _ = connect()
    _, _, body = await ask(connection, OK + b"Content-Length: 9999999\r\n\r\n")
    connection.data_received(b"x" * (MAX_BUFFERED_BYTES + 1))
    connection.read_timeout = TICK_SECONDS
    connection.start_timeout()
    pieces = body.iter_any()
    await anext(pieces)

    with pytest.raises(TimeoutError):
        await anext(pieces)


DEFLATERS = {
    b"gzip": gzip.compress,
    b"X-Gzip": lambda text: gzip.compress(text[:5]) + gzip.compress(text[5:]),
    b"deflate": zlib.compress,
    b"Deflate": lambda text: zlib.compress(text, wbits=-15),
}


@pytest.mark.parametrize("encoding", DEFLATERS)
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_what_was_compressed_is_inflated(encoding: bytes, size: int) -> None:
    text = bytes(range(256)) * 4_000
    packed = DEFLATERS[encoding](text)  # type: ignore[no-untyped-call]
    head = OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding, len(packed))
    connection, _ = connect()
    _, _, body = await ask(connection, head)
    for begin in range(0, len(packed), size):
        connection.data_received(packed[begin : begin + size])

    assert await body.read() == text


async def test_little_that_becomes_much_is_inflated_bit_by_bit() -> None:
    packed = gzip.compress(b"\0" * 50_000_000)
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    connection, _ = connect()
    _, _, body = await ask(connection, head + packed)

    assert len(await anext(body.iter_any())) <= INFLATED_BYTES


async def test_while_much_is_inflated_others_have_their_turn() -> None:
    packed = gzip.compress(b"\0" * 10 * INFLATED_BYTES)
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    connection, _ = connect()
    _, _, body = await ask(connection, head + packed)
    reading = asyncio.ensure_future(body.read())
    turns = 0
    while not reading.done():
        await others_ran()
        turns += 1

    assert turns >= 10


@pytest.mark.parametrize(
    "packed", [gzip.compress(b"{}" * 50)[:-12], b"no gzip at all"], ids=["cut", "none"]
)
async def test_what_cannot_be_inflated_is_an_error(packed: bytes) -> None:
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)

    with pytest.raises(BROKEN):
        await read(head + packed)


async def test_a_head_that_comes_in_drops_does_not_come_in_time() -> None:
    connection, _ = connect()
    asked = asyncio.ensure_future(connection.ask(b"GET / HTTP/1.1\r\n\r\n"))
    await others_ran()
    connection.read_timeout = 0.1
    connection.start_timeout()
    for drop in WHOLE[:20]:
        connection.data_received(bytes([drop]))
        await SystemClock().sleep(0.02)
        if asked.done():
            break

    with pytest.raises(TimeoutError):
        await asked


async def test_identity_is_no_compression_however_it_is_spelt() -> None:
    head = OK + b"Content-Encoding: Identity\r\nContent-Length: 2\r\n\r\n{}"

    assert (await read(head))[2] == b"{}"
