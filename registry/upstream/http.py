"""The HTTP transport of discovery: every request goes to an address that the guard checked.

The connection is made to the checked address itself, with the name kept for `Host` and TLS, so
that a second look-up cannot lead elsewhere. All answers together are bounded.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx2
from typing_extensions import override

from registry.core.json import load_text, members
from registry.upstream.aiohttp_transport import AiohttpTransport
from registry.upstream.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTooLargeError,
)
from registry.upstream.events import (
    ENDPOINT,
    MESSAGE,
    SILENT,
    EventParser,
    ServerSentEvent,
    written,
)
from registry.upstream.guard import DEFAULT_PORTS, UrlGuard

LONG_MESSAGE_BYTES = 256 * 1024
"""From here on a message is read beside the event loop, which others wait for meanwhile."""

MAX_EVENTS = 50_000
"""Events in all streams of one reading; its bytes would be enough for millions of empty ones."""

ADDRESSES_TRIED = 8
"""Of one name."""

NEXT_ADDRESS_SECONDS = 2.0
"""Longest wait for a connection to an address while there are others to try."""

EVENTS_AT_ONCE = 500
"""After so many others have their turn."""

PLAIN = frozenset({"", "identity"})
"""Content codings that leave a body as it is."""

Rewriting = Callable[[bytes], bytes]
RequestId = str | int


@dataclass(slots=True)
class ExchangeRecord:
    """What happened on the wire, for telling why a reading failed.

    Attributes:
        heeds_get: Whether answers to GET count, or only open streams beside the requests.
        refusal: The first failure of ours, whatever the layers above made of it.
        broken: How an answer broke off, whatever the layers above made of it.
        on_failure: Called on the first of either, for whoever waits for what then never comes.
        stream_url: Of a stream of the older transport, until it names its endpoint.
        status: Of the last answer.
        content_type: Of the last answer.
        authenticate: `WWW-Authenticate` of the last 401.
        asked: The ids of all requests, as text.
    """

    max_bytes: int
    heeds_get: bool = True
    taken: int = 0
    events: int = 0
    refusal: UpstreamError | None = None
    broken: httpx2.TransportError | None = None
    on_failure: Callable[[], None] | None = None
    stream_url: str | None = None
    status: int | None = None
    content_type: str = ""
    location: str | None = None
    authenticate: str | None = None
    statuses: list[int] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def take(self, size: int) -> None:
        """Count *size* bytes against the bound."""
        self.taken += size
        if self.taken > self.max_bytes:
            raise self.refused(UpstreamTooLargeError(f"It sent more than {self.max_bytes} bytes."))

    def take_event(self) -> int:
        """Count an event of a stream against `MAX_EVENTS`; return how many there were."""
        self.events += 1
        if self.events > MAX_EVENTS:
            raise self.refused(UpstreamTooLargeError(f"It sent more than {MAX_EVENTS} events."))
        return self.events

    def refused(self, error: UpstreamError) -> UpstreamError:
        """Remember *error* if it is the first, and return it."""
        self.refusal = self.refusal or error
        self._tell()
        return error

    def broke_off(self, error: httpx2.TransportError) -> None:
        """Remember that an answer broke off."""
        self.broken = error
        self._tell()

    def endpoint_named(self, event: ServerSentEvent) -> bytes | None:
        """Return the event that names the endpoint, as the SDK takes it; None of one before it.

        Messages go to the origin that was registered, however the stream writes it, and to no
        other.
        """
        stream_url, endpoint = self.stream_url, event.data
        if stream_url is None or event.name != ENDPOINT or not endpoint:
            return None
        self.stream_url, own = None, urlsplit(stream_url)
        try:
            named = urlsplit(urljoin(stream_url, endpoint.decode(errors="replace")))
            is_own = _origin(named) == _origin(own)
        except ValueError:
            raise self.refused(UpstreamProtocolError("Its endpoint is no URL.")) from None
        if not is_own:
            told = "It wants messages to be sent to another origin, which is not done."
            raise self.refused(UpstreamProtocolError(told))
        place = named._replace(scheme=own.scheme, netloc=own.netloc, fragment="")
        return written(event._replace(data=place.geturl().encode()))

    def answered(self, message: bytes, request_id: RequestId | None) -> bytes:
        """Return *message* as the SDK takes it; it would wait for ever for another answer.

        Args:
            message: What came.
            request_id: Of the request that it came for; None on a stream that belongs to none.

        Raises:
            UpstreamProtocolError: It answers what was not asked.
        """
        body = members(json.loads(message))
        if "method" in body or not ("result" in body or "error" in body):
            return message
        # The SDK takes a number that came back as text.
        is_known = str(body.get("id")) in self.asked
        if not is_known and "error" in body and request_id is not None:
            # Servers refuse what they did not read under no id, or one of their own
            # ("server-error" in the Python SDK 1.x): it is of this request, for it came with it.
            return json.dumps({**body, "id": request_id}, ensure_ascii=False).encode()
        if not is_known:
            told = "It answered under another id than that of the request."
            raise self.refused(UpstreamProtocolError(told))
        return message

    def _tell(self) -> None:
        on_failure, self.on_failure = self.on_failure, None
        if on_failure is not None:
            on_failure()


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Checks, pins and counts."""

    def __init__(
        self,
        guard: UrlGuard,
        exchange: ExchangeRecord,
        carrier: httpx2.AsyncBaseTransport,
        rewrite: Rewriting | None,
    ) -> None:
        self._guard = guard
        self._exchange = exchange
        self._carrier = carrier
        self._rewrite = rewrite
        self._reached: str | None = None

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request to a checked address."""
        exchange = self._exchange
        request_id = None if self._rewrite is None else _request_id(await request.aread())
        if request_id is not None:
            exchange.asked.add(str(request_id))
        try:
            parts = self._guard.check_syntax(str(request.url))
            host = parts.hostname or ""
            port = parts.port or DEFAULT_PORTS[parts.scheme]
            # All of them were judged.
            addresses = [address.host for address in await self._guard.resolve(host, port)]
        except UpstreamError as exc:
            raise exchange.refused(exc) from None
        response = await self._sent(request, host, addresses[:ADDRESSES_TRIED])
        exchange.statuses.append(response.status_code)
        if request.method == "GET" and not exchange.heeds_get:
            # A stream beside the requests, which servers need not offer.
            return await self._checked(response, None)
        exchange.status = response.status_code
        exchange.content_type = response.headers.get("content-type", "").partition(";")[0].strip()
        exchange.location = response.headers.get("location")
        if response.status_code == httpx2.codes.UNAUTHORIZED:
            exchange.authenticate = response.headers.get("www-authenticate")
        return await self._checked(response, request_id)

    async def _sent(
        self, request: httpx2.Request, host: str, addresses: list[str]
    ) -> httpx2.Response:
        """Send to the first of the addresses that takes a connection, in turn."""
        # A stable sort: the one that took a connection before goes first.
        addresses.sort(key=lambda address: address != self._reached)
        usual = request.extensions.get("timeout", {})
        for tried, address in enumerate(addresses, 1):
            is_last = tried == len(addresses)
            timeouts = usual
            if not is_last and usual.get("connect") is not None:
                timeouts = {**usual, "connect": min(usual["connect"], NEXT_ADDRESS_SECONDS)}
            pinned = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "timeout": timeouts, "sni_hostname": host},
            )
            try:
                response = await self._carrier.handle_async_request(pinned)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                # Nothing was sent yet.
                if is_last:
                    raise
                continue
            self._reached = address
            return response
        raise AssertionError("A name has at least one address.")

    async def _checked(
        self, response: httpx2.Response, request_id: RequestId | None
    ) -> httpx2.Response:
        exchange = self._exchange
        if response.headers.get("content-encoding", "").strip().lower() not in PLAIN:
            # We asked for none: what unpacks to a thousand times its size is not for us.
            await response.aclose()
            raise exchange.refused(UpstreamTooLargeError("It sent a compressed answer unasked."))
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)  # noqa: S101 - an async transport's own
        stream = _CountedStream(stream, exchange)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        # As bytes: what they hold beyond ASCII is no reason to refuse an answer. Of cookies it is,
        # because they are sent back.
        headers = [
            (name, value)
            for name, value in response.headers.raw
            if value.isascii() or name.lower() != b"set-cookie"
        ]
        if self._rewrite is not None and kind in REWRITTEN:
            stream = REWRITTEN[kind](stream, exchange, self._rewrite, request_id)
            headers = [item for item in headers if item[0].lower() != b"content-length"]
        return httpx2.Response(
            response.status_code,
            headers=headers,
            stream=stream,
            extensions=response.extensions,
        )


@asynccontextmanager
async def carrying() -> AsyncIterator[AiohttpTransport]:
    """Yield connections for one reading; they are closed after it."""
    carrier = AiohttpTransport(_trusted())
    try:
        yield carrier
    finally:
        await carrier.aclose()


@cache
def _trusted() -> ssl.SSLContext:
    """Return the authorities that are trusted.

    Loading them takes 30 ms, in which nothing else is served, and would be done for each reading.
    """
    return httpx2.create_ssl_context(trust_env=False)


class _CountedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, exchange: ExchangeRecord) -> None:
        self._inner = inner
        self._exchange = exchange

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                self._exchange.take(len(chunk))
                yield chunk
        except httpx2.TransportError as exc:
            self._exchange.broke_off(exc)
            raise

    @override
    async def aclose(self) -> None:
        with contextlib.suppress(httpx2.TransportError):
            await self._inner.aclose()


class _RewrittenStream(httpx2.AsyncByteStream):
    def __init__(
        self,
        inner: httpx2.AsyncByteStream,
        exchange: ExchangeRecord,
        rewrite: Rewriting,
        request_id: RequestId | None,
    ) -> None:
        self._inner = inner
        self._exchange = exchange
        self._rewrite = rewrite
        self._request_id = request_id

    async def _rewritten(self, message: bytes) -> bytes:
        if len(message) < LONG_MESSAGE_BYTES:
            rewritten = self._rewrite(message)
        else:
            rewritten = await asyncio.to_thread(self._rewrite, message)
        return self._exchange.answered(rewritten, self._request_id)

    @override
    async def aclose(self) -> None:
        await self._inner.aclose()


class _RewrittenBody(_RewrittenStream):
    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = b"".join([chunk async for chunk in self._inner])
        if body:
            yield await self._rewritten(body)


class _RewrittenEvents(_RewrittenStream):
    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        events = EventParser(self._exchange.max_bytes)
        async for chunk in self._inner:
            for event in events.feed_all(chunk):
                if self._exchange.take_event() % EVENTS_AT_ONCE == 0:
                    await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, not a time
                if event is SILENT:
                    # Whoever reads on would take as long again to find nothing in it.
                    continue
                if self._exchange.stream_url is not None:
                    # Nothing before it is for anybody: there is no conversation yet.
                    endpoint = self._exchange.endpoint_named(event)
                    if endpoint is not None:
                        yield endpoint
                    continue
                if event.name == MESSAGE and event.data:
                    rewritten = await self._rewritten(event.data)
                    yield written(event._replace(data=rewritten))
                elif b"\n" not in event.data:
                    yield written(event)


def _request_id(body: bytes) -> RequestId | None:
    """Return the id of the request in the body that the SDK sends; None of all else."""
    message = members(load_text(body)) if body else {}
    request_id = message.get("id")
    if "method" in message and isinstance(request_id, str | int):
        return request_id
    return None


REWRITTEN = {"application/json": _RewrittenBody, "text/event-stream": _RewrittenEvents}
"""Bodies that hold messages, by their type."""


def guarded_client(
    guard: UrlGuard,
    exchange: ExchangeRecord,
    headers: dict[str, str],
    carrier: httpx2.AsyncBaseTransport,
    *,
    connect_timeout_seconds: float,
    read_timeout_seconds: float,
    rewrite: Rewriting | None = None,
) -> httpx2.AsyncClient:
    """Return a client whose every request is checked. It follows no redirect by itself.

    *carrier* outlives it.
    *rewrite* makes of each JSON-RPC message what the client gets in its place.
    """
    return httpx2.AsyncClient(
        transport=GuardedTransport(guard, exchange, carrier, rewrite),
        headers={**headers, "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(read_timeout_seconds, connect=connect_timeout_seconds),
        follow_redirects=False,
        trust_env=False,
    )
