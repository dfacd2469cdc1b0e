"""Sessions with servers belong to one client session, or to one person; to nobody else."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from multidict import CIMultiDict

from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import SystemClock
from registry.gateway.client.sessions import (
    SessionKey,
    SessionLimits,
    SessionOwner,
    UpstreamSession,
    UpstreamSessions,
    session_key,
)
from registry.gateway.errors import NotServing
from registry.servers.values import Era
from registry.workers.peers import SingleWorker
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import LegacyServer, modern
from tests.gateway.fakes import (
    FakeRoutes,
    LinkedPeers,
    Request,
    ScriptedUpstream,
    linked,
    make_route,
)
from tests.gateway.peers import FakeWorkers
from tests.gateway.serving import serve
from tests.kit.waiting import others_ran, until

LEGACY = frozenset({Era.LEGACY})
LIMITS = SessionLimits(total=10, per_server=10, per_user=10, idle_seconds=60)


class Notebook:
    """A server that notes in each session what it was called with, and says all of it."""

    def __init__(self) -> None:
        self.server = LegacyServer(self)
        self._notes: dict[str, list[str]] = {}

    async def __call__(self, received: Request) -> None:
        """Answer a call, or refuse a stream."""
        if received.method == "GET":
            await received.answer(405, b"")
            return
        notes = self._notes.setdefault(received.headers["mcp-session-id"], [])
        params = received.message.get("params", {})
        notes.append(params.get("arguments", {}).get("note", "-"))
        await received.result({"content": [{"type": "text", "text": ",".join(notes)}]})


@pytest.fixture
def notebook(upstream: ScriptedUpstream) -> Notebook:
    """Return the server behind *upstream*."""
    notebook = Notebook()
    upstream.behaviour = notebook.server
    return notebook


@pytest.fixture
async def gateway(
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    notebook: Notebook,
) -> Gateway:
    """Return a gateway in front of it."""
    url = await stack.enter_async_context(serve(upstream))
    capabilities: Any = {"logging": {}}
    started: Gateway = await start_gateway(
        make_route(f"{url}/mcp", eras=LEGACY, capabilities=capabilities)
    )
    return started


async def begin(gateway: Gateway, user: str = "alice") -> str:
    """Begin a session at `/mcp`."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    answer = await gateway.http.post(
        "/mcp", json=request("initialize", params), headers=head(user)
    )
    return str(answer.headers["mcp-session-id"])


async def note(
    gateway: Gateway, text: str, session: str | None = None, user: str = "alice", **headers: str
) -> str:
    """Call the server as a client of the handshake's era; return all that it has noted."""
    if session is not None:
        headers["mcp_session_id"] = session
    message = request("tools/call", {"name": "demo__echo", "arguments": {"note": text}})
    answer = await gateway.http.post("/mcp", json=message, headers=head(user, **headers))
    return str(answer.json()["result"]["content"][0]["text"])


async def note_modern(gateway: Gateway, text: str, user: str = "alice", **headers: str) -> str:
    """Call the server as a client of the stateless era, in a crossing."""
    message, named = modern("tools/call", {"name": "echo", "arguments": {"note": text}})
    answer = await gateway.post(message, user=user, **named, **headers)
    return str(answer.json()["result"]["content"][0]["text"])


async def test_people_never_share_a_session_with_a_server(gateway: Gateway) -> None:
    await note(gateway, "alice's", await begin(gateway))
    await note_modern(gateway, "alice's")

    told = await note(gateway, "bob's", await begin(gateway, "bob"), "bob")
    told_modern = await note_modern(gateway, "bob's", "bob")

    assert (told, told_modern) == ("bob's", "bob's")


async def test_each_session_of_a_client_has_one_with_the_server(gateway: Gateway) -> None:
    first, second = await begin(gateway), await begin(gateway)

    told = [
        await note(gateway, "1", first),
        await note(gateway, "2", second),
        await note(gateway, "3", first),
    ]

    assert told == ["1", "2", "1,3"]


async def test_a_person_without_a_client_session_has_one_with_the_server(gateway: Gateway) -> None:
    told = [await note_modern(gateway, "1"), await note_modern(gateway, "2")]

    assert told == ["1", "1,2"]


async def test_each_conversation_that_a_client_names_has_a_session(gateway: Gateway) -> None:
    session = await begin(gateway)

    told = [
        await note(gateway, "1", session, x_conversation_id="one"),
        await note(gateway, "2", session, x_conversation_id="two"),
        await note(gateway, "3", session, x_conversation_id="one"),
        await note_modern(gateway, "4", x_conversation_id="one"),
        await note_modern(gateway, "5"),
        await note_modern(gateway, "6", x_conversation_id="one"),
    ]

    assert told == ["1", "2", "1,3", "4", "5", "4,6"]


async def test_another_log_level_is_set_in_the_session_that_there_is(
    gateway: Gateway, notebook: Notebook
) -> None:
    session = await begin(gateway)
    await note(gateway, "1", session)
    level = request("logging/setLevel", {"level": "debug"})
    await gateway.http.post("/mcp", json=level, headers=head(mcp_session_id=session))

    told = await note(gateway, "2", session)

    assert told == "1,-,2"
    assert notebook.server.methods.count("logging/setLevel") == 1


async def test_the_end_of_a_clients_session_ends_those_with_servers(
    gateway: Gateway, upstream: ScriptedUpstream, notebook: Notebook
) -> None:
    session, other = await begin(gateway), await begin(gateway)
    await note(gateway, "1", session)
    await note(gateway, "2", other)

    await gateway.http.delete("/mcp", headers=head(mcp_session_id=session))
    await until(lambda: bool(notebook.server.ended))

    assert notebook.server.ended == ["s1"]


