"""Budgets in the memory of several processes, over months and without the database."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from packages.database.client import Database, Transaction
from packages.database.encryption import Cipher
from packages.database.errors import DatabaseUnavailable
from packages.database.schema import prepare
from packages.models.states import ApprovalState
from registry.access.budgets.repository import BudgetRepository, new_budget_id
from registry.access.budgets.values import Budget, BudgetRecord
from registry.access.policies.values import EVERYONE
from registry.audit.chain import AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import UserContext
from registry.core.metrics import Metrics
from registry.gateway.edge.budgets import Budgets
from registry.gateway.errors import BudgetExceeded
from registry.gateway.values import tool_entry
from registry.tools.call_rules import CallRules
from registry.usage.batches import BatchPacker
from registry.usage.repository import UsageRepository
from registry.usage.totals import totals_of, writes_of
from registry.usage.values import MILLION, Charge
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mongo_daemon import start_daemon
from tests.gateway.approving import HANDED_OUT, Approving, approving
from tests.gateway.conftest import StartGateway
from tests.gateway.meeting import Kind
from tests.kit.waiting import until_async
from tests.usage.conftest import batch_of, call

pytestmark = pytest.mark.wire

RENDER = tool_entry("render", "{}", rules=CallRules(price_per_call=MILLION))
FREE = tool_entry("free", "{}")
CHARGE = Charge(None, (), MILLION, 0)
KEEP = timedelta(days=400)


class WallClock(FakeClock):
    """A clock whose time of day is set by somebody, while its seconds go on."""

    ahead = timedelta()

    @override
    def now(self) -> datetime:
        return super().now() + self.ahead


class Process:
    """A process with budgets, which makes calls of a tool that costs 1."""

    def __init__(self, database: Database, audit: AuditTrail, clock: FakeClock) -> None:
        self.metrics = Metrics()
        self.usage = UsageRepository(database)
        self.clock = clock
        self.unwritten = 0
        self.budgets = Budgets(
            database,
            BudgetRepository(database),
            self.usage,
            audit,
            clock=clock,
            metrics=self.metrics,
        )

    def begin(self, user: UserContext, calls: int) -> int:
        """Begin calls at once; return how many are not refused."""
        begun = 0
        for _ in range(calls):
            try:
                self.budgets.check(user, RENDER)
            except BudgetExceeded:
                break
            begun += 1
        return begun

    def end(self, user: UserContext, calls: int) -> int:
        """End calls that were sent."""
        for _ in range(calls):
            self.budgets.spent(user, CHARGE, 100)
        self.unwritten += calls
        return calls

    def make(self, user: UserContext, calls: int) -> int:
        """Make calls one after another; return how many are not refused."""
        return sum(self.end(user, self.begin(user, 1)) for _ in range(calls))

    async def write(self, user: UserContext) -> None:
        """Write what was called since the last time."""
        if not self.unwritten:
            return
        now, monotonic = self.clock.now(), self.clock.monotonic()
        # A call whose decision was made at 0.0 was not sent.
        times = {"began_at": monotonic, "decided_at": monotonic + 0.001, "head_at": monotonic}
        one = call(charge=CHARGE, user_id=user.user_id, ended_at=monotonic + 0.002, **times)
        batch = batch_of(*[one] * self.unwritten)
        packer = BatchPacker(worker="host:1", retention=KEEP)
        writes = writes_of(totals_of(batch, now, monotonic), self.usage.writer, KEEP)
        assert await self.usage.insert(packer.document(batch, now, monotonic), writes)
        self.unwritten = 0


async def budget_of(database: Database, amount: int) -> BudgetRecord:
    """Store a budget of everyone."""
    budget = Budget(new_budget_id(), "team", None, amount * MILLION, EVERYONE)
    record = BudgetRecord(budget, None, 1, NOON, None, NOON, None)

    async def write(tx: Transaction) -> None:
        await BudgetRepository(database).insert(record, tx)

    await database.transaction(write)
    return record


async def changed(database: Database, record: BudgetRecord, amount: int) -> BudgetRecord:
    """Store another amount."""
    budget = replace(record.budget, amount=amount * MILLION)
    after = replace(record, budget=budget, noticed=None, revision=record.revision + 1)

    async def write(tx: Transaction) -> bool:
        return await BudgetRepository(database).update(after, tx)

    assert await database.transaction(write)
    return after


def reported(*processes: Process) -> dict[str, float]:
    """Return how often each percentage was reported, by all processes together."""
    counted: dict[str, float] = {}
    for process in processes:
        for family in process.metrics.budget_notices.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    percent = sample.labels["percent"]
                    counted[percent] = counted.get(percent, 0) + sample.value
    return counted


@pytest.mark.requirement("R-237")
async def test_an_approved_call_waits_while_its_budget_is_spent(
    database: Database,
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    cipher: Cipher,
    audit: AuditTrail,
) -> None:
    record = await budget_of(database, 5)
    process = Process(database, audit, FakeClock())
    await process.budgets.reload(None)
    place = await stack.enter_async_context(
        approving(
            *(Kind.MODERN, start_gateway, database, cipher),
            times=HANDED_OUT,
            executes=False,
            budgets=process.budgets,
        )
    )
    rules = CallRules(approvals=1, price_per_call=MILLION)
    tools = {key: replace(tool, rules=rules) for key, tool in place.route.tools.items()}
    place.change(tools=tools)
    handle = await place.handle()
    await place.decide()
    record = await changed(database, record, 0)
    await process.budgets.reload(None)

    async with asyncio.timeout(30), place.executing():
        await until_async(put_off(place))
        waiting, calls = await place.only(), [*place.server.calls]
        record = await changed(database, record, 5)
        await process.budgets.reload(None)
        await place.call(handle=handle)
        await place.reached(ApprovalState.EXECUTED)
        await changed(database, record, 0)
        await process.budgets.reload(None)
        fetched = await place.call(handle=handle)

    assert not fetched["isError"], fetched
    assert "A budget for this call is spent" in (waiting.reason or "")
    assert calls == []
    assert len(place.server.calls) == 1


def put_off(place: Approving) -> Callable[[], Awaitable[bool]]:
    async def is_put_off() -> bool:
        return (await place.only()).is_put_off

    return is_put_off


@pytest.fixture
def wall_clock() -> WallClock:
    return WallClock(datetime(2026, 3, 31, 23, 0, tzinfo=UTC))


@pytest.mark.requirement("R-237")
async def test_processes_spend_one_amount_within_the_bound_and_report_it_once(
    database: Database, audit: AuditTrail, alice: UserContext, bob: UserContext
) -> None:
    record = await budget_of(database, 40)
    first, second = (Process(database, audit, FakeClock()) for _ in range(2))
    both = ((first, alice), (second, bob))
    for process, _ in both:
        await process.budgets.reload(None)

    # Four calls are under way at each, in each second, and both write and read once a second.
    made, notices = [0], []
    async with asyncio.timeout(20):
        while len(made) < 3 or made[-1] > made[-2]:
            begun = [process.begin(user, 4) for process, user in both]
            ended = [process.end(user, n) for (process, user), n in zip(both, begun, strict=True)]
            made.append(made[-1] + sum(ended))
            for process, user in both:
                await process.write(user)
            await asyncio.gather(*(process.budgets.refresh() for process, _ in both))
            notices.append(reported(first, second))

    # 40, the calls that are under way, and what the other process spends in two seconds.
    assert 40 <= made[-1] <= 40 + 2 * 4 + 2 * 4
    assert notices[2:4] == [{}, {"80": 1}]
    assert notices[-1] == {"80": 1, "100": 1}

    # Calls under way are not ended by a smaller amount; what they cost counts once it is larger.
    larger = await changed(database, record, made[-1] + 7)
    await first.budgets.reload(None)
    under_way = first.begin(alice, 5)
    await changed(database, larger, 0)
    await first.budgets.reload(None)
    refused_meanwhile = first.begin(alice, 1)
    first.end(alice, under_way)
    await first.write(alice)
    await changed(database, replace(larger, revision=3), made[-1] + 7)
    for process, _ in both:
        await process.budgets.reload(None)
        await process.budgets.refresh()

    assert (under_way, refused_meanwhile) == (5, 0)
    assert second.make(bob, 9) == 2
    first.budgets.check(alice, FREE)


async def test_a_month_begins_empty_and_a_clock_that_is_set_back_finds_what_was_spent(
    database: Database, audit: AuditTrail, wall_clock: WallClock, alice: UserContext
) -> None:
    await budget_of(database, 10)
    process, other = (Process(database, audit, wall_clock) for _ in range(2))
    for one in (process, other):
        await one.budgets.reload(None)
    other.make(alice, 3)
    await other.write(alice)
    await process.budgets.refresh()
    in_march = process.make(alice, 20)
    await process.budgets.refresh()
    with pytest.raises(BudgetExceeded, match=r"2026-04-01T00:00:00\.000Z"):
        process.budgets.check(alice, RENDER)

    wall_clock.move(3600)
    in_april = process.make(alice, 4)
    await process.budgets.refresh()
    wall_clock.ahead = timedelta(days=40)
    wall_clock.move(2)
    in_may = process.make(alice, 6)
    await process.budgets.refresh()
    wall_clock.ahead = timedelta()
    wall_clock.move(2)
    await process.budgets.refresh()
    again_in_april = process.make(alice, 20)
    await process.budgets.refresh()

    assert (in_march, in_april, in_may, again_in_april) == (7, 4, 6, 6)
    assert reported(process) == {"100": 2}


async def test_calls_under_way_count_for_a_budget_that_is_made_meanwhile(
    database: Database, audit: AuditTrail, wall_clock: WallClock, alice: UserContext
) -> None:
    process = Process(database, audit, wall_clock)
    begun = process.begin(alice, 2)

    await budget_of(database, 3)
    await process.budgets.reload(None)
    process.end(alice, begun)

    assert (begun, process.make(alice, 5)) == (2, 1)


async def test_without_the_database_each_process_goes_on_with_what_it_knows(
    tmp_path: Path, audit_keys: AuditKeys, alice: UserContext, bob: UserContext
) -> None:
    clock = FakeClock()
    with start_daemon(tmp_path) as daemon:
        database = Database(f"{daemon.uri}test", timeout_ms=300)
        await prepare(database, {})
        audit = AuditTrail(AuditRepository(database, audit_keys), clock=clock, metrics=Metrics())
        await budget_of(database, 10)
        first, second = (Process(database, audit, clock) for _ in range(2))
        for process in (first, second):
            await process.budgets.reload(None)
        first.make(alice, 3)
        await first.write(alice)
        await second.budgets.refresh()

        daemon.stop()
        with pytest.raises(DatabaseUnavailable):
            await first.budgets.refresh()
        with pytest.raises(DatabaseUnavailable):
            await first.budgets.reload(None)
        clock.move(60)
        made = (first.make(alice, 20), second.make(bob, 20))

        daemon.restart()
        for process, user in ((first, alice), (second, bob)):
            await process.write(user)
        for process in (first, second):
            await process.budgets.refresh()
            with pytest.raises(BudgetExceeded):
                process.budgets.check(bob, RENDER)
        spent = sum((await first.usage.spending(NOON.replace(day=1, hour=0))).values())
        await database.close()

    # Each knows the first three calls and its own: the amount for each process, not more.
    assert made == (7, 7)
    assert spent == 17 * MILLION
