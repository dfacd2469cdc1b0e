"""How connections stand, of several workers together."""

from dataclasses import dataclass, field, replace

import pytest

from registry.auth.identity import UserContext
from registry.connections.service import ConnectionService
from registry.connections.tracker import ConnectionTracker
from registry.connections.values import ConnectionState, ConnectionView, VisibleServer
from registry.core.json import JsonObject
from registry.oauth.values import AuthorizationState, OAuthServer, TokenProblem
from tests.conftest import ALICE, BOB
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.connections import connections_of
from tests.fakes.oauth.states import FakeAuthorizations

SHARED = VisibleServer("1" * 24, "shared", NOON, False, False)
OWN = VisibleServer("2" * 24, "own", NOON, False, True)


class Directory:
    """Implements `registry.connections.ports.ServerDirectory`: everybody sees the same."""

    def __init__(self) -> None:
        self.asked_by: list[UserContext] = []

    async def visible(self, user: UserContext) -> list[VisibleServer]:
        """Return both servers."""
        self.asked_by.append(user)
        return [SHARED, OWN]

    async def one(self, server_id: str, user: UserContext) -> VisibleServer:
        """Return one of them."""
        self.asked_by.append(user)
        return SHARED if server_id == SHARED.id else OWN


@dataclass
class Neighbour:
    """Implements `registry.connections.ports.OtherWorkers` with one other worker."""

    service: ConnectionService
    questions: list[bytes] = field(default_factory=list)

    async def connections(self, question: bytes) -> list[bytes]:
        """Ask it."""
        self.questions.append(question)
        return [await self.service.reply(question)]


@dataclass
class Pair:
    """One worker, and what its neighbour knows."""

    here: ConnectionTracker
    there: ConnectionTracker
    service: ConnectionService
    neighbour: Neighbour
    clock: FakeClock

    async def states(self, user: UserContext = ALICE) -> dict[str, str]:
        """Return the states that *user* is shown here."""
        found = await self.service.of_all(user)
        return {server.name: view.state.value for server, view in found}


@pytest.fixture
def pair() -> Pair:
    clock = FakeClock()
    here, there = connections_of(clock).tracker, connections_of(clock).tracker
    neighbour = Neighbour(
        ConnectionService(there, Directory(), None, clock=clock, idle_seconds=300)
    )
    service = ConnectionService(here, Directory(), neighbour, clock=clock, idle_seconds=300)
    return Pair(here, there, service, neighbour, clock)


async def test_what_another_worker_knows_is_known_here(pair: Pair) -> None:
    pair.there.completed(SHARED.id, NOON, None)
    pair.there.completed(OWN.id, NOON, ALICE.user_id)

    assert await pair.states() == {"shared": "connected", "own": "connected"}


@pytest.mark.requirement("R-282")
async def test_no_worker_tells_of_another_users_connection(pair: Pair) -> None:
    pair.there.completed(OWN.id, NOON, ALICE.user_id)
    pair.here.completed(OWN.id, NOON, ALICE.user_id)

    assert (await pair.states(BOB))["own"] == "disconnected"


async def test_the_latest_outcome_counts_wherever_it_was(pair: Pair) -> None:
    pair.here.completed(SHARED.id, NOON, None)
    pair.clock.move(1)
    pair.there.failed(SHARED.id, NOON, None, 0, "It is away.")
    failing = await pair.service.of_one(SHARED.id, ALICE)
    pair.clock.move(1)
    pair.here.completed(SHARED.id, NOON, None)

    assert (failing[1].state, failing[1].problem) == ("error", "It is away.")
    assert (await pair.states())["shared"] == "connected"


async def test_a_connection_that_nothing_used_for_long_is_disconnected(pair: Pair) -> None:
    pair.here.completed(SHARED.id, NOON, None)
    service = ConnectionService(pair.here, Directory(), None, clock=pair.clock, idle_seconds=60)

    pair.clock.move(61)

    (_, view), _ = await service.of_all(ALICE)
    assert view.state == "disconnected"


async def test_the_others_are_asked_once_for_all_servers(pair: Pair) -> None:
    await pair.service.of_all(ALICE)

    assert len(pair.neighbour.questions) == 1


async def test_nobody_is_asked_about_nothing(pair: Pair) -> None:
    assert await pair.service.views(ALICE, []) == {}
    assert pair.neighbour.questions == []