async def test_a_session_is_used_by_whichever_worker_gets_the_request(
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    notebook: Notebook,
) -> None:
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=LEGACY)
    workers = FakeWorkers()
    one = await start_gateway(route, peers=workers.peer("aaaaaaaa"))
    two = await start_gateway(route, peers=workers.peer("bbbbbbbb"))
    session = await begin(one)

    told = [await note(one, "1", session), await note(two, "2", session)]
    await two.http.delete("/mcp", headers=head(mcp_session_id=session))
    await until(lambda: bool(notebook.server.ended))

    assert told == ["1", "1,2"]
    assert notebook.server.methods.count("initialize") == 1
    assert notebook.server.ended == ["s1"]


async def test_a_session_that_the_server_forgot_is_begun_again_for_all_workers(
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    notebook: Notebook,
) -> None:
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=LEGACY)
    workers = FakeWorkers()
    one = await start_gateway(route, peers=workers.peer("aaaaaaaa"))
    two = await start_gateway(route, peers=workers.peer("bbbbbbbb"))
    session = await begin(one)
    await note(one, "1", session)
    await note(two, "2", session)
    notebook.server.sessions.clear()

    told = [await note(two, "3", session), await note(one, "4", session)]

    assert told == ["3", "3,4"]


class Table:
    """Sessions without a server behind them."""

    def __init__(self, limits: SessionLimits, peers: Any = None) -> None:
        self.opened = 0
        self.ended: list[str | None] = []
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.sessions = UpstreamSessions(
            self._open,
            self._close,
            BackgroundTasks(),
            SystemClock(),
            peers or SingleWorker("a"),
            limits,
            FakeRoutes(),
        )

    async def _open(self, session: UpstreamSession, _: Any) -> None:
        await self.may_open.wait()
        self.opened += 1
        session.id = f"{session.holder}{self.opened}"

    async def _close(self, session: UpstreamSession) -> None:
        self.ended.append(session.id)

    async def acquire(self, key: SessionKey) -> UpstreamSession:
        """Return a session."""
        return await self.sessions.acquire(key, make_route(), CIMultiDict(), {})

    async def tell(self, message: bytes) -> bytes:
        """Take a message of another worker."""
        return self.sessions.receive(orjson.loads(message))


def key_of(user: str, slug: str = "demo", session: str | None = None) -> SessionKey:
    return session_key(make_route(slug=slug), {}, {}, SessionOwner(user, session))


@pytest.mark.parametrize(
    ("limits", "other"),
    [
        (SessionLimits(total=1, per_server=9, per_user=9, idle_seconds=9), key_of("bob", "x")),
        (SessionLimits(total=9, per_server=1, per_user=9, idle_seconds=9), key_of("bob")),
        (SessionLimits(total=9, per_server=9, per_user=1, idle_seconds=9), key_of("alice", "x")),
    ],
    ids=["total", "server", "user"],
)
async def test_at_a_bound_no_session_in_use_is_ended_and_an_idle_one_is(
    limits: SessionLimits, other: SessionKey
) -> None:
    table = Table(limits)
    busy = await table.acquire(key_of("alice"))

    with pytest.raises(NotServing):
        await table.acquire(other)
    table.sessions.release(busy)
    opened = await table.acquire(other)
    await others_ran()

    assert (busy.id, opened.id, table.ended) == ("a1", "a2", ["a1"])
    assert len(table.sessions) == 1


async def test_a_session_that_was_just_opened_is_not_ended_for_another() -> None:
    table = Table(SessionLimits(total=2, per_server=2, per_user=2, idle_seconds=9))
    table.may_open.clear()

    opening = [asyncio.ensure_future(table.acquire(key_of(name))) for name in "abc"]
    await others_ran()
    table.may_open.set()
    opened = await asyncio.gather(*opening, return_exceptions=True)

    assert [type(one) for one in opened] == [UpstreamSession, UpstreamSession, NotServing]
    assert table.ended == []


async def test_a_handshake_that_fails_takes_no_place() -> None:
    table = Table(SessionLimits(total=1, per_server=1, per_user=1, idle_seconds=9))
    table.may_open.clear()
    failing = asyncio.ensure_future(table.acquire(key_of("alice")))
    await others_ran()
    failing.cancel()
    table.may_open.set()
    await asyncio.gather(failing, return_exceptions=True)

    # It was opened all the same, for whoever else might wait; nobody does, so that it gives way.
    opened = await table.acquire(key_of("bob"))

    assert opened.id == "a2"


def two_tables() -> tuple[Table, Table]:
    peers: list[LinkedPeers] = linked("a", "b")
    tables = Table(LIMITS, peers[0]), Table(LIMITS, peers[1])
    for peer, table in zip(peers, tables, strict=True):
        peer.listen(table.tell)
    return tables


async def test_workers_that_open_a_session_at_the_same_time_keep_the_older_one() -> None:
    one, two = two_tables()

    first, second = await asyncio.gather(
        one.acquire(key_of("alice")), two.acquire(key_of("alice"))
    )
    await others_ran()

    assert first.id == second.id
    assert one.opened + two.opened - len(one.ended + two.ended) == 1


async def test_a_worker_tells_none_of_the_sessions_of_others() -> None:
    one, two = two_tables()

    first = await one.acquire(key_of("alice", session="s"))
    second = await two.acquire(key_of("bob", session="s"))

    assert (first.id, second.id) == ("a1", "b1")
