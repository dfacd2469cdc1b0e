"""A gateway on a real socket, in front of upstreams on real sockets."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr

from registry.access.limits.table import LimitTable
from registry.access.quarantine.table import QuarantineTable
from registry.auth.identity import Role, UserContext
from registry.auth.identity import Scope as TokenScope
from registry.connections.tracker import ConnectionTracker
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock, SystemClock
from registry.core.drain import Drain
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.building import Approvals, GatewayBuilder
from registry.gateway.edge.budgets import Budgets
from registry.gateway.edge.ended_sessions import EndedSessions
from registry.gateway.edge.limits import CallLimits
from registry.gateway.edge.recorder import CallLog, Recorder, Tracing
from registry.gateway.edge.spent_states import SpentStates
from registry.gateway.endpoint import GatewayEndpoint
from registry.gateway.ports import Peers
from registry.gateway.transport.bulkhead import Bulkheads, bulkhead_limits
from registry.http.server.connection import protocol_within
from registry.processes.serving import connection_limits
from registry.search.ports import ToolFinder
from registry.upstream.guard import UrlGuard
from registry.upstream.loops import Instance
from registry.upstream.pool import create_upstream_session
from registry.workers.peers import SingleWorker
from tests.conftest import ALICE, BOB, ROOT
from tests.fakes.limits import FakeLimits, FakeQuotas, call_limits
from tests.fakes.loopback import NO_CERTIFICATES
from tests.fakes.quarantines import FakeQuarantines
from tests.gateway.fakes import (
    FakeAuthenticate,
    FakeRoutes,
    RecordedCalls,
    RecordedRefusals,
    ScriptedUpstream,
    make_route,
)
from tests.gateway.serving import serve

READER = UserContext("e" * 24, "reader", Role.USER, frozenset({TokenScope.READ_TOOLS}))
NOBODY = UserContext("f" * 24, "nobody", Role.USER, frozenset())

INSTANCE = Instance.of([b"gateway of the tests" * 2])
ACCEPT = "application/json, text/event-stream"


def make_settings(**changes: Any) -> Settings:
    """Return settings that need no database."""
    return Settings(
        **{
            "mongo_uri": SecretStr("mongodb://127.0.0.1:9/none"),
            "creds_key": SecretStr("0f" * 32),
            "creds_iv": SecretStr("1e" * 16),
            "jwt_private_key_file": Path("unused"),
            "jwt_public_key_file": Path("unused"),
            "public_url": "http://gateway.example",
            "upstream_connect_timeout_seconds": 5.0,
            **changes,
        }
    )


@dataclass
class Gateway:
    """A running gateway and a way to talk to it as alice."""

    url: str
    routes: FakeRoutes
    authenticate: FakeAuthenticate
    metrics: Metrics
    http: httpx.AsyncClient
    endpoint: GatewayEndpoint = field(repr=False)
    refusals: RecordedRefusals
    notes: RecordedCalls
    drain: Drain
    background_tasks: BackgroundTasks
    builder: GatewayBuilder = field(repr=False)

    async def post(
        self, message: Any, *, slug: str = "demo", user: str | None = "alice", **headers: str
    ) -> httpx.Response:
        """Send one message: an object, or the text itself."""
        body = message if isinstance(message, bytes) else orjson.dumps(message)
        return await self.http.post(f"/mcp/{slug}", content=body, headers=head(user, **headers))

    async def call(self, tool: str = "echo", **headers: str) -> httpx.Response:
        """Call a tool in the era of the handshake."""
        return await self.post(request("tools/call", {"name": tool, "arguments": {}}), **headers)

    def count_any(self, outcome: str, server: str = "demo") -> float:
        """Return how many requests to a server, or to none that is known, ended so."""
        return sum(
            sample.value
            for family in self.metrics.gateway_requests.collect()
            for sample in family.samples
            if sample.name.endswith("_count")
            and sample.labels["outcome"] == outcome
            and sample.labels["server"] in {server, "-"}
        )

    @property
    def in_flight(self) -> float | None:
        """How many requests are being answered."""
        name = "mcp_gateway_requests_in_flight"
        return self.metrics.registry.get_sample_value(name)

    def count(self, method: str, outcome: str, server: str = "demo") -> float:
        """Return how many requests the metrics know of."""
        labels = {"server": server, "method": method, "outcome": outcome}
        name = "mcp_gateway_request_duration_seconds_count"
        return self.metrics.registry.get_sample_value(name, labels) or 0


def head(user: str | None = "alice", **headers: str) -> dict[str, str]:
    """Return request headers; keywords replace and add, with `_` for `-`."""
    sent = {"content-type": "application/json", "accept": ACCEPT}
    if user is not None:
        sent["authorization"] = f"Bearer {user}"
    return sent | {name.replace("_", "-"): value for name, value in headers.items()}


def request(method: str, params: Any = None, request_id: Any = 1) -> dict[str, Any]:
    """Return a JSON-RPC request."""
    message = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return message if params is None else message | {"params": params}


StartGateway = Callable[..., Any]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Return what takes everything down at the end of the test."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start_gateway(stack: AsyncExitStack) -> StartGateway:
    """Return a function that starts a gateway with routes and settings."""
    return starter(stack)


def starter(stack: AsyncExitStack) -> StartGateway:
    """Return a function that starts a gateway, which ends with *stack*."""

    async def start(  # noqa: PLR0913 - parts of the gateway
        *routes: Any,
        call_log: CallLog | None = None,
        tracing: Tracing | None = None,
        drain: Drain | None = None,
        peers: Peers | None = None,
        ended_sessions: EndedSessions | None = None,
        spent_states: SpentStates | None = None,
        clock: Clock | None = None,
        connections: ConnectionTracker | None = None,
        instance: Instance = INSTANCE,
        limits: CallLimits | None = None,
        approvals: Approvals | None = None,
        quarantines: QuarantineTable | None = None,
        budgets: Budgets | None = None,
        finder: ToolFinder | None = None,
        **changes: Any,
    ) -> Gateway:
        session = await stack.enter_async_context(
            create_upstream_session(
                UrlGuard(["127.0.0.0/8"]), connect_timeout_seconds=5, idle_timeout_seconds=5
            )
        )
        table, metrics, refusals = FakeRoutes(*routes), Metrics(), RecordedRefusals()
        notes = RecordedCalls()
        clock = clock or SystemClock()
        peers = peers or SingleWorker("worker00")
        recorder = Recorder(metrics, clock, notes=notes, call_log=call_log, tracing=tracing)
        authenticate = FakeAuthenticate(ALICE, BOB, ROOT, READER, NOBODY)
        settings = make_settings(**changes)
        drain, background_tasks = drain or Drain(), BackgroundTasks()
        builder = GatewayBuilder(
            settings=settings,
            routes=table,
            authenticate=authenticate,
            session=session,
            refusals=refusals,
            recorder=recorder,
            bulkheads=Bulkheads(bulkhead_limits(settings), SystemClock(), metrics, connections),
            requires_sync=lambda _: None,
            spent_states=spent_states or SpentStates(None, clock),
            peers=peers,
            ended_sessions=ended_sessions
            or EndedSessions(peers, None, lifetime=timedelta(hours=1), clock=clock),
            drain=drain,
            background_tasks=background_tasks,
            metrics=metrics,
            instance=instance,
            sealing_keys=[b"k" * 32],
            authorization_keys=[b"a" * 32],
            tokens=table.tokens,
            links=table.tokens,
            limits=limits or call_limits(LimitTable(FakeLimits()), FakeQuotas(clock), clock),
            approvals=approvals,
            quarantines=quarantines or QuarantineTable(FakeQuarantines(), clock),
            clock=clock,
            budgets=budgets,
            finder=finder,
        )
        endpoint = builder.build()
        protocol = protocol_within(connection_limits(settings))
        stack.push_async_callback(endpoint.close)
        url = await stack.enter_async_context(serve(endpoint, http=protocol))
        http = await stack.enter_async_context(
            httpx.AsyncClient(verify=NO_CERTIFICATES, base_url=url, timeout=10)
        )
        return Gateway(
            url,
            table,
            authenticate,
            metrics,
            http,
            endpoint,
            refusals,
            notes,
            drain,
            background_tasks,
            builder,
        )

    return start


@pytest.fixture
def upstream() -> ScriptedUpstream:
    """Return an upstream that echoes until a test says otherwise."""
    return ScriptedUpstream()


@pytest.fixture
async def gateway(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> Gateway:
    """Return a gateway in front of *upstream*, at `/mcp/demo`."""
    url = await stack.enter_async_context(serve(upstream))
    started: Gateway = await start_gateway(make_route(f"{url}/mcp"))
    return started
