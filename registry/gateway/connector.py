"""Conversations with upstreams: one request, and all that belongs to it until its answer.

Used where the gateway is the client: on the combined server, and where client and server are of
different eras. Each conversation reads a stream of its own, so that what a server asks during a
call can be told to belong to that call.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import orjson
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientOSError,
    ClientTimeout,
    ServerDisconnectedError,
)
from aiohttp.http_exceptions import HttpProcessingError
from mcp.shared.inbound import (
    NAME_BEARING_METHODS,
    encode_header_value,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)
from multidict import CIMultiDict
from typing_extensions import override
from yarl import URL

import registry
from registry.core.clock import Clock
from registry.core.errands import Errands
from registry.core.json import JsonObject, members
from registry.gateway.eras import NO_SUCH_PROTOCOL, is_of_another_era
from registry.gateway.errors import Refusal, UpstreamAnswered, UpstreamFailed
from registry.gateway.events import Event, EventTooLargeError, read_events
from registry.gateway.forward import EVENT_STREAM, JSON, OK, SUCCESS, check_status, failure
from registry.gateway.gates import Turn, UpstreamGates
from registry.gateway.headers import CONTENT_TYPE, SESSION_HEADER
from registry.gateway.messages import (
    Kind,
    Message,
    notification_text,
    read_message,
    request_text,
)
from registry.gateway.upstream_sessions import UpstreamSession, UpstreamSessions, session_key
from registry.gateway.values import Route, ToolEntry
from registry.gateway.wire import ConnectTimedOut, UpstreamAnswer, Wire
from registry.servers.values import Era, Transport

ACCEPT_BOTH = f"{JSON}, {EVENT_STREAM}"
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Longest answer that is put together in memory."""

MAX_SHORT_ANSWER_BYTES = 16 * 1024
"""Longest answer to a notification that is read; nothing in it is of interest."""

MAX_RESUMES = 100
"""How often in a row a server may end a stream to have it fetched again, saying nothing new."""

DEFAULT_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0

NOT_FOUND = 404
BAD_REQUEST = 400
BAD_GATEWAY = 502
SSE_VERSION = "2024-11-05"
GATEWAY_INFO: JsonObject = {"name": "mcp-gateway-registry", "version": registry.__version__}
CANCELLED = "notifications/cancelled"

FAILURES = (
    TimeoutError,
    ClientError,
    HttpProcessingError,
    OSError,
    ValueError,
    EventTooLargeError,
)


@dataclass(slots=True, kw_only=True)
class Ask:
    """One request to be sent to a server.

    Attributes:
        era: Of the client; a server that speaks it is spoken to in it.
        params: As that server knows things; copied before anything is added.
        is_exact: Whether orjson writes *params* without loss.
        credentials: The stored headers for this caller, credentials included.
        passed_on: Headers of the client that go upstream: trace context.
        capabilities: Of the client, as the server is to see them.
        info: Who the client is.
        level: Least severe log messages that the client wants; None leaves it to the server.
        tool: The tool that is called, if one is.
        may_repeat: Whether a second call would change nothing.
        is_standing: Whether it opens a stream that stays open, and takes no place of a call.
    """

    route: Route
    era: Era
    method: str
    params: JsonObject
    is_exact: bool
    credentials: CIMultiDict[str] = field(repr=False)
    passed_on: Mapping[str, str]
    capabilities: Mapping[str, Any]
    info: Mapping[str, Any] = field(default_factory=lambda: GATEWAY_INFO)
    level: str | None = None
    tool: ToolEntry | None = None
    may_repeat: bool = False
    is_standing: bool = False


