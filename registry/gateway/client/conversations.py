"""Conversations with upstreams: one request, and all that belongs to it until its answer.

Used where the gateway is the client: on the combined server, and where client and server are of
different eras. Each conversation reads a stream of its own, so that what a server asks during a
call can be told to belong to that call.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

from aiohttp import (
    ClientError,
    ClientTimeout,
)
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import (
    MODERN_PROTOCOL_VERSIONS,
)
from typing_extensions import override

from registry.core.json import JsonObject, members
from registry.gateway.client.answers import (
    BAD_REQUEST,
    CANCELLED,
    FAILURES,
    MAX_RESUMES,
    NOT_FOUND,
    SSE_VERSION,
    broken,
    error_status,
    failed,
    hello_text,
    session_headers,
    whole_answer,
)
from registry.gateway.client.asks import Ask, Conversation
from registry.gateway.client.connector import Connector
from registry.gateway.client.sessions import UpstreamSession, session_key
from registry.gateway.edge.eras import NO_SUCH_PROTOCOL, is_of_another_era
from registry.gateway.errors import (
    CredentialsRejected,
    NoJsonRpcAnswer,
    Refusal,
    UpstreamAnswered,
    UpstreamFailed,
)
from registry.gateway.protocol.era_translation import LOG_LEVELS
from registry.gateway.protocol.headers import CONTENT_LENGTH, CONTENT_TYPE
from registry.gateway.protocol.messages import Message, MessageKind, read_events, read_message
from registry.gateway.protocol.response_classification import (
    MAX_JUDGED_BYTES,
    Answer,
    may_be_answer,
    read_handshake,
)
from registry.gateway.transport.bulkhead import Permit
from registry.gateway.transport.forwarder import EVENT_STREAM, JSON, OK, SUCCESS, check_status
from registry.http.client.exchange import ConnectTimedOut, UpstreamAnswer
from registry.servers.values import Era, Transport
from registry.upstream.client import (
    ACCEPT_BOTH,
    DEFAULT_RETRY_SECONDS,
    MAX_RETRY_SECONDS,
    MAX_SHORT_ANSWER_BYTES,
)
from registry.upstream.events import ServerSentEvent
from registry.upstream.messages import notification_text, request_text
from registry.upstream.sdk import (
    NAME_BEARING_METHODS,
    encode_header_value,
    mcp_param_headers,
    x_mcp_header_map,
)

MAX_INBOX = 1_000
"""What a server may say during a call on the session's stream while the client reads nothing."""

LATE_REPORTS_SECONDS = 0.02
"""How long an answer waits for log messages that the server sent before it on another stream, if
the request asked for them: its client has no stream of its own on which they could come later."""

FIRST_QUESTION_SECONDS = 0.1
"""How long the first call in a session waits for the server to ask for the client's roots: file
servers do as soon as the session has begun, and refuse every path before they know."""

FIRST_ANSWER_SECONDS = 5.0
"""How long that call waits for the client's answer."""

ANSWER_DELAY_SECONDS = 0.05
"""In which an answer that another request brings has reached the server."""


async def converse(connector: Connector, ask: Ask) -> Conversation:
    """Send a request and return the conversation about it; the caller closes it.

    Raises:
        Refusal: The server cannot be reached or does not speak as it should.
    """
    conversation: StatelessConversation | SessionConversation | SseConversation
    if ask.route.transport is Transport.SSE:
        conversation = SseConversation(connector, ask)
    elif ask.era in ask.route.eras and ask.era is Era.LEGACY:
        conversation = SessionConversation(connector, ask)
    elif Era.MODERN in ask.route.eras:
        conversation = StatelessConversation(connector, ask)
    else:
        conversation = SessionConversation(connector, ask)
    bulkhead = connector.bulkheads.of(ask.route, _elsewhere(ask))
    permit = bulkhead.call(is_standing=ask.is_standing, user_id=ask.user_id)
    await permit.__aenter__()
    conversation.permit = permit
    try:
        await conversation.start()
    except FAILURES as exc:
        conversation.error = exc
        conversation.is_open &= _may_be_at_work(exc)
        await connector.leave(conversation)
        raise failed(ask.route, exc, bulkhead.name) from exc
    except BaseException as exc:
        conversation.error = exc
        await connector.leave(conversation)
        raise
    return conversation


def _elsewhere(ask: Ask) -> str | None:
    """Return the origin that is asked, if it is an operation of a REST API at another than its."""
    api = ask.route.api
    return api.elsewhere(str(ask.params.get("name"))) if api is not None else None


