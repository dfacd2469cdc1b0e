"""What is known of connections, and what becomes of what happens to them."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from registry.connections.tracker import (
    FRESH,
    FRESH_SECONDS,
    MEASURE_SECONDS,
    ConnectionTracker,
)
from registry.connections.values import Connection, ConnectionState
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.connections import connections_of

ONE, TWO = "1" * 24, "2" * 24
ALICE, BOB = "a" * 24, "b" * 24
LATER = NOON + timedelta(seconds=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tracker(clock: FakeClock) -> ConnectionTracker:
    return connections_of(clock).tracker


def state(known: Connection | None) -> ConnectionState:
    return ConnectionState.DISCONNECTED if known is None else known.state


def call(
    tracker: ConnectionTracker,
    server_id: str = ONE,
    version: datetime | None = NOON,
    user_id: str | None = None,
    problem: str | None = None,
) -> None:
    attempt = tracker.began(server_id, version, user_id)
    if problem is None:
        tracker.completed(server_id, version, user_id)
    else:
        tracker.failed(server_id, version, user_id, attempt, problem)


@pytest.mark.requirement("R-281")
def test_a_connection_goes_from_disconnected_over_connecting_to_connected(
    tracker: ConnectionTracker,
) -> None:
    states = [state(tracker.of_server(ONE))]

    tracker.began(ONE, NOON, None)
    states.append(state(tracker.of_server(ONE)))
    tracker.completed(ONE, NOON, None)
    states.append(state(tracker.of_server(ONE)))

    assert states == ["disconnected", "connecting", "connected"]


def test_an_answer_that_has_begun_shows_that_the_connection_is_there(
    tracker: ConnectionTracker,
) -> None:
    tracker.began(ONE, NOON, None)

    tracker.answered(ONE, NOON, None)

    assert state(tracker.of_server(ONE)) == "connected"


def test_an_attempt_that_came_to_nothing_leaves_no_trace(tracker: ConnectionTracker) -> None:
    tracker.began(ONE, NOON, ALICE)

    tracker.abandoned(ONE, ALICE)

    assert (tracker.of_server(ONE), tracker.of_user(ONE, ALICE)) == (None, None)


def test_an_attempt_given_up_leaves_a_connection_that_works(tracker: ConnectionTracker) -> None:
    call(tracker)
    tracker.began(ONE, NOON, None)

    tracker.abandoned(ONE, None)

    assert state(tracker.of_server(ONE)) == "connected"


def test_a_failure_is_an_error_with_its_reason_until_the_next_success(
    tracker: ConnectionTracker,
) -> None:
    call(tracker, problem="It is away.")
    failing = tracker.of_server(ONE)
    tracker.began(ONE, NOON, None)
    retried = tracker.of_server(ONE)

    tracker.completed(ONE, NOON, None)

    assert failing == retried == Connection(ConnectionState.ERROR, NOON, NOON, 1, "It is away.")
    assert tracker.of_server(ONE) == Connection(ConnectionState.CONNECTED, NOON, NOON)


@pytest.mark.requirement("R-282")
def test_users_have_connections_of_their_own_where_they_bring_credentials(
    tracker: ConnectionTracker,
) -> None:
    call(tracker, user_id=ALICE)
    tracker.began(ONE, NOON, BOB)

    tracker.refused(ONE, NOON, BOB, "It rejected the credentials.")

    assert state(tracker.of_user(ONE, ALICE)) == "connected"
    assert state(tracker.of_user(ONE, BOB)) == "error"
    assert state(tracker.of_server(ONE)) == "connected"


async def test_credentials_of_a_user_that_are_refused_are_no_news_of_the_server(
    clock: FakeClock,
) -> None:
    connections = connections_of(clock)
    connections.tracker.began(ONE, NOON, BOB)

    connections.tracker.refused(ONE, NOON, BOB, "It rejected the credentials.")
    await connections.writer.write_due()

    assert state(connections.tracker.of_server(ONE)) == "disconnected"
    assert connections.health.told == []


def test_credentials_of_nobody_in_particular_change_nothing(tracker: ConnectionTracker) -> None:
    tracker.refused(ONE, NOON, None, "It rejected the credentials.")

    assert tracker.of_server(ONE) is None


def test_the_end_of_a_stream_disconnects_and_is_no_error(tracker: ConnectionTracker) -> None:
    call(tracker, user_id=ALICE)

    tracker.dropped(ONE, ALICE)

    assert (tracker.of_server(ONE), tracker.of_user(ONE, ALICE)) == (None, None)


@pytest.mark.requirement("R-285")
def test_a_changed_configuration_forgets_the_connections_made_before(
    tracker: ConnectionTracker,
) -> None:
    call(tracker, user_id=ALICE)
    call(tracker, TWO, user_id=ALICE)

    tracker.outdate({ONE: LATER, TWO: NOON})

    assert (tracker.of_server(ONE), tracker.of_user(ONE, ALICE)) == (None, None)
    assert state(tracker.of_server(TWO)) == state(tracker.of_user(TWO, ALICE)) == "connected"


def test_a_call_over_a_former_configuration_says_nothing_of_the_new_one(
    tracker: ConnectionTracker,
) -> None:
    call(tracker, version=LATER)

    call(tracker, version=NOON, problem="It is away.")
    tracker.answered(ONE, NOON, None)

    assert tracker.of_server(ONE) == Connection(ConnectionState.CONNECTED, LATER, NOON)


def test_a_new_configuration_is_noted_at_once_however_busy_the_server_is(
    tracker: ConnectionTracker,
) -> None:
    call(tracker)

    call(tracker, version=LATER)

    known = tracker.of_server(ONE)
    assert known is not None
    assert known.version == LATER


def test_a_server_that_is_gone_is_forgotten_for_all_users(tracker: ConnectionTracker) -> None:
    call(tracker, user_id=ALICE)
    call(tracker, TWO, user_id=ALICE)

    tracker.forget([ONE])

    assert (tracker.of_server(ONE), tracker.of_user(ONE, ALICE)) == (None, None)
    assert state(tracker.of_user(TWO, ALICE)) == "connected"


def test_a_user_with_other_credentials_is_not_connected_by_the_former(
    tracker: ConnectionTracker,
) -> None:
    call(tracker, user_id=ALICE)
    call(tracker, user_id=BOB)

    tracker.forget_user(ONE, ALICE)

    assert tracker.of_user(ONE, ALICE) is None
    assert state(tracker.of_user(ONE, BOB)) == "connected"


@pytest.mark.requirement("R-288")
def test_states_are_forgotten_after_a_while_without_news(clock: FakeClock) -> None:
    tracker = connections_of(clock, remembered_seconds=300).tracker
    call(tracker, user_id=ALICE)
    clock.move(299)
    before = state(tracker.of_server(ONE))

    clock.move(2)

    assert before == "connected"
    assert (tracker.of_server(ONE), tracker.of_user(ONE, ALICE)) == (None, None)


@pytest.mark.requirement("R-288")
def test_a_connection_in_use_is_never_forgotten(clock: FakeClock) -> None:
    tracker = connections_of(clock, remembered_seconds=300).tracker

    for _ in range(10):
        clock.move(100)
        call(tracker)

    assert state(tracker.of_server(ONE)) == "connected"


@pytest.mark.requirement("R-288")
def test_of_too_many_the_least_recently_used_is_forgotten_and_looked_up_like_any_other(
    clock: FakeClock,
) -> None:
    tracker = connections_of(clock, max_entries=2).tracker
    servers = ["1" * 24, "2" * 24, "3" * 24]

    for server_id in servers:
        call(tracker, server_id, user_id=ALICE)

    known = [state(tracker.of_server(server_id)) for server_id in servers]
    own = [state(tracker.of_user(server_id, ALICE)) for server_id in servers]
    assert known == own == ["disconnected", "connected", "connected"]


async def test_calls_after_a_success_say_nothing_for_a_moment(clock: FakeClock) -> None:
    connections = connections_of(clock, interval_seconds=0.001)
    call(connections.tracker)
    await connections.writer.write_due()
    clock.move(FRESH_SECONDS / 2)
    call(connections.tracker)
    await connections.writer.write_due()
    quiet = len(connections.health.told)

    clock.move(FRESH_SECONDS)
    call(connections.tracker)
    await connections.writer.write_due()

    assert (quiet, len(connections.health.told)) == (1, 2)


def test_failures_in_a_row_end_with_a_success_of_anybody(tracker: ConnectionTracker) -> None:
    call(tracker, user_id=ALICE)
    call(tracker, user_id=BOB, problem="It is away.")
    call(tracker, user_id=BOB, problem="It is away.")

    call(tracker, user_id=ALICE)

    known = tracker.of_server(ONE)
    assert known is not None
    assert known.failures == 0


async def test_a_reading_is_known_and_not_written_again(clock: FakeClock) -> None:
    connections = connections_of(clock)

    connections.tracker.read_succeeded(ONE, NOON, ALICE, is_recorded=True)
    connections.tracker.read_failed(TWO, NOON, None, "It is away.")
    clock.move(FRESH_SECONDS)
    call(connections.tracker, user_id=ALICE)
    await connections.writer.write_due()

    assert state(connections.tracker.of_user(ONE, ALICE)) == "connected"
    assert state(connections.tracker.of_server(TWO)) == "error"
    assert connections.health.told == []


async def test_connections_are_counted_by_state(clock: FakeClock) -> None:
    connections = connections_of(clock)
    call(connections.tracker, user_id=ALICE)
    call(connections.tracker, TWO, problem="It is away.")

    connections.tracker.measure()

    sample = connections.metrics.registry.get_sample_value
    counts = {
        (level, name): sample("mcp_connections", {"level": level, "state": name})
        for level in ("server", "user")
        for name in ("connecting", "connected", "error")
    }
    assert counts == {
        ("server", "connecting"): 0,
        ("server", "connected"): 1,
        ("server", "error"): 1,
        ("user", "connecting"): 0,
        ("user", "connected"): 1,
        ("user", "error"): 0,
    }
    assert MEASURE_SECONDS < 15


def is_fast(
    tracker: ConnectionTracker,
    server_id: str,
    user_id: str | None = None,
    version: datetime | None = NOON,
) -> bool:
    """Whether a call over a connection has nothing new to say."""
    return tracker.began(server_id, version, user_id) == FRESH


EVENTS: dict[str, Callable[[ConnectionTracker], None]] = {
    "it fails": lambda tracker: tracker.failed(TWO, NOON, BOB, FRESH, "It is away."),
    "its stream ends": lambda tracker: tracker.dropped(TWO, BOB),
    "it is gone": lambda tracker: tracker.forget([TWO]),
    "it could not be read": lambda tracker: tracker.read_failed(TWO, NOON, None, "It is away."),
    "it refuses a user": lambda tracker: tracker.refused(TWO, NOON, BOB, "It says no."),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_what_happens_to_one_server_costs_no_other_its_fast_path(
    tracker: ConnectionTracker, event: Callable[[ConnectionTracker], None]
) -> None:
    call(tracker, ONE)
    call(tracker, ONE, user_id=ALICE)
    call(tracker, TWO, user_id=BOB)

    event(tracker)

    assert (is_fast(tracker, ONE), is_fast(tracker, ONE, ALICE)) == (True, True)
    assert not is_fast(tracker, TWO, BOB)


def test_a_failure_costs_all_users_of_its_server_their_fast_path(
    tracker: ConnectionTracker,
) -> None:
    call(tracker, user_id=ALICE)
    call(tracker, user_id=BOB)
    attempt = tracker.began(ONE, NOON, BOB)

    tracker.failed(ONE, NOON, BOB, attempt, "It is away.")

    assert not is_fast(tracker, ONE, ALICE)


def test_the_same_version_read_again_is_the_same(tracker: ConnectionTracker) -> None:
    call(tracker)

    again = datetime.fromisoformat(NOON.isoformat())

    assert again is not NOON
    assert is_fast(tracker, ONE, version=again)
    assert not is_fast(tracker, ONE, version=LATER)


def test_of_more_servers_than_are_remembered_one_loses_its_fast_path_at_a_time(
    clock: FakeClock,
) -> None:
    tracker = connections_of(clock, max_entries=3).tracker
    for number in range(4):
        call(tracker, str(number) * 24)

    assert [is_fast(tracker, str(number) * 24) for number in range(4)] == [False, True, True, True]
