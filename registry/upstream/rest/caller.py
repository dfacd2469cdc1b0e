"""Sends the requests of operations, over the one pool of connections, and reads what comes back.

Above is the server that an API has in this process; below are HTTP exchanges, whose connections go
only where the guard allows. Addresses are checked when a connection is made, answers are bounded
while they are read, and redirects never leave the origin, so that credentials do not either.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urljoin, urlsplit
from uuid import uuid4

from aiohttp import (
    ClientConnectorError,
    ClientOSError,
    ClientPayloadError,
    ClientTimeout,
    ServerDisconnectedError,
)
from cachetools import LRUCache
from yarl import URL

from registry.http.client.exchange import UpstreamAnswer, UpstreamHttp
from registry.upstream.rest.credentials import OF_EVERY_REQUEST, Credentials
from registry.upstream.rest.requests import LITERAL_SAFE, ArgumentError, RestRequest
from registry.upstream.rest.results import MAX_RESULT_BYTES, SUCCESS, RestAnswer

MAX_PROJECTED_BYTES: Final = 4 * 1024 * 1024
"""Longest body that is read to be projected."""

MAX_FAILURE_BYTES: Final = 64 * 1024
"""Longest part of the body of an error that is read."""

CONTENT_ENCODING: Final = "content-encoding"
MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
SEE_OTHER: Final = 303
SAME_METHOD: Final = frozenset({307, 308})
READING: Final = frozenset({"GET", "HEAD"})
IDEMPOTENT: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"})
"""Methods of which two requests do what one does (RFC 9110, 9.2.2)."""

ORIGINS: Final = 1_024
DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
CONTROL = re.compile(r"[\x00-\x20\x7f]")


class RedirectError(Exception):
    """An answer leads to where a request must not follow."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The API redirects {what}.")


class RestCaller:
    """Makes calls of operations.

    Args:
        http: Sends single requests.
        retries_idempotent: Whether what may be repeated is sent again, once, when the connection
            breaks before anything of an answer came.
    """

    def __init__(self, http: UpstreamHttp, *, retries_idempotent: bool) -> None:
        self._http = http
        self._retries_idempotent = retries_idempotent
        self._origins: LRUCache[str, URL] = LRUCache(ORIGINS)

    @property
    def max_bytes(self) -> int:
        """Return the longest message that is put together in memory."""
        return self._http.max_response_bytes

    async def call(
        self,
        request: RestRequest,
        credentials: Credentials,
        *,
        home: str,
        timeout: ClientTimeout,  # noqa: ASYNC109 - carries the pool's own waits, not ours
        first_byte_seconds: float | None = None,
        idempotency_header: str | None = None,
        is_projected: bool = False,
        is_public: bool = False,
    ) -> RestAnswer:
        """Send a request, follow redirects within its origin, and read the answer.

        Args:
            request: Made of the arguments of the call.
            credentials: Those stored for the API. Only its own origin gets them.
            home: The origin of the API.
            timeout: Of each exchange.
            first_byte_seconds: Longest wait for the head of an answer.
            idempotency_header: Gets a fresh value, the same in a repetition, unless the arguments
                have one.
            is_projected: Whether more is read, of which only a part will be left.
            is_public: Whether the operation wants no credentials.

        Raises:
            ArgumentError: The arguments set what is a credential.
            RedirectError: The answer leads elsewhere.
            Exception: One of `registry.upstream.client.FAILURES`.
        """
        if request.origin != home:
            # The description's choice, not of those who stored the credentials.
            credentials = _without_secrets(credentials)
        elif is_public:
            credentials = credentials.of_nobody()
        method, target = request.method, _with_query(request.target, credentials)
        headers = _with_headers(request.headers, credentials)
        content = request.content or b""
        may_repeat = method in IDEMPOTENT
        if idempotency_header is not None:
            may_repeat = True
            if all(name.lower() != idempotency_header.lower() for name in headers):
                headers[idempotency_header] = uuid4().hex
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._exchange(
                (method, request.origin, target, headers, content),
                timeout,
                first_byte_seconds,
                may_repeat=may_repeat and self._retries_idempotent,
            )
            try:
                location = answer.headers.get("location")
                if answer.status not in REDIRECTS or location is None:
                    return await _read(answer, method, request, is_projected=is_projected)
                followed = _redirected(request.origin + target, location, method, answer.status)
            finally:
                answer.close()
            if answer.status == SEE_OTHER and method not in READING:
                method, content = "GET", b""
                headers = {name: value for name, value in headers.items() if not _is_of_body(name)}
            target = _with_query(followed, credentials, is_checked=False)
        raise RedirectError(f"more than {MAX_REDIRECTS} times")

    async def _exchange(
        self,
        request: tuple[str, str, str, Mapping[str, str], bytes],
        timeout: ClientTimeout,  # noqa: ASYNC109 - see call
        first_byte_seconds: float | None,
        *,
        may_repeat: bool,
    ) -> UpstreamAnswer:
        method, origin, target, headers, content = request
        url = self._origins.get(origin)
        if url is None:
            url = self._origins[origin] = URL(origin, encoded=True)
        try:
            return await self._http.request(
                method,
                url,
                headers,
                content,
                timeout=timeout,
                first_byte_seconds=first_byte_seconds,
                path=target,
            )
        except (ServerDisconnectedError, ClientOSError) as exc:
            if not may_repeat or isinstance(exc, ClientConnectorError):
                raise
        try:
            return await self._http.request(
                method,
                url,
                headers,
                content,
                timeout=timeout,
                first_byte_seconds=first_byte_seconds,
                path=target,
            )
        except (ServerDisconnectedError, ClientOSError) as exc:
            if isinstance(exc, ClientConnectorError):
                raise
            # An error by which nobody above sends it for a third time.
            raise ClientPayloadError("The connection broke twice.") from exc


