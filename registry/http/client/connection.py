"""One connection to an upstream, over which requests go one after the other (HTTP/1.1).

aiohttp makes it: names, addresses, TLS. What comes over it is read here, with llhttp, the parser
that aiohttp uses too, but without a queue, a stream and a parser for each answer: those cost as
much as all else that a call takes upstream.
docs/decisions/0005-byte-pass-through.md says what that depends on.
"""

import asyncio
import select
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httptools
from aiohttp import (
    ClientOSError,
    ClientPayloadError,
    ServerDisconnectedError,
    SocketTimeoutError,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from typing_extensions import override

MAX_HEAD_BYTES = 64 * 1024
"""Longest head of an answer."""

MAX_HEADERS = 1_000
TOO_LONG = "an answer whose head is too long"
MAX_BUFFERED_BYTES = 128 * 1024
"""With more of a body than this waiting to be read, no more is taken from the upstream."""

INFLATED_BYTES = 64 * 1024
"""Longest piece that is inflated at a time."""

IDENTITY = "identity"
PLAIN = frozenset({"", IDENTITY})
"""Content codings that leave a body as it is."""

INFLATABLE = frozenset({"gzip", "x-gzip", "deflate"})
ANY_HEADER = zlib.MAX_WBITS | 32
"""zlib's own or gzip's."""

BODILESS = frozenset({204, 304})
SWITCHING = 101
TRANSFER_ENCODING = "transfer-encoding"
WWW_AUTHENTICATE = "www-authenticate"
OK = 200

READ_HEADERS: Mapping[bytes, str] = {
    name.encode(): name
    for name in (
        "allow",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-type",
        "etag",
        "last-modified",
        "location",
        "mcp-session-id",
        "retry-after",
        TRANSFER_ENCODING,
        WWW_AUTHENTICATE,
    )
}
"""Headers of answers that are read; all others are dropped."""

Headers = dict[str, str]
"""The headers that are read, by lower-case name."""


class InvalidHttpError(Exception):
    """What an upstream sent is no HTTP, or no answer to what was asked."""


class UnknownEncodingError(InvalidHttpError):
    """An answer is compressed in a way that cannot be undone."""


class ResponseBody:
    """The body of an answer, as a stream. Back-pressure reaches the upstream when it is not read.

    Raises (on reading):
        ClientError: It broke off.
        TimeoutError: The upstream was silent for too long.
        InvalidHttpError: What came is no HTTP.
    """

    __slots__ = (
        "_buffered",
        "_connection",
        "_error",
        "_is_complete",
        "_is_paused",
        "_pieces",
        "_waiter",
    )

    def __init__(self, connection: "UpstreamConnection") -> None:
        self._connection = connection
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._is_complete = False
        self._is_paused = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def at_eof(self) -> bool:
        """Whether all of it was read."""
        return self._is_complete and not self._pieces

    @property
    def is_complete(self) -> bool:
        """Whether all of it has come."""
        return self._is_complete

    async def read(self) -> bytes:
        """Return the whole body, or what is left of it."""
        if self._is_complete and len(self._pieces) == 1:
            return self._pieces.pop()
        return b"".join([piece async for piece in self.iter_any()])

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces as they come."""
        while True:
            if self._pieces:
                pieces, self._pieces = self._pieces, []
                self._buffered = 0
                if self._is_paused:
                    self._is_paused = False
                    self._connection.go_on()
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
            elif self._error is not None:
                # The error keeps frames that keep this; another one says the same from now on.
                error, self._error = self._error, ClientPayloadError("The answer broke off.")
                try:
                    raise error
                finally:
                    del error
            elif self._is_complete:
                return
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None

    def feed(self, piece: bytes) -> None:
        """Take a piece that came."""
        self._pieces.append(piece)
        self._buffered += len(piece)
        if self._buffered > MAX_BUFFERED_BYTES and not self._is_paused:
            self._is_paused = True
            self._connection.hold()
        self._wake()

    def complete(self) -> None:
        """Note that all of it has come."""
        self._is_complete = True
        if self._is_paused:
            # The reader of the last piece need not resume it: the next answer comes this way too.
            self._is_paused = False
            self._connection.go_on()
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Note that no more of it will come."""
        if not self._is_complete and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class WholeResponseBody(ResponseBody):
    """A body that was there before it was asked for.

    Args:
        body: All of it.
    """

    __slots__ = ()

    def __init__(self, body: bytes) -> None:
        # Nothing of it comes over a connection, which is all that the base would need one for.
        self._pieces = [body] if body else []
        self._buffered = len(body)
        self._is_complete = True
        self._is_paused = False
        self._error = None
        self._waiter = None


class InflatedResponseBody(ResponseBody):
    """The inflated body of a response that was compressed without being requested.

    It is inflated as it is read, so that little which becomes much is never in memory as a whole.
    """

    __slots__ = ("_encoding",)

    def __init__(self, connection: "UpstreamConnection", encoding: str) -> None:
        super().__init__(connection)
        self._encoding = encoding

    @override
    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.iter_any()])

    @override
    async def iter_any(self) -> AsyncIterator[bytes]:
        inflate = None
        async for piece in super().iter_any():
            rest = piece
            while rest:
                if inflate is None:
                    inflate = self._inflater(rest)
                try:
                    inflated = inflate.decompress(rest, INFLATED_BYTES)
                except zlib.error as exc:
                    raise ClientPayloadError("The answer cannot be inflated.") from exc
                if inflated:
                    yield inflated
                    # A piece may become a thousand times as much; others have their turn between.
                    await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, not a time
                rest = inflate.unconsumed_tail or inflate.unused_data
                if inflate.eof:
                    # gzip may have several members.
                    inflate = None
                elif not inflated:
                    break
        if inflate is not None:
            raise ClientPayloadError("The answer ends within what was compressed.")

    def _inflater(self, beginning: bytes) -> "zlib._Decompress":
        # What calls itself deflate comes with zlib's header (RFC 9110) and without.
        if self._encoding != "deflate" or beginning[0] & 0xF == zlib.DEFLATED:
            return zlib.decompressobj(ANY_HEADER)
        return zlib.decompressobj(-zlib.MAX_WBITS)