class Conversation(Protocol):
    """One request under way.

    Attributes:
        request_id: What the server knows the request by.
        era: Of the server.
        is_open: Whether the request was sent, and the last message has not come.
    """

    request_id: str
    era: Era
    is_open: bool

    async def next(self) -> Message:
        """Return what comes next; the answer is the last.

        Raises:
            Refusal: The server failed.
        """

    def reply_address(self) -> list[str | None]:
        """Return what `Connector.reply` needs to answer something that the server asked."""

    async def reply(self, message: bytes) -> None:
        """Answer something that the server asked."""

    async def cancel(self, reason: str) -> None:
        """Tell the server that the answer is not wanted any more. Does not raise."""

    def rest(self) -> None:
        """Let the server be silent for as long as it likes, until messages are read again."""

    async def close(self) -> None:
        """Give back what the conversation holds."""


@dataclass(frozen=True, slots=True)
class Channel:
    """The event stream of a server of HTTP+SSE, and where it takes messages."""

    answer: UpstreamAnswer
    events: AsyncIterator[Event]
    endpoint: URL


class Connector:
    """Opens conversations.

    Args:
        wire: How requests are sent.
        gates: How much each server is asked.
        connect_timeout_seconds: Longest wait for a connection to be made.
        repeats_reads: Whether what may be repeated is sent once more when a server breaks off.
        suspect: Has a server asked again which era it speaks.
    """

    def __init__(
        self,
        wire: Wire,
        gates: UpstreamGates,
        errands: Errands,
        clock: Clock,
        *,
        connect_timeout_seconds: float,
        repeats_reads: bool,
        suspect: Callable[[Route], None],
    ) -> None:
        self.wire = wire
        self.suspect = suspect
        self.gates = gates
        self._repeats_reads = repeats_reads
        self.clock = clock
        self.errands = errands
        self.sessions = UpstreamSessions(self._shake_hands, self._say_goodbye, errands, clock)
        self._connect_timeout_seconds = connect_timeout_seconds
        self._timeouts: dict[float, ClientTimeout] = {}
        self._silent = ClientTimeout(
            connect=connect_timeout_seconds, sock_connect=connect_timeout_seconds
        )
        # Long and random, so that it is found as text and never guessed.
        self._id_prefix = f"gw-{secrets.token_hex(8)}-"
        self._numbers = count(1)

    def new_id(self) -> str:
        """Return a request id that no upstream has seen."""
        return f"{self._id_prefix}{next(self._numbers)}"

    def timeout(self, route: Route) -> ClientTimeout:
        """Return the times that requests to *route* may take."""
        seconds = route.idle_timeout_seconds
        timeout = self._timeouts.get(seconds)
        if timeout is None:
            timeout = self._timeouts[seconds] = ClientTimeout(
                connect=max(self._connect_timeout_seconds, seconds),
                sock_connect=self._connect_timeout_seconds,
                sock_read=seconds,
            )
        return timeout

    async def open(self, ask: Ask) -> Conversation:
        """Send a request and return the conversation about it; the caller closes it.

        Raises:
            Refusal: The server cannot be reached or does not speak as it should.
        """
        conversation: StatelessConversation | SessionConversation | SseConversation
        if ask.route.transport is Transport.SSE:
            conversation = SseConversation(self, ask)
        elif ask.era in ask.route.eras and ask.era is Era.LEGACY:
            conversation = SessionConversation(self, ask)
        elif Era.MODERN in ask.route.eras:
            conversation = StatelessConversation(self, ask)
        else:
            conversation = SessionConversation(self, ask)
        turn = self.gates.of(ask.route).call(is_standing=ask.is_standing)
        await turn.__aenter__()
        conversation.turn = turn
        try:
            await conversation.start()
        except FAILURES as exc:
            conversation.error = exc
            # Only a server that is silent may still be at work.
            is_silent = isinstance(exc, TimeoutError)
            conversation.is_open &= is_silent and not isinstance(exc, ConnectTimedOut)
            await self.leave(conversation)
            raise failed(ask.route, exc) from exc
        except BaseException as exc:
            conversation.error = exc
            await self.leave(conversation)
            raise
        return conversation

    async def leave(self, conversation: Conversation) -> None:
        """Give a conversation up; a server that has not answered is told, in the background."""
        if conversation.is_open:
            self.errands.soon(_abandoned(conversation))
        else:
            await conversation.close()

    async def send(
        self, ask: Ask, turn: Turn | None, headers: CIMultiDict[str], raw: bytes
    ) -> UpstreamAnswer:
        """Send a request and return the head of the answer; the caller closes it.

        Raises what `Wire.request` raises.
        """
        route = ask.route
        request = ("POST", route.target, headers, raw)
        timeout, first_byte = self.timeout(route), route.first_byte_timeout_seconds
        try:
            answer = await self.wire.request(
                *request, timeout=timeout, first_byte_seconds=first_byte
            )
        except (ServerDisconnectedError, ClientOSError) as exc:
            is_unsent = isinstance(exc, ClientConnectorError)
            if is_unsent or not (ask.may_repeat and self._repeats_reads):
                raise
            self.gates.of(route).repeated()
            answer = await self.wire.request(
                *request, timeout=timeout, first_byte_seconds=first_byte
            )
        if turn is not None:
            turn.answered(answer.status)
        return answer

    async def open_channel(
        self, route: Route, credentials: CIMultiDict[str], passed_on: Mapping[str, str]
    ) -> Channel:
        """Open the event stream of a server of HTTP+SSE (2024-11-05); the caller closes it.

        Raises:
            Refusal: The server did not open one.
            Exception: One of `FAILURES`.
        """
        headers = credentials.copy()
        headers.update(passed_on)
        headers["Accept"] = EVENT_STREAM
        headers.pop(CONTENT_TYPE, None)
        answer = await self.wire.request(
            "GET", route.target, headers, b"", timeout=self.timeout(route)
        )
        try:
            _check_is_stream(answer, route)
            events = read_events(answer.body)
            return Channel(answer, events, await _endpoint(events, route))
        except BaseException:
            answer.close()
            raise

    async def hang_up(self, route: Route, headers: CIMultiDict[str]) -> None:
        """End a session with a server, whose headers name it; does not raise."""
        try:
            answer = await self.wire.request(
                "DELETE", route.target, headers, b"", timeout=self.timeout(route)
            )
        except FAILURES:
            return
        answer.close()

    async def reply(
        self, route: Route, credentials: CIMultiDict[str], address: list[str | None], raw: bytes
    ) -> None:
        """Bring an answer to what a server asked in a conversation, whoever holds that.

        Args:
            route: The server.
            credentials: The stored headers for this caller.
            address: What `Conversation.reply_address` returned.
            raw: The answer.

        Raises:
            Refusal: The server did not take it.
        """
        target, session_id, version = address
        headers = credentials.copy()
        if session_id is not None:
            headers[SESSION_HEADER] = session_id
        if version is not None:
            headers["MCP-Protocol-Version"] = version
        url = route.target if target is None else URL(target)
        if url.origin() != route.target.origin():
            raise UpstreamFailed(f"The server {route.server_name} is somewhere else now.")
        await self.post(route, url, headers, raw)

    async def post(
        self, route: Route, url: URL, headers: CIMultiDict[str], raw: bytes
    ) -> UpstreamAnswer:
        """Send a message that needs no answer.

        Raises:
            Refusal: The server did not take it.
        """
        headers["Content-Type"] = JSON
        headers["Accept"] = ACCEPT_BOTH
        try:
            answer = await self.wire.request(
                "POST", url, headers, raw, timeout=self.timeout(route)
            )
            try:
                check_status(answer.status, route)
                if answer.status not in SUCCESS:
                    raise UpstreamAnswered(route.server_name, answer.status, answer.status)
                # Read to its end, a short answer leaves the connection fit for the next call.
                length = answer.headers.get("Content-Length", "")
                if length.isdecimal() and int(length) <= MAX_SHORT_ANSWER_BYTES:
                    await answer.body.read()
                return answer
            finally:
                answer.close()
        except FAILURES as exc:
            raise failed(route, exc) from exc

    async def begin_session(self, route: Route, credentials: CIMultiDict[str]) -> UpstreamSession:
        """Return a new session that is shared with nobody; the caller ends it.

        Raises:
            Refusal: The server did not shake hands.
        """
        key = session_key(route, credentials, {}, None)
        session = UpstreamSession(key, route, credentials, "")
        await self._shake_hands(session, {}, None)
        return session

    def end_session(self, session: UpstreamSession) -> None:
        """Let the server forget a session, in the background."""
        self.errands.soon(self._say_goodbye(session))

    async def ask_in(self, session: UpstreamSession, method: str, params: JsonObject) -> Message:
        """Send a request in *session* and return the answer, which may be an error.

        Raises:
            Refusal: The server did not take it, or has forgotten the session.
        """
        route = session.route
        request_id = self.new_id()
        headers = session_headers(session)
        headers["Content-Type"] = JSON
        headers["Accept"] = ACCEPT_BOTH
        raw = request_text(method, params, request_id, is_exact=True)
        try:
            answer = await self.wire.request(
                "POST", route.target, headers, raw, timeout=self.timeout(route)
            )
            try:
                if answer.status == NOT_FOUND:
                    raise UpstreamAnswered(route.server_name, BAD_GATEWAY, answer.status)
                message = await _only_answer(answer, route, request_id)
            finally:
                answer.close()
        except FAILURES as exc:
            raise failed(route, exc) from exc
        if answer.status == BAD_REQUEST and b"session" in message.raw.lower():
            raise UpstreamAnswered(route.server_name, BAD_GATEWAY, answer.status)
        return message

    async def post_in(self, session: UpstreamSession, raw: bytes) -> None:
        """Send a message that needs no answer in *session*.

        Raises:
            Refusal: The server did not take it.
        """
        await self.post(session.route, session.route.target, session_headers(session), raw)

    async def fetch_stream(
        self, session: UpstreamSession, last_event_id: str | None
    ) -> UpstreamAnswer:
        """Return the stream on which the server speaks outside of calls; the caller closes it.

        The server may be silent on it, and before it, for as long as it likes.

        Raises:
            Refusal: There is none, or the server has forgotten the session.
        """
        route = session.route
        headers = session_headers(session)
        headers["Accept"] = EVENT_STREAM
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        try:
            answer = await self.wire.request(
                "GET", route.target, headers, b"", timeout=self._silent
            )
        except FAILURES as exc:
            raise failed(route, exc) from exc
        try:
            check_status(answer.status, route)
            content_type = answer.headers.get(CONTENT_TYPE, "").lower()
            if answer.status != OK or not content_type.startswith(EVENT_STREAM):
                raise UpstreamAnswered(route.server_name, BAD_GATEWAY, answer.status)
        except Refusal:
            answer.close()
            raise
        answer.rest()
        return answer

    async def _shake_hands(
        self, session: UpstreamSession, capabilities: Mapping[str, Any], level: str | None
    ) -> None:
        route = session.route
        request_id = self.new_id()
        wanted = route.protocol_version
        if wanted not in HANDSHAKE_PROTOCOL_VERSIONS:
            wanted = LATEST_HANDSHAKE_VERSION
        hello = _hello(request_id, wanted, capabilities)
        headers = session.credentials.copy()
        headers["Content-Type"] = JSON
        headers["Accept"] = ACCEPT_BOTH
        try:
            answer = await self.wire.request(
                "POST", route.target, headers, hello, timeout=self.timeout(route)
            )
            try:
                message = await _only_answer(answer, route, request_id)
            finally:
                answer.close()
        except FAILURES as exc:
            raise failed(route, exc) from exc
        session.id = answer.headers.get(SESSION_HEADER)
        version = members(message.body.get("result")).get("protocolVersion")
        if not isinstance(version, str) or "error" in message.body:
            if is_of_another_era(Era.LEGACY, answer.status, message.raw):
                self.suspect(route)
            raise UpstreamFailed(f"The server {route.server_name} refused to initialize.")
        session.version = version
        await self.post(
            route,
            route.target,
            session_headers(session),
            notification_text("notifications/initialized"),
        )
        if level is not None and "logging" in route.capabilities:
            set_level = request_text(
                "logging/setLevel", {"level": level}, self.new_id(), is_exact=True
            )
            await self.post(route, route.target, session_headers(session), set_level)

    async def _say_goodbye(self, session: UpstreamSession) -> None:
        if session.id is not None:
            await self.hang_up(session.route, session_headers(session))