def _may_be_at_work(failure: Exception) -> bool:
    """Whether a server that failed so may still work on the request: it is only silent."""
    return isinstance(failure, TimeoutError) and not isinstance(failure, ConnectTimedOut)


class _Talk:
    """What the conversations have in common."""

    era = Era.LEGACY

    def __init__(self, connector: Connector, ask: Ask) -> None:
        self.request_id = connector.new_id()
        self._connector = connector
        self._ask = ask
        self._route = ask.route
        self._answer: UpstreamAnswer | None = None
        self._events: AsyncIterator[ServerSentEvent] | None = None
        self._reader: AsyncGenerator[Message, None] | None = None
        self.is_answered = False
        self.permit: Permit | None = None
        self.error: BaseException | None = None
        self.is_open = False

    @property
    def _timeout(self) -> ClientTimeout:
        return self._connector.timeout(self._route)

    async def next(self) -> Message:
        """Return what comes next; the answer is the last."""
        try:
            if self._reader is None:
                whole = await self._at_once()
                if whole is not None:
                    self._check(whole)
                    self.is_answered, self.is_open = True, False
                    return Message(MessageKind.ANSWER, whole)
                self._reader = self._read()
            message = await anext(self._reader)
        except FAILURES as exc:
            self.error = exc
            raise failed(self._route, exc) from exc
        except Refusal as exc:
            self.error = exc
            raise
        if message.kind is MessageKind.ANSWER:
            self.is_answered, self.is_open = True, False
        return message

    def _check(self, whole: bytes) -> None:
        """Have the server asked again what it speaks if its answer suggests it.

        Raises:
            NoJsonRpcAnswer: It is none.
            UpstreamAnswered: It is none, and its status tells of an error.
        """
        answer = self._answer
        if answer is None:
            return
        status = answer.status
        if status == OK:
            if not may_be_answer(whole):
                raise NoJsonRpcAnswer(self._route.named, status)
            return
        if status in NO_SUCH_PROTOCOL and is_of_another_era(self.era, status, whole):
            self._connector.probe_eras(self._route)
        if len(whole) <= MAX_JUDGED_BYTES and read_handshake(whole) is Answer.INVALID:
            if status in SUCCESS:
                raise NoJsonRpcAnswer(self._route.named, status)
            raise error_status(self._route, status)

    async def _at_once(self) -> bytes | None:
        """Return the answer if it is no stream of messages."""
        answer = self._answer
        assert answer is not None  # noqa: S101 - set by `start`
        if self._events is not None:
            return None
        content_type = answer.headers.get(CONTENT_TYPE, "").lower()
        if not content_type.startswith(EVENT_STREAM):
            self.is_open = False
            return await whole_answer(answer, self._route, content_type)
        check_status(answer, self._route)
        self._events = read_events(answer.body, answer.max_bytes)
        return None

    async def _read(self) -> AsyncGenerator[Message, None]:
        assert self._events is not None  # noqa: S101 - set before
        async for event in self._events:
            message = self._message(event)
            if message is not None:
                yield message
        raise UpstreamFailed(f"The {self._route.named} broke off its answer.")

    def _message(self, event: ServerSentEvent) -> Message | None:
        if event.name != "message" or not event.data:
            return None
        return read_message(event.data, self.request_id)

    async def reply(self, message: bytes) -> None:
        """Answer something that the server asked."""
        ask, connector = self._ask, self._connector
        try:
            credentials = await connector.sessions.newest(ask.route, ask.owner, ask.credentials)
            await connector.reply(self._route, credentials, self.reply_address(), message)
        except CredentialsRejected as exc:
            # The call itself is under way: unlike one that was rejected, it is never repeated.
            raise UpstreamFailed(exc.message) from None

    def reply_address(self) -> list[str | None]:
        """Return what `Connector.reply` needs."""
        return [None, None, None]

    def was_answered(self) -> None:
        """Note that the client answered something that the server asked."""

    async def cancel(self, reason: str) -> None:
        """Tell the server that the answer is not wanted any more."""
        message = notification_text(CANCELLED, {"requestId": self.request_id, "reason": reason})
        try:
            await self.reply(message)
        except Refusal:
            return

    def rest(self) -> None:
        """Let the server be silent for as long as it likes."""
        if self._answer is not None:
            self._answer.rest()

    async def close(self) -> None:
        """Give back what the conversation holds."""
        if self._reader is not None:
            await self._reader.aclose()
        if self._answer is not None:
            self._answer.close()
        error = self.error
        if error is None and not self.is_answered:
            # Given up by the client, which says nothing of the server.
            error = asyncio.CancelledError()
        await self._end_turn(error)

    async def leave_place(self) -> None:
        """Count no longer as a call under way, though it goes on."""
        await self._end_turn(None)

    async def _end_turn(self, error: BaseException | None) -> None:
        permit, self.permit = self.permit, None
        if permit is not None:
            await permit.__aexit__(None if error is None else type(error), error, None)


