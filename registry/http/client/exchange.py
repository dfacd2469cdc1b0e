"""Single HTTP/1.1 exchanges over connections that aiohttp makes.

`ClientSession.request` builds a request, a response, a cookie view, a writer task and several
timers for each call: measured, more than half of its cost; and its pool and its reader cost a
sixth of what remained. So names, address checks and TLS are aiohttp's own, and requests are
written, answers read and connections kept for the next request here and in
`registry.http.client.connection`. docs/decisions/0005-byte-pass-through.md says what that depends
on.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic
from typing import NamedTuple
from weakref import WeakValueDictionary

from aiohttp import (
    BaseConnector,
    ClientRequest,
    ClientSession,
    ClientTimeout,
    ServerDisconnectedError,
)
from aiohttp.client_reqrep import ConnectionKey
from cachetools import LRUCache
from typing_extensions import override
from yarl import URL

from registry.core.latency_watcher import LatencyWatcher
from registry.http.client.connection import ResponseBody, UpstreamConnection

KEEP_ALIVE_SECONDS = 4
"""Below the 5 s after which common servers close idle connections, which no call must meet."""

HEADER_SETS = 256
"""Sets of header names that are shared."""

TARGETS = 4096
"""Upstream addresses for which what never changes is remembered."""

CONNECTIONS_TRIED = 3
"""New connections that are made for one request, where the upstream closes each at once."""

BODY_METHODS = frozenset({"PATCH", "POST", "PUT"})
"""Methods whose requests say how long their body is even if there is none (RFC 9110, 8.6)."""

SWEEP_SECONDS = 1.0
"""How often connections that were unused for long are closed."""


class HeaderLines(NamedTuple):
    """Headers in their wire format.

    Attributes:
        text: Each header ends with a line break.
        lines: The number of headers. More line breaks than that mean that a value contains one.
        names: In lower case.
    """

    text: str
    lines: int
    names: frozenset[str]


def header_lines(headers: Mapping[str, str]) -> HeaderLines:
    """Return *headers* in their wire format."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return HeaderLines("".join(lines), len(lines), _lower(tuple(headers)))


@lru_cache(maxsize=HEADER_SETS)
def _lower(names: tuple[str, ...]) -> frozenset[str]:
    """Return *names* in lower case: one object for the headers of all users of a server."""
    return frozenset(name.lower() for name in names)


class ConnectTimedOut(TimeoutError):  # noqa: N818 - as its base
    """No connection was made in time: name, network, or handshake."""


class AnswerTimedOut(TimeoutError):  # noqa: N818 - as its base
    """The head of the answer did not come in time."""


class ReadTimeout:
    """Bounds how long an upstream may send nothing, from when a call is late until it ends."""

    __slots__ = ("_connection", "_is_measured", "_latency_watcher", "_seconds")

    def __init__(
        self,
        latency_watcher: LatencyWatcher,
        connection: UpstreamConnection,
        seconds: float | None,
    ) -> None:
        self._connection = connection
        self._seconds = seconds
        self._is_measured = False
        self._latency_watcher = latency_watcher
        latency_watcher.begin(self)

    def late(self) -> None:
        """Start to measure; see `LatencyWatcher`."""
        self._is_measured = True
        self._connection.read_timeout = self._seconds
        self._connection.start_timeout()

    def allow(self, seconds: float | None) -> None:
        """Measure by another limit from now on."""
        self._seconds = seconds
        if self._is_measured:
            self.late()

    def end(self) -> None:
        """Measure no longer: the next call over this connection has a measure of its own."""
        self._latency_watcher.end(self)
        if self._is_measured:
            self._is_measured = False
            self._connection.read_timeout = None
            self._connection.start_timeout()


