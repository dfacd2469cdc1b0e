"""Client connections over HTTP/1.1: joined writes, and limits on size, time and number.

uvicorn writes head and body of an answer one after the other, and each write is a system call and
a wake-up of the client. Measured at the gateway, the second pair costs a twentieth of a call's
CPU; so they are joined here.

uvicorn bounds neither the head of a request, nor the time in which it must come, nor how long a
client may read nothing; all of that is bounded here, without a timer for any one request.
"""

import asyncio
import select
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from functools import lru_cache, partial
from http import HTTPStatus
from termios import TIOCOUTQ
from typing import Any
from urllib.parse import unquote

import httptools
import structlog
from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from registry.core.asgi import clear_body, set_body
from registry.http.server.cycle import Cycle
from registry.http.server.transport import MAX_JOINED_BYTES, JoiningTransport

log = structlog.get_logger()

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of a request's head; clients and proxies send 8 to 32 KB at most."""

MAX_HEADERS = 128
"""Maximum number of header lines, the same as aiohttp accepts from upstreams."""

MIN_READ_BYTES = 1024
"""What a slow client must read of its answer within the write timeout."""

BODY_ALLOWANCE = 8
"""A body in the smallest chunks takes six times its length on the wire."""

SWEEPS_PER_TIMEOUT = 4
"""Sweeps for connections over the head timeout, per duration of that timeout."""

