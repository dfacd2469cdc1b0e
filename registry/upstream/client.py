"""An MCP client of one server, over Streamable HTTP or over HTTP+SSE (2024-11-05).

Above it is what wants to know something of a server, such as `registry.upstream.reading`; below
are HTTP exchanges (`registry.http.client.exchange`), event streams (`registry.upstream.events`)
and JSON-RPC (`registry.upstream.messages`). It knows sessions, streams and answers, neither
protocol eras nor what is asked for.
"""

import asyncio
import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from urllib.parse import urlsplit

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientError,
    ClientTimeout,
)
from multidict import CIMultiDict
from typing_extensions import override
from yarl import URL

import registry
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.json import JsonObject, dump_text, members
from registry.core.latency_watcher import LatencyWatcher
from registry.http.client.connection import PLAIN, InvalidHttpError, UnknownEncodingError
from registry.http.client.exchange import ConnectTimedOut, UpstreamAnswer, UpstreamHttp
from registry.upstream.errors import (
    JsonRpcError,
    UpstreamBrokenError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamOAuthError,
    UpstreamProtocolError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from registry.upstream.events import ENDPOINT, MESSAGE, SILENT, EventParser, ServerSentEvent
from registry.upstream.guard import UrlGuard
from registry.upstream.messages import notification_text, read_message, request_text
from registry.upstream.pool import create_upstream_session
from registry.upstream.values import ReadingLimits, UpstreamTarget

LONG_MESSAGE_BYTES = 256 * 1024
"""From here on a message is read in a thread: the event loop serves others in the meantime."""

MAX_EVENTS = 50_000
"""Events in all streams of one reading; its bytes would be enough for millions of empty ones."""

EVENTS_AT_ONCE = 500
"""After so many events other tasks have their turn."""

MAX_RESUMES = 100
"""How often one event stream is fetched again after it ended."""

DEFAULT_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
TERMINATE_SECONDS = 2.0
"""Longest wait for the answer to the end of a session, which changes nothing here."""

MAX_SHORT_ANSWER_BYTES = 16 * 1024
"""Longest answer to a notification that is read; nothing in it is of interest."""

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
HTML = frozenset({"text/html", "application/xhtml+xml"})
ACCEPT_BOTH = f"{JSON}, {EVENT_STREAM}"
VERSION_HEADER = "MCP-Protocol-Version"
SESSION_HEADER = "Mcp-Session-Id"
OK, ACCEPTED, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 200, 202, 401, 403, 404
REDIRECTION, CLIENT_ERROR = 300, 400
COMPRESSED = "It sent a compressed answer unasked."
INVALID_REQUEST, METHOD_NOT_FOUND = -32600, -32601
CLIENT_INFO: JsonObject = {"name": "mcp-gateway-registry", "version": registry.__version__}
NO_HEADERS: Mapping[str, str] = {}
RESOURCE_METADATA = re.compile(r"\bresource_metadata\s?=", re.IGNORECASE)
"""How a challenge names OAuth metadata (RFC 9728, 5.1)."""

FAILURES = (TimeoutError, ClientError, InvalidHttpError, OSError, ValueError)
"""What an exchange with a server can end with."""


@dataclass(slots=True)
class ReadingRecord:
    """What came from a server so far, against its bounds.

    Attributes:
        awaits_endpoint: Whether an event stream is open that has yet to say where messages go.
    """

    max_bytes: int
    taken: int = 0
    events: int = 0
    awaits_endpoint: bool = False

    def take(self, size: int) -> None:
        """Count *size* bytes.

        Raises:
            UpstreamTooLargeError: They are too many.
        """
        self.taken += size
        if self.taken > self.max_bytes:
            raise UpstreamTooLargeError(f"It sent more than {self.max_bytes} bytes.")

    def take_event(self) -> int:
        """Count an event, and return how many there were.

        Raises:
            UpstreamTooLargeError: They are too many.
        """
        self.events += 1
        if self.events > MAX_EVENTS:
            raise UpstreamTooLargeError(f"It sent more than {MAX_EVENTS} events.")
        return self.events


@dataclass(frozen=True, slots=True)
class ReadingContext:
    """What one reading of a server works with.

    Attributes:
        target: The server.
        http: Sends requests.
        limits: Bounds of what the server may send.
        record: Counts what it sends.
        clock: Waits before a stream is fetched again.
    """

    target: UpstreamTarget
    http: UpstreamHttp
    limits: ReadingLimits
    record: ReadingRecord
    clock: Clock


@contextlib.asynccontextmanager
async def reading_http(guard: UrlGuard, limits: ReadingLimits) -> AsyncIterator[UpstreamHttp]:
    """Yield what sends the requests of one reading; its connections are closed after it."""
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


class McpClient(ABC):
    """What the transports have in common. Requests go one after the other.

    What the server asks is refused, for no user is there to answer; `ping` is answered.

    Args:
        context: The server, and how it is read.
    """

    def __init__(self, context: ReadingContext) -> None:
        self._target = context.target
        self._url = url_of(context.target)
        self._http = context.http
        self._limits = context.limits
        self._record = context.record
        self._clock = context.clock
        self._origin = origin_of(context.target)
        self._timeout = ClientTimeout(
            sock_connect=context.limits.connect_timeout_seconds,
            sock_read=context.limits.total_timeout_seconds,
        )
        self._ids = count(1)
        self._version: str | None = None
        self._session_id: str | None = None

    @abstractmethod
    async def open(self) -> None:
        """Make ready to send requests.

        Raises:
            UpstreamError: The server does not take any.
        """

    @abstractmethod
    async def request(
        self, method: str, params: JsonObject | None, headers: Mapping[str, str] = NO_HEADERS
    ) -> JsonObject:
        """Send a request and return its result.

        Args:
            method: JSON-RPC method.
            params: None for none.
            headers: Sent beside those of every message.

        Raises:
            JsonRpcError: The server answered an error.
            UpstreamError: It did not answer as it should.
        """

    async def initialize(
        self, version: str, capabilities: JsonObject, headers: Mapping[str, str] = NO_HEADERS
    ) -> JsonObject:
        """Begin a session and return the server's result.

        Raises what `request` does.
        """
        return await self.request("initialize", initialize_params(version, capabilities), headers)

    async def initialized(self, version: str) -> None:
        """Notify the server that the handshake is complete.

        Args:
            version: Was negotiated; all further messages name it.
        """
        self._version = version
        await self._tell(notification_text("notifications/initialized"))

    @abstractmethod
    async def close(self) -> None:
        """End the session, and close all streams."""

    @abstractmethod
    async def _tell(self, raw: bytes) -> None:
        """Send a message that needs no answer."""

    def _headers(self, accepted: str = ACCEPT_BOTH) -> CIMultiDict[str]:
        headers = CIMultiDict(self._target.headers)
        headers["Accept"] = accepted
        if self._session_id is not None:
            headers[SESSION_HEADER] = self._session_id
        if self._version is not None:
            headers[VERSION_HEADER] = self._version
        return headers

    async def _send(
        self, method: str, url: URL, headers: CIMultiDict[str], body: bytes = b""
    ) -> UpstreamAnswer:
        """Send one request and return the head of the answer; the caller closes it."""
        if method == "POST":
            headers["Content-Type"] = JSON
        with self._translating():
            answer = await self._http.request(method, url, headers, body, timeout=self._timeout)
        if answer.headers.get("content-encoding", "").lower() not in PLAIN:
            answer.close()
            raise UpstreamTooLargeError(COMPRESSED)
        return answer

    async def _post(self, url: URL, raw: bytes) -> None:
        """Send a message that needs no answer; what is answered all the same is dropped."""
        answer = await self._send("POST", url, self._headers(), raw)
        try:
            # Read to its end, a short answer leaves the connection fit for the next request.
            length = answer.headers.get("content-length", "")
            if length.isdecimal() and int(length) <= MAX_SHORT_ANSWER_BYTES:
                await self._body(answer)
        finally:
            answer.close()
        if answer.status >= REDIRECTION:
            raise self._refusal(answer)

    async def _pieces(self, answer: UpstreamAnswer) -> AsyncGenerator[bytes, None]:
        with self._translating():
            async for piece in answer.body.iter_any():
                self._record.take(len(piece))
                yield piece

    async def _body(self, answer: UpstreamAnswer) -> bytes:
        return b"".join([piece async for piece in self._pieces(answer)])

    async def _events(self, answer: UpstreamAnswer) -> AsyncGenerator[ServerSentEvent, None]:
        parser = EventParser(self._limits.max_bytes)
        async with aclosing(self._pieces(answer)) as pieces:
            async for piece in pieces:
                for event in parser.feed_all(piece):
                    if self._record.take_event() % EVENTS_AT_ONCE == 0:
                        await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, not a time
                    if event is not SILENT:
                        yield event

    async def _message(self, raw: bytes) -> JsonObject:
        """Return the message that *raw* is the text of.

        Raises:
            UpstreamProtocolError: It is none.
        """
        max_items = self._limits.max_tools
        if len(raw) < LONG_MESSAGE_BYTES:
            message = read_message(raw, max_items)
        else:
            message = await asyncio.to_thread(read_message, raw, max_items)
        if message is None:
            raise self._not_mcp()
        return message

    async def _answer_in(self, event: ServerSentEvent, request_id: int) -> JsonObject | None:
        """Return the result that an event brings; None of one that brings none.

        Raises:
            JsonRpcError: It brings an error.
            UpstreamProtocolError: It brings what no request asked for.
        """
        if event.name != MESSAGE or not event.data:
            return None
        message = await self._message(event.data)
        if "method" in message:
            await self._refuse(message)
            return None
        if "result" not in message and "error" not in message:
            raise self._not_mcp()
        return self._result(message, request_id)

    async def _refuse(self, message: JsonObject) -> None:
        """Answer what the server asks during a reading; notifications are dropped."""
        request_id = message.get("id")
        if not isinstance(request_id, str | int):
            return
        outcome: JsonObject
        if message["method"] == "ping":
            outcome = {"result": {}}
        else:
            message_text = "No client is connected while the registry reads the server."
            outcome = {"error": {"code": INVALID_REQUEST, "message": message_text}}
        # What is wrong with the server shows in the request that it asked during.
        with contextlib.suppress(UpstreamError):
            await self._tell(dump_text({"jsonrpc": "2.0", "id": request_id, **outcome}))

    def _result(
        self, message: JsonObject, request_id: int, refusal: UpstreamError | None = None
    ) -> JsonObject:
        error, answered_id = message.get("error"), message.get("id")
        # A number may come back as text. Servers refuse what they could not read under no id, or
        # under one of their own ("server-error" in the Python SDK 1.x): it is of this request.
        if str(answered_id) != str(request_id) and error is None:
            raise UpstreamProtocolError("It answered under another id than that of the request.")
        if error is not None:
            raise JsonRpcError(members(error), refusal)
        result = message.get("result")
        if not isinstance(result, dict):
            raise self._not_mcp()
        return result

    def _refusal(self, answer: UpstreamAnswer) -> UpstreamError:
        """Return what an answer means by its status and its type alone."""
        status, origin = answer.status, self._origin
        kind = content_type_of(answer)
        match status:
            case 401 if RESOURCE_METADATA.search(answer.headers.get("www-authenticate", "")):
                return UpstreamOAuthError(
                    f"{origin} answered 401 and names OAuth metadata: it wants OAuth. Set "
                    "requiresOAuth to true, so that users authorise the registry, or give the "
                    "credentials that it takes."
                )
            case 401 | 403:
                return UpstreamRefusedError(
                    f"{origin} answered {status}: credentials are missing or wrong.",
                    is_forbidden=status == FORBIDDEN,
                )
            case _ if REDIRECTION <= status < CLIENT_ERROR:
                message_text = f"{origin} redirects elsewhere, which is not followed."
            case _ if status >= CLIENT_ERROR or kind.lower() in HTML:
                message_text = f"{origin} answered {status}{self._hint(status, kind)}."
            case 202:
                message_text = f"{origin} answered a request with 202 and nothing else."
            case _:
                message_text = f"{origin} answered with {kind or 'no content type'}, not JSON."
        return UpstreamProtocolError(message_text)

    def _hint(self, status: int, kind: str) -> str:
        is_elsewhere = not urlsplit(self._target.url).path.rstrip("/").endswith("/mcp")
        if status == NOT_FOUND and is_elsewhere:
            return (
                ": there is nothing at that path; many servers are at /mcp: "
                f"try {self._origin}/mcp"
            )
        return " with HTML, not MCP" if kind.lower() in HTML else ""

    def _not_mcp(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"{self._origin} answered something that is not MCP.")

    def _broken(self) -> UpstreamBrokenError:
        return UpstreamBrokenError(f"The connection to {self._origin} broke.")

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as exc:
            raise failure(exc, self._target, self._limits) from exc


class StreamableHttpClient(McpClient):
    """Over Streamable HTTP: each request is a POST, answered with JSON or with an event stream."""

    def __init__(self, context: ReadingContext) -> None:
        super().__init__(context)
        self._listening = BackgroundTasks()

    @override
    async def open(self) -> None:
        """Do nothing: there is no connection before the first request."""

    @override
    async def request(
        self, method: str, params: JsonObject | None, headers: Mapping[str, str] = NO_HEADERS
    ) -> JsonObject:
        request_id = next(self._ids)
        raw = request_text(method, params, request_id, is_exact=False)
        sent = self._headers()
        sent.update(headers)
        answer = await self._send("POST", self._url, sent, raw)
        if answer.status < REDIRECTION and content_type_of(answer).lower() == EVENT_STREAM:
            result = await self._streamed(answer, request_id)
        else:
            try:
                result = await self._whole(answer, request_id)
            finally:
                answer.close()
        if method == "initialize":
            self._session_id = answer.headers.get("mcp-session-id")
        return result

    @override
    async def initialized(self, version: str) -> None:
        self._version = version
        if self._session_id is not None:
            # Before the server is notified: it may send a request at once.
            self._listening.soon(self._listen())
        # Some servers answer an error here and work all the same.
        with contextlib.suppress(UpstreamProtocolError):
            await super().initialized(version)

    @override
    async def close(self) -> None:
        await self._listening.close()
        if self._session_id is None:
            return
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(TERMINATE_SECONDS):
                answer = await self._send("DELETE", self._url, self._headers())
                answer.close()

    @override
    async def _tell(self, raw: bytes) -> None:
        await self._post(self._url, raw)

    async def _whole(self, answer: UpstreamAnswer, request_id: int) -> JsonObject:
        """Return the result that is the body of an answer."""
        status = answer.status
        is_json = content_type_of(answer).lower().startswith(JSON)
        if is_json and status < REDIRECTION and status != ACCEPTED:
            return self._result(await self._message(await self._body(answer)), request_id)
        refusal = self._refusal(answer)
        if is_json and status >= CLIENT_ERROR:
            # The error in the body says more than the status, if there is one.
            body = await self._body(answer)
            with contextlib.suppress(UpstreamProtocolError):
                self._result(await self._message(body), request_id, refusal)
        if status == NOT_FOUND and self._session_id is None:
            # What gateways and older servers say of a method that they do not know.
            error: JsonObject = {"code": METHOD_NOT_FOUND, "message": refusal.message}
            raise JsonRpcError(error, refusal)
        raise refusal

    async def _streamed(self, answer: UpstreamAnswer, request_id: int) -> JsonObject:
        """Return the result that comes on a stream, fetched again if it ends early; close it."""
        last_event_id: str | None = None
        retry_seconds = DEFAULT_RETRY_SECONDS
        for _ in range(MAX_RESUMES):
            ended: UpstreamError = UpstreamProtocolError(
                f"{self._origin} ended its event stream without an answer."
            )
            try:
                async with aclosing(self._events(answer)) as events:
                    async for event in events:
                        last_event_id = event.id or last_event_id
                        retry_seconds = _retry_seconds(event, retry_seconds)
                        result = await self._answer_in(event, request_id)
                        if result is not None:
                            return result
            except UpstreamBrokenError as exc:
                ended = exc
            finally:
                answer.close()
            if last_event_id is None:
                raise ended
            await self._clock.sleep(retry_seconds)
            answer = await self._fetch(last_event_id)
        answer.close()
        raise self._broken()

    async def _fetch(self, last_event_id: str | None) -> UpstreamAnswer:
        """Return an open event stream; the caller closes it."""
        headers = self._headers(EVENT_STREAM)
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        answer = await self._send("GET", self._url, headers)
        if answer.status != OK or content_type_of(answer).lower() != EVENT_STREAM:
            answer.close()
            raise self._refusal(answer)
        return answer

    async def _listen(self) -> None:
        """Refuse what the server asks outside of requests, on a stream that it need not offer."""
        last_event_id: str | None = None
        retry_seconds = DEFAULT_RETRY_SECONDS
        for _ in range(MAX_RESUMES):
            answer = await self._fetch(last_event_id)
            try:
                async with aclosing(self._events(answer)) as events:
                    async for event in events:
                        last_event_id = event.id or last_event_id
                        retry_seconds = _retry_seconds(event, retry_seconds)
                        if event.name == MESSAGE and event.data:
                            message = await self._message(event.data)
                            if "method" in message:
                                await self._refuse(message)
            finally:
                answer.close()
            await self._clock.sleep(retry_seconds)


class SseClient(McpClient):
    """Over HTTP+SSE: messages go to the address that an event stream names; answers come on it."""

    def __init__(self, context: ReadingContext) -> None:
        super().__init__(context)
        self._endpoint = self._url
        self._answer: UpstreamAnswer | None = None
        self._stream: AsyncGenerator[ServerSentEvent, None] | None = None

    @override
    async def open(self) -> None:
        """Open the stream, and wait until it names the endpoint."""
        answer = self._answer = await self._send("GET", self._url, self._headers(EVENT_STREAM))
        kind = content_type_of(answer).lower()
        if answer.status >= REDIRECTION or kind in HTML:
            raise self._refusal(answer)
        if kind != EVENT_STREAM:
            raise UpstreamProtocolError(f"{self._origin} did not answer as an MCP server.")
        self._record.awaits_endpoint = True
        self._stream = self._events(answer)
        async for event in self._stream:
            if event.name == ENDPOINT and event.data:
                self._record.awaits_endpoint = False
                self._endpoint = endpoint_of(self._url, event.data)
                return
        raise self._broken()

    @override
    async def request(
        self, method: str, params: JsonObject | None, headers: Mapping[str, str] = NO_HEADERS
    ) -> JsonObject:
        assert self._stream is not None  # noqa: S101 - set by `open`
        request_id = next(self._ids)
        await self._tell(request_text(method, params, request_id, is_exact=False))
        async for event in self._stream:
            result = await self._answer_in(event, request_id)
            if result is not None:
                return result
        raise self._broken()

    @override
    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
        if self._answer is not None:
            self._answer.close()

    @override
    async def _tell(self, raw: bytes) -> None:
        await self._post(self._endpoint, raw)


def initialize_params(version: str, capabilities: Mapping[str, object]) -> JsonObject:
    """Return the parameters of the request that begins a session."""
    return {
        "protocolVersion": version,
        "capabilities": members(dict(capabilities)),
        "clientInfo": CLIENT_INFO,
    }


def endpoint_of(stream: URL, named: bytes) -> URL:
    """Return the address that a server of HTTP+SSE takes messages at.

    Messages hold credentials, which belong to the origin that was registered, however the server
    writes it, and to no other.

    Args:
        stream: Where its event stream is.
        named: What the stream says.

    Raises:
        UpstreamProtocolError: It is no URL, or of another origin.
    """
    try:
        endpoint = stream.join(URL(named.decode(errors="replace")))
        is_own = endpoint.origin() == stream.origin()
    except ValueError:
        raise UpstreamProtocolError("Its endpoint is no URL.") from None
    if not is_own:
        message_text = "It wants messages to be sent to another origin, which is not done."
        raise UpstreamProtocolError(message_text)
    return endpoint.with_user(None).with_fragment(None)


def content_type_of(answer: UpstreamAnswer) -> str:
    """Return the type of an answer's body, without its parameters."""
    return answer.headers.get("content-type", "").partition(";")[0].strip()


def origin_of(target: UpstreamTarget) -> str:
    """Return how a server is named in messages: without path and query, which may hold keys."""
    parts = urlsplit(target.url)
    return f"{parts.scheme}://{parts.netloc}"


def url_of(target: UpstreamTarget) -> URL:
    """Return the address of a server, as requests take it.

    Raises:
        UpstreamConnectError: It is none that requests could go to.
    """
    try:
        return URL(target.url)
    except ValueError:
        raise UpstreamConnectError(f"Could not connect to {origin_of(target)}.") from None


def failure(error: Exception, target: UpstreamTarget, limits: ReadingLimits) -> UpstreamError:
    """Return what the end of an exchange, one of `FAILURES`, says of the server."""
    origin = origin_of(target)
    kind: type[UpstreamError] = UpstreamConnectError
    match error:
        case ConnectTimedOut():
            kind = UpstreamTimeoutError
            message_text = f"{origin} took no connection in {limits.connect_timeout_seconds:g} s."
        case TimeoutError():
            return timed_out(target, limits)
        case ClientConnectorCertificateError():
            message_text = f"The certificate of {origin} is not trusted, or is for another name."
        case ClientConnectorError():
            message_text = f"Could not connect to {origin}."
        case UnknownEncodingError():
            kind, message_text = UpstreamTooLargeError, COMPRESSED
        case InvalidHttpError():
            kind, message_text = UpstreamProtocolError, f"{origin} did not answer in HTTP."
        case ValueError():
            message_text = (
                f"The request to {origin} cannot be sent: a header holds a control character."
            )
        case _:
            kind, message_text = UpstreamBrokenError, f"The connection to {origin} broke."
    return blocked(error) or kind(message_text)


def blocked(error: Exception) -> UpstreamError | None:
    """Return what the guard says of an address, if that is why there is no connection."""
    cause = error.os_error.__cause__ if isinstance(error, ClientConnectorError) else None
    return cause if isinstance(cause, UpstreamError) else None


def timed_out(
    target: UpstreamTarget, limits: ReadingLimits, record: ReadingRecord | None = None
) -> UpstreamTimeoutError:
    """Return the error of a reading that took too long."""
    within = f"within {limits.total_timeout_seconds:g} s."
    if record is not None and record.awaits_endpoint:
        return UpstreamTimeoutError(
            f"The stream of {origin_of(target)} named no endpoint {within}"
        )
    return UpstreamTimeoutError(f"{origin_of(target)} did not finish answering {within}")


def _retry_seconds(event: ServerSentEvent, before: float) -> float:
    if event.retry_ms is None:
        return before
    return min(event.retry_ms / 1000, MAX_RETRY_SECONDS)
