"""Sessions with servers, and feeds, whose owners have access tokens."""

from typing import Any

import pytest
from multidict import CIMultiDict

from registry.auth.identity import UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.gateway.client.sessions import (
    SessionLimits,
    SessionOwner,
    UpstreamSession,
    UpstreamSessions,
    session_key,
)
from registry.gateway.errors import AccessEnded, NotServing
from registry.gateway.notifications.feeds import Feeds, feed_key
from registry.gateway.notifications.stream_limits import StreamLimits
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.oauth.errors import AuthorizationUnavailableError
from registry.servers.values import Era, Transport
from registry.workers.peers import SingleWorker
from tests.conftest import ALICE, BOB
from tests.fakes.clock import FakeClock
from tests.fakes.oauth.access_tokens import make_oauth_server, token_of
from tests.fakes.scripted_wire import ScriptedWire
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import LegacyServer, modern
from tests.gateway.fakes import FakeRoutes, Request, ScriptedUpstream, make_route
from tests.gateway.offline import make_connector
from tests.gateway.serving import serve
from tests.kit.waiting import until

SERVER = "demo".ljust(24, "0")
LEGACY, MODERN = frozenset({Era.LEGACY}), frozenset({Era.MODERN})
URL = "http://127.0.0.1:9/mcp"
ROUTE = make_route(URL, oauth=make_oauth_server(SERVER, URL), headers={})
LIMITS = SessionLimits(total=9, per_server=9, per_user=9, idle_seconds=0.2)


def bearer(value: str) -> CIMultiDict[str]:
    return CIMultiDict({"User-Agent": "x", "Authorization": f"Bearer {value}"})


def owner(user: UserContext) -> SessionOwner:
    return SessionOwner(user.principal, user=user)


class Table:
    """Sessions without a server behind them."""

    def __init__(self) -> None:
        self.routes = FakeRoutes(ROUTE)
        self.tasks = BackgroundTasks()
        self.closed: list[str | None] = []
        self.sessions = UpstreamSessions(
            self._open,
            self._close,
            self.tasks,
            SystemClock(),
            SingleWorker("a"),
            LIMITS,
            self.routes,
        )

    async def _open(self, session: UpstreamSession, _: Any) -> None:
        session.id = f"of-{session.key.owner.principal}"

    async def _close(self, session: UpstreamSession) -> None:
        self.closed.append(session.id)

    async def acquire(self, user: UserContext, value: str) -> UpstreamSession:
        """Return a user's session, for a call with a token."""
        credentials = bearer(value)
        key = session_key(ROUTE, credentials, {}, owner(user))
        return await self.sessions.acquire(key, ROUTE, credentials, {})


async def test_a_session_is_kept_when_its_owners_token_is_renewed() -> None:
    table = Table()

    first = await table.acquire(ALICE, "t-old")
    second = await table.acquire(ALICE, "t-new")

    assert second is first
    assert first.credentials["Authorization"] == "Bearer t-new"


async def test_users_never_share_a_session_even_with_the_same_token() -> None:
    table = Table()

    assert await table.acquire(ALICE, "t") is not await table.acquire(BOB, "t")


async def test_what_a_session_sends_by_itself_carries_the_newest_token() -> None:
    table = Table()
    session = await table.acquire(ALICE, "t-old")
    table.routes.tokens.give(ALICE.user_id, SERVER, "t-new")

    await table.sessions.refresh(session)

    assert session.credentials == bearer("t-new")


async def test_a_session_whose_owner_has_no_access_is_dropped() -> None:
    table = Table()
    session = await table.acquire(ALICE, "t")

    with pytest.raises(AccessEnded):
        await table.sessions.refresh(session)

    assert session.lost.is_set()
    assert len(table.sessions) == 0


async def test_a_session_outlasts_an_authorization_server_that_is_away() -> None:
    table = Table()
    session = await table.acquire(ALICE, "t")
    table.routes.problem = AuthorizationUnavailableError("demo")

    with pytest.raises(NotServing):
        await table.sessions.refresh(session)

    assert len(table.sessions) == 1


async def test_a_session_in_use_ends_soon_after_its_owners_access() -> None:
    table = Table()
    session = await table.acquire(ALICE, "t")

    await until(session.lost.is_set)

    assert len(table.sessions) == 0
    # The server was told nothing: there is no token to tell it with.
    assert table.closed == []