RETRY_AFTER_SECONDS = 2

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that frame a body."""

SHORT = 256
"""Maximum length of a request target that is cached."""


class HeadTooLargeError(Exception):
    """A request has too many headers."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of the client connections of one process.

    Attributes:
        max_connections: Open at a time; further ones are answered 503 and closed.
        head_seconds: Longest time for the head of a request, from the connection's beginning or
            the request's first byte on, and up to a quarter more.
        write_seconds: Longest time in which a client takes nothing of an answer.
        max_body_bytes: Of a request; what is far beyond it is not even read.
    """

    max_connections: int = 8192
    head_seconds: float = 15.0
    write_seconds: float = 30.0
    max_body_bytes: int = 4 * 1024 * 1024


class OpenConnections:
    """The connections of one process, swept for those without a request.

    One timer serves all connections; without connections there is no timer.

    Attributes:
        ticks: How often they were swept.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._waiting_since: dict[JoiningProtocol, tuple[object, float]] = {}
        self._open: set[JoiningProtocol] = set()
        self._is_ticking = False
        self._tick_seconds = limits.head_seconds / SWEEPS_PER_TIMEOUT
        self.ticks = 0

    def add(self, connection: "JoiningProtocol") -> bool:
        """Add a connection; return False if there are already too many."""
        if len(self._open) >= self.limits.max_connections:
            return False
        self._open.add(connection)
        if not self._is_ticking:
            self._is_ticking = True
            self._tick_later(asyncio.get_running_loop())
        return True

    def discard(self, connection: "JoiningProtocol") -> None:
        """Remove a connection."""
        self._open.discard(connection)
        self._waiting_since.pop(connection, None)

    def _tick_later(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(self._tick_seconds, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_ticking = bool(self._open)
        if not self._is_ticking:
            return
        self._tick_later(loop)
        self.ticks += 1
        self._close_idle()
        self._close_deserted()
        now, before = loop.time(), self._waiting_since
        self._waiting_since = {}
        for connection in tuple(self._open):
            head = connection.awaited_head
            if head is None:
                continue
            seen, since = before.get(connection, (None, now))
            if seen is not head:
                since = now
            if now - since >= self.limits.head_seconds:
                connection.close_unused()
            else:
                self._waiting_since[connection] = (head, since)

    def _close_idle(self) -> None:
        for connection in tuple(self._open):
            idle_since = connection.idle_since
            if idle_since is None:
                continue
            seconds = (self.ticks - idle_since) * self._tick_seconds
            if seconds > connection.timeout_keep_alive + self._tick_seconds:
                connection.timeout_keep_alive_handler()

    def _close_deserted(self) -> None:
        for connection in tuple(self._open):
            if connection.is_deserted():
                connection.transport.abort()


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 over a `JoiningTransport`, within limits.

    Args:
        config: As uvicorn passes it, and the arguments after it.
        open_connections: All those of this process.

    Attributes:
        idle_since: Which sweep came before the last answer, while nothing was asked since. The
            rest of a request that was answered before it came in full is nothing.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        open_connections: OpenConnections | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._open_connections = open_connections or OpenConnections(ConnectionLimits())
        self._limits = self._open_connections.limits
        self._max_request_bytes = BODY_ALLOWANCE * self._limits.max_body_bytes + MAX_HEAD_BYTES
        self._is_in_head = True
        self._head: object = self
        self._head_is_too_large = False
        self._request_bytes = 0
        self._write_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0
        self._asgi = {"version": self.asgi_version, "spec_version": "2.3"}
        self.idle_since: int | None = None
        self._answering: Cycle | None = None
        self._is_staying = False

    @property
    def awaited_head(self) -> object | None:
        """Return an object that identifies the awaited head, or None if none is awaited.

        None is awaited between two requests of a connection: uvicorn's timer closes idle ones.
        """
        if not self._is_in_head or self.transport.is_closing():
            return None
        return self._head

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._joining = JoiningTransport(transport)
        super().connection_made(self._joining)
        if not self._open_connections.add(self):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE)

    def close_after_answer(self) -> None:
        """Close the connection after the answer to its current request; not if it is idle."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._open_connections.discard(self)
        self._stop_write_timer()
        # uvicorn notifies the latest request, which may be one that is queued behind this one.
        answering, self._answering = self._answering, None
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        was_in_head = self._is_in_head
        self._feed(data)
        if self._is_in_head and not was_in_head:
            # The data may also end a body, whose bytes do not count as the head's.
            return
        self._request_bytes += len(data)
        if self._is_in_head:
            if self._request_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._request_bytes > self._max_request_bytes:
            # The request was refused, or will be: its data is not read.
            self.transport.abort()

    def _feed(self, data: bytes) -> None:
        try:
            # A loop, because each of several pipelined requests may ask for an upgrade.
            while data:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as upgrade:
                    data = data[upgrade.args[0] :]
                    self._ignore_upgrade()
                else:
                    return
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _ignore_upgrade(self) -> None:
        """Continue with a request that asks for an upgrade, ignoring that.

        A server may ignore `Upgrade` (RFC 9110, 7.8), and clients that support HTTP/2, such as
        Java's, send it with every first request. The parser then reads none of the body, so that
        a second parser reads it, which gets only the framing headers.
        """
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn has it.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        framing = [
            name + b": " + value + b"\r\n" for name, value in self.headers if name in FRAMING
        ]
        if framing:
            cycle = self.cycle
            cycle.more_body = True
            cycle.message_event.clear()
            scope: Any = cycle.scope
            clear_body(scope)
            self._is_staying = True
            try:
                self.parser.feed_data(b"".join((b"POST / HTTP/1.1\r\n", *framing, b"\r\n")))
            finally:
                self._is_staying = False

    @override
    def on_url(self, url: bytes) -> None:
        if not self._is_staying:
            self.url += url

    @override
    def on_message_begin(self) -> None:
        if self._is_staying:
            return
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.idle_since = None
        self._is_in_head = True
        self._head = self.headers
        self._request_bytes = 0

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers look the same but are not headers: a proxy in front of us did not check them.
        if self._is_in_head and not self._is_staying:
            # As uvicorn has it; to call that would cost a hundredth of a gateway call.
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    @override
    def on_headers_complete(self) -> None:
        if self._is_staying:
            return
        self._is_in_head = False
        if len(self.headers) > MAX_HEADERS:
            self._head_is_too_large = True
            raise HeadTooLargeError
        parser = self.parser
        http_version = parser.get_http_version()
        url = self.url
        path, raw_path, query = _known_target(url) if len(url) <= SHORT else read_target(url)
        scope: Any = {
            "type": "http",
            "asgi": self._asgi,
            "http_version": http_version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": self.headers,
            "state": self.app_state.copy(),
            "method": parser.get_method().decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
        }
        self.scope = scope
        former = self.cycle
        cycle = self.cycle = Cycle(
            self,
            self._joining,
            keep_alive=http_version != "1.0" and parser.should_keep_alive(),
            expect_100_continue=self.expect_100_continue,
        )
        if former is None or former.response_complete:  # type: ignore[redundant-expr]  # None at first
            self._answering = cycle
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    @override
    def on_message_complete(self) -> None:
        super().on_message_complete()
        cycle = self.cycle
        if not cycle.response_complete and len(cycle.body) <= MAX_JOINED_BYTES:
            scope: Any = cycle.scope
            set_body(scope, bytes(cycle.body))

    @override
    def on_response_complete(self) -> None:
        # As in uvicorn, except for its timer per answer, which would cost more than all the rest.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            assert isinstance(cycle, Cycle)  # noqa: S101 - it was made here
            self._answering = cycle
            self._start_asgi_task(cycle, app)
        else:
            self.idle_since = self._open_connections.ticks

    @override
    def send_400_response(self, msg: str) -> None:
        if self._head_is_too_large:
            self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            super().send_400_response(msg)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_bytes = self._count_unread()
        self._write_timer = self.loop.call_later(self._limits.write_seconds, self._check_reader)

    @override
    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    @override
    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            # Closing would wait for the client to read, without a limit.
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def is_deserted(self) -> bool:
        """Whether the client has disconnected unnoticed, because reading is paused.

        uvicorn pauses reading while a pipelined request waits for the answer to the one before
        it, which may be a stream that never ends.
        """
        if not self.flow.read_paused or self.transport.is_closing():
            return False
        poll = select.poll()
        with suppress(OSError, ValueError):
            poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def close_unused(self) -> None:
        """Close a connection on which no request arrived in time."""
        if self._head is self:
            # Opened in advance, as browsers and load balancers do; there is nothing to answer.
            self.transport.close()
        else:
            self._answer(HTTPStatus.REQUEST_TIMEOUT)

    def _check_reader(self) -> None:
        left = self._count_unread()
        if left > self._unread_bytes - MIN_READ_BYTES:
            log.info("client_stopped_reading", unread_bytes=left)
            self.transport.abort()
            return
        self._unread_bytes = left
        self._write_timer = self.loop.call_later(self._limits.write_seconds, self._check_reader)

    def _count_unread(self) -> int:
        """Return how many written bytes the client has not read.

        The kernel buffers megabytes: a slow client may read for long before our own buffer
        shrinks.
        """
        waiting = array("i", [0])
        with suppress(OSError):
            ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, waiting)
        return self.transport.get_write_buffer_size() + waiting[0]

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _answer(self, status: HTTPStatus) -> None:
        """Send an answer without the application, and close."""
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"retry-after: {RETRY_AFTER_SECONDS}\r\n"
            "content-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        self.transport.close()


def read_target(url: bytes) -> tuple[str, bytes, bytes]:
    """Return decoded path, raw path and query of a request target.

    Raises:
        HttpParserError: It is none.
    """
    parsed = httptools.parse_url(url)
    raw_path: bytes = parsed.path
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, raw_path, parsed.query or b""


_known_target = lru_cache(maxsize=1024)(read_target)


def protocol_within(limits: ConnectionLimits) -> Callable[..., asyncio.Protocol]:
    """Return the protocol factory of one process, whose connections share the limits."""
    return partial(JoiningProtocol, open_connections=OpenConnections(limits))
