"""What a server says on the stream of a session reaches the client that the session belongs to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
from typing_extensions import override

from registry.core.clock import SystemClock
from registry.gateway.client.conversations import LATE_REPORTS_SECONDS
from registry.gateway.values import Route, tool_entry
from registry.servers.values import Era
from tests.fakes.own_stream import OwnStreamServer, Session
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import modern
from tests.gateway.fakes import make_route
from tests.gateway.peers import FakeWorkers
from tests.gateway.serving import serve
from tests.kit.waiting import until

WAIT_SECONDS = 30
TURNS_OF_THE_LOOP = 200
"""In which a message comes from one end of this process to the other."""

LEGACY = frozenset({Era.LEGACY})
CAN: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {"listChanged": True}}
CALL = {"name": "demo__echo", "arguments": {}}


async def ask_and_tell(session: Session, message: Any) -> Any:
    """Report, ask, and return what was answered."""
    session.say("notifications/message", {"level": "info", "data": "asking"})
    answer = await session.ask("elicitation/create", {"message": "Who?", "requestedSchema": {}})
    return {"content": [], "structuredContent": {"answer": answer}}


async def plainly(session: Session, message: Any) -> Any:
    """Answer at once."""
    return {"content": []}


class ReportsLate(SystemClock):
    """Has the server report while the answer waits for what comes on another connection."""

    def __init__(self, server: OwnStreamServer) -> None:
        self._server = server

    @override
    async def sleep(self, seconds: float) -> None:
        if seconds != LATE_REPORTS_SECONDS:
            await super().sleep(seconds)
            return
        for session in self._server.sessions.values():
            session.say("notifications/message", {"level": "info", "data": "reported"})
        for _ in range(TURNS_OF_THE_LOOP):
            await super().sleep(0)


@pytest.fixture(params=["asks", "asks before it answers in json"])
def server(request: pytest.FixtureRequest) -> OwnStreamServer:
    """Return a server that asks during each call, or a plain one."""
    on_call = plainly if request.param == "plain" else ask_and_tell
    return OwnStreamServer(on_call, is_json="json" in request.param)


def route_to(url: str) -> Route:
    """Return the route to a server."""
    return make_route(
        f"{url}/mcp",
        eras=LEGACY,
        capabilities={"logging": {}, "tools": {"listChanged": True}},
        tools=[tool_entry("echo", '{"name":"echo","inputSchema":{"type":"object"}}')],
    )


class Workers:
    """Two workers of one gateway, or the same one twice."""

    def __init__(self, *gateways: Gateway) -> None:
        self.first, self.second = gateways


@pytest.fixture(params=["one worker", "two workers"])
async def workers(
    request: pytest.FixtureRequest,
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    server: OwnStreamServer,
) -> Workers:
    """Return gateways in front of it."""
    url = await stack.enter_async_context(serve(server))
    route = route_to(url)
    if request.param == "one worker":
        gateway = await start_gateway(route)
        return Workers(gateway, gateway)
    known = FakeWorkers()
    gateways = [await start_gateway(route, peers=known.peer(name * 8)) for name in "ab"]
    known.serve({name * 8: one.endpoint for name, one in zip("ab", gateways, strict=True)})
    return Workers(*gateways)


class Client:
    """A client of the handshake's era on `/mcp`."""

    def __init__(self, gateway: Gateway, session: str, user: str) -> None:
        self.gateway = gateway
        self._headers = head(user, mcp_session_id=session)

    async def post(self, message: Any, gateway: Gateway | None = None) -> httpx.Response:
        """Send one message, to another worker perhaps."""
        http = (gateway or self.gateway).http
        return await http.post("/mcp", json=message, headers=self._headers)

    @asynccontextmanager
    async def call(self, gateway: Gateway | None = None) -> AsyncIterator["Events"]:
        """Call the tool; yield what comes."""
        http = (gateway or self.gateway).http
        body = orjson.dumps(request("tools/call", CALL, "c"))
        async with http.stream("POST", "/mcp", content=body, headers=self._headers) as answer:
            yield Events(answer)

    @asynccontextmanager
    async def stream(self, gateway: Gateway | None = None) -> AsyncIterator["Events"]:
        """Open the standing stream."""
        http = (gateway or self.gateway).http
        async with http.stream("GET", "/mcp", headers=self._headers) as answer:
            yield Events(answer)

    async def end(self, gateway: Gateway) -> None:
        """End the session."""
        await gateway.http.delete("/mcp", headers=self._headers)