def feeds_of(route: Any) -> Feeds:
    routes, clock, metrics, tasks = FakeRoutes(route), FakeClock(), Metrics(), BackgroundTasks()
    return Feeds(
        make_connector(ScriptedWire(), routes, tasks=tasks, clock=clock),
        tasks,
        clock,
        metrics,
        streams=StreamLimits(9),
        announced_lists=AnnouncedLists(routes, clock, metrics, lambda _: None),
    )


@pytest.mark.parametrize("eras", [LEGACY, MODERN])
def test_a_feed_is_of_one_user_and_outlasts_a_renewal(eras: frozenset[Era]) -> None:
    route = make_route(URL, oauth=ROUTE.oauth, headers={}, eras=eras)
    feeds = feeds_of(route)

    of_alice = feeds.feed(route, bearer("t"), owner(ALICE), {})

    assert feeds.feed(route, bearer("t-new"), owner(ALICE), {}) is of_alice
    assert feeds.feed(route, bearer("t"), owner(BOB), {}) is not of_alice
    assert "Bearer t" not in str(feed_key(route, bearer("t"), owner(ALICE), {}))


async def test_a_servers_session_goes_on_with_a_renewed_token(
    stack: Any, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def on(received: Request) -> None:
        await received.result({"content": []})

    server = LegacyServer(on)
    accepted = {"Bearer t-old"}

    async def behave(received: Request) -> None:
        if received.headers.get("authorization") not in accepted:
            await received.answer(401, b"{}")
        else:
            await server(received)

    upstream.behaviour = behave
    url = await stack.enter_async_context(serve(upstream)) + "/mcp"
    route = make_route(url, oauth=make_oauth_server(SERVER, url), headers={}, eras=LEGACY)
    gateway: Gateway = await start_gateway(route)
    tokens = gateway.routes.tokens
    tokens.give(ALICE.user_id, SERVER, "t-old")
    message, headers = modern("tools/call", {"name": "echo", "arguments": {}})
    await gateway.post(message, **headers)

    accepted.symmetric_difference_update({"Bearer t-old", "Bearer t-new"})
    tokens.next[ALICE.user_id, SERVER] = token_of("t-new")
    answer = await gateway.post(message, **headers)

    assert answer.json()["result"]["content"] == []
    assert server.methods.count("initialize") == 1
    assert server.used == ["s1", "s1"]


async def test_a_call_under_way_is_not_repeated_when_an_answer_of_its_client_is_refused(
    stack: Any, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    calls: list[bytes] = []

    async def on(received: Request) -> None:
        calls.append(received.body)
        await received.start(content_type="text/event-stream")
        ping = b'data: {"jsonrpc":"2.0","id":"p","method":"ping"}\n\n'
        await received.chunk(ping)
        await received.wait_for_disconnect()

    server = LegacyServer(on)

    async def behave(received: Request) -> None:
        if received.body and "method" not in received.message:
            await received.answer(401, b"{}")
        else:
            await server(received)

    upstream.behaviour = behave
    url = await stack.enter_async_context(serve(upstream)) + "/mcp"
    route = make_route(url, oauth=make_oauth_server(SERVER, url), headers={}, eras=LEGACY)
    gateway: Gateway = await start_gateway(route)
    gateway.routes.tokens.give(ALICE.user_id, SERVER, "t")
    gateway.routes.tokens.next[ALICE.user_id, SERVER] = token_of("t-new")
    message, headers = modern("tools/call", {"name": "echo", "arguments": {}})

    answer = await gateway.post(message, **headers)

    assert "HTTP 401" in answer.text
    assert len(calls) == 1
    assert gateway.routes.tokens.rejected == []


async def test_an_http_sse_client_of_an_http_sse_server_is_served_without_a_token(
    start_gateway: StartGateway,
) -> None:
    route = make_route(URL, oauth=ROUTE.oauth, headers={}, transport=Transport.SSE, eras=LEGACY)
    gateway: Gateway = await start_gateway(route)
    stream_headers = head(accept="text/event-stream")
    async with gateway.http.stream("GET", "/mcp/demo", headers=stream_headers) as stream:
        lines = stream.aiter_lines()
        address = await anext(line async for line in lines if line.startswith("data: "))
        await gateway.http.post(
            address.removeprefix("data: "),
            json=request("tools/list"),
            headers=head(),
        )
        told = await anext(line async for line in lines if '"tools"' in line)

    assert '"echo"' in told