class _Talk:
    """What the conversations have in common."""

    era = Era.LEGACY

    def __init__(self, connector: Connector, ask: Ask) -> None:
        self.request_id = connector.new_id()
        self._connector = connector
        self._ask = ask
        self._route = ask.route
        self._answer: UpstreamAnswer | None = None
        self._events: AsyncIterator[Event] | None = None
        self._reader: AsyncGenerator[Message, None] | None = None
        self.is_answered = False
        self.turn: Turn | None = None
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
                    self._wonder(whole)
                    self.is_answered, self.is_open = True, False
                    return Message(Kind.ANSWER, whole)
                self._reader = self._read()
            message = await anext(self._reader)
        except FAILURES as exc:
            self.error = exc
            raise failed(self._route, exc) from exc
        if message.kind is Kind.ANSWER:
            self.is_answered, self.is_open = True, False
        return message

    def _wonder(self, whole: bytes) -> None:
        """Have the server asked again what it speaks if its answer suggests it."""
        answer = self._answer
        if answer is None or answer.status not in NO_SUCH_PROTOCOL:
            return
        if is_of_another_era(self.era, answer.status, whole):
            self._connector.suspect(self._route)

    async def _at_once(self) -> bytes | None:
        """Return the answer if it is no stream of messages."""
        answer = self._answer
        assert answer is not None  # noqa: S101 - set by `start`
        if self._events is not None:
            return None
        content_type = answer.headers.get(CONTENT_TYPE, "").lower()
        if not content_type.startswith(EVENT_STREAM):
            self.is_open = False
            return await _whole(answer, self._route, content_type)
        check_status(answer.status, self._route)
        self._events = read_events(answer.body)
        return None

    async def _read(self) -> AsyncGenerator[Message, None]:
        assert self._events is not None  # noqa: S101 - set before
        async for event in self._events:
            message = self._message(event)
            if message is not None:
                yield message
        raise UpstreamFailed(f"The server {self._route.server_name} broke off its answer.")

    def _message(self, event: Event) -> Message | None:
        if event.name != "message" or not event.data:
            return None
        return read_message(event.data, self.request_id)

    async def reply(self, message: bytes) -> None:
        """Answer something that the server asked."""
        await self._connector.reply(
            self._route, self._ask.credentials, self.reply_address(), message
        )

    def reply_address(self) -> list[str | None]:
        """Return what `Connector.reply` needs."""
        return [None, None, None]

    async def cancel(self, reason: str) -> None:
        """Tell the server that the answer is not wanted any more."""
        told = notification_text(CANCELLED, {"requestId": self.request_id, "reason": reason})
        try:
            await self.reply(told)
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
        turn, self.turn = self.turn, None
        if turn is not None:
            error = self.error
            if error is None and not self.is_answered:
                # Given up by the client, which says nothing of the server.
                error = asyncio.CancelledError()
            await turn.__aexit__(None if error is None else type(error), error, None)


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
        self._answer = await self._connector.send(ask, self.turn, headers, raw)

    @override
    async def cancel(self, reason: str) -> None:
        """Close the stream, which is how this era cancels."""
        await self.close()


