"""Builds the gateway: each part receives the parts of the layers below it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from urllib.parse import urlsplit

from aiohttp import ClientSession

from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.drain import Drain
from registry.core.latency_watcher import LatencyWatcher
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.aggregate.bridge import ClientBridge
from registry.gateway.aggregate.server import AggregateServer
from registry.gateway.aggregate.session_streams import SessionMessages
from registry.gateway.client.connector import Connector
from registry.gateway.client.sessions import SessionLimits, UpstreamSessions
from registry.gateway.dispatch import Dispatcher
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.arguments import ArgumentChecker
from registry.gateway.edge.client_sessions import ClientSessions
from registry.gateway.edge.ended_sessions import EndedSessions
from registry.gateway.edge.recorder import Recorder
from registry.gateway.edge.session_seal import SessionSeal
from registry.gateway.edge.session_states import SessionStates
from registry.gateway.endpoint import GatewayEndpoint
from registry.gateway.notifications.feeds import Feeds
from registry.gateway.notifications.stream_limits import (
    ClientStreamLimit,
    StreamGuard,
    StreamLimits,
)
from registry.gateway.notifications.streams import NotificationStreams
from registry.gateway.passthrough import PassThrough
from registry.gateway.ports import Authenticate, Peers, Refusals, RouteTable
from registry.gateway.sse.endpoint import SseEndpoint
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.transport.bulkhead import Bulkheads
from registry.gateway.transport.forwarder import Forwarder
from registry.http.client.exchange import UpstreamHttp
from registry.upstream.loops import Instance
from registry.web.hosts import HostGuard

CLOSE_SECONDS = 2.0
"""Time limit at shutdown for ending background tasks, and the sessions with servers."""


def build_gateway(  # noqa: PLR0913 - collaborators
    settings: Settings,
    *,
    routes: RouteTable,
    authenticate: Authenticate,
    session: ClientSession,
    refusals: Refusals,
    recorder: Recorder,
    bulkheads: Bulkheads,
    peers: Peers,
    ended_sessions: EndedSessions,
    requires_sync: Callable[[str], None],
    drain: Drain,
    background_tasks: BackgroundTasks,
    metrics: Metrics,
    instance: Instance,
    sealing_keys: Sequence[bytes],
    clock: Clock,
) -> GatewayEndpoint:
    """Return the gateway; each part receives those of the layers below it.

    Args:
        settings: Limits and times.
        routes: The servers that can be called now.
        authenticate: Identifies the caller.
        session: Pool of upstream connections; keeps no cookies.
        refusals: Records what known callers were refused.
        recorder: Records each request.
        bulkheads: Limits the calls to each server.
        peers: The other workers.
        ended_sessions: Reports sessions that clients end to other workers and replicas.
        requires_sync: Called with the id of a server that announced a list change.
        drain: Signals that no new work may begin.
        background_tasks: Runs what outlives a request.
        metrics: Counts streams and announcements.
        instance: Identifies requests that come back to this deployment.
        sealing_keys: 32 bytes each, used for nothing else. The first key seals session ids, all
            keys open them.
        clock: Limits sessions and waits.
    """
    latency_watcher, states, arguments = LatencyWatcher(), SessionStates(), ArgumentChecker(clock)
    announced_lists = AnnouncedLists(routes, clock, metrics, requires_sync)
    wire = UpstreamHttp(
        session, latency_watcher, max_response_bytes=settings.gateway_max_response_bytes
    )
    seal = SessionSeal(
        sealing_keys, lifetime=timedelta(hours=settings.gateway_session_hours), clock=clock
    )
    admission = Admission(
        routes,
        authenticate,
        refusals=refusals,
        base_url=settings.base_url,
        admin_uses_private=settings.admin_uses_private,
    )
    connector = Connector(
        wire,
        bulkheads,
        background_tasks,
        clock,
        peers=peers,
        session_limits=_session_limits(settings),
        connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
        retries_idempotent=settings.gateway_retry_idempotent,
        routes=routes,
    )
    streams = StreamLimits(settings.gateway_streams_per_server)
    stream_guard = StreamGuard(admission, routes, drain)
    notification_streams = NotificationStreams(
        admission,
        routes,
        states,
        Feeds(
            connector,
            background_tasks,
            clock,
            metrics,
            streams=streams,
            announced_lists=announced_lists,
        ),
        room=ClientStreamLimit(
            settings.gateway_streams_per_worker,
            settings.gateway_streams_per_user,
            metrics.gateway_streams,
        ),
        latency_watcher=latency_watcher,
        peers=peers,
        background_tasks=background_tasks,
        clock=clock,
        drain=drain,
        max_watched=settings.gateway_watched_servers,
    )
    passthrough = PassThrough(
        routes,
        admission,
        Forwarder(
            wire,
            latency_watcher,
            bulkheads,
            announced_lists,
            connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
            total_timeout_seconds=settings.gateway_total_timeout_seconds,
        ),
        connector,
        seal,
        streams,
        stream_guard,
        ended_sessions,
        recorder,
        arguments=arguments,
        retries_idempotent=settings.gateway_retry_idempotent,
    )
    bridge = ClientBridge(
        connector,
        latency_watcher,
        seal,
        peers,
        background_tasks,
        clock,
        total_timeout_seconds=settings.gateway_total_timeout_seconds,
        announced_lists=announced_lists,
    )
    messages = SessionMessages(
        connector,
        bridge,
        notification_streams,
        background_tasks,
        clock,
        streams=streams,
        announced_lists=announced_lists,
    )
    connector.sessions.read_with(messages.read)
    aggregate = AggregateServer(
        admission,
        passthrough,
        bridge,
        connector,
        ClientSessions(seal),
        states,
        notification_streams,
        peers,
        ended_sessions,
        arguments=arguments,
        recorder=recorder,
        latency_watcher=latency_watcher,
    )
    dispatcher = Dispatcher(
        admission, announced_lists, passthrough, aggregate, recorder, drain, instance
    )
    sse = SseEndpoint(
        dispatcher,
        passthrough,
        admission,
        connector,
        seal,
        streams,
        stream_guard,
        announced_lists,
        peers,
        background_tasks=background_tasks,
        latency_watcher=latency_watcher,
        base_path=urlsplit(settings.base_url).path,
        max_response_bytes=settings.gateway_max_response_bytes,
        max_seconds=settings.gateway_session_hours * 3600,
    )
    resources = AsyncExitStack()
    resources.callback(wire.close)
    resources.push_async_callback(arguments.close)
    resources.push_async_callback(_end_sessions, connector.sessions)
    resources.push_async_callback(background_tasks.close, grace_seconds=CLOSE_SECONDS)
    resources.callback(connector.sessions.stop_reading)
    resources.push_async_callback(bridge.close)
    return GatewayEndpoint(
        dispatcher,
        admission,
        sse,
        recorder,
        HostGuard.from_settings(settings),
        latency_watcher,
        resources,
        max_body_bytes=settings.gateway_max_body_bytes,
        body_seconds=settings.request_body_timeout_seconds,
    )


def _session_limits(settings: Settings) -> SessionLimits:
    return SessionLimits(
        total=settings.gateway_upstream_sessions,
        per_server=settings.gateway_upstream_sessions_per_server,
        per_user=settings.gateway_upstream_sessions_per_user,
        idle_seconds=settings.gateway_upstream_session_idle_seconds,
    )


async def _end_sessions(sessions: UpstreamSessions) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await sessions.close()
