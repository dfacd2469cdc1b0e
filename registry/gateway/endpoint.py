"""Entry of the data plane: handles every request to `/mcp` and `/mcp/<server>`, step by step.

Order: Host and Origin, caller, body limit, envelope, method, scope, server, era, session, tool,
credentials, forwarding. The caller is authenticated on the headers, before a body is read or
parsed and before anything is looked up, so that strangers cost little and cannot find out which
servers exist; everything else is decided on the body.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

import structlog
from aiohttp import ClientSession
from starlette.types import Receive, Scope, Send

from registry.auth.identity import Scope as TokenScope
from registry.auth.identity import UserContext
from registry.core.asgi import body_of
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.drain import Drain
from registry.core.json import members
from registry.core.latency_watcher import LatencyWatcher
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.aggregate.bridge import ClientBridge
from registry.gateway.aggregate.server import AggregateDependencies, AggregateServer
from registry.gateway.aggregate.session_streams import SessionMessages
from registry.gateway.client.connector import Connector
from registry.gateway.client.sessions import SessionLimits
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.arguments import ArgumentChecker
from registry.gateway.edge.client_sessions import ClientSessions
from registry.gateway.edge.ended_sessions import EndedSessions
from registry.gateway.edge.eras import (
    header_era,
    message_era,
)
from registry.gateway.edge.error_responses import refusal_body, refusal_for, status_of
from registry.gateway.edge.recorder import STANDING_METHODS, Recorder
from registry.gateway.edge.reply import Reply
from registry.gateway.edge.requests import GatewayRequest, check_media
from registry.gateway.edge.session_seal import SessionSeal
from registry.gateway.edge.session_states import SessionStates
from registry.gateway.errors import (
    CallOutcome,
    InternalFailure,
    LoopDetected,
    MethodNotAllowed,
    MethodUnknown,
    OriginNotAllowed,
    Refusal,
    RequestCancelled,
    ShuttingDown,
)
from registry.gateway.notifications.announced_lists import AnnouncedLists
from registry.gateway.notifications.feeds import Feeds
from registry.gateway.notifications.stream_limits import (
    ClientStreamLimit,
    StreamLimits,
    until_refused,
)
from registry.gateway.notifications.streams import NotificationStreams
from registry.gateway.passthrough import PassThrough
from registry.gateway.ports import Authenticate, Peers, Refusals, RouteTable
from registry.gateway.protocol.cors import preflight, readable_by
from registry.gateway.protocol.envelope import (
    METHODS,
    Envelope,
    load_object,
    peek_object,
    read_envelope,
    usable_id,
)
from registry.gateway.protocol.headers import read_headers
from registry.gateway.protocol.messages import event_text
from registry.gateway.sse.endpoint import SseEndpoint, is_sse_client, stream_name
from registry.gateway.transport.bulkhead import Bulkheads
from registry.gateway.transport.call_watch import ClientGone
from registry.gateway.transport.forwarder import Forwarder, stream_termination
from registry.gateway.values import Route
from registry.gateway.view.offering import COMBINED, PAGE_KINDS, CombinedOffering, SingleOffering
from registry.http.client.exchange import UpstreamHttp
from registry.servers.values import Era, Transport
from registry.upstream.loops import Instance, is_gateway
from registry.web.hosts import HostGuard

log = structlog.get_logger()

SLOW_SECONDS = 10.0
"""Latency threshold above which calls are logged; notification streams are exempt."""

CLOSE_SECONDS = 2.0
"""Time limit at shutdown for ending the sessions with servers."""

ALLOWED_ALL = "POST, GET, DELETE"
ALLOWED_POST = "POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayDependencies:
    """Dependencies of the gateway that it does not build itself.

    Attributes:
        routes: The servers that can be called now.
        authenticate: Identifies the caller.
        session: Pool of upstream connections; keeps no cookies.
        refusals: Records what known callers were refused.
        recorder: Records each request.
        bulkheads: Limits the calls to each server.
        peers: The other workers.
        ended_sessions: Reports sessions that clients end to other workers and replicas.
        announced: Called with ids of servers that announce list changes.
        drain: Signals that no new work may begin.
        metrics: Counts streams.
        instance: Identifies requests that come back to this deployment.
    """

    routes: RouteTable
    authenticate: Authenticate
    session: ClientSession
    refusals: Refusals
    recorder: Recorder
    bulkheads: Bulkheads
    peers: Peers
    ended_sessions: EndedSessions
    announced: Callable[[str], None]
    drain: Drain
    metrics: Metrics
    instance: Instance


class GatewayEndpoint:
    """Serves `/mcp` and `/mcp/<server>` as a raw ASGI application.

    Args:
        around: Its dependencies.
        sealing_keys: 32 bytes each, used for nothing else. The first key seals session ids, all
            keys open them.
    """

    def __init__(
        self,
        around: GatewayDependencies,
        *,
        sealing_keys: Sequence[bytes],
        settings: Settings,
        clock: Clock,
    ) -> None:
        routes, bulkheads, recorder = around.routes, around.bulkheads, around.recorder
        metrics = around.metrics
        self._routes = routes
        self._drain = around.drain
        self._instance = around.instance
        self._admission = Admission(
            routes,
            around.authenticate,
            refusals=around.refusals,
            base_url=settings.base_url,
            admin_uses_private=settings.admin_uses_private,
        )
        self._max_body_bytes = settings.gateway_max_body_bytes
        self._body_seconds = settings.request_body_timeout_seconds
        self._recorder = recorder
        self._hosts = HostGuard.from_settings(settings)
        self._seal = SessionSeal(
            sealing_keys, lifetime=timedelta(hours=settings.gateway_session_hours), clock=clock
        )
        self._streams = StreamLimits(settings.gateway_streams_per_server)
        self._latency_watcher = LatencyWatcher()
        wire = self._wire = UpstreamHttp(
            around.session,
            self._latency_watcher,
            max_response_bytes=settings.gateway_max_response_bytes,
        )
        connect_timeout_seconds = settings.upstream_connect_timeout_seconds
        total_timeout_seconds = settings.gateway_total_timeout_seconds

        self._announced = AnnouncedLists(routes, clock)

        def heard_list_changed(route: Route) -> None:
            metrics.upstream_list_changes.inc()
            self._announced.heard(route)
            around.announced(route.server_id)

        self._arguments = ArgumentChecker(clock)
        self._one = PassThrough(
            routes,
            Forwarder(
                wire,
                self._latency_watcher,
                bulkheads,
                heard_list_changed,
                connect_timeout_seconds=connect_timeout_seconds,
                total_timeout_seconds=total_timeout_seconds,
            ),
            self._seal,
            self._streams,
            around.ended_sessions,
            recorder,
            arguments=self._arguments,
            until=self._until,
            unknown_tool=self._admission.unknown_tool,
            retries_idempotent=settings.gateway_retry_idempotent,
        )
        self._background_tasks = BackgroundTasks()
        connector = Connector(
            wire,
            bulkheads,
            self._background_tasks,
            clock,
            peers=around.peers,
            session_limits=SessionLimits(
                total=settings.gateway_upstream_sessions,
                per_server=settings.gateway_upstream_sessions_per_server,
                per_user=settings.gateway_upstream_sessions_per_user,
                idle_seconds=settings.gateway_upstream_session_idle_seconds,
            ),
            connect_timeout_seconds=connect_timeout_seconds,
            retries_idempotent=settings.gateway_retry_idempotent,
            routes=routes,
        )
        self._connector = connector

        self._bridge = ClientBridge(
            connector,
            self._latency_watcher,
            self._seal,
            around.peers,
            self._background_tasks,
            clock,
            total_timeout_seconds=total_timeout_seconds,
            heard_list_changed=heard_list_changed,
        )
        states = SessionStates()
        feeds = Feeds(
            connector,
            self._background_tasks,
            clock,
            metrics,
            streams=self._streams,
            heard_list_changed=heard_list_changed,
        )
        notification_streams = NotificationStreams(
            self._admission,
            routes,
            states,
            feeds,
            room=ClientStreamLimit(
                settings.gateway_streams_per_worker,
                settings.gateway_streams_per_user,
                metrics.gateway_streams,
            ),
            credentials_of=self._one.credentials_of,
            latency_watcher=self._latency_watcher,
            peers=around.peers,
            background_tasks=self._background_tasks,
            clock=clock,
            drain=self._drain,
            most_watched=settings.gateway_watched_servers,
        )
        messages = SessionMessages(
            connector,
            self._bridge,
            notification_streams,
            self._background_tasks,
            clock,
            streams=self._streams,
            heard_list_changed=heard_list_changed,
        )
        connector.sessions.read_with(messages.read)
        self._aggregate = AggregateServer(
            self._bridge,
            connector,
            ClientSessions(self._seal),
            states,
            notification_streams,
            around.peers,
            means=AggregateDependencies(
                self._one.credentials_of,
                self._admission,
                self._one.forward_as,
                self._arguments,
                around.ended_sessions,
            ),
            recorder=recorder,
            latency_watcher=self._latency_watcher,
        )
        around.ended_sessions.listen(self._aggregate.session_ended)
        self._sse_clients = SseEndpoint(
            self,
            connector,
            self._seal,
            self._streams,
            around.peers,
            self._background_tasks,
            self._latency_watcher,
            until=self._until,
            credentials_of=self._one.credentials_of,
            own_answer=self._one.own_answer,
            heard_list_changed=heard_list_changed,
            end_session=self._end_session,
            base_path=urlsplit(settings.base_url).path,
            max_response_bytes=settings.gateway_max_response_bytes,
            max_seconds=settings.gateway_session_hours * 3600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request. No exception gets out, and no answer is a bare 500."""
        exchange = GatewayRequest(scope, receive, send)
        self._recorder.started(exchange)
        try:
            await self._serve(exchange)
        except Refusal as refusal:
            await self._refuse(exchange, refusal)
        except ClientGone:
            exchange.outcome = CallOutcome.DISCONNECTED
        except asyncio.CancelledError:
            # Only the server's shutdown cancels a request. Its client gets an error.
            log.warning("gateway_call_aborted", server=exchange.server, method=exchange.method)
            await self._refuse(exchange, ShuttingDown())
        except Exception as exc:
            translated = refusal_for(exc)
            if isinstance(translated, InternalFailure):
                log.exception(
                    "gateway_request_failed", method=exchange.method, server=exchange.slug
                )
            await self._refuse(exchange, translated)
        finally:
            seconds = self._recorder.ended(exchange)
            if seconds > SLOW_SECONDS and exchange.method not in STANDING_METHODS:
                log.info(
                    "gateway_call_slow",
                    server=exchange.server,
                    method=exchange.method,
                    seconds=round(seconds, 3),
                )

    async def close(self) -> None:
        """Close everything that is open upstream; no request may be served after that."""
        await self._bridge.close()
        self._connector.sessions.stop_reading()
        await self._background_tasks.close(grace_seconds=CLOSE_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connector.sessions.close()
        await self._arguments.close()
        self._wire.close()

    async def _serve(self, exchange: GatewayRequest) -> None:
        scope = exchange.scope
        headers = exchange.headers = read_headers(scope["headers"])
        origin = headers.get("origin")
        if origin is not None:
            server = scope.get("server")
            if not self._hosts.is_allowed_origin(origin, server[1] if server else None):
                raise OriginNotAllowed
            exchange.client.extra_headers = readable_by(origin)
        match scope["method"]:
            case "POST":
                await self._post(exchange)
            case "GET" | "DELETE":
                await self._get_or_delete(exchange)
            case "OPTIONS" if origin and "access-control-request-method" in headers:
                await exchange.answer_empty(204, preflight(headers, ALLOWED_ALL))
            case _:
                raise MethodNotAllowed(ALLOWED_ALL)

    async def _post(self, exchange: GatewayRequest) -> None:
        headers = exchange.headers
        check_media(headers)
        user = await self._identified(exchange)
        raw = await exchange.read_body(
            self._latency_watcher, self._max_body_bytes, self._body_seconds
        )
        body = load_object(raw)
        exchange.request_id = usable_id(body)
        envelope = read_envelope(raw, body)
        method = envelope.method
        exchange.method = method or "response"
        self._recorder.understood(exchange, envelope.params)
        exchange.params = envelope.params
        era = message_era(headers, envelope.params)
        exchange.is_modern = era is Era.MODERN
        query = exchange.scope.get("query_string")
        stream = stream_name(query) if query else None
        exchange.is_answered_inside = (
            envelope.is_request and stream is None and not exchange.is_modern
        )
        # Responses and notifications belong to calls that are in progress.
        if self._drain.has_begun and envelope.is_request:
            raise ShuttingDown
        self._refuse_loop(exchange)
        if method not in METHODS:
            await self._unknown_method(exchange, envelope, user)
            return
        needed = TokenScope.INVOKE_TOOLS if method == "tools/call" else TokenScope.READ_TOOLS
        if stream is not None:
            await self._take(exchange, envelope, user, needed, stream)
            return
        if not exchange.slug:
            self._admission.admit_caller(exchange, user, needed)
            offering = CombinedOffering(self._admission.view(user))
            await self._aggregate.post(exchange, envelope, user, offering, raw)
            return
        route = self._admission.admit(exchange, user, needed)
        if method in PAGE_KINDS and await self._announced.settle(exchange.slug):
            route = self._admission.admit(exchange, user, needed)
        if era not in route.eras or route.transport is Transport.SSE:
            await self._aggregate.post(exchange, envelope, user, SingleOffering(route), raw)
            return
        await self._one.post(exchange, envelope, user, route)

    async def _get_or_delete(self, exchange: GatewayRequest) -> None:
        if self._drain.has_begun:
            raise ShuttingDown
        self._refuse_loop(exchange)
        self._recorder.understood(exchange, {})
        user = await self._admission.identify(exchange)
        is_modern = header_era(exchange.headers) is Era.MODERN
        serve = self._aggregate.get if exchange.method == "GET" else self._aggregate.delete
        if not exchange.slug:
            self._admission.admit_caller(exchange, user, TokenScope.READ_TOOLS)
            if is_modern:
                raise MethodNotAllowed(ALLOWED_POST)
            if exchange.method == "GET" and is_sse_client(exchange.headers):
                await self._sse_clients.open(exchange, user, None)
                return
            await serve(exchange, user, CombinedOffering(self._admission.view(user)))
            return
        route = self._admission.admit(exchange, user, TokenScope.READ_TOOLS)
        if is_modern:
            raise MethodNotAllowed(ALLOWED_POST)
        if exchange.method == "GET" and is_sse_client(exchange.headers):
            await self._sse_clients.open(exchange, user, route)
            return
        if _is_hosted(route):
            await serve(exchange, user, SingleOffering(route))
            return
        await self._one.get_or_delete(exchange, user, route)

    def _refuse_loop(self, exchange: GatewayRequest) -> None:
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
            exchange.lists_to = self._instance

    async def _identified(self, exchange: GatewayRequest) -> UserContext:
        try:
            return await self._admission.identify(exchange)
        except Exception:
            # Without a token only the headers count, and no body is awaited; a small one that came
            # with them says what the refusal is the answer to.
            body = peek_object(body_of(exchange.scope))
            exchange.request_id = usable_id(body)
            method, params = body.get("method"), members(body.get("params"))
            if method in METHODS:
                exchange.method = method or "response"
                query = exchange.scope.get("query_string")
                exchange.is_modern = message_era(exchange.headers, params) is Era.MODERN
                exchange.is_answered_inside = not (
                    exchange.is_modern
                    or exchange.request_id is None
                    or (query and stream_name(query))
                )
            self._recorder.understood(exchange, params)
            self._refuse_loop(exchange)
            raise

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

    async def _take(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        needed: TokenScope,
        stream: str,
    ) -> None:
        """Accept a message of an HTTP+SSE client."""
        route: Route | None = None
        if exchange.slug:
            route = self._admission.admit(exchange, user, needed, is_for_stream=True)
            if envelope.method in PAGE_KINDS and await self._announced.settle(exchange.slug):
                route = self._admission.admit(exchange, user, needed, is_for_stream=True)
        else:
            self._admission.admit_caller(exchange, user, needed)
        await self._sse_clients.take(exchange, envelope, user, route, stream)

    async def _end_session(self, user: UserContext, route: Route | None, sealed: str) -> None:
        with suppress(Refusal):
            if route is None or _is_hosted(route):
                await self._aggregate.end(
                    user, COMBINED if route is None else route.server_id, sealed
                )
                return
            headers = (await self._one.credentials_of(route, user)).copy()
            headers["Mcp-Session-Id"] = self._seal.open(
                sealed, principal=user.principal, server_id=route.server_id
            )
            await self._connector.terminate(route, headers)

    def _until(
        self, exchange: GatewayRequest, route: Route | None
    ) -> Callable[[], Awaitable[Exception]]:
        """Return an awaitable that waits for a reason to end a long-lived stream."""

        def refused() -> Awaitable[Exception]:
            return until_refused(self._admission, exchange, route, self._routes.changed)

        async def until() -> Exception:
            return await self._drain.interrupt(refused, ShuttingDown())

        return until

    async def _refuse(self, exchange: GatewayRequest, refusal: Refusal) -> None:
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
                if not last and exchange.client.sends_whole_events:
                    last = event_text(refusal_body(exchange, refusal))
                    if exchange.client.replay is not None:
                        last = exchange.client.replay.add(last)
                await exchange.client.send({"type": "http.response.body", "body": last})
            return
        body = refusal_body(exchange, refusal)
        await exchange.answer(status_of(exchange, refusal), body, refusal.headers)


def _is_hosted(route: Route) -> bool:
    """Whether the gateway is the server for clients of the handshake's era at this path."""
    return Era.LEGACY not in route.eras or route.transport is Transport.SSE