async def _read(
    answer: UpstreamAnswer, method: str, request: RestRequest, *, is_projected: bool
) -> RestAnswer:
    headers = answer.headers
    most = MAX_RESULT_BYTES
    if answer.status not in SUCCESS:
        most = MAX_FAILURE_BYTES
    elif is_projected:
        most = min(MAX_PROJECTED_BYTES, answer.max_bytes)
    body, is_cut = b"", False
    # What answers HEAD says how long the body would be.
    if method != "HEAD":
        body, is_cut = await _beginning(answer, most)
    length = headers.get("content-length", "")
    is_known = length.isdecimal() and "content-encoding" not in headers
    return RestAnswer(
        answer.status,
        headers.get("content-type", ""),
        body,
        is_cut,
        int(length) if is_known else None,
        headers.get("retry-after"),
        request.target.partition("?")[0],
    )


async def _beginning(answer: UpstreamAnswer, most: int) -> tuple[bytes, bool]:
    """Return a body as far as it is wanted, and whether more would have come."""
    if answer.body.is_complete and CONTENT_ENCODING not in answer.headers:
        whole = await answer.body.read()
        return whole[:most], len(whole) > most
    found = bytearray()
    async for piece in answer.body.iter_any():
        found += piece
        if len(found) > most:
            return bytes(found[:most]), True
    return bytes(found), False


def _without_secrets(credentials: Credentials) -> Credentials:
    return Credentials(
        {
            name: value
            for name, value in credentials.headers.items()
            if name.lower() in OF_EVERY_REQUEST
        }
    )


def _with_headers(headers: Mapping[str, str], credentials: Credentials) -> dict[str, str]:
    """Return the headers of a request with credentials, which no argument can replace."""
    if len(headers) == 1:
        # That of what is accepted, which no stored header replaces.
        found = {**headers, **credentials.headers}
    else:
        stored = {name.lower() for name in credentials.headers}
        found = {name: value for name, value in headers.items() if name.lower() not in stored}
        found.update(credentials.headers)
    if credentials.cookie:
        own = {part.partition("=")[0].strip() for part in credentials.cookie.split(";")}
        others = [
            part
            for part in found.get("Cookie", "").split("; ")
            if part and part.partition("=")[0] not in own
        ]
        found["Cookie"] = "; ".join([*others, credentials.cookie])
    return found


def _with_query(target: str, credentials: Credentials, *, is_checked: bool = True) -> str:
    """Return a target with the credentials of the query.

    Raises:
        ArgumentError: The arguments set one of them, and the API might take theirs.
    """
    if not credentials.query:
        return target
    path, _, query = target.partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    names = {name for name, _ in credentials.query}
    others = [pair for pair in pairs if pair.partition("=")[0] not in names]
    if is_checked and len(others) != len(pairs):
        raise ArgumentError("query", "must not set the parameter of the stored key")
    own = (f"{name}={value}" for name, value in credentials.query)
    return f"{path}?{'&'.join([*others, *own])}"


def _is_of_body(name: str) -> bool:
    return name.lower().startswith("content-")


def _redirected(url: str, location: str, method: str, status: int) -> str:
    """Return path and query of where a redirect leads.

    Raises:
        RedirectError: To another origin, or with another method than one that reads.
    """
    try:
        parts = urlsplit(urljoin(url, location))
        there = (parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme))
        here = urlsplit(url)
        is_within = there == (here.scheme, here.hostname, here.port or DEFAULT_PORTS[here.scheme])
    except ValueError:
        raise RedirectError("to what is no address") from None
    if not is_within:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"[:200]
        raise RedirectError(f"to another origin, {CONTROL.sub('', shown)}, which is not followed")
    if status not in SAME_METHOD and status != SEE_OTHER and method not in READING:
        raise RedirectError(f"a {method} with HTTP {status}, which is not followed")
    path = quote(parts.path or "/", safe=LITERAL_SAFE)
    query = quote(parts.query, safe=LITERAL_SAFE + "?[]")
    return f"{path}?{query}" if query else path