@dataclass(slots=True, eq=False, weakref_slot=True)
class IdleConnections:
    """Connections to one place that wait for the next request, and since when they do."""

    connections: deque[tuple[UpstreamConnection, float]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """What never changes about one address.

    Attributes:
        template: Stands for all requests to it: aiohttp asks it only where to connect to.
        line: Request target, version and `Host`, ending in a line break.
        end: The same without the target.
        idle: Shared with all addresses of the same place.
    """

    template: ClientRequest
    line: str
    end: str
    idle: IdleConnections


UNASKED = 0
"""In place of the status of an upstream's answer that was made without it."""


class UpstreamAnswer:
    """The head of an upstream's answer, and its body as a stream.

    Attributes:
        headers: Those that are read at all, by lower-case name.
        max_bytes: The longest message that is put together in memory of it.
        health_status: The status that says whether the upstream works; `UNASKED` if it was not
            asked.
    """

    __slots__ = ("body", "headers", "health_status", "max_bytes", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str], body: ResponseBody, max_bytes: int
    ) -> None:
        self.status = self.health_status = status
        self.headers = headers
        self.body = body
        self.max_bytes = max_bytes

    def rest(self) -> None:
        """Let the upstream be silent for as long as it likes from now on."""

    def close(self) -> None:
        """End the exchange; the answer need not have been read."""


class PooledAnswer(UpstreamAnswer):
    """An answer that comes over a connection of the pool."""

    __slots__ = ("_connection", "_idle", "_silence", "_wire")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: ResponseBody,
        wire: "UpstreamHttp",
        connection: UpstreamConnection,
        idle: IdleConnections,
        silence: ReadTimeout,
    ) -> None:
        super().__init__(status, headers, body, wire.max_response_bytes)
        self._wire = wire
        self._connection = connection
        self._idle = idle
        self._silence = silence

    @override
    def rest(self) -> None:
        self._silence.end()

    @override
    def close(self) -> None:
        """Give the connection back, or cut it when the answer was not read to its end."""
        self._silence.end()
        self._wire.give_back(self._connection, self._idle)


