"""Pass-through: one server for clients of an era that it speaks; bytes are relayed unchanged.

Decisions are made on the parsed message; the original bytes are forwarded.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import structlog

from registry.auth.identity import UserContext
from registry.core.json import members
from registry.gateway.client.connector import Connector
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.authorization import fills_forms, opens_urls
from registry.gateway.edge.ended_sessions import EndedSessions
from registry.gateway.edge.eras import (
    NO_SUCH_PROTOCOL,
    check_modern,
    check_param_headers,
    is_of_another_era,
)
from registry.gateway.edge.error_responses import result_body
from registry.gateway.edge.governance import CallGovernance
from registry.gateway.edge.recorder import STANDING_METHODS, Recorder
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.edge.session_seal import SessionSeal, session_name
from registry.gateway.edge.stream_guard import StreamGuard
from registry.gateway.errors import (
    AuthorizationRequired,
    CredentialsRejected,
    InvalidParams,
    NoJsonRpcAnswer,
    UpstreamAnswered,
    UpstreamFailed,
)
from registry.gateway.notifications.completions import AuthorizationCompletions
from registry.gateway.notifications.stream_limits import StreamLimits
from registry.gateway.notifications.streams import NotificationStreams
from registry.gateway.ports import RouteTable
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.headers import forwarded_lines
from registry.gateway.protocol.list_pages import (
    CursorError,
    list_result,
    marked,
    page_members,
    page_result,
)
from registry.gateway.protocol.messages import renamed
from registry.gateway.transport.failures import is_away, is_optional_notification, stand_in_result
from registry.gateway.transport.forwarder import (
    REPEATABLE,
    ClientChannel,
    Edit,
    Forwarder,
    InterjectedStream,
    SealSession,
    StreamTermination,
)
from registry.gateway.values import Route, asks_clients, is_unread
from registry.gateway.view.catalogue import CatalogueEntry
from registry.gateway.view.offering import PAGE_KINDS, SingleOffering, blocked_tool
from registry.servers.values import Era
from registry.upstream.sdk import NAME_BEARING_METHODS, encode_header_value

log = structlog.get_logger()

ENDED = frozenset({200, 202, 204, 404})
"""HTTP statuses of the answer to DELETE that mean that the session is over."""

URLS_MARK = "\x02"
"""Prefix of the sealed text in ids of servers' sessions whose clients can open URLs."""

FORMS_MARK = "\x03"
"""The same for clients that can show their users forms; the first of both marks."""

MARKS = URLS_MARK + FORMS_MARK

ANSWERED = b""
"""In place of an answer that the client has already."""

HANDSHAKES = frozenset({"initialize", "server/discover"})
"""Requests that begin a conversation; their answers are checked before they count."""


