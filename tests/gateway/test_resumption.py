"""A lost connection does not cancel a call of 2025-11-25, and its answer can be fetched."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
import pytest

from registry.gateway.transport.replay import MAX_ANSWERS, Replays, worker_of
from registry.servers.values import Era
from tests.fakes.clock import FakeClock
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import EVENTS, LegacyServer, event, notice
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.peers import FakeWorkers
from tests.gateway.serving import serve
from tests.kit.waiting import until

LEGACY = frozenset({Era.LEGACY})
CALL = orjson.dumps(request("tools/call", {"name": "demo__echo", "arguments": {}}, "c"))


class Slow:
    """A server whose calls report once, and end when a test lets them."""

    def __init__(self, *, reports: bool = True) -> None:
        self.server = LegacyServer(self)
        self.may_end = asyncio.Event()
        self.reports = reports

    async def __call__(self, received: Request) -> None:
        """Answer a call."""
        await received.start(**EVENTS)
        if self.reports:
            report = notice("progress", {"progressToken": 1, "progress": 1})
            await received.chunk(event(report))
        await self.may_end.wait()
        answer = {"jsonrpc": "2.0", "id": received.message["id"], "result": {"content": []}}
        await received.chunk(event(answer), more=False)


@pytest.fixture
def slow(upstream: ScriptedUpstream) -> Slow:
    """Return the server behind *upstream*."""
    slow = Slow()
    upstream.behaviour = slow.server
    return slow


@pytest.fixture
async def gateways(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream, slow: Slow
) -> list[Gateway]:
    """Return two workers of one gateway in front of it."""
    url = await stack.enter_async_context(serve(upstream))
    workers = FakeWorkers()
    route = make_route(f"{url}/mcp", eras=LEGACY)
    found = [await start_gateway(route, peers=workers.peer(name * 8)) for name in "ab"]
    workers.serve({name * 8: one.endpoint for name, one in zip("ab", found, strict=True)})
    return found


async def begin(gateway: Gateway, version: str = "2025-11-25") -> dict[str, str]:
    """Begin a session; return the headers of requests in it."""
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {}}
    answer = await gateway.http.post("/mcp", json=request("initialize", params), headers=head())
    return head(mcp_session_id=answer.headers["mcp-session-id"])


async def until_report(answer: httpx.Response) -> list[str]:
    """Return the lines of an event stream up to the end of the first report."""
    lines: list[str] = []
    async with asyncio.timeout(30):
        async for line in answer.aiter_lines():
            lines.append(line)
            if "progress" in line:
                return lines
    return lines


async def broken_off(gateway: Gateway, headers: dict[str, str]) -> list[str]:
    """Call, and lose the connection after the first report; return what was read."""
    async with gateway.http.stream("POST", "/mcp", content=CALL, headers=headers) as answer:
        return await until_report(answer)


def messages(text: str) -> list[Any]:
    """Return the messages of an event stream."""
    found = (line[6:] for line in text.splitlines() if line.startswith("data: "))
    return [orjson.loads(one) for one in found if one]


def event_ids(lines: list[str]) -> list[str]:
    """Return the ids of events."""
    return [line[4:] for line in lines if line.startswith("id: ")]


@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize("is_whole", [True, False])
async def test_the_rest_of_an_answer_is_fetched_from_any_worker(
    gateways: list[Gateway], slow: Slow, worker: int, *, is_whole: bool
) -> None:
    headers = await begin(gateways[0])
    last = event_ids(await broken_off(gateways[0], headers))[-1]
    if is_whole:
        slow.may_end.set()
        await until(lambda: gateways[0].in_flight == 0)

    fetching = asyncio.ensure_future(
        gateways[worker].http.get("/mcp", headers={**headers, "last-event-id": last})
    )
    slow.may_end.set()
    fetched = await fetching

    assert messages(fetched.text) == [{"jsonrpc": "2.0", "id": "c", "result": {"content": []}}]
    assert "notifications/cancelled" not in slow.server.methods


async def test_a_slow_answer_begins_with_an_id_before_there_is_anything_to_say(
    gateways: list[Gateway], slow: Slow
) -> None:
    slow.reports = False
    headers = await begin(gateways[0])

    async with gateways[0].http.stream("POST", "/mcp", content=CALL, headers=headers) as answer:
        async with asyncio.timeout(30):
            lines = answer.aiter_lines()
            first = [await anext(lines), await anext(lines)]
        slow.may_end.set()
        rest = [line async for line in lines]

    assert first[0].startswith("id: aaaaaaaa-")
    assert first[1].strip() == "data:"
    assert messages("\n".join(rest)) == [{"jsonrpc": "2.0", "id": "c", "result": {"content": []}}]


async def test_a_lost_connection_ends_a_call_of_an_older_version(
    gateways: list[Gateway], slow: Slow
) -> None:
    headers = await begin(gateways[0], "2025-06-18")

    lines = await broken_off(gateways[0], headers)

    await until(lambda: "notifications/cancelled" in slow.server.methods)
    assert event_ids(lines) == []


async def test_an_answer_is_fetched_in_its_own_session_only(
    gateways: list[Gateway], slow: Slow
) -> None:
    last = event_ids(await broken_off(gateways[0], await begin(gateways[0])))[-1]
    others = await begin(gateways[0])
    slow.may_end.set()

    headers = {**others, "last-event-id": last}
    async with gateways[0].http.stream("GET", "/mcp", headers=headers) as standing:
        ended = await gateways[0].http.delete("/mcp", headers=others)
        text = (await standing.aread()).decode()

    assert ended.status_code == 200
    assert messages(text) == []


async def test_the_end_of_a_session_cancels_its_calls(gateways: list[Gateway], slow: Slow) -> None:
    headers = await begin(gateways[0])
    await broken_off(gateways[0], headers)

    await gateways[1].http.delete("/mcp", headers=headers)

    await until(lambda: gateways[0].in_flight == 0)
    await until(lambda: bool(slow.server.ended))


def test_only_so_many_answers_are_kept_and_not_for_long() -> None:
    clock = FakeClock()
    replays = Replays("w", clock)
    first = replays.begin("n")
    name = first.priming().decode().split()[1]
    replays.end(first)
    for _ in range(MAX_ANSWERS):
        more = replays.begin("n")
        more.priming()
        replays.end(more)
    count, found = len(replays), replays.find(name, "n")

    clock.move(1_000)
    last = replays.begin("n")
    last.priming()
    replays.end(last)

    assert (count, found, len(replays)) == (MAX_ANSWERS, None, 1)
    assert worker_of(name) == "w"
    assert replays.find("nonsense", "n") is None