class StatelessConversation(_Talk):
    """With a server of 2026-07-28."""

    era = Era.MODERN

    async def start(self) -> None:
        """Send the request."""
        ask = self._ask
        version = MODERN_PROTOCOL_VERSIONS[-1]
        meta: JsonObject = {
            **members(ask.params.get("_meta")),
            PROTOCOL_VERSION_META_KEY: version,
            CLIENT_CAPABILITIES_META_KEY: dict(ask.capabilities),
            CLIENT_INFO_META_KEY: dict(ask.info),
        }
        if ask.level is not None:
            meta[LOG_LEVEL_META_KEY] = ask.level
        headers = ask.credentials.copy()
        headers.update(ask.passed_on)
        headers["Content-Type"] = JSON
        headers["Accept"] = ACCEPT_BOTH
        headers["MCP-Protocol-Version"] = version
        headers["Mcp-Method"] = ask.method
        named_by = NAME_BEARING_METHODS.get(ask.method)
        if named_by is not None:
            headers["Mcp-Name"] = encode_header_value(str(ask.params.get(named_by)))
        if ask.tool is not None and ask.tool.param_header_schema is not None:
            mirrored = x_mcp_header_map(ask.tool.param_header_schema)
            headers.update(mcp_param_headers(mirrored, members(ask.params.get("arguments"))))
        raw = request_text(
            ask.method, {**ask.params, "_meta": meta}, self.request_id, is_exact=ask.is_exact
        )
        self.is_open = True
        self._answer = await self._connector.send(ask, self.permit, headers, raw)

    @override
    async def cancel(self, reason: str) -> None:
        """Close the stream, which is how this era cancels."""
        await self.close()


