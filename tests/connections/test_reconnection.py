"""Connections that are made again: on request, after failures, and at start."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import UserContext
from registry.connections.errors import ReconnectingError, ReconnectionLimitError
from registry.connections.policy import backoff_seconds, pause_before
from registry.connections.reconnection import Reconnection
from registry.connections.tracker import ConnectionTracker
from registry.connections.values import Attempt, ConnectionState, VisibleServer
from registry.oauth.errors import AuthorizationRequiredError
from registry.oauth.values import AuthorizationLink
from registry.servers.errors import (
    CredentialsRefusedError,
    DiscoveryFailedError,
    ServerNotFoundError,
)
from tests.conftest import ALICE, BOB
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.connections import Connections, connections_of
from tests.kit.waiting import others_ran

SERVER = VisibleServer("1" * 24, "shared", NOON, False, False)
OWN = VisibleServer("2" * 24, "own", NOON, False, True)
LINK = AuthorizationLink("flow", "https://registry.example/start", NOON)


@dataclass
class FakeConnector:
    """Implements `registry.connections.ports.Connector`.

    Attributes:
        problem: Raised by each connection.
        released: While it is not set, connections take long.
    """

    tracker: ConnectionTracker
    problem: Exception | None = None
    known: list[str] = field(default_factory=list)
    authorized: list[tuple[str, str]] = field(default_factory=list)
    made: list[tuple[str, str | None]] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    most_at_once: int = 0
    _at_once: int = 0

    def __post_init__(self) -> None:
        """Let connections through."""
        self.released.set()

    async def connect(self, server_id: str, user: UserContext) -> None:
        """Connect as told."""
        self.made.append((server_id, user.user_id))
        self.tracker.began(server_id, NOON, None)
        await self.released.wait()
        if self.problem is not None:
            self.tracker.failed(server_id, NOON, None, 0, str(self.problem))
            raise self.problem
        self.tracker.completed(server_id, NOON, None)

    async def check(self, server_id: str) -> None:
        """Connect as told."""
        self.made.append((server_id, None))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await self.released.wait()
        self._at_once -= 1
        problem = None if self.problem is None else str(self.problem)
        self.tracker.checked(server_id, NOON, problem)
        if self.problem is not None:
            raise self.problem

    async def check_of_user(self, server_id: str, user_id: str) -> bool:
        """Connect as told."""
        self.made.append((server_id, user_id))
        problem = None if self.problem is None else str(self.problem)
        self.tracker.checked(server_id, NOON, problem, user_id)
        if isinstance(self.problem, CredentialsRefusedError):
            return False
        if self.problem is not None:
            raise self.problem
        return True

    async def recently_authorized(self, limit: int) -> list[tuple[str, str]]:
        """Return as many as asked."""
        return self.authorized[:limit]

    async def recently_connected(self, limit: int) -> list[str]:
        """Return as many as asked."""
        if isinstance(self.problem, DatabaseUnavailable):
            raise self.problem
        return self.known[:limit]


@dataclass
class Parts:
    """What makes connections again, and what it uses."""

    clock: FakeClock
    connections: Connections
    connector: FakeConnector
    reconnection: Reconnection

    def state(self, server_id: str = SERVER.id) -> ConnectionState | None:
        """Return what is known of a server."""
        found = self.connections.tracker.of_server(server_id)
        return None if found is None else found.state


@pytest.fixture
def parts() -> Parts:
    clock = FakeClock()
    connections = connections_of(clock)
    connector = FakeConnector(connections.tracker)
    reconnection = Reconnection(
        connector, connections.tracker, at_start=20, clock=clock, chance=lambda: 0.5
    )
    return Parts(clock, connections, connector, reconnection)


async def settled() -> None:
    """Let background tasks run."""
    for _ in range(20):
        await others_ran()


async def made(parts: Parts, server: VisibleServer, user: UserContext) -> None:
    """Make a connection again."""
    await parts.reconnection.reinitialize(server, user)


async def test_a_connection_is_made_with_the_callers_credentials(parts: Parts) -> None:
    made = await parts.reconnection.reinitialize(SERVER, ALICE)

    assert (made.problem, made.link) == (None, None)
    assert parts.connector.made == [(SERVER.id, ALICE.user_id)]
    assert parts.state() is ConnectionState.CONNECTED


async def test_a_problem_and_a_missing_authorization_are_results(parts: Parts) -> None:
    parts.connector.problem = DiscoveryFailedError("It is away.")
    failed = await parts.reconnection.reinitialize(SERVER, ALICE)
    parts.connector.problem = AuthorizationRequiredError("GitHub", LINK)

    unauthorized = await parts.reconnection.reinitialize(SERVER, ALICE)

    assert (failed.problem, failed.link) == ("It is away.", None)
    assert (unauthorized.problem, unauthorized.link) == (None, LINK)


async def test_who_may_not_use_a_server_is_told_that_there_is_none(parts: Parts) -> None:
    parts.connector.problem = ServerNotFoundError()

    with pytest.raises(ServerNotFoundError):
        await parts.reconnection.reinitialize(SERVER, ALICE)


async def test_a_connection_is_made_once_at_a_time_and_is_shown_meanwhile(parts: Parts) -> None:
    parts.connections.tracker.failed(SERVER.id, NOON, None, 0, "It is away.")
    parts.connector.released.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(made(parts, SERVER, ALICE))
        await settled()
        known = parts.connections.tracker.of_server(SERVER.id)
        with pytest.raises(ReconnectingError):
            await parts.reconnection.reinitialize(SERVER, BOB)
        parts.connector.released.set()

    assert known is not None
    assert known.is_reconnecting
    after = parts.connections.tracker.of_server(SERVER.id)
    assert after is not None
    assert not after.is_reconnecting


async def test_users_with_connections_of_their_own_do_not_wait_for_each_other(
    parts: Parts,
) -> None:
    parts.connector.released.clear()
    async with asyncio.TaskGroup() as group:
        for user in (ALICE, BOB):
            group.create_task(made(parts, OWN, user))
        await settled()
        parts.connector.released.set()

    assert len(parts.connector.made) == 2


async def test_too_many_in_a_row_are_refused_with_the_time_to_wait(parts: Parts) -> None:
    for _ in range(7):
        await parts.reconnection.reinitialize(SERVER, ALICE)

    with pytest.raises(ReconnectionLimitError) as refused:
        await parts.reconnection.reinitialize(SERVER, ALICE)
    parts.clock.move(15)
    await parts.reconnection.reinitialize(SERVER, ALICE)

    assert refused.value.facts == {"retry_after_seconds": 15}


def attempts(*found: tuple[float, bool]) -> list[Attempt]:
    return [Attempt(at, succeeded) for at, succeeded in found]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([], 0, 0),
        (attempts((0, False), (1, False)), 1, 0),
        (attempts((0, False), (1, False), (2, False)), 2, 30),
        (attempts((0, False), (1, False), (2, False)), 32, 0),
        (attempts((0, False), (1, True), (2, False), (3, False)), 3, 0),
        (attempts((0, False), (1, False), (2, False), (40, False)), 40, 60),
        (attempts((0, False), (110, False), (230, False)), 230, 0),
        (attempts(*((second, True) for second in range(7))), 6, 15),
        (attempts(*((second, True) for second in range(7))), 46, 0),
    ],
)
def test_a_pause_follows_many_and_failed_connections(
    before: list[Attempt], now: float, expected: float
) -> None:
    assert pause_before(before, now) == expected


@pytest.mark.parametrize(
    ("failures", "chance", "expected"),
    [(0, 0.5, 30), (1, 0.5, 60), (4, 0.5, 300), (99, 0.5, 300), (0, 0, 24), (0, 1, 36)],
)
def test_pauses_grow_and_vary(failures: int, chance: float, expected: float) -> None:
    assert backoff_seconds(failures, chance) == pytest.approx(expected)


async def passed(parts: Parts, seconds: Iterable[int]) -> list[int]:
    """Let time pass; return when connections were made."""
    times = []
    for second in seconds:
        parts.reconnection.retry_due()
        before = len(parts.connector.made)
        await settled()
        times += [second] * (len(parts.connector.made) - before)
        parts.clock.move(1)
    return times


async def test_a_failed_connection_is_tried_again_for_three_minutes(parts: Parts) -> None:
    parts.connector.problem = DiscoveryFailedError("It is away.")
    parts.connections.tracker.failed(SERVER.id, NOON, None, 0, "It is away.")
    written = parts.connections.writer.waiting

    times = await passed(parts, range(400))

    assert times == [30, 90]
    assert parts.connections.writer.waiting == written


async def test_one_that_works_again_is_recorded(parts: Parts) -> None:
    parts.connections.tracker.failed(SERVER.id, NOON, None, 0, "It is away.")
    await parts.connections.writer.write_due()

    times = await passed(parts, range(60))

    await parts.connections.writer.write_due()
    assert times == [30]
    assert parts.state() is ConnectionState.CONNECTED
    assert [event[0] for event in parts.connections.health.told] == ["failed", "connected"]


@pytest.mark.parametrize(
    ("problem", "attempts"),
    [
        (DiscoveryFailedError("It is away."), 2),
        (CredentialsRefusedError("It refused the token."), 1),
        (None, 1),
    ],
)
async def test_a_users_own_connection_that_failed_is_tried_again_within_the_same_budget(
    parts: Parts, problem: Exception | None, attempts: int
) -> None:
    parts.connector.problem = problem
    tracker = parts.connections.tracker
    tracker.failed(OWN.id, NOON, ALICE.user_id, 0, "It is away.")
    tracker.checked(SERVER.id, NOON, "It is away.", BOB.user_id)

    await passed(parts, range(400))

    for key in ((OWN.id, ALICE.user_id), (SERVER.id, BOB.user_id)):
        assert parts.connector.made.count(key) == attempts


async def test_a_server_that_works_for_a_user_again_is_recorded_as_working(parts: Parts) -> None:
    tracker = parts.connections.tracker
    tracker.failed(OWN.id, NOON, ALICE.user_id, 0, "It is away.")
    await parts.connections.writer.write_due()

    tracker.checked(OWN.id, NOON, None, ALICE.user_id)

    await parts.connections.writer.write_due()
    assert parts.state(OWN.id) is ConnectionState.CONNECTED
    assert [event[0] for event in parts.connections.health.told] == ["failed", "connected"]


async def test_a_server_that_failed_for_many_users_is_tried_for_some_of_them(
    parts: Parts,
) -> None:
    parts.connector.problem = DiscoveryFailedError("It is away.")
    for number in range(300):
        parts.connections.tracker.checked(OWN.id, NOON, "It is away.", f"{number:024}")

    await passed(parts, range(60))

    assert len(set(parts.connector.made)) == len(parts.connector.made) == 200


@pytest.mark.requirement("R-280")
async def test_at_start_servers_are_shown_as_they_are_and_nothing_is_written(
    parts: Parts,
) -> None:
    parts.connector.known = [f"{number:024}" for number in range(30)]
    parts.connector.released.clear()

    await parts.reconnection.start()
    parts.clock.move(1)
    await settled()
    parts.connector.released.set()
    await settled()

    states = {parts.state(server_id) for server_id in parts.connector.known[:20]}
    assert states == {ConnectionState.CONNECTED}
    assert parts.state(parts.connector.known[20]) is None
    assert parts.connector.most_at_once == 8
    assert parts.connections.writer.waiting == 0


@pytest.mark.parametrize(
    ("problem", "state"),
    [(None, ConnectionState.CONNECTED), ("It is away.", ConnectionState.ERROR)],
)
async def test_at_start_users_own_connections_are_shown_as_they_are(
    parts: Parts, problem: str | None, state: ConnectionState
) -> None:
    parts.connector.problem = None if problem is None else DiscoveryFailedError(problem)
    parts.connector.authorized = [(f"{number:024}", ALICE.user_id) for number in range(30)]

    await parts.reconnection.start()
    parts.clock.move(1)
    await settled()

    tracker = parts.connections.tracker
    shown = [tracker.of_user(server_id, ALICE.user_id) for server_id, _ in parts.connector.made]
    assert [one and (one.state, one.problem) for one in shown] == [(state, problem)] * 20
    assert tracker.of_user(parts.connector.made[0][0], BOB.user_id) is None
    assert parts.connections.writer.waiting == 0


async def test_a_start_without_the_database_connects_to_nothing(parts: Parts) -> None:
    parts.connector.problem = DatabaseUnavailable()

    await parts.reconnection.start()

    assert parts.connector.made == []