class SessionConversation(_Talk):
    """With a server of the handshake's era, in a session that others may share."""

    def __init__(self, connector: Connector, ask: Ask) -> None:
        super().__init__(connector, ask)
        self._session: UpstreamSession | None = None
        self._early: bytes | None = None
        self._last_event_id: str | None = None
        self._retry_seconds = DEFAULT_RETRY_SECONDS

    async def start(self) -> None:
        """Send the request in a session, in a new one if the server has forgotten it."""
        ask = self._ask
        raw = request_text(ask.method, ask.params, self.request_id, is_exact=ask.is_exact)
        key = session_key(ask.route, ask.credentials, ask.capabilities, ask.level)
        for is_last in (False, True):
            session = self._session = await self._connector.sessions.acquire(
                key, ask.route, ask.credentials, ask.capabilities, ask.level
            )
            headers = session_headers(session)
            headers.update(ask.passed_on)
            headers["Content-Type"] = JSON
            headers["Accept"] = ACCEPT_BOTH
            self.is_open = True
            answer = self._answer = await self._connector.send(ask, self.turn, headers, raw)
            if is_last or session.id is None or not await self._is_forgotten(answer):
                return
            self._connector.sessions.forget(session)
            self.is_open, self._early = False, None
            answer.close()
            # Given back here, and not once more if there is no other session to be had.
            self._session = None
            self._connector.sessions.release(session)

    async def _is_forgotten(self, answer: UpstreamAnswer) -> bool:
        """Whether the server does not know the session any more, so that it did nothing."""
        if answer.status == NOT_FOUND:
            return True
        length = answer.headers.get("Content-Length", "")
        # Many servers answer 400 instead; what else they refuse so is no different next time.
        if (
            answer.status != BAD_REQUEST
            or not length.isdecimal()
            or int(length) > MAX_SHORT_ANSWER_BYTES
        ):
            return False
        content_type = answer.headers.get(CONTENT_TYPE, "").lower()
        self._early = await _whole(answer, self._route, content_type)
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
        headers = session_headers(session)
        headers["Accept"] = EVENT_STREAM
        headers["Last-Event-ID"] = self._last_event_id or ""
        self._answer = await self._connector.wire.request(
            "GET", self._route.target, headers, b"", timeout=self._timeout
        )
        check_status(self._answer.status, self._route)
        if self._answer.status != OK:
            raise UpstreamAnswered(self._route.server_name, 502, self._answer.status)
        self._events = read_events(self._answer.body)

    @override
    def _message(self, event: Event) -> Message | None:
        if event.id is not None:
            self._last_event_id = event.id
        if event.retry_ms is not None:
            self._retry_seconds = min(event.retry_ms / 1000, MAX_RETRY_SECONDS)
        return super()._message(event)

    @override
    def reply_address(self) -> list[str | None]:
        """Return session id and version."""
        session = self._session
        return [None, session.id if session else None, session.version if session else None]

    @override
    async def close(self) -> None:
        """Give back connection and session."""
        await super().close()
        session, self._session = self._session, None
        if session is not None:
            self._connector.sessions.release(session)


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
        await self.greet()
        self.is_open = True
        ask = self._ask
        await self._post(
            request_text(ask.method, ask.params, self.request_id, is_exact=ask.is_exact)
        )

    async def tell(self, method: str, params: JsonObject) -> None:
        """Send a request whose answer, on the stream, nobody waits for."""
        request_id = self._connector.new_id()
        await self._post(request_text(method, params, request_id, is_exact=True))

    async def greet(self) -> None:
        """Open a stream and shake hands."""
        ask = self._ask
        channel = await self._connector.open_channel(ask.route, ask.credentials, ask.passed_on)
        self._answer, self._endpoint = channel.answer, channel.endpoint
        events = self._events = channel.events
        hello_id = self._connector.new_id()
        await self._post(_hello(hello_id, SSE_VERSION, ask.capabilities))
        await self._greeted(events, hello_id)
        await self._post(notification_text("notifications/initialized"))

    async def _greeted(self, events: AsyncIterator[Event], hello_id: str) -> None:
        async for event in events:
            if event.name == "message":
                message = read_message(event.data, hello_id)
                if message is not None and message.kind is Kind.ANSWER:
                    if "error" in message.body:
                        raise self._broken("refused to initialize")
                    return
        raise self._broken("closed its stream")

    async def _post(self, raw: bytes) -> None:
        await self._connector.post(self._route, self._endpoint, self._ask.credentials.copy(), raw)

    @override
    def reply_address(self) -> list[str | None]:
        """Return the address that the server takes messages at."""
        return [str(self._endpoint), None, None]

    def _broken(self, what: str) -> UpstreamFailed:
        return _broken(self._route, what)