class PassThrough:
    """Forwards clients' requests to one server.

    Args:
        routes: Notified of servers that no longer speak the known eras.
        forwarder: Sends the requests.
        connector: Ends sessions on behalf of clients that cannot do so.
        seal: Seals and opens session ids.
        streams: Counts the long-lived streams.
        stream_guard: Ends the long-lived streams.
        ended_sessions: Reports sessions that clients end to other workers and replicas.
        notification_streams: Reach the sessions, in whichever worker.
        completions: Tells sessions that their user has authorised the registry at a server.
        recorder: Notified when a request goes upstream.
        governance: Checks calls of tools.
        retries_idempotent: Whether idempotent requests are retried when a server breaks off.
    """

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        routes: RouteTable,
        admission: Admission,
        forwarder: Forwarder,
        connector: Connector,
        seal: SessionSeal,
        streams: StreamLimits,
        stream_guard: StreamGuard,
        ended_sessions: EndedSessions,
        recorder: Recorder,
        *,
        notification_streams: NotificationStreams,
        completions: AuthorizationCompletions,
        governance: CallGovernance,
        retries_idempotent: bool,
    ) -> None:
        self._routes = routes
        self._admission = admission
        self._connector = connector
        self._stream_guard = stream_guard
        self._forwarder = forwarder
        self._seal = seal
        self._streams = streams
        self._ended_sessions = ended_sessions
        self._notification_streams = notification_streams
        self._completions = completions
        self._recorder = recorder
        self._governance = governance
        self._retries_idempotent = retries_idempotent

    async def post(
        self, exchange: GatewayRequest, envelope: Envelope, user: UserContext, route: Route
    ) -> None:
        """Answer one message.

        Raises:
            Refusal: It cannot be answered otherwise.
            ClientGone: The client disconnected.
        """
        if exchange.is_modern:
            check_modern(envelope, exchange.headers)
        session_id = self._session_id(exchange, user, route)
        own = await self.own_answer(exchange, envelope, user, route)
        if own is not None:
            if own is not ANSWERED:
                await exchange.answer(200, own)
            return
        exchange.client.awaits_answer = envelope.is_request
        exchange.client.is_handshake = envelope.method in HANDSHAKES
        if envelope.method == "initialize":
            capabilities = members(envelope.params.get("capabilities"))
            exchange.opens_urls = opens_urls(capabilities)
            exchange.fills_forms = fills_forms(capabilities)
        try:
            await self._forward(exchange, route, user, session_id, envelope.raw)
            if exchange.client.status in NO_SUCH_PROTOCOL:
                self._check_era(exchange, route, exchange.client.status, exchange.client.tail)
        except UpstreamFailed as failure:
            if isinstance(failure, UpstreamAnswered):
                self._check_era(exchange, route, failure.http_status, b"")
            is_unanswered = isinstance(failure, NoJsonRpcAnswer)
            if exchange.client.has_started or is_unanswered or not is_away(failure):
                raise
            if not await self._stand_in(exchange, envelope, route, failure.message):
                raise

    def _check_era(
        self, exchange: GatewayRequest, route: Route, status: int, answer: bytes
    ) -> None:
        """Queue an era re-probe of the server if its answer suggests one."""
        era = Era.MODERN if exchange.is_modern else Era.LEGACY
        if is_of_another_era(era, status, answer):
            self._routes.probe_eras(route)

    async def get_or_delete(
        self, exchange: GatewayRequest, user: UserContext, route: Route
    ) -> None:
        """Forward a request that belongs to a session but carries no message."""
        session_id = self._session_id(exchange, user, route)
        await self._forward(exchange, route, user, session_id, b"")
        if exchange.method != "DELETE" or session_id is None:
            return
        if exchange.client.status in ENDED:
            # Lists are always answered here.
            name = self._seal.end(exchange.headers["mcp-session-id"])
            await self._ended_sessions.report(name)

    async def own_answer(
        self, exchange: GatewayRequest, envelope: Envelope, user: UserContext, route: Route
    ) -> bytes | None:
        """Return the answer to a request that the server does not get; check any other.

        `ANSWERED` if the client has it already.

        Raises:
            Refusal: The request must not be forwarded.
        """
        method = envelope.method
        if method == "tools/call":
            if await self._check_call(exchange, envelope, user, route):
                return ANSWERED
        elif method in PAGE_KINDS:
            listed = _listed(exchange, envelope, route)
            if listed is not None and exchange.list_mark is not None:
                return marked(listed, PAGE_KINDS[method], exchange.list_mark)
            return listed
        return None

    async def forward_as(
        self,
        exchange: GatewayRequest,
        user: UserContext,
        owned: CatalogueEntry,
        envelope: Envelope,
    ) -> None:
        """Forward a request of the stateless era under the server's own name for its target.

        The answer needs no inspection, so it is relayed unchanged.
        """
        body: bytes | bytearray = envelope.raw
        member = NAME_BEARING_METHODS.get(envelope.method)
        called = None
        if member is not None and envelope.params[member] != owned.key:
            body = renamed(envelope, member, owned.key)
            called = encode_header_value(owned.key)
        exchange.client.awaits_answer = envelope.is_request
        await self._send(exchange, owned.route, user, body, called=called)

    async def end_session(self, user: UserContext, route: Route, sealed: str) -> None:
        """End a session with the server on behalf of a client that cannot do so.

        Raises:
            SessionUnknown: It is not a session of this user with this server.
        """
        headers = (await self._admission.credentials(route, user)).headers.copy()
        opened = self._seal.open(sealed, principal=user.principal, server_id=route.server_id)
        headers["Mcp-Session-Id"] = session_id = opened.lstrip(MARKS)
        if session_id:
            await self._connector.terminate(route, headers)

    async def _stand_in(
        self, exchange: GatewayRequest, envelope: Envelope, route: Route, reason: str
    ) -> bool:
        """Answer in place of an unavailable server, if possible."""
        if is_optional_notification(envelope):
            await exchange.answer_empty(202, [(b"content-length", b"0")])
            return True
        result = stand_in_result(envelope, route)
        request_id = exchange.request_id
        if result is None or request_id is None:
            # Not raised again here: the error would keep this frame alive, and the frame the
            # error.
            return False
        log.warning("gateway_offline_response_sent", server=exchange.server, reason=reason)
        await exchange.answer(200, result_body(result, request_id))
        return True

    def _session_id(self, exchange: GatewayRequest, user: UserContext, route: Route) -> str | None:
        """Return the server's session id; None in the stateless era."""
        sealed = exchange.headers.get("mcp-session-id")
        if sealed is None or exchange.is_modern:
            return None
        opened = self._seal.open(sealed, principal=user.principal, server_id=route.server_id)
        if opened[:1] > FORMS_MARK:
            return opened
        exchange.opens_urls = URLS_MARK in opened[:2]
        exchange.fills_forms = FORMS_MARK in opened[:2]
        # Empty if the gateway began the session, because the server keeps none.
        return opened.lstrip(MARKS) or None

    async def _check_call(
        self, exchange: GatewayRequest, envelope: Envelope, user: UserContext, route: Route
    ) -> bool:
        """Check a call; return whether it has been answered."""
        name = envelope.params.get("name")
        if type(name) is not str:
            raise InvalidParams("tools/call needs the member params.name, a string.")
        tool = route.tools.get(name)
        if tool is None:
            blocked = blocked_tool(route, name)
            raise self._admission.unknown_tool(exchange, name, blocked)
        arguments, is_answered = await self._governance.admit(
            exchange, envelope, user, route, tool
        )
        if is_answered:
            return True
        if exchange.is_modern and tool.param_header_schema is not None:
            check_param_headers(tool.param_header_schema, arguments, exchange.headers)
        return False

    async def _forward(
        self,
        exchange: GatewayRequest,
        route: Route,
        user: UserContext,
        session_id: str | None,
        raw: bytes | bytearray,
    ) -> None:
        if not exchange.is_modern:
            exchange.client.seal = self._resealing(exchange, route, user, session_id)
        if exchange.method not in STANDING_METHODS:
            try:
                await self._send(exchange, route, user, raw, session_id=session_id)
            except AuthorizationRequired as required:
                if session_id is not None and exchange.opens_urls:
                    name = session_name(exchange.headers["mcp-session-id"])
                    self._completions.follow(name, user.user_id, required)
                raise
            return
        if exchange.method == "subscriptions/listen":
            exchange.termination = exchange.client.divert(StreamTermination)
        until = self._stream_guard.until_ended(exchange, route)
        with self._streams.hold(route.server_id), self._interjecting(exchange, route):
            await self._send(
                exchange, route, user, raw, session_id=session_id, standing_until=until
            )

    def _interjecting(
        self, exchange: GatewayRequest, route: Route
    ) -> AbstractContextManager[None]:
        """Let the gateway say on a session's stream that its user has authorised the registry."""
        if exchange.is_modern or not exchange.opens_urls or route.oauth is None:
            return nullcontext()
        client = exchange.client
        stream = client.divert(partial(InterjectedStream, client))
        name = session_name(exchange.headers["mcp-session-id"])
        return self._notification_streams.relaying(name, stream)

    async def _send(
        self,
        exchange: GatewayRequest,
        route: Route,
        user: UserContext,
        raw: bytes | bytearray,
        *,
        session_id: str | None = None,
        called: str | None = None,
        standing_until: Callable[[], Awaitable[Exception]] | None = None,
    ) -> None:
        """Forward a request; once more with a renewed token if the server refuses the first."""
        if exchange.output_check is not None:
            _edit_with(exchange.client, exchange.output_check)
        sent, is_renewed = route.shared, False
        if route.per_user or route.credential_problem is not None:
            sent = await self._admission.credentials(route, user)
        while True:
            exchange.client.sent = (sent.lines, route)
            self._recorder.forwarding(exchange)
            headers = forwarded_lines(
                sent.lines,
                exchange.headers,
                is_modern=exchange.is_modern,
                session_id=session_id,
                called=called,
            )
            try:
                await self._forwarder.exchange(
                    exchange.http_method,
                    route,
                    headers,
                    raw,
                    exchange.client,
                    standing_until=standing_until,
                    may_repeat=standing_until is None and self._may_repeat(exchange),
                    user_id=user.user_id if route.is_user_level else None,
                    elsewhere=None if route.api is None else route.api.elsewhere(exchange.tool),
                )
            except CredentialsRejected as rejected:
                if exchange.client.has_started:
                    raise
                sent = await self._admission.other_credentials(
                    route, user, sent, rejected, is_renewed=is_renewed
                )
                is_renewed = True
            else:
                return

    def _may_repeat(self, exchange: GatewayRequest) -> bool:
        """Whether the request may be retried when the server breaks off."""
        return self._retries_idempotent and (exchange.may_repeat or exchange.method in REPEATABLE)

    def _resealing(
        self, exchange: GatewayRequest, route: Route, user: UserContext, session_id: str | None
    ) -> SealSession:
        """Return a function that seals a session id in the server's answer for the client."""
        sealed = exchange.headers.get("mcp-session-id")
        # Not the request: it has a reference to the result, and only the garbage collector would
        # free both.
        fills_forms = exchange.fills_forms
        # Should the user's access end, the client is asked in the form that it knows.
        marks = FORMS_MARK if fills_forms else ""
        marks += URLS_MARK if route.oauth is not None and exchange.opens_urls else ""

        def seal(upstream_id: str) -> str:
            # For the same session, the client keeps the id that it already has.
            if sealed is not None and upstream_id == session_id:
                return sealed
            if not upstream_id and not (fills_forms and asks_clients(route)):
                return ""
            return self._seal.seal(
                marks + upstream_id, principal=user.principal, server_id=route.server_id
            )

        return seal


def _edit_with(client: ClientChannel, check: Edit) -> None:
    """Have the answer checked as a whole, and then edited as before."""
    edit = client.edit
    client.edit = check if edit is None else lambda raw: edit(check(raw))
    client.reads_whole = True


def _listed(exchange: GatewayRequest, envelope: Envelope, route: Route) -> bytes | None:
    """Return the answer to a list request from the last sync, if there was one."""
    kind, cursor = PAGE_KINDS[envelope.method], envelope.params.get("cursor")
    try:
        if kind == "tools":
            pieces = page_members(route.pages, cursor)
            return list_result(
                pieces,
                exchange.request_id,
                is_modern=exchange.is_modern,
                is_unread=is_unread(route),
            )
        page = SingleOffering(route).page(kind, cursor)
    except CursorError:
        raise InvalidParams("The cursor is invalid: it was not issued here.") from None
    if page is None:
        return None
    return page_result(
        page, exchange.request_id, is_modern=exchange.is_modern, is_unread=is_unread(route)
    )
