"""Send one request upstream and its answer back, bytes unchanged, chunks as they come.

Nothing that may have effects is ever sent twice. What has none is sent once more when the upstream
closes the connection without an answer, as it does when it restarts (RFC 9110, 9.2.2).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import TypeVar

import orjson
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientOSError,
    ClientTimeout,
    ServerDisconnectedError,
)
from starlette.types import Message, Receive, Send
from typing_extensions import override

from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.errors import (
    CredentialsRejected,
    NoJsonRpcAnswer,
    NotServing,
    Refusal,
    SessionForgotten,
    ShuttingDown,
    UpstreamAnswered,
    UpstreamFailed,
)
from registry.gateway.protocol.envelope import RequestId
from registry.gateway.protocol.headers import (
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    SESSION_HEADER,
    returned_headers,
)
from registry.gateway.protocol.messages import event_text, read_events
from registry.gateway.protocol.response_classification import (
    KEY_ENDS,
    MAX_JUDGED_BYTES,
    Answer,
    is_good,
    may_be_answer,
    read_handshake,
)
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.transport.bulkhead import Bulkheads
from registry.gateway.transport.call_watch import CallWatch
from registry.gateway.transport.early_stream import EarlyStream
from registry.gateway.transport.failures import failure
from registry.gateway.transport.replay import Replay
from registry.gateway.values import Route
from registry.gateway.view.offering import MAX_EDITED_BYTES
from registry.http.client.connection import InvalidHttpError
from registry.http.client.exchange import HeaderLines, UpstreamAnswer, UpstreamHttp
from registry.upstream.masking import has_secrets, masked
from registry.upstream.rest.server import RestServer

WHOLE_BODY_BYTES = 256 * 1024
"""Answers up to this size are read before the first byte is sent, so that an upstream that breaks
off gives a clear error; larger ones and those of unknown length are streamed."""

JSON = "application/json"
EVENT_STREAM = "text/event-stream"

ACCEPTED = 202
NO_CONTENT = 204
EMPTY = frozenset({ACCEPTED, NO_CONTENT})
"""Answers to notifications and responses; they have no body whose form could be wrong."""

OK = 200
NOT_FOUND = 404
SUCCESS = range(200, 300)
REDIRECTS = range(300, 400)
SERVER_ERRORS = range(500, 600)
CREDENTIAL_STATUSES = frozenset({401, 403, 407})


OWN_HEADERS = frozenset({"accept-encoding", "user-agent"})

SendT = TypeVar("SendT", bound=Send)
REPEATABLE = frozenset(
    {
        "completion/complete",
        "initialize",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "tools/list",
        "DELETE",
    }
)
"""Methods that only read, or end what may be ended twice. A second `initialize` opens a session
that nobody uses. Tools are called again only if they say of themselves that this does nothing."""

ANNOUNCEMENT = b"list_changed"
"""How the notifications about lists end; some servers write the slashes before it as escapes."""

Sent = tuple[HeaderLines | Mapping[str, str], Route]

Edit = Callable[[bytes], bytes]
"""From a message of the upstream to what the client gets."""

SealSession = Callable[[str], str]
"""From the upstream's session id to the client's; from none, when a session begins, to none or to
one of the gateway's own."""


