"""Single HTTP/1.1 exchanges over aiohttp's connection pool and response parser.

`ClientSession.request` builds a request, a response, a cookie view, a writer task and several
timers for each call: measured, more than half of its cost. Everything here that safety rests on
(address checks, TLS, pooling, parsing, back-pressure) is still aiohttp's own; only the head is
written, and the answer taken, without the layers in between.
docs/decisions/0005-byte-pass-through.md says what that depends on.
"""

import asyncio
from collections.abc import Mapping

from aiohttp import ClientRequest, ClientSession, ClientTimeout, ServerDisconnectedError
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import BaseConnector, Connection
from aiohttp.streams import StreamReader
from cachetools import LRUCache
from yarl import URL

from registry.gateway.patience import Patience
from registry.upstream.pool import UpstreamConnection

MAX_HEADER_BYTES = 64 * 1024
"""Longest header line taken from an upstream."""

TARGETS = 4096
"""Upstream addresses for which what never changes is remembered."""

UNMEASURED = 0.0
"""The read timeout of a connection that was used and is not waited for; a new one has None."""

NOT_FINAL = frozenset(range(100, 200)) - {101}


class ConnectTimedOut(TimeoutError):  # noqa: N818 - as its base
    """No connection was made in time: name, network, or handshake."""


class AnswerTimedOut(TimeoutError):  # noqa: N818 - as its base
    """The head of the answer did not come in time."""


class Silence:
    """Bounds how long an upstream may send nothing, from when a call is late until it ends."""

    __slots__ = ("_is_measured", "_patience", "_protocol", "_seconds")

    def __init__(
        self, patience: Patience, protocol: ResponseHandler, seconds: float | None
    ) -> None:
        self._protocol = protocol
        self._seconds = seconds
        self._is_measured = False
        self._patience = patience
        patience.begin(self)

    def late(self) -> None:
        """Start to measure; see `Patience`."""
        self._is_measured = True
        self._protocol.read_timeout = self._seconds
        self._protocol.start_timeout()

    def allow(self, seconds: float | None) -> None:
        """Measure by another limit from now on."""
        self._seconds = seconds
        if self._is_measured:
            self.late()

    def end(self) -> None:
        """Measure no longer: the next call over this connection has a measure of its own."""
        self._patience.end(self)
        if self._is_measured:
            self._protocol.read_timeout = UNMEASURED
            self._protocol.start_timeout()


