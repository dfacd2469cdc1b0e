"""The HTTP transport of discovery: every request goes to an address that the guard checked.

The connection is made to the checked address itself, with the name kept for `Host` and TLS, so
that a second look-up cannot lead elsewhere. All answers together are bounded.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache

import httpx2
from typing_extensions import override

from registry.upstream.errors import UpstreamError, UpstreamTooLargeError
from registry.upstream.guard import DEFAULT_PORTS, UrlGuard


@dataclass(slots=True)
class Exchange:
    """What happened on the wire, for telling why a reading failed.

    Attributes:
        heeds_get: Whether answers to GET count, or only open streams beside the requests.
        refusal: The first failure of ours, whatever the layers above made of it.
        status: Of the last answer.
        content_type: Of the last answer.
        authenticate: `WWW-Authenticate` of the last 401.
    """

    max_bytes: int
    heeds_get: bool = True
    taken: int = 0
    refusal: UpstreamError | None = None
    status: int | None = None
    content_type: str = ""
    location: str | None = None
    authenticate: str | None = None
    statuses: list[int] = field(default_factory=list)

    def take(self, size: int) -> None:
        """Count *size* bytes against the bound."""
        self.taken += size
        if self.taken > self.max_bytes:
            raise self.refused(UpstreamTooLargeError(f"It sent more than {self.max_bytes} bytes."))

    def refused(self, error: UpstreamError) -> UpstreamError:
        """Remember *error* if it is the first, and return it."""
        self.refusal = self.refusal or error
        return error


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Checks, pins and counts."""

    def __init__(self, guard: UrlGuard, exchange: Exchange) -> None:
        self._guard = guard
        self._exchange = exchange
        self._inner = httpx2.AsyncHTTPTransport(verify=_trusted(), trust_env=False, retries=0)

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request to a checked address."""
        exchange = self._exchange
        try:
            parts = self._guard.check_syntax(str(request.url))
            host = parts.hostname or ""
            port = parts.port or DEFAULT_PORTS[parts.scheme]
            address = (await self._guard.resolve(host, port))[0]
        except UpstreamError as exc:
            raise exchange.refused(exc) from None
        pinned = httpx2.Request(
            request.method,
            request.url.copy_with(host=address.host),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        response = await self._inner.handle_async_request(pinned)
        exchange.statuses.append(response.status_code)
        if request.method == "GET" and not exchange.heeds_get:
            # A stream beside the requests, which servers need not offer.
            return await self._checked(response)
        exchange.status = response.status_code
        exchange.content_type = response.headers.get("content-type", "").partition(";")[0].strip()
        exchange.location = response.headers.get("location")
        if response.status_code == httpx2.codes.UNAUTHORIZED:
            exchange.authenticate = response.headers.get("www-authenticate")
        return await self._checked(response)

    async def _checked(self, response: httpx2.Response) -> httpx2.Response:
        exchange = self._exchange
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            # We asked for none: what unpacks to a thousand times its size is not for us.
            await response.aclose()
            raise exchange.refused(UpstreamTooLargeError("It sent a compressed answer unasked."))
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)  # noqa: S101 - an async transport's own
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_CountedStream(stream, exchange),
            extensions=response.extensions,
        )

    @override
    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


@cache
def _trusted() -> ssl.SSLContext:
    """Return the authorities that are trusted.

    Loading them takes 30 ms, in which nothing else is served, and would be done for each reading.
    """
    return httpx2.create_ssl_context(trust_env=False)


class _CountedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._exchange.take(len(chunk))
            yield chunk

    @override
    async def aclose(self) -> None:
        with contextlib.suppress(httpx2.TransportError):
            await self._inner.aclose()


def guarded_client(
    guard: UrlGuard,
    exchange: Exchange,
    headers: dict[str, str],
    *,
    connect_timeout_seconds: float,
    read_timeout_seconds: float,
) -> httpx2.AsyncClient:
    """Return a client whose every request is checked. It follows no redirect by itself."""
    return httpx2.AsyncClient(
        transport=GuardedTransport(guard, exchange),
        headers={**headers, "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(read_timeout_seconds, connect=connect_timeout_seconds),
        follow_redirects=False,
        trust_env=False,
    )