class UpstreamHttp:
    """Sends requests over the connections of *session*, and nothing else of it.

    No cookies, no redirects, no proxies, no retries: callers of different people share it.

    Args:
        session: Makes the connections.
        latency_watcher: Says when the time that an upstream is silent is worth measuring.
        max_response_bytes: Longest message that is put together in memory of an answer.
    """

    def __init__(
        self, session: ClientSession, latency_watcher: LatencyWatcher, *, max_response_bytes: int
    ) -> None:
        self._session = session
        self.max_response_bytes = max_response_bytes
        self._latency_watcher = latency_watcher
        self._targets: LRUCache[URL, RequestTarget] = LRUCache(TARGETS)
        self._last: tuple[URL, RequestTarget] | None = None
        self._places: WeakValueDictionary[ConnectionKey, IdleConnections] = WeakValueDictionary()
        self._filled: set[IdleConnections] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str] | HeaderLines,
        body: bytes | bytearray,
        *,
        timeout: ClientTimeout,  # noqa: ASYNC109 - carries the pool's own waits, not ours
        first_byte_seconds: float | None = None,
        path: str | None = None,
    ) -> UpstreamAnswer:
        """Send one request and return the head of the answer; the caller closes it.

        Args:
            method: An HTTP method.
            url: Where to.
            headers: All headers but `Host` and `Content-Length`.
            body: Sent as it is.
            timeout: `connect`, `sock_connect` and `sock_read` count.
            first_byte_seconds: Longest wait for the head, where it is not that of `sock_read`.
            path: Path and query, encoded, instead of those of *url*: for addresses that differ
                with every request, of which nothing is worth remembering.

        Raises:
            ConnectTimedOut: No connection in time.
            AnswerTimedOut: No head of an answer in time.
            ClientError: No connection, or it broke.
            InvalidHttpError: The answer is no HTTP.
            ValueError: A header holds a line break.
        """
        target = self._target(url)
        length = len(body) if body or method in BODY_METHODS else None
        lines = headers if isinstance(headers, HeaderLines) else header_lines(headers)
        line = target.line if path is None else path + target.end
        head = request_head(method, line, lines, length)
        connection = self._take(target.idle)
        if connection is None:
            connection = await self._connect(target, timeout)
        seconds = timeout.sock_read
        silence = ReadTimeout(self._latency_watcher, connection, first_byte_seconds or seconds)
        try:
            status, found, stream = await connection.ask(head + body if body else head)
        except BaseException as exc:
            silence.end()
            connection.discard()
            if isinstance(exc, TimeoutError):
                raise AnswerTimedOut from exc
            raise
        if first_byte_seconds is not None:
            silence.allow(seconds)
        return PooledAnswer(status, found, stream, self, connection, target.idle, silence)

    def give_back(self, connection: UpstreamConnection, idle: IdleConnections) -> None:
        """Keep a connection for the next request, if it can take one."""
        if self._is_closed or not connection.is_settled():
            connection.discard()
            return
        idle.connections.append((connection, monotonic()))
        self._filled.add(idle)
        if self._sweep is None:
            self._sweep_later()

    def close(self) -> None:
        """Close what waits, and keep no connection any more."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for idle in self._filled:
            for connection, _ in idle.connections:
                connection.discard()
            idle.connections.clear()
        self._filled.clear()

    def _take(self, idle: IdleConnections) -> UpstreamConnection | None:
        """Return the connection that was used last, if it can take another request."""
        waiting = idle.connections
        while waiting:
            connection, since = waiting.pop()
            # The sweep comes up to a second late, which is when servers close it from their side.
            if monotonic() - since < KEEP_ALIVE_SECONDS and connection.is_fit():
                return connection
            # It sent something while nothing was asked of it, which would be taken for the answer
            # to the next request, and that request's answer for the one after it; or it ended, or
            # is about to.
            connection.discard()
        return None

    async def _connect(
        self,
        target: RequestTarget,
        timeout: ClientTimeout,  # noqa: ASYNC109 - see request
    ) -> UpstreamConnection:
        for _ in range(CONNECTIONS_TRIED):
            try:
                lease = await self._connector().connect(target.template, [], timeout)
            except TimeoutError as exc:
                raise ConnectTimedOut from exc
            connection = lease.protocol
            if not isinstance(connection, UpstreamConnection):
                lease.close()
                raise TypeError("The session is not one of create_upstream_session.")
            connection.lease = lease
            if connection.is_fit():
                return connection
            connection.discard()
        raise ServerDisconnectedError

    def _close_unused(self) -> None:
        self._sweep = None
        deadline = monotonic() - KEEP_ALIVE_SECONDS
        for idle in [*self._filled]:
            waiting = idle.connections
            while waiting and waiting[0][1] < deadline:
                waiting.popleft()[0].discard()
            if not waiting:
                self._filled.discard(idle)
        if self._filled:
            self._sweep_later()

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(SWEEP_SECONDS, self._close_unused)

    def _connector(self) -> BaseConnector:
        connector = self._session.connector
        if connector is None:
            raise RuntimeError("The session is closed.")
        return connector

    def _target(self, url: URL) -> RequestTarget:
        last = self._last
        if last is not None and last[0] is url:
            return last[1]
        found = self._targets.get(url)
        if found is None:
            loop = asyncio.get_running_loop()
            template = ClientRequest("GET", url, loop=loop, session=self._session)
            idle = self._places.setdefault(template.connection_key, IdleConnections())
            end = f" HTTP/1.1\r\nHost: {_host(url)}\r\n"
            line = f"{url.raw_path_qs}{end}"
            found = self._targets[url] = RequestTarget(template, line, end, idle)
        self._last = (url, found)
        return found


def request_head(method: str, target: str, headers: HeaderLines, length: int | None) -> bytes:
    """Return the head of a request.

    Args:
        method: An HTTP method.
        target: Request target, version and `Host`, ending in a line break.
        headers: The other headers.
        length: Of the body, in bytes; None when there is none.

    Raises:
        ValueError: A header holds a line break or NUL, which would make it several.
    """
    text, breaks, _ = headers
    if length is None:
        head = f"{method} {target}{text}\r\n"
        breaks += 3
    else:
        head = f"{method} {target}{text}Content-Length: {length}\r\n\r\n"
        breaks += 4
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise ValueError("A header holds a control character.")
    return head.encode()


def _host(url: URL) -> str:
    return url.host_port_subcomponent or ""
