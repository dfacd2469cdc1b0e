"""Carries the requests of httpx2 clients with aiohttp, as the gateway's own are carried.

The SDK wants a client of httpx2, whose own transport took a fifth of the time of a reading.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator

import aiohttp
import httpx2
from multidict import CIMultiDict
from typing_extensions import override
from yarl import URL

MAX_HEADER_BYTES = 64 * 1024
"""Longest header of an answer."""

MAX_HEADERS = 1_000
"""Headers of an answer."""

UNASKED_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""What aiohttp adds by itself; requests come complete."""


class UntrustedError(httpx2.ConnectError):
    """Nobody who is trusted vouches for the server, or not for its name."""


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Connections of one reading, or of a few requests. Follows no redirect, keeps no cookie.

    Several clients may share it; whoever made it closes it.

    Args:
        trusted: Authorities for TLS.
    """

    def __init__(self, trusted: ssl.SSLContext) -> None:
        self._trusted = trusted
        self._session: aiohttp.ClientSession | None = None

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; its body is sent as a whole.

        Raises:
            TransportError: It could not be sent, or no HTTP came back.
        """
        session = self._session
        if session is None:
            session = self._session = self._opened()
        timeouts = request.extensions.get("timeout", {})
        with _told_as_transport_error():
            answer = await session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=CIMultiDict(request.headers.multi_items()),
                data=await request.aread() or None,
                allow_redirects=False,
                server_hostname=request.extensions.get("sni_hostname"),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=timeouts.get("connect"),
                    sock_read=timeouts.get("read"),
                ),
            )
        return httpx2.Response(answer.status, headers=answer.raw_headers, stream=_Body(answer))

    def _opened(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trusted),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=UNASKED_HEADERS,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )

    @override
    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _told_as_transport_error():
            async for piece in self._answer.content.iter_any():
                yield piece

    @override
    async def aclose(self) -> None:
        if self._answer.content.at_eof():
            self._answer.release()
        else:
            self._answer.close()


@contextlib.contextmanager
def _told_as_transport_error() -> Iterator[None]:
    """Turn aiohttp's failures into httpx2's, which the SDK and its callers know."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as exc:
        raise httpx2.ConnectTimeout(str(exc)) from exc
    except TimeoutError as exc:
        raise httpx2.ReadTimeout(str(exc)) from exc
    except aiohttp.ClientConnectorCertificateError as exc:
        raise UntrustedError(str(exc)) from exc
    except aiohttp.ClientConnectorError as exc:
        raise httpx2.ConnectError(str(exc)) from exc
    except aiohttp.ClientResponseError as exc:
        raise httpx2.RemoteProtocolError(str(exc)) from exc
    except aiohttp.ClientError as exc:
        raise httpx2.ReadError(str(exc)) from exc
