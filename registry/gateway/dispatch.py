"""Dispatch of requests that have been read: admission, and the part that answers.

Above it are the endpoint of streamable HTTP and the adapter for HTTP+SSE clients; both hand over a
request whose channel receives the response. Below it are the aggregate server and the
pass-through. It does not know how the request arrived.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from mcp_types import CLIENT_INFO_META_KEY

from packages.models.states import QuarantineKind
from registry.access.quarantine.table import QuarantineTable
from registry.access.quarantine.values import Quarantine
from registry.auth.identity import Scope as TokenScope
from registry.auth.identity import UserContext
from registry.core.drain import Drain
from registry.core.json import members
from registry.gateway.aggregate.server import AggregateServer
from registry.gateway.client.answers import CANCELLED
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.authorization import AuthorizationPrompts, opens_urls
from registry.gateway.edge.client_sessions import ClientSession, ClientSessions, client_name
from registry.gateway.edge.eras import header_era, message_era
from registry.gateway.edge.error_responses import refusal_body, refusal_for, status_of
from registry.gateway.edge.limits import CallLimits
from registry.gateway.edge.questions import ClientQuestions
from registry.gateway.edge.recorder import STANDING_METHODS, Recorder
from registry.gateway.edge.reply import Reply
from registry.gateway.edge.request_states import RequestStates
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.edge.tool_search import ToolSearch, inner_call, is_wrapped
from registry.gateway.errors import (
    AuthorizationRequired,
    CallOutcome,
    InternalFailure,
    LoopDetected,
    MethodNotAllowed,
    MethodUnknown,
    Quarantined,
    Refusal,
    RequestCancelled,
    ShuttingDown,
)
from registry.gateway.notifications.completions import AuthorizationCompletions
from registry.gateway.passthrough import PassThrough
from registry.gateway.protocol.envelope import METHODS, Envelope, usable_id
from registry.gateway.protocol.messages import event_text
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.transport.call_watch import ClientGone
from registry.gateway.transport.forwarder import stream_termination
from registry.gateway.values import Route
from registry.gateway.view.offering import COMBINED, PAGE_KINDS, CombinedOffering, SingleOffering
from registry.gateway.view.toolsets import ToolsetOffering
from registry.servers.values import Era, Transport
from registry.upstream.loops import Instance, is_gateway

log = structlog.get_logger()

SLOW_SECONDS = 10.0
"""Latency threshold above which calls are logged; notification streams are exempt."""

ALLOWED_POST = "POST"

ABOUT_CALLS = frozenset({"", CANCELLED})
"""Messages that may be about a call which waits for its user: responses and cancellations."""

ANSWERED_FOR_ALL = frozenset({"server/discover", "subscriptions/listen", *PAGE_KINDS})
"""Requests of the stateless era that the gateway answers for callers whom a server does not know
yet."""

HOSTED = frozenset({Transport.OPENAPI, Transport.SSE})
"""At paths of these, the gateway is the server for clients of every era: a REST API speaks none,
and the older transport is another one than the clients'."""