class UpstreamConnection(ResponseHandler):
    """A connection as aiohttp's pool makes it; of its base it keeps only what that pool needs.

    Attributes:
        lease: Under which aiohttp gave it out; it is given back when the connection closes.
        was_used: Whether an answer came over it before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.lease: Connection | None = None
        self.was_used = False
        self._reads: Any = httptools.HttpResponseParser(self)
        # What old and home-made servers get wrong, and what cannot be read in two ways.
        self._reads.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._poll: select.poll | None = None
        self._is_spoilt = False
        self._is_held = False
        self._head_bytes = 0
        self._bytes_since_body = 0
        self._has_body_until_end = False
        self._head: asyncio.Future[tuple[int, Headers, ResponseBody]] | None = None
        self._body: ResponseBody | None = None
        self._fields: Headers = {}
        self._field_count = 0

    async def ask(self, request: bytes) -> tuple[int, Headers, ResponseBody]:
        """Send a request, and return status, headers and body of its answer.

        Raises:
            ClientError: The connection broke; `ServerDisconnectedError` when it was closed.
            TimeoutError: Nothing came in the time that was set.
            InvalidHttpError: What came is no HTTP.
        """
        transport = self.transport
        if transport is None:
            raise ServerDisconnectedError
        head: asyncio.Future[tuple[int, Headers, ResponseBody]] = self._loop.create_future()
        self._head = head
        transport.write(request)
        try:
            return await head
        finally:
            self._head = None
            # It keeps the error, that this frame and those above it, with the request in them.
            del head

    def is_fit(self) -> bool:
        """Whether another request may go over it: it is open, and nothing came unasked.

        An upstream that closed an idle connection is noticed before a request is sent into it,
        which could be neither answered nor repeated.
        """
        transport = self.transport
        return (
            transport is not None
            and not transport.is_closing()
            and not self.should_close
            and (not self.was_used or self.is_quiet())
        )

    def is_quiet(self) -> bool:
        """Whether nothing came that the event loop has not seen yet, not even the end.

        Ask before a request is sent over a connection that was used. Over a new one there may be
        something: TLS sends session tickets first.
        """
        poll = self._poll
        if poll is None:
            # Made once: to find the socket costs more than to ask it.
            transport = self.transport
            number = -1 if transport is None else transport.get_extra_info("socket").fileno()
            if number < 0:
                return False
            poll = self._poll = select.poll()
            poll.register(number, select.POLLIN)
        return not poll.poll(0)

    def is_settled(self) -> bool:
        """Whether the request was sent and the answer came, both in full."""
        transport = self.transport
        # An answer may come before the request was taken in full; the rest must not reach others.
        return (
            transport is not None
            and not self.should_close
            and transport.get_write_buffer_size() == 0
        )

    def hold(self) -> None:
        """Take nothing from the upstream for now."""
        self._is_held = True
        if self.transport is not None:
            self.transport.pause_reading()
        self.start_timeout()

    def go_on(self) -> None:
        """Take what it sends again."""
        self._is_held = False
        if self.transport is not None:
            self.transport.resume_reading()
            self.start_timeout()

    @override
    def start_timeout(self) -> None:
        """Measure its silence from now on, unless that is ours: then once it is taken from."""
        if self._is_held:
            self._drop_timeout()
        else:
            self._reschedule_timeout()

    def discard(self) -> None:
        """Close it; aiohttp counts it no longer."""
        self._drop_timeout()
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.close()
        else:
            self.close()

    @property
    @override
    def should_close(self) -> bool:
        body = self._body
        return self._is_spoilt or (body is not None and not body.is_complete)

    @override
    def force_close(self) -> None:
        self._is_spoilt = True

    @override
    def data_received(self, data: bytes) -> None:
        if self._read_timeout and self._body is not None:
            # Not before: a head that comes in drops is no answer.
            self.start_timeout()
        if self._head is None and (self._body is None or self._body.is_complete):
            # It would be taken for the response to the next request.
            self._fail(InvalidHttpError("a response without a request"))
            return
        self._bytes_since_body += len(data)
        try:
            self._reads.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The status is reported; nothing of another protocol is read.
            self._is_spoilt = True
        except httptools.HttpParserError as exc:
            cause = exc.__context__
            broken = cause if isinstance(cause, InvalidHttpError) else None
            self._fail(broken or InvalidHttpError("an answer that is no HTTP"))
            return
        if self._bytes_since_body > 2 * MAX_HEAD_BYTES:
            # The parser does not report a header or trailer without an end.
            self._fail(InvalidHttpError(TOO_LONG))

    @override
    def eof_received(self) -> None:
        self._drop_timeout()

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        # The number may be another connection's soon.
        self._poll = None
        # It holds our methods.
        self._reads = None
        self._drop_timeout()
        body = self._body
        if self._has_body_until_end and body is not None and exc is None:
            body.complete()
        self._is_spoilt = True
        self._end(ClientOSError(*exc.args) if isinstance(exc, OSError) else None)
        # Wakes the tasks that wait until it is closed.
        super().connection_lost(exc)

    @override
    def _on_read_timeout(self) -> None:
        self._is_spoilt = True
        self._end(SocketTimeoutError("The upstream is silent."))

    def on_message_begin(self) -> None:
        """Begin an answer; called by the parser, like all that follow.

        Raises:
            InvalidHttpError: The one that was asked for came before it.
        """
        if self._head is None or self._head.done():
            raise InvalidHttpError("a response without a request")
        self._body = None
        self._head_bytes = 0
        self._has_body_until_end = False
        self._fields = {}
        self._field_count = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, which is none.

        Raises:
            InvalidHttpError: There are too many, or they are too long.
        """
        if self._body is not None:
            return
        self._field_count += 1
        self._head_bytes += len(name) + len(value)
        if self._field_count > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            raise InvalidHttpError(TOO_LONG)
        known = READ_HEADERS.get(name) or READ_HEADERS.get(name.lower())
        # Of several codings the last one is what frames the body.
        if known is not None and (known not in self._fields or known == TRANSFER_ENCODING):
            self._fields[known] = value.strip().decode("latin-1")
        elif known == WWW_AUTHENTICATE:
            # Servers that know several schemes send a line for each.
            self._fields[known] += f", {value.strip().decode('latin-1')}"

    def on_headers_complete(self) -> None:
        """Give the head to who waits for it, unless more heads are to come.

        Raises:
            UnknownEncodingError: The body is compressed in a way that cannot be undone.
        """
        reads = self._reads
        status: int = reads.get_status_code()
        if status < OK and status != SWITCHING:
            return
        if not reads.should_keep_alive():
            self._is_spoilt = True
        fields = self._fields
        encoding = fields.get("content-encoding", IDENTITY).lower()
        if encoding in PLAIN:
            body = ResponseBody(self)
        elif encoding in INFLATABLE:
            body = InflatedResponseBody(self, encoding)
        else:
            raise UnknownEncodingError("a response in an encoding that was not requested")
        self._body = body
        self._has_body_until_end = not (
            "content-length" in fields
            or "chunked" in fields.get(TRANSFER_ENCODING, "").lower()
            or status in BODILESS
        )
        head = self._head
        if head is not None and not head.done():
            head.set_result((status, fields, body))

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._bytes_since_body = 0
        if self._body is not None:
            self._body.feed(piece)

    def on_message_complete(self) -> None:
        """End an answer."""
        if self._body is not None:
            self.was_used = True
            self._bytes_since_body = 0
            self._body.complete()
            self._drop_timeout()

    def _fail(self, error: BaseException) -> None:
        self._is_spoilt = True
        self._end(error)
        if self.transport is not None:
            self.transport.close()

    def _end(self, error: BaseException | None) -> None:
        """End the waits for the head, and for more of the body."""
        head, body = self._head, self._body
        if head is not None and not head.done():
            head.set_exception(error or ServerDisconnectedError())
        if body is not None:
            body.fail(error or ClientPayloadError("The answer broke off."))
