"""How exactly processes keep a limit together, and what limits cost a call.

Bursts of calls at three processes go far beyond a rate; what got through in any minute is counted.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from registry.access.limits.quotas import Grant
from registry.access.limits.table import LimitTable
from registry.access.limits.values import Dimension, Limit, Period, QuotaKey, Rate
from registry.access.policies.values import EVERYONE, PolicyTarget, Subjects
from registry.access.policy import Grants, ServerFacts, ServerScope
from registry.auth.identity import USER_SCOPES, Role, UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.gateway.edge.limits import CallLimits
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.values import Route, ToolEntry, build_route, tool_entry
from registry.servers.values import Era, Transport
from scripts.bench.load import Client
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import Stage, staged

PROCESSES = 3
RATE = 100
MINUTE = 60.0
BURST_SECONDS = 2.3
CLIENTS = 18
MINUTES = 3
LIMITS = 500
REPEATS = 20_000
MANY = 10**9


def section(report: Report, _stage: Stage, plan: Plan) -> None:
    """Call servers in bursts, and take quota in this process."""
    report.section(f"{RATE} calls a minute for each server, bursts at {PROCESSES} processes")
    with staged("--workers", str(PROCESSES)) as stage:
        names = [f"limited{number}" for number in range(plan.rounds)]
        for name in names:
            stage.register(name, stage.upstream_port)
        rates = [{"count": RATE, "per": "minute"}]
        stage.ask("limits", {"name": "all", "per": ["server"], "rates": rates})
        time.sleep(1)
        passed = asyncio.run(_bursts(stage, names))
    over = [max(0.0, _most(times) / RATE - 1) * 100 for times in passed]
    early = [(1 - _least(times) / RATE) * 100 for times in passed]
    report.row(f"most calls in any minute beyond {RATE}", over, "%", Bar(5))
    report.row("calls of a minute that were refused too early", early, "%")
    taken = [asyncio.run(_take_microseconds()) for _ in range(plan.rounds)]
    report.section(f"{LIMITS} limits on one server, of which 2 apply to the caller")
    report.row("a call's limits, from memory", taken, "us", Bar(10))


async def _bursts(stage: Stage, names: Sequence[str]) -> list[list[float]]:
    """Call each server for some minutes; return when calls got through."""

    async def burst(client: Client, times: list[float], number: int) -> None:
        if await client.ask(str(number)):
            times.append(time.monotonic())

    found: list[list[float]] = [[] for _ in names]
    clients: list[tuple[Client, list[float]]] = []
    for name, times in zip(names, found, strict=True):
        for _ in range(CLIENTS):
            client = Client(stage.gateway(f"/mcp/{name}", is_modern=True))
            await client.connect()
            clients.append((client, times))
    ends_at = time.monotonic() + MINUTES * MINUTE
    number = 0
    while time.monotonic() < ends_at:
        number += 1
        again_at = time.monotonic() + BURST_SECONDS
        await asyncio.gather(*(burst(client, times, number) for client, times in clients))
        await SystemClock().sleep(max(0.0, again_at - time.monotonic()))
    for client, _ in clients:
        client.close()
    return found


def _most(times: Sequence[float]) -> int:
    return max(sum(1 for at in times if end - MINUTE < at <= end) for end in times)


def _least(times: Sequence[float]) -> float:
    """Return how many calls a minute got through after the first minute."""
    later = [at for at in times if at > times[0] + MINUTE]
    return len(later) / (MINUTES - 1)


class _Plenty:
    """Quota that never ends, and limits that were made here."""

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self._limits = limits

    async def every(self) -> Mapping[str, Limit]:
        return self._limits

    async def lease(self, _key: QuotaKey, _rate: int, _period: Period, _wanted: int) -> Grant:
        return Grant(MANY, 1, {}, valid_ms=MANY)

    async def give_back(self, _key: QuotaKey, _period: Period, _slot: int, _count: int) -> None:
        """Do nothing."""

    async def wait_ms(self, _key: QuotaKey, _rate: int, _period: Period) -> int | None:
        return None

    async def held_by_others(self, _key: QuotaKey, _worker: str) -> int:
        return 0

    async def hold(self, _key: QuotaKey, _worker: str, _most: int, _wanted: int) -> int:
        return MANY


async def _take_microseconds() -> float:
    """Return the time of one call's limits, once quota is leased."""
    server_id = "5" * 24
    target = PolicyTarget(owner_id=server_id)
    rates = (Rate(MANY, Period.MINUTE),)
    per = (Dimension.USER, Dimension.TOOL)
    limits = {
        str(number): Limit(
            str(number), "", target, Subjects(users=frozenset({f"{number:024x}"})), per, rates
        )
        for number in range(1, LIMITS)
    }
    limits["0"] = Limit("0", "", target, EVERYONE, per, rates, in_flight=MANY)
    plenty = _Plenty(limits)
    table = LimitTable(plenty)
    await table.reload(None)
    kept = CallLimits(
        table,
        plenty,
        worker="bench",
        background_tasks=BackgroundTasks(),
        clock=SystemClock(),
        metrics=Metrics(),
    )
    user = UserContext(f"{7:024x}", "bench", Role.USER, USER_SCOPES)
    tool = tool_entry("echo", '{"name":"echo"}')
    route = route_of(server_id)
    exchange = GatewayRequest({"path": "/mcp/bench", "method": "POST"}, _never, _never)
    waiting = kept.take(exchange, user, route, tool)
    if waiting is not None:
        await waiting
    kept.release(exchange)
    began_at = time.perf_counter()
    for _ in range(REPEATS):
        if kept.take(exchange, user, route, tool) is not None:
            raise RuntimeError("a call asked for a lease")
        kept.release(exchange)
    return (time.perf_counter() - began_at) / REPEATS * 1e6


def route_of(server_id: str, tools: Sequence[ToolEntry] = ()) -> Route:
    """Return a route to a server that everyone may use; nothing is sent there."""
    return build_route(
        server_id=server_id,
        server_name="bench",
        slug="bench",
        facts=ServerFacts(server_id, ServerScope.SHARED_USER, Grants.of([], None)),
        url="http://127.0.0.1:9/mcp",
        transport=Transport.STREAMABLE_HTTP,
        eras=frozenset(Era),
        protocol_version=None,
        headers={},
        credential_problem=None,
        per_user=False,
        tools=tools,
        idle_timeout_seconds=1.0,
    )


async def _never(*_: object) -> Any:
    raise RuntimeError("nothing is sent")