class Dispatcher:
    """Admits requests and has them answered.

    Args:
        announced_lists: Delays list requests until an announced change was read.
        passthrough: Answers where the server speaks the client's era.
        aggregate: Answers everywhere else.
        recorder: Records each request.
        drain: Signals that no new work may begin.
        instance: Identifies requests that come back to this deployment.
        sessions: Tells the gateway's own sessions from those with servers.
        prompts: Asks callers to authorise the registry at a server.
        completions: Tells sessions that their user has done so.
        limits: Gets the permits of calls back.
        quarantines: What is refused whatever else holds; may end calls under way.
        states: What repeated requests of the stateless era bring back.
        questions: Takes clients' answers to questions of the gateway itself.
        tool_search: Lists two tools in place of all, where that is asked for.
    """

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        admission: Admission,
        announced_lists: AnnouncedLists,
        passthrough: PassThrough,
        aggregate: AggregateServer,
        recorder: Recorder,
        drain: Drain,
        instance: Instance,
        sessions: ClientSessions,
        *,
        prompts: AuthorizationPrompts,
        completions: AuthorizationCompletions,
        limits: CallLimits,
        quarantines: QuarantineTable,
        states: RequestStates,
        questions: ClientQuestions,
        tool_search: ToolSearch,
    ) -> None:
        self._tool_search = tool_search
        self._admission = admission
        self._announced_lists = announced_lists
        self._passthrough = passthrough
        self._aggregate = aggregate
        self._recorder = recorder
        self._drain = drain
        self._instance = instance
        self._sessions = sessions
        self._prompts = prompts
        self._completions = completions
        self._limits = limits
        self._quarantines = quarantines
        self._under_way: set[GatewayRequest] = set()
        quarantines.subscribe(self._end_calls)
        self._states = states
        self._questions = questions

    async def run(self, exchange: GatewayRequest, steps: Awaitable[None]) -> None:
        """Record a request, and answer it with an error if *steps* fail. Nothing is raised."""
        self._recorder.started(exchange)
        exchange.task = asyncio.current_task()
        self._under_way.add(exchange)
        try:
            await steps
        except AuthorizationRequired as required:
            if exchange.client.has_started:
                await _refuse(exchange, required)
            else:
                exchange.outcome = required.outcome
                await exchange.answer(*self._prompts.answer(exchange, required))
        except Refusal as refusal:
            await _refuse(exchange, refusal)
        except ClientGone:
            exchange.outcome = CallOutcome.DISCONNECTED
        except asyncio.CancelledError:
            await _cancelled(exchange)
        except Exception as exc:
            translated = refusal_for(exc)
            if isinstance(translated, InternalFailure):
                log.exception(
                    "gateway_request_failed", method=exchange.method, server=exchange.slug
                )
            await _refuse(exchange, translated)
        finally:
            self._under_way.discard(exchange)
            exchange.task = None
            if exchange.permits:
                self._limits.release(exchange)
            seconds = self._recorder.ended(exchange)
            if seconds > SLOW_SECONDS and exchange.method not in STANDING_METHODS:
                log.info(
                    "gateway_call_slow",
                    server=exchange.server,
                    method=exchange.method,
                    seconds=round(seconds, 3),
                )

    def _end_calls(self, added: Sequence[Quarantine]) -> None:
        """End the calls under way of what was put in quarantine, where that is asked for."""
        for quarantine in added:
            if quarantine.ends_calls:
                for exchange in self._under_way:
                    if _concerns(quarantine, exchange) and exchange.task is not None:
                        was_sent = exchange.decided_at > 0
                        exchange.ended_by = Quarantined(quarantine.name, was_sent=was_sent)
                        exchange.task.cancel()

    def understood(
        self, exchange: GatewayRequest, envelope: Envelope, *, is_for_stream: bool = False
    ) -> None:
        """Note what message a POST carries, and refuse what no part may answer.

        Args:
            exchange: The request.
            envelope: Its message.
            is_for_stream: Whether it is a message for an open stream of the HTTP+SSE transport.

        Raises:
            ShuttingDown: No new work may begin.
            LoopDetected: This deployment sent the request.
            Quarantined: The application that sent it is in quarantine.
        """
        exchange.method = envelope.method or "response"
        self._recorder.understood(exchange, envelope.params)
        exchange.params = envelope.params
        exchange.envelope = envelope
        exchange.is_modern = message_era(exchange.headers, envelope.params) is Era.MODERN
        exchange.reports_errors_in_body = (
            envelope.is_request and not is_for_stream and not exchange.is_modern
        )
        # Responses and notifications belong to calls that are in progress.
        if self._drain.has_begun and envelope.is_request:
            raise ShuttingDown
        self.refuse_loop(exchange)
        if not self._quarantines.is_empty:
            self._admission.require_client(_client_name(envelope.params))

    def refuse_loop(self, exchange: GatewayRequest) -> None:
        """Refuse a request that came from this deployment; note one from another gateway.

        A registry that is registered in itself, without a token for itself, gets the error about
        the loop rather than the one about the token.
        """
        via = exchange.headers.get("via")
        if via is None:
            return
        # Aggregating proxies hide the error of one of their servers. So tools are listed from
        # memory, and marked: a discovery that reads them here recognises its own.
        if self._instance.sent(via) and exchange.method != "tools/list":
            raise LoopDetected
        if is_gateway(via):
            exchange.list_mark = self._instance

    async def post(self, exchange: GatewayRequest, envelope: Envelope, user: UserContext) -> None:
        """Answer one message.

        Raises:
            Refusal: The answer is an error.
            ClientGone: The client disconnected.
        """
        if envelope.method not in METHODS:
            await self._unknown_method(exchange, envelope, user)
            return
        is_searched = self._tool_search.is_on(exchange, user)
        if is_searched and is_wrapped(envelope):
            # Before anything is decided: from here on it is a call like any other.
            envelope = inner_call(exchange, envelope)
        if exchange.is_modern:
            if "requestState" in envelope.params:
                envelope = self._states.resumed(exchange, envelope, user)
                await self._prompts.wait(exchange, user)
        elif envelope.method in ABOUT_CALLS and await self.take(exchange, envelope, user):
            await exchange.answer_empty(202, [(b"content-length", b"0")])
            return
        await self._answer(exchange, envelope, user, is_searched=is_searched)

    async def _answer(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        *,
        is_searched: bool,
    ) -> None:
        route = self.admit(exchange, envelope, user)
        if envelope.method in PAGE_KINDS and await self._announced_lists.wait(exchange.slug):
            route = self.admit(exchange, envelope, user)
        narrowed = self.narrowed(exchange, user, route, envelope)
        if narrowed is not None:
            offered = self._tool_search.offering(narrowed) if is_searched else narrowed
            await self._aggregate.post(exchange, envelope, user, offered)
            return
        if envelope.method == "tools/call" and (route is None or not route.tools):
            route = await self._read_first(exchange, envelope, user, route)
        if route is None:
            whole = CombinedOffering(self._admission.view(user))
            offering = self._tool_search.offering(whole) if is_searched else whole
            await self._aggregate.post(exchange, envelope, user, offering)
            return
        era = Era.MODERN if exchange.is_modern else Era.LEGACY
        is_hosted = era not in route.eras or route.transport in HOSTED
        if is_hosted or (
            route.oauth is not None and await self._hosts(exchange, user, route, envelope.method)
        ):
            await self._aggregate.post(exchange, envelope, user, SingleOffering(route))
            return
        await self._passthrough.post(exchange, envelope, user, route)

    def narrowed(
        self,
        exchange: GatewayRequest,
        user: UserContext,
        route: Route | None,
        envelope: Envelope | None,
    ) -> ToolsetOffering | None:
        """Return what toolsets leave of the path; None if none narrows it.

        Raises:
            ToolsetUnknown: One does not exist, or *user* may not use it.
            SessionUnknown: The session is not one of this user at this path.
        """
        if not self._admission.narrows(exchange, user):
            return None
        client = None
        if self._admission.asks_client_name(exchange, user):
            client = self._client_name(exchange, user, envelope)
        return self._admission.narrowed(exchange, user, route, client)

    def _client_name(
        self, exchange: GatewayRequest, user: UserContext, envelope: Envelope | None
    ) -> str | None:
        info: Mapping[str, Any] = {}
        sealed = exchange.headers.get("mcp-session-id")
        if exchange.is_modern:
            info = members(members(exchange.params.get("_meta")).get(CLIENT_INFO_META_KEY))
        elif envelope is not None and envelope.method == "initialize":
            info = members(envelope.params.get("clientInfo"))
        elif sealed is not None:
            info = self._sessions.resume(user, COMBINED, sealed).info
        return client_name(info)

    async def take(self, exchange: GatewayRequest, envelope: Envelope, user: UserContext) -> bool:
        """Take a message about a call that waits for its user; return whether it is only that.

        Raises:
            AnswerUnwanted: It answers a question of a worker that is not here.
        """
        if envelope.method == CANCELLED:
            return await self._questions.cancel(exchange, user)
        return not envelope.method and await self._questions.take(envelope, user)

    async def _read_first(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        route: Route | None,
    ) -> Route | None:
        """Return the route again once an unread server has been read."""
        unread = self._admission.unread(user, exchange.slug, envelope.params.get("name"))
        if unread is None:
            return route
        await self._first_access(exchange, user, unread)
        return self.admit(exchange, envelope, user)

    async def _first_access(
        self, exchange: GatewayRequest, user: UserContext, route: Route
    ) -> None:
        """Have the caller authorise the registry at an unread server, and wait for its tools."""
        exchange.served_by(route)
        session: ClientSession | None = None
        sealed = exchange.headers.get("mcp-session-id")
        if sealed is not None and not exchange.is_modern:
            scope_id = route.server_id if exchange.slug else COMBINED
            if self._sessions.is_own(user, scope_id, sealed):
                session = self._sessions.resume(user, scope_id, sealed)
                exchange.opens_urls = opens_urls(session.capabilities)
        try:
            await self._admission.first_access(route, user)
        except AuthorizationRequired as required:
            if session is not None and exchange.opens_urls:
                self._completions.follow(session.nonce, user.user_id, required)
            raise

    def admit(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        *,
        is_for_stream: bool = False,
    ) -> Route | None:
        """Return the one server behind the path, as the caller may use it; None for all.

        Raises:
            Refusal: The caller may not.
        """
        is_call = envelope.method == "tools/call"
        needed = TokenScope.INVOKE_TOOLS if is_call else TokenScope.READ_TOOLS
        if not exchange.slug:
            self._admission.admit_caller(exchange, user, needed)
            return None
        return self._admission.admit(exchange, user, needed, is_for_stream=is_for_stream)

    async def admit_for_stream(
        self, exchange: GatewayRequest, envelope: Envelope, user: UserContext
    ) -> Route | None:
        """Do the same for a message of an open stream of the HTTP+SSE transport.

        Raises:
            Refusal: The caller may not.
        """
        route = self.admit(exchange, envelope, user, is_for_stream=True)
        if envelope.method in PAGE_KINDS and await self._announced_lists.wait(exchange.slug):
            route = self.admit(exchange, envelope, user, is_for_stream=True)
        return route

    async def _unknown_method(
        self, exchange: GatewayRequest, envelope: Envelope, user: UserContext
    ) -> None:
        if exchange.slug:
            self._admission.admit(exchange, user, TokenScope.READ_TOOLS)
        else:
            self._admission.admit_caller(exchange, user, TokenScope.READ_TOOLS)
        if not envelope.is_request:
            # A receiver that does not know a notification ignores it.
            await exchange.answer_empty(202, [(b"content-length", b"0")])
            return
        raise MethodUnknown

    async def message(self, exchange: GatewayRequest, envelope: Envelope) -> None:
        """Authenticate the caller of a message that has been read, and answer it.

        Raises:
            Refusal: The answer is an error.
            ClientGone: The client disconnected.
        """
        exchange.request_id = usable_id(envelope.body)
        self.understood(exchange, envelope)
        user = await self._admission.identify(exchange)
        await self.post(exchange, envelope, user)

    async def admit_without_message(
        self, exchange: GatewayRequest
    ) -> tuple[UserContext, Route | None]:
        """Return the caller of a GET or DELETE, and the one server behind the path.

        Raises:
            Refusal: The caller may not use the path, or there is no such request.
        """
        if self._drain.has_begun:
            raise ShuttingDown
        self.refuse_loop(exchange)
        self._recorder.understood(exchange, {})
        user = await self._admission.identify(exchange)
        route: Route | None = None
        if exchange.slug:
            route = self._admission.admit(exchange, user, TokenScope.READ_TOOLS)
        else:
            self._admission.admit_caller(exchange, user, TokenScope.READ_TOOLS)
        if header_era(exchange.headers) is Era.MODERN:
            raise MethodNotAllowed(ALLOWED_POST)
        return user, route

    async def get_or_delete(
        self, exchange: GatewayRequest, user: UserContext, route: Route | None
    ) -> None:
        """Open the stream of a session, or end the session.

        Raises:
            Refusal: The answer is an error.
            ClientGone: The client disconnected.
        """
        self._tool_search.is_on(exchange, user)
        serve = self._aggregate.get if exchange.method == "GET" else self._aggregate.delete
        narrowed = self.narrowed(exchange, user, route, None)
        if narrowed is not None:
            await serve(exchange, user, narrowed)
            return
        if (
            route is not None
            and not _is_hosted(route)
            and not (
                route.oauth is not None
                and await self._hosts(exchange, user, route, exchange.method)
            )
        ):
            await self._passthrough.get_or_delete(exchange, user, route)
            return
        if route is None:
            await serve(exchange, user, CombinedOffering(self._admission.view(user)))
        else:
            await serve(exchange, user, SingleOffering(route))

    async def stream(self, exchange: GatewayRequest) -> None:
        """Authenticate the caller of a GET, and open the stream of the session.

        Raises:
            Refusal: The answer is an error.
            ClientGone: The client disconnected.
        """
        user, route = await self.admit_without_message(exchange)
        await self.get_or_delete(exchange, user, route)

    async def end_session(self, user: UserContext, route: Route | None, sealed: str) -> None:
        """End a session on behalf of a client that cannot do so; no refusal is raised."""
        with suppress(Refusal):
            if route is None:
                await self._aggregate.end(user, COMBINED, sealed)
            elif _is_hosted(route) or self._sessions.is_own(user, route.server_id, sealed):
                await self._aggregate.end(user, route.server_id, sealed)
            else:
                await self._passthrough.end_session(user, route, sealed)

    async def _hosts(
        self, exchange: GatewayRequest, user: UserContext, route: Route, method: str
    ) -> bool:
        """Whether the gateway is the server of a caller at the path of a server that wants OAuth.

        It is in sessions that began before their user had authorised the registry; and without a
        session, it answers what it can while they have not.
        """
        if not exchange.is_modern:
            sealed = exchange.headers.get("mcp-session-id")
            if sealed is not None:
                return self._sessions.is_own(user, route.server_id, sealed)
        elif method not in ANSWERED_FOR_ALL:
            return False
        return not await self._admission.is_authorized(route, user)


