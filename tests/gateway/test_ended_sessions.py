"""Ends of sessions that other replicas hear of."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
from typing_extensions import override

from packages.database.changes import ChangeEvent, FeedItem
from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable
from registry.gateway.edge.ended_sessions import EndedSessionRepository, EndedSessions
from registry.gateway.view.pending import MAX_ENDED_AT_ONCE, PendingChanges
from registry.servers.values import Era
from registry.workers.peers import SingleWorker
from tests.fakes.clock import FakeClock
from tests.gateway.conftest import StartGateway, head, request
from tests.gateway.eras import LegacyServer
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

NAME, NONCE = "a" * 32, "nonce"
HELLO = request(
    "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
)
LIST = request("tools/list")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Written(EndedSessionRepository):
    """Keeps the keys that are written; without a database."""

    def __init__(self, error: Exception | None = None) -> None:
        self.keys: list[str] = []
        self._error = error

    @override
    async def write(self, key: str, ended_at: datetime, expires_at: datetime) -> None:
        if self._error is not None:
            raise self._error
        self.keys.append(key)


def of_replica(name: str, repository: EndedSessionRepository) -> EndedSessions:
    lifetime = timedelta(hours=1)
    return EndedSessions(SingleWorker(name * 8), repository, lifetime=lifetime, clock=FakeClock())


async def plainly(received: Request) -> None:
    await received.result({"content": []})


@pytest.mark.parametrize("path", ["/mcp", "/mcp/demo"])
async def test_a_session_that_ended_in_one_replica_is_unknown_to_another_that_hears_of_it(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream, path: str
) -> None:
    upstream.behaviour = LegacyServer(plainly)
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=frozenset({Era.LEGACY}))
    written = Written()
    ends = [of_replica(name, written) for name in "ab"]
    one, other = [await start_gateway(route, ended_sessions=each) for each in ends]
    greeted = await one.http.post(path, json=HELLO, headers=head())
    headers = head(mcp_session_id=greeted.headers["mcp-session-id"])
    before = await other.http.post(path, json=LIST, headers=headers)

    await one.http.delete(path, headers=headers)
    await ends[1].apply(written.keys)

    after = await other.http.post(path, json=LIST, headers=headers)
    assert (before.status_code, after.status_code) == (200, 404)


async def test_a_session_ends_here_though_the_database_is_away(
    start_gateway: StartGateway, upstream: ScriptedUpstream, stack: AsyncExitStack
) -> None:
    url = await stack.enter_async_context(serve(upstream))
    ends = of_replica("a", Written(DatabaseUnavailable()))
    gateway = await start_gateway(make_route(f"{url}/mcp"), ended_sessions=ends)
    greeted = await gateway.http.post("/mcp", json=HELLO, headers=head())
    headers = head(mcp_session_id=greeted.headers["mcp-session-id"])

    ended = await gateway.http.delete("/mcp", headers=headers)

    listed = await gateway.http.post("/mcp", json=LIST, headers=headers)
    assert (ended.status_code, listed.status_code) == (200, 404)


async def test_a_replica_that_starts_reads_what_has_ended_and_would_not_have_expired(
    database: Database,
) -> None:
    repository = EndedSessionRepository(database)
    await repository.write("b" * 32, NOW, NOW - timedelta(days=365))
    await of_replica("a", repository).report(NAME, NONCE)
    heard: list[tuple[str, str | None]] = []
    starting = of_replica("b", repository)
    starting.listen(lambda name, nonce: heard.append((name, nonce)))

    await starting.apply({""})

    assert heard == [(NAME, NONCE)]


async def test_what_is_no_name_of_a_session_is_left_out() -> None:
    heard: list[tuple[str, str | None]] = []
    ends = of_replica("a", Written())
    ends.listen(lambda name, nonce: heard.append((name, nonce)))

    await ends.apply(["5f", "g" * 32, NAME])

    assert heard == [(NAME, None)]


def test_of_more_than_are_remembered_the_latest_are_read() -> None:
    pending = PendingChanges()

    for number in range(MAX_ENDED_AT_ONCE + 5):
        pending.add(FeedItem(ChangeEvent("ended_sessions", str(number)), None), 0.0)

    ended = pending.take_callers().ended_sessions
    assert len(ended) == MAX_ENDED_AT_ONCE + 1
    assert "" in ended