def _broken(route: Route, what: str) -> UpstreamFailed:
    return UpstreamFailed(f"The server {route.server_name} {what}.")


def _check_is_stream(answer: UpstreamAnswer, route: Route) -> None:
    check_status(answer.status, route)
    if not answer.headers.get(CONTENT_TYPE, "").lower().startswith(EVENT_STREAM):
        raise _broken(route, "did not open an event stream")


async def _endpoint(events: AsyncIterator[Event], route: Route) -> URL:
    """Return the address that a server of HTTP+SSE takes messages at, as its stream says."""
    async for event in events:
        if event.name == "endpoint":
            endpoint = route.target.join(URL(event.data.decode()))
            if endpoint.origin() != route.target.origin():
                # The credentials belong to the registered origin only.
                raise _broken(route, "names an endpoint of another origin")
            return endpoint
    raise _broken(route, "named no endpoint")


async def _abandoned(conversation: Conversation) -> None:
    try:
        await conversation.cancel("The client does not want the answer any more.")
    finally:
        await conversation.close()


def session_headers(session: UpstreamSession) -> CIMultiDict[str]:
    """Return the headers of a message in *session*."""
    headers = session.credentials.copy()
    if session.id is not None:
        headers[SESSION_HEADER] = session.id
    if session.version:
        headers["MCP-Protocol-Version"] = session.version
    return headers


