"""What follows from what is known of connections."""

from datetime import timedelta
from typing import Any

import pytest

from registry.connections.policy import (
    answered,
    attempted,
    failed,
    is_recently_active,
    is_stale,
    merged,
    view_of,
)
from registry.connections.values import (
    Connection,
    ConnectionState,
    ConnectionView,
    VisibleServer,
)
from registry.oauth.values import AuthorizationState
from tests.fakes.clock import NOON

DISCONNECTED, CONNECTING = ConnectionState.DISCONNECTED, ConnectionState.CONNECTING
CONNECTED, ERROR = ConnectionState.CONNECTED, ConnectionState.ERROR
IDLE = timedelta(seconds=300)
LATER = NOON + timedelta(milliseconds=1)


def server(**changes: Any) -> VisibleServer:
    facts: dict[str, Any] = {
        "id": "a" * 24,
        "name": "demo",
        "version": NOON,
        "is_off": False,
        "is_user_level": False,
    }
    return VisibleServer(**{**facts, **changes})


def connection(state: ConnectionState = CONNECTED, **changes: Any) -> Connection:
    return Connection(**{"state": state, "version": NOON, "at": NOON, **changes})


@pytest.mark.requirement("R-285")
@pytest.mark.parametrize(
    ("known", "version", "seconds", "expected"),
    [
        (connection(), NOON, 0, False),
        (connection(), NOON, 300, False),
        (connection(), NOON, 301, True),
        (connection(ERROR), NOON, 301, False),
        (connection(), LATER, 0, True),
        (connection(version=LATER), NOON, 0, False),
        (connection(version=None), NOON, 0, True),
        (connection(version=None), None, 0, False),
        (connection(), None, 0, False),
    ],
)
def test_a_connection_is_stale_when_its_server_was_modified_or_nothing_used_it(
    known: Connection, version: Any, seconds: float, *, expected: bool
) -> None:
    now = NOON + timedelta(seconds=seconds)

    assert is_stale(known, version, now, IDLE) is expected


@pytest.mark.requirement("R-281")
@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (None, DISCONNECTED),
        (connection(CONNECTING), CONNECTING),
        (connection(CONNECTED), CONNECTED),
        (connection(ERROR), ERROR),
        (connection(version=NOON - timedelta(days=1)), DISCONNECTED),
    ],
)
def test_the_state_is_that_of_a_connection_that_is_not_stale(
    known: Connection | None, expected: ConnectionState
) -> None:
    assert view_of(server(), known, NOON, IDLE).state is expected


def test_a_problem_is_told_of_an_error_alone() -> None:
    failing = connection(ERROR, problem="It is away.")
    trying = connection(CONNECTING, problem="It was away.")

    views = [view_of(server(), known, NOON, IDLE) for known in (failing, trying)]

    assert views == [ConnectionView(ERROR, "It is away."), ConnectionView(CONNECTING)]


def test_a_server_that_was_turned_off_is_disconnected_whatever_is_known() -> None:
    assert view_of(server(is_off=True), connection(), NOON, IDLE).state is DISCONNECTED


@pytest.mark.requirement("R-283")
@pytest.mark.requirement("R-284")
@pytest.mark.parametrize(
    ("known", "authorization", "expected"),
    [
        (None, AuthorizationState(), DISCONNECTED),
        (None, AuthorizationState(is_authorized=True), CONNECTED),
        (None, AuthorizationState(needs_reauth=True), DISCONNECTED),
        (None, AuthorizationState(is_under_way=True), CONNECTING),
        (None, AuthorizationState(has_failed=True), ERROR),
        (None, AuthorizationState(has_failed=True, is_under_way=True), ERROR),
        (None, AuthorizationState(is_renewing=True, has_failed=True), CONNECTING),
        (None, AuthorizationState(is_renewing=True, is_authorized=True), CONNECTING),
        (None, AuthorizationState(is_authorized=True, has_failed=True), CONNECTED),
        (connection(), AuthorizationState(is_authorized=True, has_failed=True), CONNECTED),
        (connection(), AuthorizationState(), DISCONNECTED),
        (connection(), AuthorizationState(has_failed=True), ERROR),
        (connection(), AuthorizationState(is_renewing=True), CONNECTED),
        (connection(ERROR), AuthorizationState(is_renewing=True), ERROR),
        (connection(ERROR), AuthorizationState(is_authorized=True), ERROR),
        (connection(ERROR, is_reconnecting=True), AuthorizationState(), CONNECTING),
    ],
)
def test_an_authorization_decides_where_nothing_is_known_of_the_connection(
    known: Connection | None, authorization: AuthorizationState, expected: ConnectionState
) -> None:
    view = view_of(server(is_user_level=True), known, NOON, IDLE, authorization)

    assert (view.state, view.authorization) == (expected, authorization)


@pytest.mark.requirement("R-289")
@pytest.mark.parametrize(("seconds", "expected"), [(0, True), (299, True), (300, False)])
def test_a_server_is_recently_active_for_five_minutes(seconds: float, *, expected: bool) -> None:
    assert is_recently_active(NOON, NOON + timedelta(seconds=seconds)) is expected


def test_a_server_that_was_never_connected_to_is_not_recently_active() -> None:
    assert is_recently_active(None, NOON) is False


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], None),
        ([connection(ERROR), connection(CONNECTED, at=LATER)], CONNECTED),
        ([connection(ERROR, at=LATER), connection(CONNECTED)], ERROR),
        ([connection(CONNECTING, at=LATER), connection(CONNECTED)], CONNECTED),
        ([connection(CONNECTING, at=LATER), connection(ERROR)], ERROR),
        ([connection(CONNECTING)], CONNECTING),
    ],
)
def test_of_several_workers_the_latest_outcome_counts(
    found: list[Connection], expected: ConnectionState | None
) -> None:
    chosen = merged(found)

    assert (None if chosen is None else chosen.state) is expected


def test_a_reconnection_of_any_worker_is_shown() -> None:
    found = [connection(ERROR, at=LATER), connection(ERROR, is_reconnecting=True)]

    chosen = merged(found)

    assert chosen is not None
    assert view_of(server(), chosen, NOON, IDLE).state is CONNECTING


def test_calls_that_were_under_way_together_fail_once() -> None:
    first = failed(connection(), NOON, NOON, 0, "It broke.")
    second = failed(first, NOON, NOON, 0, "It broke.")
    third = failed(second, NOON, NOON, second.failures, "It is away.")

    assert (first.failures, second.failures, third.failures) == (1, 1, 2)


def test_an_error_stays_one_while_it_is_tried_again() -> None:
    failing = connection(ERROR, failures=2)

    assert attempted(failing, NOON, LATER) is failing


def test_failures_of_a_former_configuration_do_not_count() -> None:
    failing = connection(ERROR, failures=2)

    tried = attempted(failing, LATER, LATER)
    again = failed(failing, LATER, LATER, 0, "It is away.")

    assert (tried.state, tried.failures, again.failures) == (CONNECTING, 0, 1)


def test_the_beginning_of_an_answer_makes_no_failures_forgotten() -> None:
    begun = answered(connection(ERROR, failures=2), NOON, LATER)

    assert (begun.state, begun.failures) == (CONNECTED, 2)