class SessionConversation(_Talk):
    """With a server of the handshake's era, in the session of the one who asks."""

    def __init__(self, connector: Connector, ask: Ask) -> None:
        super().__init__(connector, ask)
        self._session: UpstreamSession | None = None
        self._session_id: str | None = None
        self._version: str | None = None
        self._early: bytes | None = None
        self._last_event_id: str | None = None
        self._retry_seconds = DEFAULT_RETRY_SECONDS
        self._progress_token = members(ask.params.get("_meta")).get("progressToken")
        self._inbox: deque[Message] = deque()
        self._woken: asyncio.Future[None] | None = None
        self._coming: asyncio.Task[Message | None] | None = None
        self._waiting_answer: Message | None = None
        self._is_first = False
        self._answered_first = asyncio.Event()

    async def start(self) -> None:
        """Send the request in a session; return when its answer begins or the server asks."""
        await self._acquire()
        if self._has_stream and await self._is_asked_first():
            self._coming = self._connector.background_tasks.start(self._send_once_answered())
        elif self._has_stream:
            self._coming = self._connector.background_tasks.start(self._send())
            await self._wait_for_either()
            if not self._inbox:
                self._come()
        else:
            await self._send()

    async def _is_asked_first(self) -> bool:
        """Whether the server asks something before the first call in its session."""
        if not self._is_first or "roots" not in self._ask.capabilities:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_QUESTION_SECONDS):
                while not self._has_question:
                    self._woken = asyncio.get_running_loop().create_future()
                    await self._woken
        self._woken = None
        return self._has_question

    @property
    def _has_question(self) -> bool:
        return any(message.kind is MessageKind.REQUEST for message in self._inbox)

    async def _send_once_answered(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER_SECONDS):
                await self._answered_first.wait()
        await self._send()

    @override
    def was_answered(self) -> None:
        """Let the first call go on; the answer itself is on its way."""
        asyncio.get_running_loop().call_later(ANSWER_DELAY_SECONDS, self._answered_first.set)

    @override
    async def reply(self, message: bytes) -> None:
        """Answer something that the server asked."""
        await super().reply(message)
        self._answered_first.set()

    @override
    async def next(self) -> Message:
        """Return what comes next, on the request's own stream or on that of the session."""
        if not self._has_stream and self._coming is None:
            return await super().next()
        try:
            return await self._next_of_both_streams()
        except FAILURES as exc:
            self.error = exc
            self.is_open &= _may_be_at_work(exc)
            raise failed(self._route, exc) from exc
        except Refusal as exc:
            self.error = exc
            raise

    async def _next_of_both_streams(self) -> Message:
        while not self._inbox:
            answer, self._waiting_answer = self._waiting_answer, None
            if answer is not None:
                return answer
            if self._coming is None:
                self._coming = self._connector.background_tasks.start(super().next())
            await self._wait_for_either()
            if not self._inbox:
                message = self._come()
                if message is None:
                    continue
                if message.kind is not MessageKind.ANSWER or not self._waits_for_reports:
                    return message
                self._waiting_answer = message
                await self._connector.clock.sleep(LATE_REPORTS_SECONDS)
        return self._inbox.popleft()

    @property
    def _waits_for_reports(self) -> bool:
        return self._ask.level is not None and self._ask.owner.session is None

    async def _wait_for_either(self) -> None:
        """Wait until something is there: on the session's stream, or as the request's."""
        assert self._coming is not None  # noqa: S101 - set by the callers
        self._woken = asyncio.get_running_loop().create_future()
        if not self._inbox:
            await asyncio.wait((self._coming, self._woken), return_when=asyncio.FIRST_COMPLETED)
        self._woken = None

    def _come(self) -> Message | None:
        """Return what came of the request itself; None when it was only sent."""
        coming, self._coming = self._coming, None
        assert coming is not None  # noqa: S101 - waited for
        return coming.result()

    def receive(self, message: Message) -> bool:
        """Take what the server said on the session's own stream."""
        is_over = self.is_answered and self._waiting_answer is None
        if is_over or len(self._inbox) >= MAX_INBOX:
            return False
        token = members(message.body.get("params")).get("progressToken")
        if token is not None and token != self._progress_token:
            return False
        self._inbox.append(message)
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
        return True

    @property
    def _has_stream(self) -> bool:
        return self._session is not None and self._session.has_stream

    async def _acquire(self) -> UpstreamSession:
        """Enter a session."""
        ask = self._ask
        key = session_key(ask.route, ask.credentials, ask.capabilities, ask.owner)
        session = self._session = await self._connector.sessions.acquire(
            key, ask.route, ask.credentials, ask.capabilities
        )
        # Kept: should another worker have opened one too, later calls may use that.
        self._session_id, self._version = session.id, session.version
        self._is_first, session.is_new = session.is_new, False
        session.begin_call(self)
        return session

    def _leave_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end_call(self)
            self._connector.sessions.release(session)

    async def _send(self) -> None:
        """Send the request, in a new session if the server has forgotten the one there was."""
        ask = self._ask
        raw = request_text(ask.method, ask.params, self.request_id, is_exact=ask.is_exact)
        for is_last in (False, True):
            session = self._session or await self._acquire()
            if ask.level is not None and _is_to_be_set(ask.level, session):
                await self._connector.set_level(session, ask.level)
            headers = session_headers(session)
            headers.update(ask.passed_on)
            headers["Content-Type"] = JSON
            headers["Accept"] = ACCEPT_BOTH
            self.is_open = True
            answer = self._answer = await self._connector.send(ask, self.permit, headers, raw)
            if is_last or session.id is None or not await self._is_forgotten(answer):
                return
            await self._connector.sessions.forget(session)
            self.is_open, self._early = False, None
            ask.is_sent = False
            answer.close()
            # Given back here, and not once more if there is no other session to be had.
            self._leave_session()

    async def _is_forgotten(self, answer: UpstreamAnswer) -> bool:
        """Whether the server does not know the session any more, so that it did nothing."""
        if answer.status == NOT_FOUND:
            return True
        length = answer.headers.get(CONTENT_LENGTH, "")
        # Many servers answer 400 instead; what else they refuse so is no different next time.
        if (
            answer.status != BAD_REQUEST
            or not length.isdecimal()
            or int(length) > MAX_SHORT_ANSWER_BYTES
        ):
            return False
        content_type = answer.headers.get(CONTENT_TYPE, "").lower()
        self._early = await whole_answer(answer, self._route, content_type)
        return b"session" in self._early.lower()

    @override
    async def _at_once(self) -> bytes | None:
        return await super()._at_once() if self._early is None else self._early

    @override
    async def _read(self) -> AsyncGenerator[Message, None]:
        resumes = 0
        while True:
            try:
                async for message in super()._read():
                    resumes = 0
                    yield message
            except (UpstreamFailed, ClientError, OSError):
                # A server may end a stream and have its rest fetched later (2025-11-25).
                if self._last_event_id is None or resumes >= MAX_RESUMES:
                    raise
            resumes += 1
            await self._resume()

    async def _resume(self) -> None:
        session, answer = self._session, self._answer
        assert session is not None and answer is not None  # noqa: S101, PT018 - set by `start`
        answer.close()
        await self._connector.clock.sleep(self._retry_seconds)
        await self._connector.sessions.refresh(session)
        headers = session_headers(session)
        headers["Accept"] = EVENT_STREAM
        headers["Last-Event-ID"] = self._last_event_id or ""
        self._answer = await self._connector.wire.request(
            "GET", self._route.target, headers, b"", timeout=self._timeout
        )
        try:
            check_status(self._answer, self._route)
        except CredentialsRejected as exc:
            raise UpstreamFailed(exc.message) from None
        if self._answer.status != OK:
            raise UpstreamAnswered(self._route.named, 502, self._answer.status)
        self._events = read_events(self._answer.body, self._answer.max_bytes)

    @override
    def _message(self, event: ServerSentEvent) -> Message | None:
        if event.id is not None:
            self._last_event_id = event.id
        if event.retry_ms is not None:
            self._retry_seconds = min(event.retry_ms / 1000, MAX_RETRY_SECONDS)
        return super()._message(event)

    @override
    def reply_address(self) -> list[str | None]:
        """Return session id and version."""
        return [None, self._session_id, self._version]

    @override
    async def close(self) -> None:
        """Give back connection and session."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await super().close()
        self._leave_session()


class SseConversation(_Talk):
    """With a server of the HTTP+SSE transport (2024-11-05).

    Such a server ties everything to one open event stream. Each conversation opens its own, says
    hello, asks, and closes it, so that nothing of one caller reaches another.
    """

    def __init__(self, connector: Connector, ask: Ask) -> None:
        super().__init__(connector, ask)
        self._endpoint = self._route.target

    async def start(self) -> None:
        """Open a stream, shake hands, and send the request."""
        await self.initialize()
        ask = self._ask
        self.is_open = ask.is_sent = True
        await self._post(
            request_text(ask.method, ask.params, self.request_id, is_exact=ask.is_exact)
        )

    async def send_request(self, method: str, params: JsonObject) -> None:
        """Send a request whose answer on the stream is ignored."""
        request_id = self._connector.new_id()
        await self._post(request_text(method, params, request_id, is_exact=True))

    async def initialize(self) -> None:
        """Open a stream and shake hands."""
        ask = self._ask
        channel = await self._connector.open_channel(
            ask.route, ask.credentials, ask.passed_on, self.permit
        )
        self._answer, self._endpoint = channel.answer, channel.endpoint
        events = self._events = channel.events
        hello_id = self._connector.new_id()
        await self._post(hello_text(hello_id, SSE_VERSION, ask.capabilities))
        await self._initialized(events, hello_id)
        await self._post(notification_text("notifications/initialized"))

    async def _initialized(self, events: AsyncIterator[ServerSentEvent], hello_id: str) -> None:
        async for event in events:
            if event.name == "message":
                message = read_message(event.data, hello_id)
                if message is not None and message.kind is MessageKind.ANSWER:
                    if not isinstance(message.body.get("result"), dict):
                        raise broken(self._route, "refused to initialize")
                    return
        raise broken(self._route, "closed its stream")

    async def _post(self, raw: bytes) -> None:
        await self._connector.post(self._route, self._endpoint, self._ask.credentials.copy(), raw)

    @override
    def reply_address(self) -> list[str | None]:
        """Return the address that the server takes messages at."""
        return [str(self._endpoint), None, None]


def _is_to_be_set(level: str, session: UpstreamSession) -> bool:
    """Whether the server is to report from another level on than it does."""
    if session.level is None or session.key.owner.session is not None:
        return level != session.level
    # Each request of the stateless era has a level of its own, and gets no more than it wants.
    return LOG_LEVELS.index(level) < LOG_LEVELS.index(session.level)
