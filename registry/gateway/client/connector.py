"""Single exchanges with upstreams where the gateway is the client: messages, sessions, streams."""

import secrets
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from aiohttp import (
    ClientConnectorError,
    ClientOSError,
    ClientTimeout,
    ServerDisconnectedError,
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
)
from multidict import CIMultiDict
from yarl import URL

from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.json import JsonObject, members
from registry.gateway.client.answers import (
    BAD_GATEWAY,
    BAD_REQUEST,
    FAILURES,
    NOT_FOUND,
    Channel,
    check_is_stream,
    failed,
    hello_text,
    named_endpoint,
    only_answer,
    session_headers,
)
from registry.gateway.client.asks import Ask, Conversation
from registry.gateway.client.sessions import (
    SessionLimits,
    UpstreamSession,
    UpstreamSessions,
)
from registry.gateway.edge.eras import is_of_another_era
from registry.gateway.errors import Refusal, UpstreamAnswered, UpstreamFailed
from registry.gateway.ports import Peers, RouteTable
from registry.gateway.protocol.headers import CONTENT_LENGTH, CONTENT_TYPE, SESSION_HEADER
from registry.gateway.protocol.messages import Message, read_events
from registry.gateway.transport.bulkhead import Bulkheads, Permit
from registry.gateway.transport.forwarder import EVENT_STREAM, JSON, OK, SUCCESS, check_status
from registry.gateway.values import Route
from registry.http.client.exchange import ConnectTimedOut, UpstreamAnswer, UpstreamHttp
from registry.servers.values import Era
from registry.upstream.client import ACCEPT_BOTH, MAX_SHORT_ANSWER_BYTES
from registry.upstream.messages import notification_text, request_text
from registry.upstream.rest.server import RestServer