class Events:
    """The messages of an event stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self) -> Any:
        """Return the next message."""
        async with asyncio.timeout(WAIT_SECONDS):
            async for line in self._lines:
                if line.startswith("data: {"):
                    return orjson.loads(line[6:])
        raise AssertionError("the stream ended")


async def begin(gateway: Gateway, user: str = "alice", **can: Any) -> Client:
    """Begin a session."""
    params = {"protocolVersion": "2025-11-25", "capabilities": can, "clientInfo": {"name": "t"}}
    answer = await gateway.http.post(
        "/mcp", json=request("initialize", params), headers=head(user)
    )
    client = Client(gateway, answer.headers["mcp-session-id"], user)
    await client.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
    return client


def answer_to(question: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": question["id"], "result": result}


async def test_what_a_tool_asks_and_reports_reaches_the_call(workers: Workers) -> None:
    client = await begin(workers.first, **CAN)
    async with client.call() as first:
        await first.next()
        await client.post(answer_to(await first.next(), {"action": "decline"}))
        await first.next()

    async with client.call(workers.second) as call:
        report, question = await call.next(), await call.next()
        await client.post(answer_to(question, {"action": "accept"}), workers.first)
        result = await call.next()

    assert (report["method"], report["params"]["data"]) == ("notifications/message", "asking")
    assert question["method"] == "elicitation/create"
    assert result["result"]["structuredContent"] == {"answer": {"action": "accept"}}


async def test_a_client_of_the_stateless_era_is_asked_by_its_result(workers: Workers) -> None:
    message, headers = modern("tools/call", CALL | {"name": "echo"}, elicitation={}, level="info")
    first = await workers.first.post(message, **headers)
    # Before its result was there, the report was an event.
    asked = orjson.loads(first.text.splitlines()[-2 if first.text.endswith("\n\n") else -1][6:])
    state = asked["result"]["requestState"]
    answers = {name: {"action": "accept"} for name in asked["result"]["inputRequests"]}
    params = CALL | {"name": "echo", "inputResponses": answers, "requestState": state}
    message, headers = modern("tools/call", params, elicitation={}, level="info")

    second = await workers.second.post(message, **headers)

    assert '"data":"asking"' in first.text
    assert second.json()["result"]["structuredContent"] == {"answer": {"action": "accept"}}


async def test_an_answer_does_not_overtake_the_reports_of_its_call(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    server = OwnStreamServer(plainly)
    url = await stack.enter_async_context(serve(server))
    gateway = await start_gateway(route_to(url), clock=ReportsLate(server))
    message, headers = modern("tools/call", CALL | {"name": "echo"}, level="info")

    answer = await gateway.post(message, **headers)

    assert '"data":"reported"' in answer.text
    assert '"result"' in answer.text


@pytest.mark.parametrize("server", ["plain"], indirect=True)
async def test_what_is_asked_and_said_outside_of_calls_comes_on_the_standing_stream(
    workers: Workers, server: OwnStreamServer
) -> None:
    client = await begin(workers.first, **CAN)
    await client.post(request("tools/call", CALL))
    (upstream,) = server.sessions.values()

    async with client.stream(workers.second) as stream:
        await until(lambda: streams(workers.second) == 1)
        upstream.say("notifications/message", {"level": "info", "data": "later"})
        report = await stream.next()
        asking = asyncio.ensure_future(upstream.ask("roots/list"))
        question = await stream.next()
        taken = await client.post(answer_to(question, {"roots": []}))
        again = await client.post(answer_to(question, {"roots": ["x"]}))
        answer = await asking

    assert report["params"]["data"] == "later"
    assert question["method"] == "roots/list"
    assert answer == {"roots": []}
    assert taken.status_code == 202
    assert again.status_code != 200


@pytest.mark.parametrize("server", ["plain"], indirect=True)
async def test_what_nobody_can_be_asked_is_refused(
    workers: Workers, server: OwnStreamServer
) -> None:
    able, unable = await begin(workers.first, **CAN), await begin(workers.first)
    await able.post(request("tools/call", CALL))
    await unable.post(request("tools/call", CALL))

    answers = [await session.ask("roots/list") for session in server.sessions.values()]

    assert [answer["code"] for answer in answers] == [-32601, -32601]


@pytest.mark.parametrize("server", ["plain"], indirect=True)
async def test_the_first_call_waits_until_the_server_knows_the_roots_that_it_asks_for(
    workers: Workers, server: OwnStreamServer
) -> None:
    roots: list[Any] = []

    async def list_roots(session: Session) -> None:
        roots.append(await session.ask("roots/list"))

    async def tell_roots(session: Session, message: Any) -> Any:
        return {"content": [], "structuredContent": {"roots": list(roots)}}

    server.on_initialized, server.on_call = list_roots, tell_roots
    client = await begin(workers.first, **CAN)

    async with client.call() as call:
        question = await call.next()
        await client.post(answer_to(question, {"roots": [{"uri": "file:///a"}]}))
        result = await call.next()

    known = {"roots": [{"roots": [{"uri": "file:///a"}]}]}
    assert result["result"] == {"content": [], "structuredContent": known}


@pytest.mark.parametrize("server", ["plain"], indirect=True)
async def test_a_client_without_sessions_is_asked_for_its_roots_with_its_next_call(
    workers: Workers, server: OwnStreamServer
) -> None:
    message, headers = modern("tools/call", CALL | {"name": "echo"}, roots={})
    await workers.first.post(message, **headers)
    (session,) = server.sessions.values()

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        roots = tasks.create_task(session.ask("roots/list"))
        asked: Any = {}
        while "inputRequests" not in asked:
            asked = (await workers.first.post(message, **headers)).json()["result"]
        answers: Any = {name: {"roots": []} for name in asked["inputRequests"]}
        params = CALL | {
            "name": "echo",
            "inputResponses": answers,
            "requestState": asked["requestState"],
        }
        again, headers = modern("tools/call", params, roots={})
        last = await workers.second.post(again, **headers)

    assert roots.result() == {"roots": []}
    assert last.json()["result"]["content"] == []


@pytest.mark.parametrize("server", ["plain"], indirect=True)
async def test_a_change_of_a_clients_roots_reaches_its_servers_and_no_others(
    workers: Workers, server: OwnStreamServer
) -> None:
    one, other = await begin(workers.first, **CAN), await begin(workers.first, **CAN)
    await one.post(request("tools/call", CALL))
    await other.post(request("tools/call", CALL))

    changed = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
    await one.post(changed, workers.second)

    first, second = server.sessions.values()
    assert first.told == ["notifications/initialized", "notifications/roots/list_changed"]
    assert second.told == ["notifications/initialized"]


@pytest.mark.parametrize("server", ["plain"], indirect=True)
async def test_nobody_hears_what_is_said_in_anothers_session(
    workers: Workers, server: OwnStreamServer
) -> None:
    alice, bob = await begin(workers.first, **CAN), await begin(workers.second, "bob", **CAN)
    await alice.post(request("tools/call", CALL))
    await bob.post(request("tools/call", CALL))
    alices, bobs = server.sessions.values()

    async with alice.stream() as hers, bob.stream() as his:
        await until(lambda: streams(workers.first) >= 1)
        await until(lambda: streams(workers.second) >= 1)
        alices.say("notifications/message", {"level": "info", "data": "alice"})
        bobs.say("notifications/message", {"level": "info", "data": "bob"})
        told = [(await stream.next())["params"]["data"] for stream in (hers, his)]

    assert told == ["alice", "bob"]


@pytest.mark.parametrize("server", ["plain"], indirect=True)
async def test_the_stream_ends_with_the_clients_session(
    workers: Workers, server: OwnStreamServer
) -> None:
    client = await begin(workers.first, **CAN)
    await client.post(request("tools/call", CALL))
    await client.post(request("tools/call", CALL), workers.second)

    await client.end(workers.second)

    await until(lambda: server.ended == ["own-1"])


@pytest.mark.parametrize("server", ["plain"], indirect=True)
async def test_a_changed_list_that_is_announced_there_is_noticed(
    workers: Workers, server: OwnStreamServer
) -> None:
    client = await begin(workers.first, **CAN)
    await client.post(request("tools/call", CALL))
    (upstream,) = server.sessions.values()

    upstream.say("notifications/tools/list_changed")

    name = "mcp_gateway_upstream_list_changes_total"
    await until(lambda: workers.first.metrics.registry.get_sample_value(name) == 1)


def streams(gateway: Gateway) -> float:
    """Return how many streams clients have open."""
    return gateway.metrics.registry.get_sample_value("mcp_gateway_streams") or 0
