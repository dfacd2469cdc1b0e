"""HTTP requests to authorization servers and for metadata.

Every URL is given by another program: each is judged, none is followed to another place, and what
comes back is bounded in size and time.
"""

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

from aiohttp import ClientSession, ClientTimeout
from yarl import URL

from registry.core.json import JsonObject
from registry.core.latency_watcher import LatencyWatcher
from registry.http.client.exchange import UpstreamAnswer, UpstreamHttp
from registry.upstream.client import FAILURES, blocked
from registry.upstream.errors import UnsafeAddressError, UpstreamConnectError
from registry.upstream.guard import DEFAULT_PORTS, UrlGuard, is_public
from registry.upstream.oauth.errors import (
    AuthorizationServerUnavailableError,
    OAuthMetadataError,
)
from registry.upstream.pool import create_upstream_session

MAX_ANSWER_BYTES = 256 * 1024
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
UNAVAILABLE = frozenset({408, 425, 429, *range(500, 600)})
"""Statuses that say nothing about what was asked: it may work later."""


@dataclass(frozen=True, slots=True)
class OAuthAnswer:
    """An answer, read to its end.

    Attributes:
        headers: By lower-case name.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def is_unavailable(self) -> bool:
        """Whether the status says that the request may work later."""
        return self.status in UNAVAILABLE

    def document(self) -> JsonObject | None:
        """Return the JSON object in the body, whatever its content type; None if there is none."""
        try:
            found = json.loads(self.body, object_pairs_hook=_unique, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def form(self) -> JsonObject:
        """Return the form in the body; empty if it is none."""
        if self.body.lstrip()[:1] in {b"{", b"["}:
            return {}
        try:
            pairs = parse_qsl(self.body.decode().strip(), strict_parsing=True, max_num_fields=100)
        except ValueError:
            return {}
        return dict(pairs) if len(dict(pairs)) == len(pairs) else {}


class OAuthHttp:
    """Sends requests.

    Args:
        session: Pool whose connections are judged by *guard*; closed by the caller.
        guard: Says which addresses may be contacted.
        connect_timeout_seconds: Longest wait for a connection.
        total_timeout_seconds: Longest time of a request.
    """

    def __init__(
        self,
        session: ClientSession,
        guard: UrlGuard,
        *,
        connect_timeout_seconds: float,
        total_timeout_seconds: float,
    ) -> None:
        self._http = UpstreamHttp(session, LatencyWatcher(), max_response_bytes=MAX_ANSWER_BYTES)
        self._guard = guard
        self._total_timeout_seconds = total_timeout_seconds
        self._timeout = ClientTimeout(
            connect=connect_timeout_seconds,
            sock_connect=connect_timeout_seconds,
            sock_read=total_timeout_seconds,
        )

    def close(self) -> None:
        """Close unused connections."""
        self._http.close()

    @contextlib.asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """Bound the time of all requests in the body together by the time of one.

        Raises:
            AuthorizationServerUnavailableError: It is over.
        """
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                yield
        except TimeoutError:
            message = "The authorization server was not found in time."
            raise AuthorizationServerUnavailableError(message) from None

    async def get(self, url: str, *, max_bytes: int = MAX_ANSWER_BYTES) -> OAuthAnswer:
        """Send a GET request.

        Raises:
            UnsafeAddressError: The URL may not be contacted.
            AuthorizationServerUnavailableError: No answer, or one that is too long.
        """
        return await self._request("GET", url, {"Accept": JSON}, b"", max_bytes)

    async def probe(self, method: str, url: str, accept: str) -> OAuthAnswer:
        """Send an empty JSON object, or nothing, and read only the head of the answer; see `get`.

        The body may be an event stream without an end.
        """
        sent, body = {"Accept": accept}, b""
        if method == "POST":
            sent, body = {**sent, "Content-Type": JSON}, b"{}"
        return await self._request(method, url, sent, body, None)

    async def post_form(
        self, url: str, fields: Sequence[tuple[str, str]], headers: Mapping[str, str]
    ) -> OAuthAnswer:
        """Send a form that contains secrets; see `get`.

        Raises:
            OAuthMetadataError: It must be reached by https; see `require_tls`.
        """
        await self.require_tls(url)
        sent = {"Accept": JSON, "Content-Type": FORM, **headers}
        return await self._request("POST", url, sent, urlencode(fields).encode(), MAX_ANSWER_BYTES)

    async def post_json(self, url: str, document: JsonObject) -> OAuthAnswer:
        """Send a JSON object whose answer contains secrets; see `post_form`."""
        await self.require_tls(url)
        sent = {"Accept": JSON, "Content-Type": JSON}
        body = json.dumps(document).encode()
        return await self._request("POST", url, sent, body, MAX_ANSWER_BYTES)

    async def delete(self, url: str, headers: Mapping[str, str]) -> OAuthAnswer:
        """Send a DELETE request that contains a secret; see `post_form`."""
        await self.require_tls(url)
        return await self._request(
            "DELETE", url, {"Accept": JSON, **headers}, b"", MAX_ANSWER_BYTES
        )

    async def require_tls(self, url: str) -> None:
        """Refuse a URL that is not of TLS, unless all its addresses are private ones.

        Raises:
            UnsafeAddressError: It may not be contacted.
            AuthorizationServerUnavailableError: Its name cannot be resolved.
            OAuthMetadataError: It must be reached by https.
        """
        parts = self._guard.check_syntax(url)
        if parts.scheme == "https":
            return
        host = parts.hostname or ""
        try:
            found = await self._guard.resolve(host, parts.port or DEFAULT_PORTS["http"])
        except UpstreamConnectError as exc:
            raise AuthorizationServerUnavailableError(exc.message) from None
        if any(is_public(ipaddress.ip_address(address.host)) for address in found):
            raise OAuthMetadataError(f"{origin_of(url)} must be reached by https.")

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, max_bytes: int | None
    ) -> OAuthAnswer:
        self._guard.check_syntax(url)
        sent = {"Accept-Encoding": "identity", **headers}
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                answer = await self._http.request(
                    method, URL(url, encoded=True), sent, body, timeout=self._timeout
                )
                try:
                    whole = b"" if max_bytes is None else await _whole(answer, url, max_bytes)
                finally:
                    answer.close()
        except TimeoutError:
            message = f"{origin_of(url)} did not answer in time."
            raise AuthorizationServerUnavailableError(message) from None
        except FAILURES as exc:
            refused = blocked(exc)
            if isinstance(refused, UnsafeAddressError):
                raise refused from None
            message = f"Could not connect to {origin_of(url)}."
            raise AuthorizationServerUnavailableError(message) from None
        return OAuthAnswer(answer.status, answer.headers, whole)


@contextlib.asynccontextmanager
async def oauth_http(
    guard: UrlGuard, *, connect_timeout_seconds: float, total_timeout_seconds: float
) -> AsyncIterator[OAuthHttp]:
    """Yield what sends requests over connections of its own, which are closed after it."""
    session = create_upstream_session(
        guard,
        connect_timeout_seconds=connect_timeout_seconds,
        idle_timeout_seconds=total_timeout_seconds,
    )
    http = OAuthHttp(
        session,
        guard,
        connect_timeout_seconds=connect_timeout_seconds,
        total_timeout_seconds=total_timeout_seconds,
    )
    try:
        yield http
    finally:
        # In this order: the session waits until connections are closed that are still its own.
        await session.close()
        http.close()


def origin_of(url: str) -> str:
    """Return scheme, host and port of *url*, to be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def _whole(answer: UpstreamAnswer, url: str, max_bytes: int) -> bytes:
    whole = bytearray()
    async for piece in answer.body.iter_any():
        whole += piece
        if len(whole) > max_bytes:
            message = f"The answer of {origin_of(url)} is too long."
            raise AuthorizationServerUnavailableError(message)
    return bytes(whole)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("A member is repeated.")
    return found


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON.")
