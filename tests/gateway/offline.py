"""The gateway's client of servers, over a playbook instead of sockets."""

from typing import Any

from multidict import CIMultiDict

from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.gateway.client.asks import Ask
from registry.gateway.client.connector import Connector
from registry.gateway.client.sessions import SessionLimits, SessionOwner
from registry.gateway.transport.bulkhead import Bulkheads, bulkhead_limits
from registry.gateway.values import Route
from registry.servers.values import Era
from registry.upstream.rest.caller import RestCaller
from registry.upstream.rest.server import RestServer
from registry.workers.peers import SingleWorker
from tests.fakes.clock import FakeClock
from tests.fakes.scripted_wire import ScriptedWire, as_upstream_http
from tests.gateway.conftest import make_settings
from tests.gateway.fakes import FakeRoutes

ROOM = SessionLimits(total=9, per_server=9, per_user=9, idle_seconds=60)


def make_connector(
    wire: ScriptedWire,
    routes: FakeRoutes,
    *,
    tasks: BackgroundTasks | None = None,
    clock: Clock | None = None,
    limits: SessionLimits = ROOM,
    retries_idempotent: bool = False,
) -> Connector:
    """Return what speaks to the servers of *routes* over *wire*."""
    clock = clock or FakeClock()
    return Connector(
        as_upstream_http(wire),
        RestServer(RestCaller(as_upstream_http(wire), retries_idempotent=False)),
        Bulkheads(bulkhead_limits(make_settings()), clock, Metrics()),
        tasks or BackgroundTasks(),
        clock,
        peers=SingleWorker("worker00"),
        session_limits=limits,
        connect_timeout_seconds=1,
        retries_idempotent=retries_idempotent,
        routes=routes,
    )


def make_ask(route: Route, era: Era = Era.LEGACY, **changes: Any) -> Ask:
    """Return a call of alice's."""
    facts: dict[str, Any] = {
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {}},
        "is_exact": True,
        "credentials": CIMultiDict(),
        "passed_on": {},
        "capabilities": {},
        "owner": SessionOwner("alice"),
    }
    return Ask(route=route, era=era, **{**facts, **changes})
