"""Totals: they add up to the calls that were made, whoever writes them and however often."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from packages.database.client import Database
from packages.models.usage import DAY, MONTH
from registry.core.clock import SystemClock
from registry.usage.batches import BatchPacker, UsageBatch
from registry.usage.repository import UsageRepository
from registry.usage.totals import (
    bucket_of,
    middle_of,
    month_after,
    percentile,
    totals_of,
    writes_of,
)
from registry.usage.values import Charge
from tests.conftest import ALICE
from tests.usage.conftest import batch_of, call

PRICED = Charge("high", ("gpu", "team-a"), 10_000, 1_024)
KEEP = timedelta(days=400)
NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)


def test_a_bucket_stands_for_its_durations_within_three_per_cent() -> None:
    durations = [*range(1, 3_000), *(int(1.01**power) for power in range(800, 2_200))]

    wrong = [abs(middle_of(bucket_of(one)) - one) / one for one in durations]

    assert max(wrong) <= 1 / 32
    assert [bucket_of(one) for one in durations[:31]] == durations[:31]


def test_percentiles_are_those_of_the_calls() -> None:
    latency = Counter(bucket_of(milliseconds * 1_000) for milliseconds in range(1, 101))

    found = [(percentile(latency, share) or 0) / 1_000 for share in (0.5, 0.95, 0.99)]

    assert found == pytest.approx([50, 95, 99], rel=1 / 32)
    assert percentile({}, 0.5) is None


def test_a_call_costs_what_it_cost_when_it_was_sent_and_nothing_unsent() -> None:
    sent = call(charge=PRICED, request_bytes=1_000, response_bytes=1_048)
    dearer = call(charge=PRICED._replace(price_per_call=20_000), request_bytes=0, response_bytes=0)
    refused = call(charge=PRICED, decided_at=0.0, head_at=0.0, outcome="refused")

    totals = totals_of(batch_of(sent, sent, dearer, refused), NOON, SystemClock().monotonic())

    by_outcome = {key[5]: sums for key, sums in totals.days.items()}
    assert (by_outcome["ok"].calls, by_outcome["ok"].cost) == (3, 2 * 12_048 + 20_000)
    assert (by_outcome["refused"].sent, by_outcome["refused"].cost) == (0, 0)
    assert sum(totals.spent.values()) == 44_096


def test_a_batch_over_midnight_is_of_two_days_and_over_the_months_end_of_two_months() -> None:
    monotonic = SystemClock().monotonic()
    midnight = datetime(2026, 4, 1, tzinfo=UTC)
    batch = batch_of(
        call(charge=PRICED, began_at=monotonic - 1.5),
        call(charge=PRICED, began_at=monotonic - 0.5),
    )

    totals = totals_of(batch, midnight + timedelta(seconds=1), monotonic)

    assert sorted(key[0].day for key in totals.days) == [1, 31]
    assert sorted(key[0].month for key in totals.spent) == [3, 4]
    assert month_after(datetime(2026, 12, 1, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)


def test_names_that_nobody_serves_make_no_totals_of_their_own() -> None:
    batch = batch_of(*(call(target=f"invented-{number}", tool=None) for number in range(50)))

    assert len(totals_of(batch, NOON, SystemClock().monotonic()).days) == 1


async def stored(database: Database, period: str) -> Counter[str]:
    sums: Counter[str] = Counter()
    async for total in database.collection("usage_totals").find({"period": period}):
        for name in ("calls", "sent", "request_bytes", "response_bytes", "cost"):
            sums[name] += total.get(name, 0)
        sums["latencies"] += sum(total.get("latency", {}).values())
    return sums


@pytest.mark.wire
async def test_processes_that_write_at_once_lose_and_double_nothing(
    usage_repository: UsageRepository, database: Database
) -> None:
    packer, clock = BatchPacker(worker="host:1", retention=timedelta(days=30)), SystemClock()
    now, monotonic = clock.now(), clock.monotonic()

    def one_batch(number: int) -> UsageBatch:
        some = [call(charge=PRICED, tool=f"t{one % 3}") for one in range(number)]
        return batch_of(*some, call(outcome="timeout", user_id="b" * 24))

    async def write(number: int) -> None:
        batch = one_batch(number)
        document = packer.document(batch, now, monotonic)
        writes = writes_of(totals_of(batch, now, monotonic), f"w{number}", KEEP)
        # The answer to the first was lost.
        for _ in range(2):
            assert await usage_repository.insert(document, writes)

    await asyncio.gather(*(write(number) for number in range(8)))

    cost = 28 * PRICED.cost_of(520)
    assert await stored(database, DAY) == {
        "calls": 36,
        "sent": 36,
        "latencies": 36,
        "request_bytes": 36 * 120,
        "response_bytes": 36 * 400,
        "cost": cost,
    }
    assert (await stored(database, MONTH))["cost"] == cost
    months = await database.collection("usage_totals").find({"period": MONTH}).to_list()
    assert {str(one["user_id"]) for one in months} == {ALICE.user_id}


@pytest.mark.wire
@pytest.mark.requirement("E-19")
async def test_totals_that_the_database_refuses_leave_no_batch_without_them(
    usage_repository: UsageRepository, database: Database
) -> None:
    packer, clock = BatchPacker(worker="host:1", retention=timedelta(days=30)), SystemClock()
    document = packer.document(batch_of(call()), clock.now(), clock.monotonic())

    is_taken = await usage_repository.insert(document, [("k", {"$set": {"period": "century"}})])

    assert not is_taken
    assert await database.collection("usage_records").count_documents({}) == 0