async def _cancelled(exchange: GatewayRequest) -> None:
    """Answer a request that was cancelled: by a shutdown, or because it is refused now."""
    if exchange.ended_by is not None and exchange.task is not None:
        exchange.task.uncancel()
        await _refuse(exchange, exchange.ended_by)
        return
    log.warning("gateway_call_aborted", server=exchange.server, method=exchange.method)
    await _refuse(exchange, ShuttingDown())


def _concerns(quarantine: Quarantine, exchange: GatewayRequest) -> bool:
    user, route = exchange.user, exchange.route
    match quarantine.kind:
        case QuarantineKind.USER:
            return user is not None and user.user_id == quarantine.subject
        case QuarantineKind.TOKEN:
            return user is not None and quarantine.subject in {
                *(user.token_id, user.session_id),
                *user.ancestors,
            }
        case QuarantineKind.SERVER | QuarantineKind.TOOL:
            if route is None or route.server_id != quarantine.subject:
                return False
            return quarantine.tool is None or exchange.tool == quarantine.tool
        case QuarantineKind.CLIENT:
            return _client_name(exchange.params) == quarantine.subject


def _client_name(params: Mapping[str, Any]) -> object:
    """Return what an application calls itself in a message, if it does."""
    meta = members(params.get("_meta"))
    info = params.get("clientInfo") or meta.get(CLIENT_INFO_META_KEY)
    return members(info).get("name")