class UpstreamAnswer:
    """The head of an upstream's answer, and its body as a stream.

    Attributes:
        headers: By case-insensitive name.
        body: Back-pressure reaches the upstream when it is not read.
    """

    __slots__ = ("_connection", "_silence", "body", "headers", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: StreamReader,
        connection: Connection,
        silence: Silence,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self._connection = connection
        self._silence = silence

    def rest(self) -> None:
        """Let the upstream be silent for as long as it likes from now on."""
        self._silence.end()

    def close(self) -> None:
        """Give the connection back, or cut it when the answer was not read to its end."""
        self._silence.end()
        transport = self._connection.transport
        # An answer may come before the request was taken in full; the rest must not reach others.
        is_sent = transport is not None and transport.get_write_buffer_size() == 0
        if is_sent and self.body.at_eof():
            self._connection.release()
        else:
            self._connection.close()


class Wire:
    """Sends requests over the connections of *session*, and nothing else of it.

    No cookies, no redirects, no proxies, no retries: callers of different people share it.

    Args:
        session: Whose connections.
        patience: Says when the time that an upstream is silent is worth measuring.
    """

    def __init__(self, session: ClientSession, patience: Patience) -> None:
        self._session = session
        self._patience = patience
        self._targets: LRUCache[URL, tuple[ClientRequest, str]] = LRUCache(TARGETS)

    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | bytearray,
        *,
        timeout: ClientTimeout,  # noqa: ASYNC109 - carries the pool's own waits, not ours
        first_byte_seconds: float | None = None,
    ) -> UpstreamAnswer:
        """Send one request and return the head of the answer; the caller closes it.

        Args:
            method: An HTTP method.
            url: Where to.
            headers: All headers but `Host` and `Content-Length`.
            body: Sent as it is.
            timeout: `connect`, `sock_connect` and `sock_read` count.
            first_byte_seconds: Longest wait for the head, where it is not that of `sock_read`.

        Raises:
            ConnectTimedOut: No connection in time.
            AnswerTimedOut: No head of an answer in time.
            ClientError: No connection, or it broke.
            HttpProcessingError: The answer is no HTTP.
            ValueError: A header holds a line break.
        """
        template, target = self._target(url)
        length = len(body) if body or method == "POST" else None
        head = request_head(method, target, headers, length)
        connection = await self._connection(template, timeout)
        try:
            return await self._exchange(
                connection, head, body, timeout.sock_read, first_byte_seconds
            )
        except BaseException:
            connection.close()
            raise

    async def _connection(
        self,
        template: ClientRequest,
        timeout: ClientTimeout,  # noqa: ASYNC109 - see request
    ) -> Connection:
        connector = self._connector()
        while True:
            try:
                connection = await connector.connect(template, [], timeout)
            except TimeoutError as exc:
                raise ConnectTimedOut from exc
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close and _may_be_used(protocol):
                return connection
            # It sent something while nothing was asked of it, which would be taken for the answer
            # to the next request, and that request's answer for the one after it; or it ended.
            connection.close()

    async def _exchange(
        self,
        connection: Connection,
        head: bytes,
        body: bytes | bytearray,
        idle_seconds: float | None,
        first_byte_seconds: float | None,
    ) -> UpstreamAnswer:
        protocol = connection.protocol
        transport = connection.transport
        if protocol is None or transport is None:
            raise ServerDisconnectedError
        protocol.set_response_params(
            read_until_eof=True,
            read_timeout=UNMEASURED,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        silence = Silence(self._patience, protocol, first_byte_seconds or idle_seconds)
        try:
            transport.write(head + body if body else head)
            while True:
                message, payload = await protocol.read()
                if message.code not in NOT_FINAL:
                    break
        except TimeoutError as exc:
            silence.end()
            raise AnswerTimedOut from exc
        except BaseException:
            silence.end()
            raise
        if first_byte_seconds is not None:
            silence.allow(idle_seconds)
        return UpstreamAnswer(message.code, message.headers, payload, connection, silence)

    def _connector(self) -> BaseConnector:
        connector = self._session.connector
        if connector is None:
            raise RuntimeError("The session is closed.")
        return connector

    def _target(self, url: URL) -> tuple[ClientRequest, str]:
        found = self._targets.get(url)
        if found is None:
            # Stands for all requests to this address: the pool asks it only where to connect to.
            loop = asyncio.get_running_loop()
            template = ClientRequest("GET", url, loop=loop, session=self._session)
            found = (template, f"{url.raw_path_qs} HTTP/1.1\r\nHost: {_host(url)}\r\n")
            self._targets[url] = found
        return found


def request_head(
    method: str, target: str, headers: Mapping[str, str], length: int | None
) -> bytes:
    """Return the head of a request.

    Args:
        method: An HTTP method.
        target: Request target, version and `Host`, ending in a line break.
        headers: The other headers.
        length: Of the body, in bytes; None when there is none.

    Raises:
        ValueError: A header holds a line break or NUL, which would make it several.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    if length is not None:
        lines.append(f"Content-Length: {length}\r\n")
    head = f"{method} {target}{''.join(lines)}\r\n"
    breaks = len(lines) + 3
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise ValueError("A header holds a control character.")
    return head.encode()


def _may_be_used(protocol: ResponseHandler) -> bool:
    """Whether no answer and no end came over a used connection since the loop last looked.

    An upstream that closed an idle connection is noticed before a request is sent into it, which
    could be neither answered nor repeated.
    """
    is_new = protocol.read_timeout is None
    return is_new or not isinstance(protocol, UpstreamConnection) or protocol.is_quiet()


def _host(url: URL) -> str:
    return url.host_port_subcomponent or ""
