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
from aiohttp.connector import BaseConnector, Connection
from aiohttp.streams import StreamReader
from cachetools import LRUCache
from yarl import URL

MAX_HEADER_BYTES = 64 * 1024
"""Longest header line taken from an upstream."""

TARGETS = 4096
"""Upstream addresses for which what never changes is remembered."""

NOT_FINAL = frozenset(range(100, 200)) - {101}


class UpstreamAnswer:
    """The head of an upstream's answer, and its body as a stream.

    Attributes:
        headers: By case-insensitive name.
        body: Back-pressure reaches the upstream when it is not read.
    """

    __slots__ = ("_connection", "body", "headers", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: StreamReader,
        connection: Connection,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self._connection = connection

    def close(self) -> None:
        """Give the connection back, or cut it when the answer was not read to its end."""
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
    """

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._targets: LRUCache[URL, tuple[ClientRequest, str]] = LRUCache(TARGETS)

    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | bytearray,
        *,
        timeout: ClientTimeout,  # noqa: ASYNC109 - carries the pool's own waits, not ours
    ) -> UpstreamAnswer:
        """Send one request and return the head of the answer; the caller closes it.

        Args:
            method: An HTTP method.
            url: Where to.
            headers: All headers but `Host` and `Content-Length`.
            body: Sent as it is.
            timeout: `connect`, `sock_connect` and `sock_read` count.

        Raises:
            TimeoutError: A wait took too long.
            ClientError: No connection, or it broke.
            HttpProcessingError: The answer is no HTTP.
            ValueError: A header holds a line break.
        """
        template, target = self._target(url)
        length = len(body) if body or method == "POST" else None
        head = request_head(method, target, headers, length)
        connection = await self._connector().connect(template, [], timeout)
        try:
            return await _exchange(connection, head, body, timeout)
        except BaseException:
            connection.close()
            raise

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


async def _exchange(
    connection: Connection,
    head: bytes,
    body: bytes | bytearray,
    timeout: ClientTimeout,  # noqa: ASYNC109 - see Wire.request
) -> UpstreamAnswer:
    protocol = connection.protocol
    transport = connection.transport
    if protocol is None or transport is None:
        raise ServerDisconnectedError
    protocol.set_response_params(
        read_until_eof=True,
        read_timeout=timeout.sock_read,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
    transport.write(head + body if body else head)
    protocol.start_timeout()
    while True:
        message, payload = await protocol.read()
        if message.code not in NOT_FINAL:
            return UpstreamAnswer(message.code, message.headers, payload, connection)


def _host(url: URL) -> str:
    return url.host_port_subcomponent or ""