class ClientChannel:
    """The client's end of an exchange.

    Attributes:
        seal: Makes the client's session id of the upstream's; None drops it.
        edit: Changes each message of the answer; None lets the bytes pass.
        awaits_answer: Whether it sent a request, so that a JSON-RPC answer is due.
        is_handshake: Whether that is the first of a session: its answer is read as a whole, and
            parsed, before it counts.
        reads_whole: Whether the answer is edited whatever its length.
        has_started: Whether the status line was sent, so that no error can be sent any more.
        status: The one that was sent; 0 until then.
        is_event_stream: Whether the body may end after any event.
        sends_whole_events: Whether it stands between events whenever nothing is being sent.
        extra_headers: Sent with every answer, whatever it is.
        monotonic: Tells the time that *head_at* is in.
        head_at: Monotonic seconds when the head of the upstream's answer was there; 0 until then.
        sent_bytes: Length of the body so far.
        tail: The last piece of the body.
        sent: The stored headers that went upstream and the server's address, once they are known;
            an answer that tells of an error is given without them.
        replay: Keeps the events of the answer for a client that lost its connection.
        early: The event stream that began before the answer; None if none did.
    """

    __slots__ = (
        "_send",
        "awaits_answer",
        "early",
        "edit",
        "extra_headers",
        "has_started",
        "head_at",
        "is_event_stream",
        "is_handshake",
        "monotonic",
        "reads_whole",
        "receive",
        "replay",
        "seal",
        "sends_whole_events",
        "sent",
        "sent_bytes",
        "status",
        "tail",
    )

    def __init__(self, receive: Receive, send: Send) -> None:
        self.receive = receive
        self._send = send
        self.monotonic = monotonic
        self.head_at = 0.0
        self.sent_bytes = 0
        self.tail = b""
        self.sent: Sent | None = None
        self.replay: Replay | None = None
        self.early: EarlyStream | None = None
        self.seal: SealSession | None = None
        self.edit: Edit | None = None
        self.awaits_answer = False
        self.is_handshake = False
        self.reads_whole = False
        self.has_started = False
        self.status = 0
        self.is_event_stream = False
        self.sends_whole_events = False
        self.extra_headers: tuple[tuple[bytes, bytes], ...] = ()

    def divert(self, through: Callable[[Send], SendT]) -> SendT:
        """Send through what *through* makes of the channel, and return that."""
        diverted = through(self._send)
        self._send = diverted
        return diverted

    async def begin_early(self, request_id: RequestId | None) -> EarlyStream:
        """Return the event stream that begins before the answer; begin it unless it has begun.

        The answer is sent as it would be without, also with another status or content type, and
        becomes the rest of the stream: `has_started` is about the answer.
        """
        early = self.early
        if early is None:
            early = self.early = self.divert(lambda send: EarlyStream(send, request_id))
            await early.begin(self.extra_headers)
        return early

    @property
    def is_between_events(self) -> bool:
        """Whether an event stream that is relayed stands between two events, for all we know."""
        return not self.tail or bytes(self.tail[-LONGEST_END:]).endswith(EVENT_ENDS)

    def answered(self) -> None:
        """Note that the head of the upstream's answer is there."""
        self.head_at = self.monotonic()

    def send(self, message: Message) -> Awaitable[None]:
        """Send a part of the answer."""
        body = message.get("body")
        if body:
            if self.sent is not None and (
                self.status != OK or (KEY_ENDS in body and not is_good(bytes(body)))
            ):
                body = _without(self.sent, body)
                message = {**message, "body": body}
            self.sent_bytes += len(body)
            self.tail = body
        return self._send(message)

    async def start(
        self, status: int, headers: list[tuple[bytes, bytes]], *, is_event_stream: bool = False
    ) -> None:
        """Send the head of the answer."""
        self.has_started = True
        self.status = status
        self.is_event_stream = is_event_stream
        if self.extra_headers:
            headers = [*headers, *self.extra_headers]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole answer."""
        self.has_started = True
        self.status = status
        if self.sent is not None and (status != OK or (KEY_ENDS in body and not is_good(body))):
            whole, body = len(body), _without(self.sent, body)
            if len(body) != whole:
                length = (b"content-length", str(len(body)).encode())
                headers = [
                    length if name == b"content-length" else (name, value)
                    for name, value in headers
                ]
        self.sent_bytes += len(body)
        self.tail = body
        if self.extra_headers:
            headers = [*headers, *self.extra_headers]
        send = self._send
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def pass_on(self, message: Message) -> None:
        """Send what another worker answers in our place."""
        if message["type"] == "http.response.start":
            self.has_started = True
            self.status = message["status"]
            if self.extra_headers:
                message = {**message, "headers": [*message["headers"], *self.extra_headers]}
        await self.send(message)


def _without(sent: Sent, body: bytes) -> bytes:
    """Return a piece of an answer without the credentials that it was asked with."""
    return masked(bytes(body), _said(sent), sent[1].url)


def _said(sent: Sent) -> list[tuple[str, str]]:
    stored, _ = sent
    if isinstance(stored, HeaderLines):
        lines = (line.partition(": ") for line in stored.text.split("\r\n"))
        headers = [(name, value) for name, _, value in lines]
    else:
        headers = [*stored.items()]
    return [(name, value) for name, value in headers if name.lower() not in OWN_HEADERS]


class Forwarder:
    """Exchanges single requests with upstreams over one pooled session.

    Args:
        wire: How requests are sent.
        rest_server: Answers calls of the tools of REST APIs.
        latency_watcher: Says which calls are worth watching.
        bulkheads: Bound what goes to each server.
        announced_lists: Notified when a server announces that one of its lists changed.
        connect_timeout_seconds: Longest wait for a connection to be made.
        total_timeout_seconds: Longest time for an answer that is no standing stream.
    """

    def __init__(
        self,
        wire: UpstreamHttp,
        rest_server: RestServer,
        latency_watcher: LatencyWatcher,
        bulkheads: Bulkheads,
        announced_lists: AnnouncedLists,
        *,
        connect_timeout_seconds: float,
        total_timeout_seconds: float,
    ) -> None:
        self._wire = wire
        self._rest_server = rest_server
        self._latency_watcher = latency_watcher
        self._bulkheads = bulkheads
        self._announced_lists = announced_lists
        self._connect_timeout_seconds = connect_timeout_seconds
        self._total_timeout_seconds = total_timeout_seconds
        self._call_timeouts: dict[float, ClientTimeout] = {}
        self._stream_timeout = ClientTimeout(
            connect=connect_timeout_seconds, sock_connect=connect_timeout_seconds
        )

    async def exchange(
        self,
        http_method: str,
        route: Route,
        headers: HeaderLines,
        body: bytes | bytearray,
        client: ClientChannel,
        *,
        standing_until: Callable[[], Awaitable[Exception]] | None = None,
        may_repeat: bool = False,
        user_id: str | None = None,
        elsewhere: str | None = None,
    ) -> None:
        """Send a request and relay its answer to the client.

        Args:
            http_method: As sent upstream.
            route: Where to.
            headers: All headers that go upstream.
            body: Sent as it is.
            client: Gets the answer.
            standing_until: Given when the answer is a stream that stays open, silent for as long
                as it likes; waits for a reason to end it, and returns that.
            may_repeat: Whether the upstream may get the request twice.
            user_id: Whose connection it is, where users have their own.
            elsewhere: Another origin that an operation of a REST API is at.

        Raises:
            Refusal: Nothing was sent yet, and this should be; or the stream broke off.
            ClientGone: The client disconnected.
        """
        timeout, total_seconds = self._stream_timeout, None
        first_byte_seconds = None
        if standing_until is None:
            timeout, total_seconds = self._call_timeout(route), self._total_timeout_seconds
            total_seconds = max(total_seconds, route.idle_timeout_seconds)
            first_byte_seconds = route.first_byte_timeout_seconds
        bulkhead = self._bulkheads.of(route, elsewhere)
        permit = bulkhead.call(is_standing=standing_until is not None, user_id=user_id)
        ask = partial(self._ask, route, http_method, headers, body, timeout, first_byte_seconds)
        try:
            with CallWatch(self._latency_watcher, client.receive, total_seconds, standing_until):
                if not permit.begin():
                    await permit.wait()
                try:
                    try:
                        answer = await ask()
                    except (ServerDisconnectedError, ClientOSError) as exc:
                        if not may_repeat or isinstance(exc, ClientConnectorError):
                            raise
                        bulkhead.repeated()
                        answer = await ask()
                    try:
                        client.answered()
                        permit.answered(answer.health_status, is_handshake=client.is_handshake)
                        if await self._relay(answer, route, client) is Answer.ERROR:
                            permit.declined()
                    finally:
                        answer.close()
                except BaseException as exc:
                    permit.end(exc)
                    raise
                permit.end(None)
        except (TimeoutError, ClientError, InvalidHttpError, OSError, ValueError) as exc:
            raise failure(bulkhead.name, exc) from exc

    def _ask(
        self,
        route: Route,
        http_method: str,
        headers: HeaderLines,
        body: bytes | bytearray,
        timeout: ClientTimeout,
        first_byte_seconds: float | None,
    ) -> Awaitable[UpstreamAnswer]:
        """Have a request answered by whatever is behind a route."""
        if route.api is not None:
            return self._rest_server.request(
                route.api, headers, body, timeout=timeout, first_byte_seconds=first_byte_seconds
            )
        return self._wire.request(
            http_method,
            route.target,
            headers,
            body,
            timeout=timeout,
            first_byte_seconds=first_byte_seconds,
        )

    async def _relay(self, answer: UpstreamAnswer, route: Route, client: ClientChannel) -> Answer:
        """Relay an answer; return what it is where that was looked for."""
        status = answer.status
        if status != OK:
            check_status(answer, route)
        content_type = answer.headers.get(CONTENT_TYPE, "").lower()
        is_stream = content_type.startswith(EVENT_STREAM)
        length = _length(answer)
        if not (is_stream or content_type.startswith(JSON) or length == 0 or status in EMPTY):
            _refuse_foreign(status, content_type, route)
        headers = returned_headers(answer.headers, is_stream=is_stream)
        session_id = answer.headers.get(SESSION_HEADER)
        if client.seal is not None and (session_id is not None or client.is_handshake):
            sealed = client.seal(session_id or "")
            if sealed:
                headers.append((b"mcp-session-id", sealed.encode()))
        longest = WHOLE_BODY_BYTES if client.edit is None else MAX_EDITED_BYTES
        is_short = length is not None and length <= longest
        # What has another status of success is looked into whatever its length.
        is_odd = client.awaits_answer and status != OK and status in SUCCESS
        if not is_stream and (is_short or client.is_handshake or is_odd or client.reads_whole):
            whole = await answer.body.read() if is_short else await whole_body(answer, route)
            found = _checked(whole, status, route, client)
            if client.edit is not None:
                whole = client.edit(whole)
            if status != NO_CONTENT:
                headers.append((b"content-length", str(len(whole)).encode()))
            await client.answer(status, headers, whole)
            return found
        # Where credentials are cut out of an answer, its length changes.
        may_be_cut = client.sent is not None and has_secrets(_said(client.sent), route.url)
        if length is not None and not is_stream and not may_be_cut:
            headers.append((b"content-length", str(length).encode()))
        await client.start(status, headers, is_event_stream=is_stream)
        return await self._relay_pieces(answer, route, client, is_stream=is_stream)

    async def _relay_pieces(
        self, answer: UpstreamAnswer, route: Route, client: ClientChannel, *, is_stream: bool
    ) -> Answer:
        """Relay the body of an answer as it comes."""
        client.sends_whole_events = client.edit is not None
        # ASGI servers may keep the head back until there is some body.
        await client.send({"type": "http.response.body", "body": b"", "more_body": True})
        pieces = answer.body.iter_any() if client.edit is None else _edited(answer, client.edit)
        whole = b""
        async for piece in pieces:
            if client.is_handshake and len(whole) <= MAX_JUDGED_BYTES:
                whole += piece
            if is_stream and announces(client.tail, piece):
                self._announced_lists.add(route)
            await client.send({"type": "http.response.body", "body": piece, "more_body": True})
        found = Answer.RESULT
        if client.is_handshake and len(whole) <= MAX_JUDGED_BYTES:
            # The stream has ended, so that an event of our own can follow what it said.
            client.sends_whole_events = True
            found = _checked(whole, answer.status, route, client)
        await client.send({"type": "http.response.body", "body": b""})
        return found

    def _call_timeout(self, route: Route) -> ClientTimeout:
        idle_seconds = route.idle_timeout_seconds
        timeout = self._call_timeouts.get(idle_seconds)
        if timeout is None:
            timeout = self._call_timeouts[idle_seconds] = ClientTimeout(
                connect=self._connect_timeout_seconds,
                sock_connect=self._connect_timeout_seconds,
                sock_read=idle_seconds,
            )
        return timeout


def _checked(body: bytes, status: int, route: Route, client: ClientChannel) -> Answer:
    """Return what the answer to a request is.

    Raises:
        NoJsonRpcAnswer: It is none.
    """
    if status not in SUCCESS or not client.awaits_answer:
        return Answer.RESULT
    found = Answer.RESULT
    if status != OK and len(body) <= MAX_JUDGED_BYTES:
        # Passed on without an answer, it would leave the client waiting for one.
        found = read_handshake(body)
    elif client.is_handshake:
        found = read_handshake(body)
        # It can be resumed, and says nothing of the server before it is.
        found = Answer.ERROR if found is Answer.LATER else found
    elif len(body) <= MAX_JUDGED_BYTES and not may_be_answer(body):
        found = Answer.INVALID
    if found is Answer.INVALID:
        raise NoJsonRpcAnswer(route.named, status)
    return found


def too_large(route: Route) -> UpstreamFailed:
    """Return the refusal of an answer, or an event of one, that is over the bound."""
    return UpstreamFailed(
        f"The {route.named} sent more at once than GATEWAY_MAX_RESPONSE_BYTES allows."
    )


async def whole_body(answer: UpstreamAnswer, route: Route) -> bytes:
    """Return the whole body of an answer.

    Raises:
        UpstreamFailed: It is over the bound.
    """
    whole = bytearray()
    async for chunk in answer.body.iter_any():
        whole += chunk
        if len(whole) > answer.max_bytes:
            raise too_large(route)
    return bytes(whole)


async def _edited(answer: UpstreamAnswer, edit: Edit) -> AsyncIterator[bytes]:
    """Yield the events of an answer, or the pieces of one that is too long to be edited."""
    if not answer.headers.get(CONTENT_TYPE, "").lower().startswith(EVENT_STREAM):
        async for chunk in answer.body.iter_any():
            yield chunk
        return
    async for event in read_events(answer.body, answer.max_bytes):
        if event.data:
            yield event_text(edit(event.data))


def announces(before: bytes, piece: bytes) -> bool:
    """Whether a stream says in *piece*, after *before*, that one of its server's lists changed.

    Looked for as text, for nothing is parsed here; a mention of it elsewhere does no harm.
    """
    if ANNOUNCEMENT in piece:
        return True
    reach = len(ANNOUNCEMENT) - 1
    return ANNOUNCEMENT in before[-reach:] + piece[:reach]


def _length(answer: UpstreamAnswer) -> int | None:
    """Return how long the decoded body is, where that is known."""
    if CONTENT_ENCODING in answer.headers:
        return None
    length = answer.headers.get(CONTENT_LENGTH)
    if length is not None:
        return int(length)
    return 0 if answer.body.at_eof() or answer.status == NO_CONTENT else None


def check_status(answer: UpstreamAnswer, route: Route) -> None:
    """Refuse an answer whose status would mislead the client if it were passed on.

    Raises:
        CredentialsRejected: The stored credentials were refused.
        UpstreamFailed: It is a redirect, or no answer to an HTTP request at all.
    """
    status = answer.status
    if status in CREDENTIAL_STATUSES:
        # Passed on, it would make the client throw its own, valid, token away.
        raise CredentialsRejected(route.named, status, answer.headers.get("www-authenticate"))
    if status in REDIRECTS:
        raise UpstreamFailed(
            f"The {route.named} answered with a redirect (HTTP {status}), which is "
            "not followed; register the address it leads to."
        )
    if status < OK:
        raise UpstreamFailed(f"The {route.named} wants to leave HTTP.")
    if status >= SERVER_ERRORS.stop:
        raise UpstreamFailed(f"The {route.named} answered HTTP {status}, which is no status.")


def _refuse_foreign(status: int, content_type: str, route: Route) -> None:
    if status in SUCCESS:
        shown = content_type.partition(";")[0].strip()[:64] or "no content type"
        raise UpstreamFailed(f"The {route.named} answered {shown} instead of JSON.")
    passed_on = 502 if status in SERVER_ERRORS and status != NotServing.status else status
    kind = SessionForgotten if status == NOT_FOUND else UpstreamAnswered
    raise kind(route.named, passed_on, status)


SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

EVENT_ENDS = (b"\n\n", b"\r\r", b"\r\n\r\n")
LONGEST_END = 4

MAX_WAITING = 50
"""Messages that wait for a server's event to end; the oldest are dropped first."""