OAUTH = OAuthServer("3" * 24, "github", "github", "GitHub", "https://mcp.example", {}, NOON, NOON)
PROTECTED = VisibleServer(OAUTH.id, OAUTH.name, NOON, False, True, OAUTH)


def service_of(clock: FakeClock, authorizations: FakeAuthorizations) -> ConnectionService:
    tracker = connections_of(clock).tracker
    return ConnectionService(
        tracker, Directory(), None, authorizations=authorizations, clock=clock, idle_seconds=300
    )


@pytest.mark.requirement("R-282")
async def test_authorizations_are_those_of_the_caller() -> None:
    authorized = AuthorizationState(is_authorized=True)
    authorizations = FakeAuthorizations({(ALICE.user_id, OAUTH.id): authorized})
    service = service_of(FakeClock(), authorizations)

    views = [(await service.views(user, [PROTECTED]))[OAUTH.id] for user in (ALICE, BOB)]

    assert [view.state for view in views] == ["connected", "disconnected"]
    assert [view.authorization for view in views] == [authorized, AuthorizationState()]


async def test_authorizations_are_read_once_for_all_servers_and_only_for_oauth() -> None:
    authorizations = FakeAuthorizations({})
    service = service_of(FakeClock(), authorizations)

    await service.views(ALICE, [PROTECTED, SHARED, PROTECTED])
    await service.views(ALICE, [SHARED, OWN])

    assert authorizations.asked == [[OAUTH, OAUTH]]


async def test_connections_are_shown_while_authorizations_cannot_be_read() -> None:
    clock = FakeClock()
    authorizations = FakeAuthorizations({}, is_away=True)
    tracker = connections_of(clock).tracker
    service = ConnectionService(
        tracker, Directory(), None, authorizations=authorizations, clock=clock, idle_seconds=300
    )
    tracker.completed(OAUTH.id, NOON, ALICE.user_id)

    view = (await service.views(ALICE, [PROTECTED]))[OAUTH.id]

    assert (view.state, view.authorization) == ("connected", None)


async def test_a_token_that_another_worker_cannot_obtain_is_an_error_until_a_call_works() -> None:
    clock, version = FakeClock(), NOON
    grant: JsonObject = {
        "requiresOAuth": True,
        "oauth": {"grant_types_supported": ["client_credentials"]},
    }
    oauth = replace(OAUTH, config=grant)
    server = replace(PROTECTED, oauth=oauth, is_user_level=False)
    known = {(ALICE.user_id, OAUTH.id): AuthorizationState(is_authorized=True)}
    there = FakeAuthorizations({})
    there.problems[ALICE.user_id, OAUTH.id] = TokenProblem("invalid_client", NOON, version)
    tracker = connections_of(clock).tracker
    service = ConnectionService(
        tracker,
        Directory(),
        Neighbour(service_of(clock, there)),
        authorizations=FakeAuthorizations(known),
        clock=clock,
        idle_seconds=300,
    )

    failing = (await service.views(ALICE, [server]))[OAUTH.id]
    clock.move(1)
    tracker.completed(OAUTH.id, version, None)
    works = (await service.views(ALICE, [server]))[OAUTH.id]

    assert failing == ConnectionView(
        ConnectionState.ERROR, "invalid_client", AuthorizationState(is_authorized=False)
    )
    authorized = AuthorizationState(is_authorized=True)
    assert works == ConnectionView(ConnectionState.CONNECTED, None, authorized, clock.now())


async def test_a_failure_with_tokens_that_are_replaced_since_is_past() -> None:
    clock = FakeClock()
    oauth = replace(OAUTH, updated_at=NOON)
    server = replace(PROTECTED, oauth=oauth, is_user_level=False)
    here = FakeAuthorizations(
        {(ALICE.user_id, OAUTH.id): AuthorizationState(is_authorized=True, identity="new")}
    )
    there = FakeAuthorizations({})
    service = ConnectionService(
        connections_of(clock).tracker,
        Directory(),
        Neighbour(service_of(clock, there)),
        authorizations=here,
        clock=clock,
        idle_seconds=300,
    )

    async def state_after_failing_with(authorization: str) -> str:
        problem = TokenProblem("It is away.", NOON, NOON, authorization)
        there.problems[ALICE.user_id, OAUTH.id] = problem
        return (await service.views(ALICE, [server]))[OAUTH.id].state

    assert await state_after_failing_with("new") == "error"
    assert await state_after_failing_with("old") == "connected"
