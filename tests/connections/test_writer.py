"""The database is told of connections seldom, in bounded memory, and survives its absence."""

import pytest

from packages.database.errors import DatabaseUnavailable
from registry.connections.values import HealthEvent, HealthReport
from registry.core.clock import SystemClock
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.connections import Connections, connections_of
from tests.kit.waiting import in_background, until

ONE, TWO = "1" * 24, "2" * 24
WORKS = HealthReport(HealthEvent.CONNECTED, NOON)
FAILS = HealthReport(HealthEvent.FAILED, NOON, "It is away.", 1)
INTERVAL = 60.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def connections(clock: FakeClock) -> Connections:
    return connections_of(clock, interval_seconds=INTERVAL)


def words(connections: Connections) -> list[object]:
    return [told[0] for told in connections.health.told]


async def told(connections: Connections) -> None:
    await until(lambda: connections.health.told, 5)


@pytest.mark.requirement("R-290")
async def test_a_storm_of_connections_is_one_write_in_each_interval(
    connections: Connections, clock: FakeClock
) -> None:
    for _ in range(600):
        connections.writer.note(ONE, HealthReport(HealthEvent.CONNECTED, clock.now()))
        await connections.writer.write_due()
        clock.move(0.2)

    assert len(connections.health.told) == 2
    assert connections.metrics.registry.get_sample_value(
        "mcp_connection_writes_coalesced_total"
    ) == pytest.approx(597, abs=2)


@pytest.mark.requirement("R-290")
async def test_a_server_that_comes_and_goes_is_told_of_every_few_seconds(
    connections: Connections, clock: FakeClock
) -> None:
    for _ in range(250):
        connections.writer.note(ONE, FAILS)
        await connections.writer.write_due()
        connections.writer.note(ONE, WORKS)
        await connections.writer.write_due()
        clock.move(0.2)

    told = words(connections)
    assert told[:3] == ["failed", "connected", "failed"]
    assert told.count("failed") <= 11
    assert told.count("connected") <= 11


async def test_a_recovery_is_told_at_once(connections: Connections, clock: FakeClock) -> None:
    connections.writer.note(ONE, FAILS)
    await connections.writer.write_due()
    clock.move(1)

    connections.writer.note(ONE, WORKS)
    await connections.writer.write_due()

    assert words(connections) == ["failed", "connected"]


async def test_failures_in_a_row_are_told_together_and_the_last_straw_at_once(
    connections: Connections,
) -> None:
    connections.writer.note(ONE, FAILS)
    await connections.writer.write_due()
    connections.writer.note(ONE, FAILS)
    await connections.writer.write_due()
    connections.writer.note(
        ONE, HealthReport(HealthEvent.FAILED, NOON, "Still.", 1, is_at_threshold=True)
    )
    await connections.writer.write_due()

    assert connections.health.told == [
        ("failed", ONE, NOON, "It is away.", 1, False),
        ("failed", ONE, NOON, "Still.", 2, False),
    ]


async def test_the_last_word_waits_for_the_end_of_the_interval(
    connections: Connections, clock: FakeClock
) -> None:
    connections.writer.note(ONE, WORKS)
    await connections.writer.write_due()
    connections.writer.note(ONE, WORKS)
    clock.move(INTERVAL - 1)
    await connections.writer.write_due()
    early = len(connections.health.told)

    clock.move(1)
    await connections.writer.write_due()

    assert (early, len(connections.health.told), connections.writer.waiting) == (1, 2, 0)


async def test_while_the_database_is_away_the_last_word_of_each_server_waits(
    connections: Connections, clock: FakeClock
) -> None:
    connections.health.is_away = True
    for server_id in (ONE, TWO):
        connections.writer.note(server_id, FAILS)
    with pytest.raises(DatabaseUnavailable):
        await connections.writer.write_due()
    connections.writer.note(ONE, FAILS)
    waiting = connections.writer.waiting

    connections.health.is_away = False
    await connections.writer.write_due()

    assert waiting == 2
    assert sorted(told[1:5] for told in connections.health.told) == [
        (ONE, NOON, "It is away.", 2),
        (TWO, NOON, "It is away.", 1),
    ]


async def test_a_database_that_comes_back_is_told_without_anybody_asking() -> None:
    connections = connections_of(SystemClock(), retry_seconds=0.01)
    connections.health.is_away = True
    connections.writer.note(ONE, FAILS)

    async with in_background(connections.writer.follow()):
        await until(lambda: connections.health.attempts > 1)
        connections.health.is_away = False
        await told(connections)

    assert words(connections) == ["failed"]


async def test_more_servers_than_may_wait_are_dropped_and_counted(clock: FakeClock) -> None:
    connections = connections_of(clock, max_entries=2)

    for number in range(5):
        connections.writer.note(f"{number:024}", WORKS)

    sample = connections.metrics.registry.get_sample_value
    dropped = sample("mcp_connection_writes_dropped_total", {"reason": "full"})
    assert (connections.writer.waiting, dropped) == (2, 3)


async def test_one_document_that_cannot_take_it_keeps_no_other_waiting(
    connections: Connections,
) -> None:
    problems = iter([ValueError("odd"), None])

    def fail_once() -> None:
        problem = next(problems)
        if problem is not None:
            raise problem

    connections.health.problem = fail_once
    for server_id in (ONE, TWO):
        connections.writer.note(server_id, WORKS)

    await connections.writer.write_due()

    sample = connections.metrics.registry.get_sample_value
    assert sample("mcp_connection_writes_dropped_total", {"reason": "failed"}) == 1
    assert connections.health.told == [("connected", TWO, NOON)]


async def test_what_is_noted_is_written_soon_without_anybody_asking() -> None:
    connections = connections_of(SystemClock())

    async with in_background(connections.writer.follow()):
        connections.writer.note(ONE, WORKS)
        await told(connections)

    assert connections.health.told == [("connected", ONE, NOON)]


async def test_the_end_of_the_process_tells_what_is_new_and_not_what_is_known(
    connections: Connections,
) -> None:
    for server_id in (ONE, TWO):
        connections.writer.note(server_id, WORKS)
    await connections.writer.write_due()
    connections.writer.note(ONE, FAILS)
    connections.writer.note(TWO, WORKS)

    await connections.writer.close()

    assert connections.health.told[2:] == [("failed", ONE, NOON, "It is away.", 1, False)]


async def test_the_end_of_the_process_waits_for_no_database_that_is_away(
    clock: FakeClock,
) -> None:
    connections = connections_of(clock, interval_seconds=INTERVAL, close_seconds=0.1)
    connections.health.is_away = True
    connections.writer.note(ONE, FAILS)

    await connections.writer.close()

    sample = connections.metrics.registry.get_sample_value
    assert sample("mcp_connection_writes_dropped_total", {"reason": "shutdown"}) == 1


async def test_nothing_more_is_said_of_a_server_that_is_gone(connections: Connections) -> None:
    connections.writer.note(ONE, FAILS)

    connections.writer.forget(ONE)
    await connections.writer.write_due()

    assert connections.health.told == []
