"""Fetching of OpenAPI descriptions, whose URLs are given by people and by other descriptions."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from aiohttp import ClientTimeout
from yarl import URL

from registry.core.latency_watcher import LatencyWatcher
from registry.http.client.exchange import UpstreamAnswer, UpstreamHttp
from registry.upstream.client import FAILURES, blocked
from registry.upstream.errors import (
    UnsafeAddressError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamMissingError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.pool import create_upstream_session
from registry.upstream.values import ReadingLimits

MAX_REDIRECTS = 5
ACCEPT = "application/json, application/yaml;q=0.9, text/yaml;q=0.8, */*;q=0.5"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
FORBIDDEN = 403
REFUSED = frozenset({401, FORBIDDEN})
NOT_MODIFIED = 304
MISSING = frozenset({404, 410})
CONDITIONS = frozenset({"If-None-Match", "If-Modified-Since"})
OK = 200


@dataclass(frozen=True, slots=True)
class FetchedDescription:
    """A fetched file.

    Attributes:
        url: Where it was, after redirects.
        content: None if it has not changed.
        etag: Its version, if the server told it.
        last_modified: When it was changed, in the server's own words.
    """

    url: str
    content: bytes | None = field(repr=False)
    etag: str | None
    last_modified: str | None = None


class DescriptionFetcher:
    """Fetches the files of one description, within bounds for all of them together.

    Args:
        headers: Credentials, sent to *origin* only.
        origin: Scheme, host and port that the credentials are for; None for none.
    """

    def __init__(
        self,
        guard: UrlGuard,
        limits: ReadingLimits,
        headers: Mapping[str, str],
        origin: str | None,
    ) -> None:
        self._guard = guard
        self._limits = limits
        self._headers = headers
        self._origin = origin
        self._left = limits.max_bytes

    async def fetch(
        self, url: str, etag: str | None = None, last_modified: str | None = None
    ) -> FetchedDescription:
        """Fetch one file.

        Args:
            url: Where it is.
            etag: The version that is known; it is not sent again.
            last_modified: When the known one was changed; used without *etag*.

        Raises:
            UnsafeAddressError: The URL, or one that it leads to, may not be contacted.
            UpstreamError: It cannot be fetched.
        """
        async with _http(self._guard, self._limits) as http:
            for _ in range(MAX_REDIRECTS + 1):
                sent = {"Accept": ACCEPT, "Accept-Encoding": "gzip, deflate"}
                if origin_of(url) == self._origin:
                    sent |= _sendable(self._headers)
                if etag is not None:
                    sent["If-None-Match"] = etag
                elif last_modified is not None:
                    sent["If-Modified-Since"] = last_modified
                answer = await self._ask(http, url, sent)
                if isinstance(answer, FetchedDescription):
                    return answer
                url = answer
        raise UpstreamError("The description's URL leads to too many others.")

    async def _ask(
        self, http: UpstreamHttp, url: str, sent: Mapping[str, str]
    ) -> FetchedDescription | str:
        """Return the file, or the URL where it is."""
        async with _answer(http, "GET", url, sent, self._guard, self._limits) as answer:
            location = answer.headers.get("location")
            if answer.status in REDIRECTS and location is not None:
                return urljoin(url, location)
            etag, modified = answer.headers.get("etag"), answer.headers.get("last-modified")
            if answer.status == NOT_MODIFIED and CONDITIONS & sent.keys():
                return FetchedDescription(url, None, etag, modified)
            if answer.status in REFUSED:
                message = (
                    f"{origin_of(url)} wants credentials for the description. They are sent to "
                    "the origin of `base_url` alone: give it, or the description itself."
                )
                raise UpstreamRefusedError(message, is_forbidden=answer.status == FORBIDDEN)
            if answer.status != OK:
                message = f"{origin_of(url)} answered {answer.status} instead of the description."
                raise (UpstreamMissingError if answer.status in MISSING else UpstreamError)(
                    message
                )
            content = bytearray()
            async for piece in answer.body.iter_any():
                content += piece
                self._left -= len(piece)
                if self._left < 0:
                    raise UpstreamTooLargeError("The description is too large.")
            return FetchedDescription(url, bytes(content), etag, modified)


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers among the credentials: keys of query parameters are none."""
    return {name: value for name, value in headers.items() if not name.startswith("?")}


@contextlib.asynccontextmanager
async def _http(guard: UrlGuard, limits: ReadingLimits) -> AsyncIterator[UpstreamHttp]:
    """Yield what sends requests over connections of its own, which are closed after it."""
    session = create_upstream_session(
        guard,
        connect_timeout_seconds=limits.connect_timeout_seconds,
        idle_timeout_seconds=limits.total_timeout_seconds,
    )
    http = UpstreamHttp(session, LatencyWatcher(), max_response_bytes=limits.max_bytes)
    try:
        yield http
    finally:
        # In this order: the session waits until connections are closed that are still its own.
        await session.close()
        http.close()


@contextlib.asynccontextmanager
async def _answer(
    http: UpstreamHttp,
    method: str,
    url: str,
    headers: Mapping[str, str],
    guard: UrlGuard,
    limits: ReadingLimits,
) -> AsyncIterator[UpstreamAnswer]:
    """Yield the answer to a request, closed after it; failures in between are translated."""
    guard.check_syntax(url)
    timeout = ClientTimeout(
        connect=limits.connect_timeout_seconds,
        sock_connect=limits.connect_timeout_seconds,
        sock_read=limits.total_timeout_seconds,
    )
    try:
        async with asyncio.timeout(limits.total_timeout_seconds):
            answer = await http.request(method, URL(url), headers, b"", timeout=timeout)
            try:
                yield answer
            finally:
                answer.close()
    except TimeoutError:
        raise UpstreamTimeoutError(f"{origin_of(url)} did not answer in time.") from None
    except FAILURES as exc:
        refused = blocked(exc)
        if isinstance(refused, UnsafeAddressError):
            raise refused from None
        raise UpstreamConnectError(f"Could not connect to {origin_of(url)}.") from None


async def reach(url: str, guard: UrlGuard, limits: ReadingLimits) -> None:
    """Check that something answers at *url*, whatever it answers. Sends no credentials.

    Raises:
        UnsafeAddressError: It may not be contacted.
        UpstreamError: Nothing answers.
    """
    async with (
        _http(guard, limits) as http,
        _answer(http, "HEAD", url, {}, guard, limits),
    ):
        pass


def origin_of(url: str) -> str:
    """Return scheme, host and port of *url*, without the port if it is the scheme's own."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    try:
        port = parts.port
    except ValueError:
        port = None
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + ("" if port in {None, default} else f":{port}")