def failed(route: Route, error: Exception) -> Refusal:
    """Return what the client is told of a failed conversation."""
    match error:
        case EventTooLargeError():
            return UpstreamFailed(f"The server {route.server_name} sent too large an event.")
        case orjson.JSONDecodeError():
            return UpstreamFailed(f"The server {route.server_name} sent what is no JSON.")
        case _:
            return failure(route, error)


def _hello(request_id: str, version: str, capabilities: Mapping[str, Any]) -> bytes:
    params: JsonObject = {
        "protocolVersion": version,
        "capabilities": dict(capabilities),
        "clientInfo": GATEWAY_INFO,
    }
    return request_text("initialize", params, request_id, is_exact=True)


async def _only_answer(answer: UpstreamAnswer, route: Route, request_id: str) -> Message:
    content_type = answer.headers.get(CONTENT_TYPE, "").lower()
    if not content_type.startswith(EVENT_STREAM):
        return Message(Kind.ANSWER, await _whole(answer, route, content_type))
    async for event in read_events(answer.body):
        message = read_message(event.data, request_id) if event.data else None
        if message is not None and message.kind is Kind.ANSWER:
            return message
    raise UpstreamFailed(f"The server {route.server_name} broke off its answer.")


async def _whole(answer: UpstreamAnswer, route: Route, content_type: str) -> bytes:
    """Return the answer's body: a JSON-RPC message, whatever the status."""
    check_status(answer.status, route)
    if not content_type.startswith(JSON):
        if answer.status not in SUCCESS:
            passed_on = answer.status if answer.status < 500 else 502  # noqa: PLR2004 - of the server
            raise UpstreamAnswered(route.server_name, passed_on, answer.status)
        shown = content_type.partition(";")[0].strip()[:64] or "no content type"
        raise UpstreamFailed(f"The server {route.server_name} answered {shown} instead of JSON.")
    length = answer.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) <= MAX_ANSWER_BYTES:
        return await answer.body.read()
    whole = bytearray()
    async for chunk in answer.body.iter_any():
        whole += chunk
        if len(whole) > MAX_ANSWER_BYTES:
            raise UpstreamFailed(f"The server {route.server_name} sent too large an answer.")
    return bytes(whole)