class Connector:
    """Speaks to servers.

    Args:
        wire: How requests are sent.
        rest_server: Answers calls of the tools of REST APIs.
        bulkheads: How much each server is asked.
        connect_timeout_seconds: Longest wait for a connection to be made.
        retries_idempotent: Whether idempotent requests are sent again when a server breaks off.
        routes: The servers that can be called now.
        peers: The other workers.
        session_limits: How many sessions with servers there may be.
    """

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        wire: UpstreamHttp,
        rest_server: RestServer,
        bulkheads: Bulkheads,
        background_tasks: BackgroundTasks,
        clock: Clock,
        *,
        peers: Peers,
        session_limits: SessionLimits,
        connect_timeout_seconds: float,
        retries_idempotent: bool,
        routes: RouteTable,
    ) -> None:
        self.wire = wire
        self._rest_server = rest_server
        self.probe_eras = routes.probe_eras
        self.bulkheads = bulkheads
        self._retries_idempotent = retries_idempotent
        self.clock = clock
        self.background_tasks = background_tasks
        self.sessions = UpstreamSessions(
            self._initialize,
            self._end_session,
            background_tasks,
            clock,
            peers,
            session_limits,
            routes,
        )
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

    async def leave(self, conversation: Conversation) -> None:
        """Abandon a conversation; one without an answer is cancelled in the background."""
        if conversation.is_open:
            self.background_tasks.soon(_abandoned(conversation))
        else:
            await conversation.close()

    async def send(
        self, ask: Ask, permit: Permit | None, headers: CIMultiDict[str], raw: bytes
    ) -> UpstreamAnswer:
        """Send a request and return the head of the answer; the caller closes it.

        Raises what `UpstreamHttp.request` raises.
        """
        route = ask.route
        ask.is_sent = True
        try:
            answer = await self._asked(route, headers, raw)
        except ConnectTimedOut:
            ask.is_sent = False
            raise
        except (ServerDisconnectedError, ClientOSError) as exc:
            is_unsent = isinstance(exc, ClientConnectorError)
            if is_unsent:
                ask.is_sent = False
            if is_unsent or not (ask.may_repeat and self._retries_idempotent):
                raise
            self.bulkheads.of(route).repeated()
            answer = await self._asked(route, headers, raw)
        if permit is not None:
            permit.answered(answer.health_status)
        return answer

    def _asked(
        self, route: Route, headers: CIMultiDict[str], raw: bytes
    ) -> Awaitable[UpstreamAnswer]:
        """Have a request answered by whatever is behind a route."""
        timeout, first_byte_seconds = self.timeout(route), route.first_byte_timeout_seconds
        if route.api is not None:
            return self._rest_server.request(
                route.api, headers, raw, timeout=timeout, first_byte_seconds=first_byte_seconds
            )
        return self.wire.request(
            "POST",
            route.target,
            headers,
            raw,
            timeout=timeout,
            first_byte_seconds=first_byte_seconds,
        )

    async def open_channel(
        self,
        route: Route,
        credentials: CIMultiDict[str],
        passed_on: Mapping[str, str],
        permit: Permit | None = None,
    ) -> Channel:
        """Open the event stream of a server of HTTP+SSE (2024-11-05); the caller closes it.

        Args:
            route: The server.
            credentials: The stored headers for this caller.
            passed_on: Headers of the client that go upstream.
            permit: Receives the status of the answer.

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
            if permit is not None:
                permit.answered(answer.status)
            check_is_stream(answer, route)
            events = read_events(answer.body, answer.max_bytes)
            return Channel(answer, events, await named_endpoint(events, route))
        except BaseException:
            answer.close()
            raise

    async def terminate(self, route: Route, headers: CIMultiDict[str]) -> None:
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
        """Send a client's answer to a request of a server, in whichever worker that came.

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
            raise UpstreamFailed(f"The {route.named} is somewhere else now.")
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
                check_status(answer, route)
                if answer.status not in SUCCESS:
                    raise UpstreamAnswered(route.named, answer.status, answer.status)
                # Read to its end, a short answer leaves the connection fit for the next call.
                length = answer.headers.get(CONTENT_LENGTH, "")
                if length.isdecimal() and int(length) <= MAX_SHORT_ANSWER_BYTES:
                    await answer.body.read()
                return answer
            finally:
                answer.close()
        except FAILURES as exc:
            raise failed(route, exc) from exc

    async def ask_in(self, session: UpstreamSession, method: str, params: JsonObject) -> Message:
        """Send a request in *session* and return the answer, which may be an error.

        Raises:
            Refusal: The server did not take it, or has forgotten the session.
        """
        route = session.route
        request_id = self.new_id()
        await self.sessions.refresh(session)
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
                    raise UpstreamAnswered(route.named, BAD_GATEWAY, answer.status)
                message = await only_answer(answer, route, request_id)
            finally:
                answer.close()
        except FAILURES as exc:
            raise failed(route, exc) from exc
        if answer.status == BAD_REQUEST and b"session" in message.raw.lower():
            raise UpstreamAnswered(route.named, BAD_GATEWAY, answer.status)
        return message

    async def post_in(self, session: UpstreamSession, raw: bytes) -> None:
        """Send a message that needs no answer in *session*.

        Raises:
            Refusal: The server did not take it.
        """
        await self.sessions.refresh(session)
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
        await self.sessions.refresh(session)
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
            check_status(answer, route)
            content_type = answer.headers.get(CONTENT_TYPE, "").lower()
            if answer.status != OK or not content_type.startswith(EVENT_STREAM):
                raise UpstreamAnswered(route.named, BAD_GATEWAY, answer.status)
        except Refusal:
            answer.close()
            raise
        answer.rest()
        return answer

    async def _initialize(self, session: UpstreamSession, capabilities: Mapping[str, Any]) -> None:
        route = session.route
        request_id = self.new_id()
        wanted = route.protocol_version
        if wanted not in HANDSHAKE_PROTOCOL_VERSIONS:
            wanted = LATEST_HANDSHAKE_VERSION
        hello = hello_text(request_id, wanted, capabilities)
        headers = session.credentials.copy()
        headers["Content-Type"] = JSON
        headers["Accept"] = ACCEPT_BOTH
        try:
            answer = await self.wire.request(
                "POST", route.target, headers, hello, timeout=self.timeout(route)
            )
            try:
                message = await only_answer(answer, route, request_id)
            finally:
                answer.close()
        except FAILURES as exc:
            raise failed(route, exc) from exc
        session.id = answer.headers.get(SESSION_HEADER)
        version = members(message.body.get("result")).get("protocolVersion")
        if not isinstance(version, str) or "error" in message.body:
            if is_of_another_era(Era.LEGACY, answer.status, message.raw):
                self.probe_eras(route)
            raise UpstreamFailed(f"The {route.named} refused to initialize.")
        session.version = version
        # Before the server hears that all is set: it may ask for something at once.
        await self.sessions.begin_reading(session)
        await self.post_in(session, notification_text("notifications/initialized"))

    async def set_level(self, session: UpstreamSession, level: str) -> None:
        """Have the server report from *level* on in *session*; does not raise."""
        raw = request_text("logging/setLevel", {"level": level}, self.new_id(), is_exact=True)
        # What ails the server, or the session, shows in the request that follows.
        with suppress(Refusal):
            await self.post_in(session, raw)
            session.level = level

    async def _end_session(self, session: UpstreamSession) -> None:
        if session.id is None:
            return
        # Without access the server ends it by itself.
        with suppress(Refusal):
            session.credentials = await self.sessions.newest(
                session.route, session.key.owner, session.credentials
            )
            await self.terminate(session.route, session_headers(session))


async def _abandoned(conversation: Conversation) -> None:
    try:
        await conversation.cancel("The client does not want the answer any more.")
    finally:
        await conversation.close()
