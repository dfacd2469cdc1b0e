"""Limits on calls: one process and several, memory and a real database, the answers to clients."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import orjson
import pytest

from packages.database.client import Database
from packages.models.states import SourceType
from registry.access.limits.quota_repository import QuotaRepository
from registry.access.limits.quotas import HOLD_SECONDS
from registry.access.limits.table import LimitTable
from registry.access.limits.values import (
    Dimension,
    Limit,
    LimitedTool,
    OnDatabaseLoss,
    Period,
    Rate,
)
from registry.access.policies.values import EVERYONE, PolicyTarget, Subjects
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.gateway.edge.limits import CallLimits
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import LimitExceeded, LimitsAway
from registry.gateway.values import ToolEntry, tool_entry
from registry.tools.call_rules import CallRules
from tests.conftest import ALICE, BOB
from tests.fakes.clock import FakeClock
from tests.fakes.limits import FakeLimits, FakeQuotas, FakeServerTime, call_limits
from tests.gateway.conftest import StartGateway, head, request
from tests.gateway.eras import modern
from tests.gateway.fakes import ScriptedUpstream, make_route
from tests.gateway.serving import serve

ROUTE = make_route()
ECHO, ADD = ROUTE.tools["echo"], ROUTE.tools["add"]
USER = (Dimension.USER,)
ALICES = frozenset({ALICE.user_id})
USERS = [UserContext(f"{n:024x}", "u", ALICE.role, ALICE.scopes) for n in range(6)]


def limit(*rates: Rate, limit_id: str = "l1", **changed: Any) -> Limit:
    members: dict[str, Any] = {
        "id": limit_id,
        "name": limit_id,
        "target": PolicyTarget(SourceType.MCP),
        "subjects": EVERYONE,
        "rates": rates,
    }
    return Limit(**{**members, **changed})


class Process:
    """One process that keeps limits."""

    def __init__(self, limits: CallLimits) -> None:
        self.limits = limits
        self.under_way: list[GatewayRequest] = []

    async def call(self, user: UserContext = ALICE, tool: ToolEntry = ECHO) -> bool:
        """Make a call, and leave it under way; return whether it was let through."""
        exchange = GatewayRequest({"path": "/mcp/demo", "method": "POST"}, _never, _never)
        try:
            waiting: Awaitable[None] | None = self.limits.take(exchange, user, ROUTE, tool)
            if waiting is not None:
                await waiting
        except (LimitExceeded, LimitsAway):
            return False
        self.under_way.append(exchange)
        return True

    def end(self) -> None:
        """End the calls that are under way."""
        for exchange in self.under_way:
            self.limits.release(exchange)
        self.under_way.clear()

    async def spent(self, *limits: Limit, user: UserContext = ALICE) -> float | None:
        """Return how long a call would have to wait; None if not at all."""
        found = await self.limits.spent(user, LimitedTool(ROUTE.server_id, "echo"), limits)
        return None if found is None else found.wait_seconds

    async def calls(self, count: int, **of: Any) -> int:
        """Make calls one after the other; return how many were let through."""
        return sum([await self.call(**of) for _ in range(count)])


async def _never(*_: object) -> Any:
    raise AssertionError


Start = Callable[..., Awaitable[list[Process]]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def quotas(clock: FakeClock) -> FakeQuotas:
    return FakeQuotas(clock)


@pytest.fixture
def start(clock: FakeClock, quotas: FakeQuotas) -> Start:
    async def started(*limits: Limit, processes: int = 1) -> list[Process]:
        stored = FakeLimits(*limits)
        made = []
        for number in range(processes):
            table = LimitTable(stored)
            await table.reload(None)
            made.append(Process(call_limits(table, quotas, clock, f"w{number}")))
        return made

    return started


async def settled() -> None:
    """Let leases that began in the background come."""
    for _ in range(5):
        await SystemClock().sleep(0)


@pytest.mark.requirement("R-228")
async def test_a_limit_lets_as_many_calls_through_as_it_says(
    start: Start, clock: FakeClock
) -> None:
    (process,) = await start(limit(Rate(10, Period.MINUTE)))
    assert await process.calls(15) == 10
    clock.move(30)
    assert await process.calls(5) == 0
    clock.move(34)
    assert await process.calls(15) == 10


async def test_callers_tools_and_servers_are_counted_apart_as_it_says(start: Start) -> None:
    (process,) = await start(
        limit(Rate(3, Period.HOUR), per=(Dimension.USER, Dimension.TOOL)),
        limit(Rate(8, Period.HOUR), limit_id="l2"),
    )
    assert await process.calls(5) == 3
    assert await process.calls(5, tool=ADD) == 3
    # Two are left of what all have together.
    assert await process.calls(5, user=BOB) == 2


@pytest.mark.requirement("R-227")
async def test_a_limit_is_for_the_tools_and_callers_that_it_names(start: Start) -> None:
    costly = tool_entry(
        "render",
        '{"name":"render"}',
        facets=("cost_tier:high",),
        rules=CallRules(cost_tier="high"),
    )
    (process,) = await start(
        limit(
            Rate(2, Period.DAY),
            target=PolicyTarget(SourceType.MCP, metadata={"cost_tier": "high"}),
            per=USER,
        ),
        limit(Rate(1, Period.DAY), limit_id="l2", subjects=Subjects(users=frozenset({"x"}))),
        limit(Rate(0, Period.DAY), limit_id="l3", is_enabled=False),
        limit(Rate(0, Period.DAY), limit_id="l4", target=PolicyTarget(owner_id="d" * 24)),
    )
    assert await process.calls(5, tool=costly) == 2
    assert await process.calls(5, tool=costly, user=BOB) == 2
    assert await process.calls(20) == 20


async def test_a_burst_and_a_sustained_rate_are_both_kept(start: Start, clock: FakeClock) -> None:
    (process,) = await start(limit(Rate(5, Period.SECOND), Rate(12, Period.MINUTE)))
    passed = []
    for _ in range(4):
        passed.append(await process.calls(10))
        clock.move(1.2)
    assert passed == [5, 5, 2, 0]


async def test_nothing_is_counted_where_another_limit_refuses(
    start: Start, quotas: FakeQuotas
) -> None:
    (process,) = await start(
        limit(Rate(5, Period.HOUR), limit_id="a"),
        limit(Rate(0, Period.HOUR), limit_id="b", target=PolicyTarget(tools=("add",))),
    )
    assert await process.calls(20, tool=ADD) == 0
    assert await process.calls(20) == 5


async def test_warm_calls_ask_nobody(start: Start, quotas: FakeQuotas) -> None:
    (process,) = await start(limit(Rate(100_000, Period.HOUR), per=USER))
    await process.call()
    await settled()
    asked = quotas.requests
    assert await process.calls(200) == 200
    assert quotas.requests == asked


async def test_refused_calls_ask_nobody_for_a_while(
    start: Start, quotas: FakeQuotas, clock: FakeClock
) -> None:
    (process,) = await start(limit(Rate(1, Period.HOUR)))
    assert await process.calls(2) == 1
    asked = quotas.requests
    assert await process.calls(1_000) == 0
    assert quotas.requests <= asked + 1


async def test_three_processes_keep_one_rate_together(start: Start, clock: FakeClock) -> None:
    processes = await start(limit(Rate(100, Period.MINUTE), per=USER), processes=3)
    passed: list[tuple[float, int]] = []
    for _ in range(40):
        counts = await asyncio.gather(*(process.calls(30) for process in processes))
        await settled()
        passed.append((clock.monotonic(), sum(counts)))
        clock.move(4.7)
    for now, _ in passed:
        within = sum(count for at, count in passed if now - 60 < at <= now)
        assert within <= 105
    assert sum(count for _, count in passed) >= 250


async def test_what_one_process_does_not_use_another_gets(start: Start, clock: FakeClock) -> None:
    one, other = await start(limit(Rate(40, Period.MINUTE)), processes=2)
    assert await one.calls(3) == 3
    await settled()
    clock.move(3.5)
    await one.limits.sweep()
    assert await other.calls(50) == 37


async def test_calls_under_way_are_limited_over_all_processes(
    start: Start, clock: FakeClock
) -> None:
    one, other = await start(limit(in_flight=3, per=USER), processes=2)
    assert await one.calls(2) == 2
    await settled()
    assert await other.calls(5) + await one.calls(5) == 1
    assert await one.calls(5, user=BOB) == 3
    one.end()
    other.end()
    clock.move(2)
    for process in (one, other, one, other):
        await process.limits.sweep()
    assert await other.calls(5) == 3


async def test_permits_of_a_process_that_was_killed_come_back(
    start: Start, clock: FakeClock
) -> None:
    one, other = await start(limit(in_flight=2), processes=2)
    assert await one.calls(2) == 2
    assert await other.calls(1) == 0
    clock.move(HOLD_SECONDS + 1)
    assert await other.calls(5) == 2


async def test_permits_of_long_calls_are_renewed(start: Start, clock: FakeClock) -> None:
    one, other = await start(limit(in_flight=2), processes=2)
    assert await one.calls(2) == 2
    for _ in range(12):
        clock.move(HOLD_SECONDS / 2)
        await one.limits.sweep()
        assert await other.calls(1) == 0


@pytest.mark.parametrize(
    ("changed", "tool", "passes"),
    [
        ({}, ECHO, True),
        ({"on_database_loss": OnDatabaseLoss.CLOSED}, ECHO, False),
        ({}, tool_entry("r", '{"name":"r"}', rules=CallRules(cost_tier="high")), False),
    ],
)
async def test_without_the_database_what_was_leased_lasts_and_then_the_limit_decides(
    start: Start,
    quotas: FakeQuotas,
    clock: FakeClock,
    changed: dict[str, Any],
    tool: ToolEntry,
    passes: bool,  # noqa: FBT001 - a row of the table
) -> None:
    (process,) = await start(limit(Rate(1_000, Period.MINUTE), **changed))
    await process.call(tool=tool)
    await settled()
    quotas.is_away = True
    assert await process.calls(5, tool=tool) == 5
    for _ in range(60):
        await process.calls(10, tool=tool)
        clock.move(1)
    assert await process.call(tool=tool) is passes
    quotas.is_away = False
    clock.move(61)
    assert await process.call(tool=tool)


async def test_a_changed_limit_keeps_its_counts(start: Start, quotas: FakeQuotas) -> None:
    stored = FakeLimits(limit(Rate(10, Period.HOUR)))
    table = LimitTable(stored)
    await table.reload(None)
    process = Process(call_limits(table, quotas, FakeClock()))
    assert await process.calls(20) == 10
    stored.limits = (limit(Rate(14, Period.HOUR)),)
    await table.reload(None)
    assert await process.calls(20) == 4
    stored.limits = ()
    await table.reload(None)
    assert await process.calls(20) == 20


async def test_an_unreadable_limit_refuses_all_that_it_may_apply_to(start: Start) -> None:
    (process,) = await start(limit(problem="unreadable: rates"))
    assert await process.calls(3) == 0


async def test_a_burst_on_a_cold_key_gets_all_that_there_is(start: Start) -> None:
    one, other = await start(limit(Rate(1_000, Period.MINUTE)), processes=2)
    assert sum(await asyncio.gather(*(one.call() for _ in range(300)))) == 300
    assert sum(await asyncio.gather(*(other.call() for _ in range(1_000)))) <= 700


async def test_after_its_slot_one_call_is_left_of_a_lease(start: Start, clock: FakeClock) -> None:
    (process,) = await start(limit(Rate(1_000, Period.SECOND)))
    assert await process.calls(5) == 5
    await settled()
    clock.move(0.3)
    exchange = GatewayRequest({"path": "/mcp/demo", "method": "POST"}, _never, _never)
    assert process.limits.take(exchange, ALICE, ROUTE, ECHO) is None
    waiting = process.limits.take(exchange, ALICE, ROUTE, ECHO)
    assert waiting is not None
    await waiting


async def test_a_call_that_its_client_has_to_repeat_counts_once(start: Start) -> None:
    (process,) = await start(limit(Rate(3, Period.HOUR), in_flight=1))
    for _ in range(5):
        assert await process.call()
        process.limits.uncount(process.under_way[0])
        process.end()
    assert await process.call()
    process.end()
    assert [await process.call(), await process.call()] == [True, False]


@pytest.mark.parametrize("changed", [{"rates": (Rate(0, Period.DAY),)}, {"in_flight": 0}])
async def test_a_limit_of_nothing_refuses_all_with_and_without_the_database(
    start: Start, quotas: FakeQuotas, clock: FakeClock, changed: dict[str, Any]
) -> None:
    (process,) = await start(limit(on_database_loss=OnDatabaseLoss.OPEN, **changed))
    for quotas.is_away in (False, True, True, False):
        clock.move(5)
        exchange = GatewayRequest({"path": "/mcp/demo", "method": "POST"}, _never, _never)
        with pytest.raises(LimitExceeded) as refused:
            process.limits.take(exchange, ALICE, ROUTE, ECHO)
        assert refused.value.facts == {}
        assert b"retry-after" not in dict(refused.value.headers)
    assert quotas.requests == 0


async def test_a_database_that_does_not_answer_delays_one_call_in_a_while(
    start: Start, quotas: FakeQuotas, clock: FakeClock
) -> None:
    (process,) = await start(limit(Rate(100, Period.MINUTE), per=USER))
    quotas.hangs = True
    assert await process.call()
    clock.move(1.5)
    probing = asyncio.ensure_future(process.call())
    await settled()
    assert all([await process.call(user=user) for user in USERS])
    assert not probing.done()
    assert await probing
    assert quotas.requests == 2


async def test_limits_of_other_callers_cost_nothing(start: Start) -> None:
    others = [
        limit(
            Rate(0, Period.DAY),
            limit_id=f"l{n}",
            subjects=Subjects(users=frozenset({f"{n:024x}"}), scopes=frozenset({f"scope{n}"})),
        )
        for n in range(500)
    ]
    (process,) = await start(*others, limit(Rate(9, Period.DAY), subjects=Subjects(users=ALICES)))
    assert await process.calls(20) == 9
    assert process.limits.keys_held == 1
    assert await process.calls(20, user=BOB) == 20


async def test_fewer_permits_are_in_force_at_once(quotas: FakeQuotas, clock: FakeClock) -> None:
    stored = FakeLimits(limit(in_flight=5))
    table = LimitTable(stored)
    await table.reload(None)
    process = Process(call_limits(table, quotas, clock))
    assert await process.calls(9) == 5
    process.end()
    stored.limits = (limit(in_flight=2),)
    await table.reload(None)
    assert await process.calls(9) == 2


async def test_a_process_that_needs_permits_gets_some_of_a_busy_one(
    start: Start, clock: FakeClock
) -> None:
    one, other = await start(limit(in_flight=3), processes=2)
    assert await one.calls(3) == 3
    passed = 0
    for _ in range(6):
        one.end()
        assert await one.calls(1) == 1
        clock.move(1.1)
        await one.limits.sweep()
        passed += await other.calls(1)
        other.end()
    assert passed >= 4


async def test_quota_that_idle_callers_hold_is_returned_and_forgotten(
    start: Start, clock: FakeClock, quotas: FakeQuotas
) -> None:
    one, other = await start(limit(Rate(40, Period.HOUR), per=(Dimension.SERVER,)), processes=2)
    assert await one.calls(8) == 8
    await settled()
    clock.move(6)
    await one.limits.sweep()
    assert await other.calls(50) == 32
    clock.move(3_700)
    await one.limits.sweep()
    assert one.limits.keys_held == 0


@pytest.mark.parametrize("order", ["forwards", "backwards"])
@pytest.mark.wire
async def test_no_clock_that_jumps_opens_a_limit(database: Database, order: str) -> None:
    clock = FakeClock()
    stored = FakeLimits(limit(Rate(30, Period.MINUTE)), limit(in_flight=31, limit_id="l2"))
    times, processes = [], []
    for number in range(2):
        times.append(FakeServerTime(database, clock))
        table = LimitTable(stored)
        await table.reload(None)
        quotas = QuotaRepository(database, times[-1], clock)
        processes.append(Process(call_limits(table, quotas, clock, f"w{number}")))
    one, other = processes
    passed = await one.calls(12) + await other.calls(4)

    for jump in (timedelta(hours=2), timedelta(days=2), timedelta(seconds=50)):
        for time in times:
            time.ahead += jump if order == "forwards" else -jump
        clock.move(1.1)
        passed += await one.calls(30) + await other.calls(30)
    assert 25 <= passed <= 30
    one.end()
    clock.move(64)
    assert await one.calls(10) + await other.calls(40) >= 19


@pytest.mark.requirement("R-228")
@pytest.mark.wire
async def test_three_processes_on_one_database_never_exceed_a_rate(database: Database) -> None:
    clock = FakeClock()
    stored = FakeLimits(
        limit(Rate(100, Period.MINUTE)), limit(in_flight=5, limit_id="l2", per=USER)
    )
    processes = []
    for number in range(3):
        table = LimitTable(stored)
        await table.reload(None)
        quotas = QuotaRepository(database, FakeServerTime(database, clock), clock)
        limits = call_limits(table, quotas, clock, f"w{number}", lease_seconds=30)
        processes.append(Process(limits))
    one, other, third = processes
    assert sum(await asyncio.gather(*(process.calls(10) for process in processes))) == 5
    # A process that is killed between its lease and its calls costs calls, and allows none.
    assert await other.calls(10, user=BOB) == 5
    passed = [(clock.monotonic(), 10)]
    for process in processes:
        process.end()

    for _ in range(24):
        clock.move(3.3)
        counts = await asyncio.gather(
            *(process.call(user=user) for process in (one, third) for user in USERS)
        )
        passed.append((clock.monotonic(), sum(counts)))
        for process in (one, third):
            process.end()
            await process.limits.sweep()

    most = max(sum(n for at, n in passed if now - 60 < at <= now) for now, _ in passed)
    assert 90 <= most <= 103
    rows = await database.collection("limit_quotas").find({}).to_list()
    assert all(sum(row["slots"].values()) <= 100 for row in rows)


@pytest.mark.integration
async def test_clients_are_told_how_long_to_wait(stack: Any, start_gateway: StartGateway) -> None:
    clock = SystemClock()
    table = LimitTable(FakeLimits(limit(Rate(1, Period.MINUTE), per=USER)))
    await table.reload(None)
    url = await stack.enter_async_context(serve(ScriptedUpstream()))
    gateway = await start_gateway(
        make_route(f"{url}/mcp"), limits=call_limits(table, FakeQuotas(clock), clock)
    )
    params = {"name": "echo", "arguments": {}}
    assert "error" not in (await gateway.post(request("tools/call", params))).json()
    legacy = await gateway.post(request("tools/call", params))
    message, headers = modern("tools/call", params)
    current = await gateway.http.post(
        "/mcp/demo", content=orjson.dumps(message), headers=head(**headers)
    )
    others = await gateway.post(request("tools/call", params), user="bob")

    assert legacy.status_code == 200
    assert current.status_code == 429
    for answer in (legacy, current):
        error = answer.json()["error"]
        assert 0 < error["data"]["retry_after_ms"] <= 63_000
        assert error["message"].startswith("Over the limit of 1 calls a minute for each user")
        assert 0 < int(answer.headers["retry-after"]) <= 63
        assert answer.headers["ratelimit-policy"] == '"minute";q=1;w=60'
        assert answer.headers["ratelimit"].startswith('"minute";r=0;t=')
    assert "error" not in others.json()
    assert gateway.count("tools/call", "limited") == 2


async def test_it_is_known_what_other_processes_used_of_a_limit_and_nothing_is_counted(
    start: Start, clock: FakeClock
) -> None:
    few = limit(Rate(2, Period.MINUTE), per=USER)
    first, second = await start(few, processes=2)
    before = await second.spent(few)
    await first.calls(2)

    waits = [await process.spent(few) for process in (first, second)]
    of_bob = await second.spent(few, user=BOB)
    await clock.sleep(waits[1] or 0)
    afterwards = [await second.spent(few) for _ in range(3)]

    assert (before, of_bob, afterwards) == (None, None, [None, None, None])
    assert waits[0] == waits[1] is not None
    assert 57 <= (waits[0] or 0) <= 66
    assert await second.call()


async def test_it_is_known_how_many_calls_are_under_way_in_all_processes(start: Start) -> None:
    two = limit(in_flight=2)
    first, second = await start(two, processes=2)
    before = await second.spent(two)
    await first.calls(2)
    none_left = [await process.spent(two) for process in (first, second)]
    first.end()
    left_again = await first.spent(two)

    assert (before, none_left, left_again) == (None, [1.0, 1.0], None)
