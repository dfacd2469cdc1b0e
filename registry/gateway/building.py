"""Builds the gateway: each part receives the parts of the layers below it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from urllib.parse import urlsplit

from aiohttp import ClientSession

from registry.access.quarantine.table import QuarantineTable
from registry.approvals.repository import ApprovalRepository
from registry.approvals.service import ApprovalService
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.drain import Drain
from registry.core.latency_watcher import LatencyWatcher
from registry.core.metrics import Metrics
from registry.core.seal import Seal
from registry.core.settings import Settings
from registry.gateway.aggregate.bridge import ClientBridge
from registry.gateway.aggregate.server import AggregateServer
from registry.gateway.aggregate.session_streams import SessionMessages
from registry.gateway.approved_calls import ApprovedCalls
from registry.gateway.client.connector import Connector
from registry.gateway.client.sessions import SessionLimits, UpstreamSessions
from registry.gateway.dispatch import Dispatcher
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.approvals import ApprovalGate, ApprovalTimes
from registry.gateway.edge.arguments import ArgumentChecker
from registry.gateway.edge.authorization import AuthorizationPrompts
from registry.gateway.edge.budgets import Budgets
from registry.gateway.edge.client_sessions import ClientSessions
from registry.gateway.edge.confirmation import Confirmations
from registry.gateway.edge.ended_sessions import EndedSessions
from registry.gateway.edge.governance import CallGovernance
from registry.gateway.edge.limits import CallLimits
from registry.gateway.edge.questions import ClientQuestions
from registry.gateway.edge.recorder import Recorder
from registry.gateway.edge.request_states import RequestStates
from registry.gateway.edge.session_seal import SessionSeal
from registry.gateway.edge.session_states import SessionStates
from registry.gateway.edge.spent_states import SpentStates
from registry.gateway.edge.stream_guard import StreamGuard
from registry.gateway.edge.tool_search import ToolSearch, ToolsMode
from registry.gateway.endpoint import GatewayEndpoint
from registry.gateway.notifications.completions import AuthorizationCompletions
from registry.gateway.notifications.feeds import Feeds
from registry.gateway.notifications.stream_limits import (
    ClientStreamLimit,
    StreamLimits,
)
from registry.gateway.notifications.streams import NotificationStreams
from registry.gateway.passthrough import PassThrough
from registry.gateway.ports import Authenticate, Peers, Refusals, RouteTable
from registry.gateway.sse.endpoint import SseEndpoint
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.transport.bulkhead import Bulkheads
from registry.gateway.transport.forwarder import Forwarder
from registry.gateway.view.approval_notices import ApprovalNotices
from registry.gateway.view.toolsets import Toolsets
from registry.http.client.exchange import UpstreamHttp
from registry.oauth.ports import AccessTokens, AuthorizationLinks
from registry.search.ports import ToolFinder
from registry.upstream.loops import Instance
from registry.upstream.rest.caller import RestCaller
from registry.upstream.rest.server import RestServer
from registry.web.hosts import HostGuard

CLOSE_SECONDS = 2.0
"""Time limit at shutdown for ending background tasks, and the sessions with servers."""


@dataclass(frozen=True, slots=True)
class Approvals:
    """Requests for approval.

    Attributes:
        service: Opens and cancels them.
        repository: Stores them.
        notices: Reports their changes.
        times: How long calls wait; None as the settings say.
    """

    service: ApprovalService
    repository: ApprovalRepository
    notices: ApprovalNotices
    times: ApprovalTimes | None = None


@dataclass(frozen=True, kw_only=True)
class GatewayBuilder:
    """Builds the gateway; each part is built once, from parts of the layers below it.

    Attributes:
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
        authorization_keys: The same for what clients repeat requests with (`requestState`).
        tokens: Users' access tokens for servers.
        links: Makes links under which users authorise the registry at servers.
        limits: Keeps limits on calls.
        quarantines: What is refused whatever else holds.
        clock: Limits sessions and waits.
        approvals: Requests for approval; None refuses calls that need one.
        toolsets: All toolsets; None for none.
        budgets: Refuse calls that would cost too much; None for none.
        finder: Ranks tools for a description; None where search is off.
    """

    settings: Settings
    routes: RouteTable
    authenticate: Authenticate
    session: ClientSession
    refusals: Refusals
    recorder: Recorder
    bulkheads: Bulkheads
    peers: Peers
    ended_sessions: EndedSessions
    spent_states: SpentStates
    requires_sync: Callable[[str], None]
    drain: Drain
    background_tasks: BackgroundTasks
    metrics: Metrics
    instance: Instance
    sealing_keys: Sequence[bytes] = field(repr=False)
    authorization_keys: Sequence[bytes] = field(repr=False)
    tokens: AccessTokens
    links: AuthorizationLinks
    limits: CallLimits
    quarantines: QuarantineTable
    clock: Clock
    approvals: Approvals | None = None
    toolsets: Toolsets | None = None
    latency_watcher: LatencyWatcher = field(default_factory=LatencyWatcher)
    budgets: Budgets | None = None
    finder: ToolFinder | None = None

    @cached_property
    def wire(self) -> UpstreamHttp:
        """HTTP exchanges with servers."""
        return UpstreamHttp(
            self.session,
            self.latency_watcher,
            max_response_bytes=self.settings.gateway_max_response_bytes,
        )

    @cached_property
    def rest_server(self) -> RestServer:
        """Answers calls of the tools of REST APIs."""
        retries = self.settings.gateway_retry_idempotent
        return RestServer(RestCaller(self.wire, retries_idempotent=retries))

    @cached_property
    def announced_lists(self) -> AnnouncedLists:
        """Servers that announced a list change."""
        return AnnouncedLists(self.routes, self.clock, self.metrics, self.requires_sync)

    @cached_property
    def seal(self) -> SessionSeal:
        """Seals session ids."""
        lifetime = timedelta(hours=self.settings.gateway_session_hours)
        return SessionSeal(self.sealing_keys, lifetime=lifetime, clock=self.clock)

    @cached_property
    def arguments(self) -> ArgumentChecker:
        """Checks arguments of calls."""
        return ArgumentChecker(self.clock, self.metrics)

    @cached_property
    def governance(self) -> CallGovernance:
        """Checks calls of tools."""
        return CallGovernance(
            self.arguments,
            self.limits,
            Confirmations(
                self.questions,
                self.request_states,
                self.spent_states,
                self.admission,
                max_event_bytes=self.settings.gateway_max_response_bytes,
            ),
            self._approval_gate(),
            self.budgets,
        )

    def _approval_gate(self) -> ApprovalGate | None:
        approvals = self.approvals
        if approvals is None:
            return None
        return ApprovalGate(
            approvals.service,
            approvals.repository,
            approvals.notices,
            self.questions,
            self.request_states,
            self.admission,
            self.clock,
            approvals.times or ApprovalTimes(self.settings.approval_wait_seconds),
        )

    @cached_property
    def approved_calls(self) -> ApprovedCalls:
        """Makes approved calls; its `follow` is a background task of the process."""
        approvals = self.approvals
        if approvals is None:
            raise ValueError("There are no requests for approval.")
        return ApprovedCalls(
            approvals.repository,
            approvals.notices,
            self.admission,
            self.connector,
            self.recorder,
            self.refusals,
            self.drain,
            self.clock,
            budgets=self.budgets,
            worker=self.peers.own,
            total_seconds=self.settings.gateway_total_timeout_seconds,
        )

    @cached_property
    def questions(self) -> ClientQuestions:
        """Asks clients during their calls."""
        return ClientQuestions(
            self.stream_guard,
            self.peers,
            self.instance,
            self.latency_watcher,
            timeout_seconds=self.settings.gateway_question_timeout_seconds,
        )

    @cached_property
    def request_states(self) -> RequestStates:
        """What repeated requests of the stateless era bring back."""
        seal = Seal(self.authorization_keys, "gateway-request-state/1")
        return RequestStates(seal, self.instance, self.clock)

    @cached_property
    def states(self) -> SessionStates:
        """What clients set in their sessions."""
        return SessionStates()

    @cached_property
    def admission(self) -> Admission:
        """Admits callers."""
        return Admission(
            self.routes,
            self.authenticate,
            refusals=self.refusals,
            links=self.links,
            quarantines=self.quarantines,
            base_url=self.settings.base_url,
            admin_uses_private=self.settings.admin_uses_private,
            toolsets=self.toolsets or Toolsets(self.clock),
        )

    @cached_property
    def connector(self) -> Connector:
        """The client of servers that keeps sessions with them."""
        settings = self.settings
        return Connector(
            self.wire,
            self.rest_server,
            self.bulkheads,
            self.background_tasks,
            self.clock,
            peers=self.peers,
            session_limits=SessionLimits(
                total=settings.gateway_upstream_sessions,
                per_server=settings.gateway_upstream_sessions_per_server,
                per_user=settings.gateway_upstream_sessions_per_user,
                idle_seconds=settings.gateway_upstream_session_idle_seconds,
            ),
            connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
            retries_idempotent=settings.gateway_retry_idempotent,
            routes=self.routes,
        )

    @cached_property
    def streams(self) -> StreamLimits:
        """Counts the long-lived streams to each server."""
        return StreamLimits(self.settings.gateway_streams_per_server)

    @cached_property
    def stream_guard(self) -> StreamGuard:
        """Ends long-lived streams."""
        return StreamGuard(self.admission, self.routes, self.drain)

    @cached_property
    def notification_streams(self) -> NotificationStreams:
        """Streams to clients whose server is the gateway."""
        feeds = Feeds(
            self.connector,
            self.background_tasks,
            self.clock,
            self.metrics,
            streams=self.streams,
            announced_lists=self.announced_lists,
        )
        streams = NotificationStreams(
            self.admission,
            self.routes,
            self.states,
            feeds,
            room=ClientStreamLimit(
                self.settings.gateway_streams_per_worker,
                self.settings.gateway_streams_per_user,
                self.metrics.gateway_streams,
            ),
            latency_watcher=self.latency_watcher,
            peers=self.peers,
            background_tasks=self.background_tasks,
            clock=self.clock,
            drain=self.drain,
            max_watched=self.settings.gateway_watched_servers,
        )
        self.quarantines.subscribe(streams.end_quarantined)
        return streams

    @cached_property
    def passthrough(self) -> PassThrough:
        """Forwards requests to one server."""
        forwarder = Forwarder(
            self.wire,
            self.rest_server,
            self.latency_watcher,
            self.bulkheads,
            self.announced_lists,
            connect_timeout_seconds=self.settings.upstream_connect_timeout_seconds,
            total_timeout_seconds=self.settings.gateway_total_timeout_seconds,
        )
        return PassThrough(
            self.routes,
            self.admission,
            forwarder,
            self.connector,
            self.seal,
            self.streams,
            self.stream_guard,
            self.ended_sessions,
            self.recorder,
            notification_streams=self.notification_streams,
            completions=self.completions,
            governance=self.governance,
            retries_idempotent=self.settings.gateway_retry_idempotent,
        )

    @cached_property
    def bridge(self) -> ClientBridge:
        """Conversations between clients and servers."""
        return ClientBridge(
            self.connector,
            self.latency_watcher,
            self.seal,
            self.peers,
            self.background_tasks,
            self.clock,
            total_timeout_seconds=self.settings.gateway_total_timeout_seconds,
            announced_lists=self.announced_lists,
        )

    @cached_property
    def aggregate(self) -> AggregateServer:
        """The gateway as a server; receives the messages of servers outside of calls."""
        messages = SessionMessages(
            self.connector,
            self.bridge,
            self.notification_streams,
            self.background_tasks,
            self.clock,
            streams=self.streams,
            announced_lists=self.announced_lists,
        )
        self.connector.sessions.read_with(messages.read)
        return AggregateServer(
            self.admission,
            self.passthrough,
            self.bridge,
            self.connector,
            self.sessions,
            self.states,
            self.notification_streams,
            self.peers,
            self.ended_sessions,
            completions=self.completions,
            questions=self.questions,
            governance=self.governance,
            recorder=self.recorder,
            latency_watcher=self.latency_watcher,
            tool_search=self.tool_search,
        )

    @cached_property
    def completions(self) -> AuthorizationCompletions:
        """Tells sessions that their user has authorised the registry at a server."""
        return AuthorizationCompletions(
            self.tokens, self.notification_streams, self.background_tasks
        )

    @cached_property
    def dispatcher(self) -> Dispatcher:
        """Has requests answered."""
        return Dispatcher(
            self.admission,
            self.announced_lists,
            self.passthrough,
            self.aggregate,
            self.recorder,
            self.drain,
            self.instance,
            self.sessions,
            prompts=AuthorizationPrompts(
                self.tokens,
                self.request_states,
                self.latency_watcher,
            ),
            completions=self.completions,
            states=self.request_states,
            questions=self.questions,
            quarantines=self.quarantines,
            limits=self.limits,
            tool_search=self.tool_search,
        )

    @cached_property
    def tool_search(self) -> ToolSearch:
        """Two tools in place of all."""
        return ToolSearch(
            self.finder,
            ToolsMode(self.settings.gateway_tools),
            self.settings.gateway_always_visible_tools,
        )

    @cached_property
    def sessions(self) -> ClientSessions:
        """Clients' sessions with the gateway itself."""
        return ClientSessions(self.seal)

    @cached_property
    def sse(self) -> SseEndpoint:
        """Adapter for HTTP+SSE clients."""
        settings = self.settings
        return SseEndpoint(
            self.dispatcher,
            self.passthrough,
            self.admission,
            self.connector,
            self.seal,
            self.streams,
            self.stream_guard,
            self.announced_lists,
            self.peers,
            background_tasks=self.background_tasks,
            latency_watcher=self.latency_watcher,
            base_path=urlsplit(settings.base_url).path,
            max_response_bytes=settings.gateway_max_response_bytes,
            max_seconds=settings.gateway_session_hours * 3600,
        )

    def build(self) -> GatewayEndpoint:
        """Return the gateway; to be called once."""
        return GatewayEndpoint(
            self.dispatcher,
            self.admission,
            self.sse,
            self.recorder,
            HostGuard.from_settings(self.settings),
            self.latency_watcher,
            self._resources(),
            max_body_bytes=self.settings.gateway_max_body_bytes,
            body_seconds=self.settings.request_body_timeout_seconds,
        )

    def _resources(self) -> AsyncExitStack:
        """Return what is to be closed at the end, the last first."""
        resources = AsyncExitStack()
        resources.callback(self.wire.close)
        resources.push_async_callback(self.arguments.close)
        resources.push_async_callback(_end_sessions, self.connector.sessions)
        resources.push_async_callback(self.background_tasks.close, grace_seconds=CLOSE_SECONDS)
        resources.callback(self.connector.sessions.stop_reading)
        resources.push_async_callback(self.bridge.close)
        return resources


async def _end_sessions(sessions: UpstreamSessions) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await sessions.close()