def _is_hosted(route: Route) -> bool:
    """Whether the gateway is the server for clients of the handshake's era at this path."""
    return Era.LEGACY not in route.eras or route.transport in HOSTED


async def _refuse(exchange: GatewayRequest, refusal: Refusal) -> None:
    exchange.outcome = refusal.outcome
    exchange.error_code = refusal.rpc_code
    if isinstance(refusal, RequestCancelled):
        # A cancelled request gets no answer: its stream ends without one.
        await Reply(exchange).leave()
        return
    if refusal.outcome in {CallOutcome.UPSTREAM_ERROR, CallOutcome.TIMEOUT}:
        log.warning(
            "gateway_upstream_failed",
            server=exchange.server,
            method=exchange.method,
            reason=refusal.message,
        )
    if exchange.client.has_started:
        # Too late for an error. An event stream may end anywhere; any other body is left
        # incomplete, so that the server cuts the connection: half must not look complete.
        if exchange.client.is_event_stream:
            last = stream_termination(exchange.termination, refusal, exchange.request_id)
            # A client resumes a stream that broke; one that was ended here it must not.
            is_told = isinstance(refusal, Quarantined) and exchange.request_id is not None
            if not last and (
                exchange.client.sends_whole_events
                or (is_told and exchange.client.is_between_events)
            ):
                last = event_text(refusal_body(exchange, refusal))
                if exchange.client.replay is not None:
                    last = exchange.client.replay.add(last)
            await exchange.client.send({"type": "http.response.body", "body": last})
        return
    body = refusal_body(exchange, refusal)
    await exchange.answer(status_of(exchange, refusal), body, refusal.headers)