class StreamTermination:
    """Passes a stream on and knows whether it stands between two events.

    Args:
        send: The client's ASGI channel.
    """

    __slots__ = ("_send", "_tail")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._tail = b""

    async def __call__(self, message: Message) -> None:
        """Pass one ASGI message on."""
        body = message.get("body", b"")
        if body:
            self._tail = (self._tail + body[-LONGEST_END:])[-LONGEST_END:]
        await self._send(message)

    @property
    def is_between_events(self) -> bool:
        """Whether another event can follow now."""
        return not self._tail or self._tail.endswith(EVENT_ENDS)


class InterjectedStream(StreamTermination):
    """Passes a server's event stream on, and sends messages of the gateway between its events.

    Nothing is parsed. These messages have no id, so a client that lost the stream resumes after
    the last one of the server.

    Args:
        client: Whose stream it is.
        send: The client's ASGI channel.
    """

    __slots__ = ("_client", "_is_open", "_turn", "_waiting")

    def __init__(self, client: ClientChannel, send: Send) -> None:
        super().__init__(send)
        self._client = client
        self._turn = asyncio.Lock()
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._is_open = False

    @override
    async def __call__(self, message: Message) -> None:
        """Pass one ASGI message on, then what has waited for it."""
        async with self._turn:
            await super().__call__(message)
            self._is_open = self._client.is_event_stream and message.get("more_body") is True
        if self._waiting:
            await self.flush()

    def say(self, raw: bytes) -> None:
        """Have a message sent by the next `flush` between two events."""
        self._waiting.append(b"event: message\ndata: " + raw + b"\n\n")

    async def flush(self) -> None:
        """Send what waits, unless the server is in the middle of an event."""
        async with self._turn:
            while self._waiting and self._is_open and self.is_between_events:
                body = self._waiting.popleft()
                await self._send({"type": "http.response.body", "body": body, "more_body": True})


def stream_termination(
    stream: StreamTermination | None, refusal: Refusal, request_id: RequestId | None
) -> bytes:
    """Return what a stream ends with: nothing, unless its protocol ends it with a result."""
    if stream is None or not stream.is_between_events or not isinstance(refusal, ShuttingDown):
        return b""
    result = {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: request_id}}
    message = {"jsonrpc": "2.0", "id": request_id, "result": result}
    return b"event: message\ndata: " + orjson.dumps(message) + b"\n\n"
