"""A server that is dead, slow or busy is the trouble of its own callers, and of nobody else."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from aiohttp import ClientTimeout
from yarl import URL

from registry.core.clock import SystemClock
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.values import tool_entry
from registry.http.client.exchange import ConnectTimedOut, UpstreamHttp
from registry.upstream.guard import UrlGuard
from registry.upstream.pool import create_upstream_session
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.failing import error_of, outcome
from tests.gateway.fakes import PRIVATE, Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

WAIT_SECONDS = 30
CALLERS = 64
CALL = request("tools/call", {"name": "echo", "arguments": {}})


@pytest.fixture
async def two(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> Gateway:
    """Return a gateway in front of a server that hangs (`demo`) and one that works (`other`)."""
    upstream.behaviour = upstream.hang
    hanging = await stack.enter_async_context(serve(upstream))
    working = await stack.enter_async_context(serve(ScriptedUpstream()))
    gateway: Gateway = await start_gateway(
        make_route(f"{hanging}/mcp", idle_timeout_seconds=1.0),
        make_route(f"{working}/mcp", slug="other"),
        gateway_concurrent_calls_per_server=CALLERS // 2,
        gateway_queued_calls_per_server=CALLERS,
        gateway_queue_timeout_seconds=5.0,
        gateway_breaker_failures=5,
    )
    return gateway


def statuses(answers: list[httpx.Response]) -> set[int]:
    return {outcome(answer) for answer in answers}


@pytest.mark.requirement("R-230")
async def test_calls_to_a_server_that_works_succeed_while_another_hangs(two: Gateway) -> None:
    async def keep_calling() -> list[httpx.Response]:
        return [await two.post(CALL, slug="other") for _ in range(5)]

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        hanging = [tasks.create_task(two.call()) for _ in range(CALLERS)]
        working = [tasks.create_task(keep_calling()) for _ in range(CALLERS)]
    listed = await two.post(request("tools/list"))

    assert {status for task in working for status in statuses(task.result())} == {200}
    # Half of them were sent and timed out; the rest waited until that was of no use any more.
    assert statuses([task.result() for task in hanging]) == {503, 504}
    assert two.count("tools/call", "timeout") == CALLERS // 2
    assert two.count("tools/call", "unavailable") == CALLERS // 2
    assert two.in_flight == 0
    assert len(listed.json()["result"]["tools"]) == 2


async def test_two_servers_on_one_host_do_not_share_their_limits(
    two: Gateway, upstream: ScriptedUpstream
) -> None:
    async def hang_on_one_path(received: Request) -> None:
        if received.path == "/slow":
            await upstream.hang(received)
        else:
            await received.result({})

    upstream.behaviour = hang_on_one_path
    base = two.routes.routes["demo"].url.removesuffix("/mcp")
    two.routes.routes["slow"] = make_route(f"{base}/slow", slug="slow")
    two.routes.routes["fast"] = make_route(f"{base}/fast", slug="fast")

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        slow = [tasks.create_task(two.post(CALL, slug="slow")) for _ in range(CALLERS)]
        await upstream.arrived.wait()
        fast = [await two.post(CALL, slug="fast") for _ in range(5)]
        for task in slow:
            task.cancel()

    assert statuses(fast) == {200}


async def test_a_full_queue_refuses_at_once(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = upstream.hang
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(
        make_route(url), gateway_concurrent_calls_per_server=1, gateway_queued_calls_per_server=0
    )

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(gateway.call())
        await upstream.arrived.wait()
        refused = await gateway.call()
        first.cancel()

    assert outcome(refused) == 503
    assert refused.headers["retry-after"] == "2"
    assert error_of(refused) == {
        "code": 503,
        "message": "Too many calls to the server demo are in progress; try again later.",
        "data": {"error": "upstream_busy", "retry_after_seconds": 2},
    }


@pytest.fixture
async def dead(start_gateway: StartGateway) -> Gateway:
    """Return a gateway whose server does not exist, and is left alone after two failures."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    gateway: Gateway = await start_gateway(
        make_route(f"http://127.0.0.1:{port}/mcp"),
        gateway_breaker_failures=2,
        gateway_breaker_cool_down_seconds=0.3,
    )
    return gateway


@pytest.mark.requirement("R-230")
async def test_a_dead_server_is_left_alone_and_keeps_its_tools(dead: Gateway) -> None:
    failed = [await dead.call() for _ in range(2)]

    refused = await dead.call()
    listed = await dead.post(request("tools/list"))
    hello = await dead.post(request("initialize", {"protocolVersion": "2025-11-25"}))
    stream = await dead.http.get("/mcp/demo", headers=head())

    assert statuses(failed) == {502}
    assert (outcome(refused), refused.headers["retry-after"]) == (503, "1")
    assert error_of(refused)["data"] == {
        "error": "upstream_unavailable",
        "retry_after_seconds": 1,
    }
    assert "demo failed several times in a row" in error_of(refused)["message"]
    assert len(listed.json()["result"]["tools"]) == 2
    assert hello.json()["result"]["serverInfo"]["name"] == "demo"
    assert outcome(stream) == 503


async def test_a_server_that_comes_back_is_found_by_one_call(
    dead: Gateway, stack: AsyncExitStack, upstream: ScriptedUpstream
) -> None:
    for _ in range(3):
        await dead.call()
    port = dead.routes.routes["demo"].target.port
    await stack.enter_async_context(serve(upstream, port=port))
    still_refused = await dead.call()
    await SystemClock().sleep(0.4)

    found = await dead.call()
    after = await asyncio.gather(*(dead.call() for _ in range(10)))

    assert (outcome(still_refused), outcome(found)) == (503, 200)
    assert statuses(after) == {200}


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_errors_that_the_server_itself_answers_do_not_count(
    gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    async def refuse(received: Request) -> None:
        await received.answer(status, b'{"result":{}}')

    upstream.behaviour = refuse

    answers = [await gateway.call() for _ in range(10)]

    assert statuses(answers) == {status}


async def count_requests(
    stack: AsyncExitStack, answers: Callable[[int], bytes]
) -> tuple[str, list[bytes]]:
    """Serve connections that each get what *answers* says of their number, and end."""
    seen: list[bytes] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = await reader.readuntil(b"\r\n\r\n")
        length = int(sent.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
        seen.append(await reader.readexactly(length))
        writer.write(answers(len(seen)))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await stack.enter_async_context(await asyncio.start_server(converse, "127.0.0.1", 0))
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp", seen


ANSWER = (
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{"result":{}}'
)
READER = '{"name":"echo","inputSchema":{},"annotations":{"readOnlyHint":true}}'
REPEATER = '{"name":"echo","inputSchema":{},"annotations":{"idempotentHint":true}}'
WRITER = '{"name":"echo","inputSchema":{},"annotations":{"readOnlyHint":false}}'
RESOURCE = request("resources/read", {"uri": "file:///a"})


@pytest.mark.parametrize(
    ("message", "tool", "times"),
    [
        (CALL, READER, 2),
        (CALL, REPEATER, 2),
        (CALL, WRITER, 1),
        (RESOURCE, WRITER, 2),
        (request("ping"), WRITER, 2),
        ({"jsonrpc": "2.0", "method": "notifications/cancelled"}, WRITER, 1),
    ],
    ids=["read-only", "idempotent", "with effects", "resource", "ping", "notification"],
)
async def test_only_what_has_no_effects_is_sent_again_when_the_connection_is_closed_unanswered(
    stack: AsyncExitStack, start_gateway: StartGateway, message: Any, tool: str, times: int
) -> None:
    url, seen = await count_requests(stack, lambda number: ANSWER if number > 1 else b"")
    gateway = await start_gateway(make_route(url, tools=[tool_entry("echo", tool)]))

    answer = await gateway.post(message)

    assert len(seen) == times
    assert seen == [orjson.dumps(message)] * times
    assert (outcome(answer) == 200) is (times == 2)


@pytest.mark.parametrize("status", [b"600", b"777", b"999"])
async def test_a_status_that_there_is_none_of_is_a_broken_answer(
    stack: AsyncExitStack, start_gateway: StartGateway, status: bytes
) -> None:
    url, _ = await count_requests(stack, lambda _: ANSWER.replace(b"200 OK", status + b" Odd"))
    gateway = await start_gateway(make_route(url))

    answer = await gateway.post(RESOURCE)

    assert f"answered HTTP {status.decode()}" in answer.json()["error"]["message"]


async def test_nothing_is_sent_a_third_time(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    url, seen = await count_requests(stack, lambda _: b"")
    gateway = await start_gateway(make_route(url))

    answer = await gateway.post(RESOURCE)

    assert (outcome(answer), len(seen)) == (502, 2)


async def test_repeats_can_be_turned_off(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    url, seen = await count_requests(stack, lambda _: b"")
    gateway = await start_gateway(make_route(url), gateway_retry_idempotent=False)

    await gateway.post(RESOURCE)

    assert len(seen) == 1


async def test_an_answer_that_broke_off_is_not_asked_for_again_once_it_began(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    url, seen = await count_requests(stack, lambda _: ANSWER[:-1])
    gateway = await start_gateway(make_route(url))

    answer = await gateway.post(RESOURCE)

    assert (outcome(answer), len(seen)) == (502, 1)


async def test_a_connection_that_the_upstream_closed_meanwhile_costs_no_call(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    url, seen = await count_requests(stack, lambda _: ANSWER)
    gateway = await start_gateway(make_route(url))

    # Each connection is closed right after its answer, and each next call may find it so.
    answers = [await gateway.call() for _ in range(30)]

    assert statuses(answers) == {200}
    assert len(seen) == 30


@asynccontextmanager
async def full_backlog() -> AsyncIterator[int]:
    """Return the port of a listener that takes no further connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            waiting.append(client)
        yield port
        for client in waiting:
            client.close()


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """Return the port of a listener that takes connections and says nothing."""
    ended = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        ended.set()


@pytest.mark.requirement("E-04")
@pytest.mark.parametrize(("listener", "scheme"), [(full_backlog, "http"), (silent, "https")])
async def test_a_connection_that_is_not_made_in_time_is_given_up(
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    listener: Callable[[], AbstractAsyncContextManager[int]],
    scheme: str,
) -> None:
    port = await stack.enter_async_context(listener())
    gateway = await start_gateway(
        make_route(f"{scheme}://127.0.0.1:{port}/mcp"), upstream_connect_timeout_seconds=0.2
    )

    async with asyncio.timeout(WAIT_SECONDS):
        answer = await gateway.call()

    assert outcome(answer) == 504
    assert error_of(answer) == {
        "code": 504,
        "message": "The server demo did not accept a connection in time.",
        "data": {"error": "upstream_error", "timeout": "connect"},
    }


async def test_a_name_server_that_is_silent_holds_up_no_other_name() -> None:
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        async def look_up(host: str, _port: int) -> list[Any]:
            asked.append(host)
            if host != "alive.test":
                await asyncio.Event().wait()
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        async with create_upstream_session(
            UrlGuard(["127.0.0.0/8"]),
            connect_timeout_seconds=1,
            idle_timeout_seconds=1,
            lookup=look_up,
        ) as session:
            wire = UpstreamHttp(session, LatencyWatcher(), max_response_bytes=2**20)
            timeout = ClientTimeout(connect=0.3, sock_connect=0.3, sock_read=0.3)

            async def ask(host: str) -> str:
                try:
                    await wire.request(
                        "GET", URL(f"http://{host}:{port}/"), {}, b"", timeout=timeout
                    )
                except TimeoutError as exc:
                    return type(exc).__name__
                return "answered"

            async with asyncio.timeout(WAIT_SECONDS):
                ends = await asyncio.gather(
                    *(ask(f"dead{number % 4}.test") for number in range(CALLERS)),
                    ask("alive.test"),
                )

    assert ends == [ConnectTimedOut.__name__] * CALLERS + ["AnswerTimedOut"]
    assert sorted(set(asked)) == sorted(asked)


@pytest.mark.parametrize("form", ["application/json", "text/event-stream"])
async def test_a_client_that_reads_slowly_slows_its_upstream_and_one_that_stops_ends_it(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream, form: str
) -> None:
    sent = 0

    async def endless(received: Request) -> None:
        nonlocal sent
        await received.start(content_type=form)
        async with asyncio.TaskGroup() as tasks:
            gone = tasks.create_task(received.wait_for_disconnect())
            while not gone.done():
                await received.chunk(b"x" * 65536)
                sent += 65536
        upstream.gone.set()

    upstream.behaviour = endless
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(make_route(url), gateway_write_timeout_seconds=0.5)
    target = urlsplit(gateway.url)
    body = orjson.dumps(CALL)
    lines = [f"{name}: {value}\r\n" for name, value in head(host=target.netloc).items()]
    length = f"content-length: {len(body)}\r\n"

    with socket.create_connection((target.hostname or "", target.port or 0)) as deaf:
        deaf.sendall(f"POST /mcp/demo HTTP/1.1\r\n{''.join(lines)}{length}\r\n".encode() + body)
        async with asyncio.timeout(WAIT_SECONDS):
            await upstream.gone.wait()

    # The buffers of three sockets; an upstream that is not paused sends a gigabyte in that time.
    assert sent < 32 * 1024 * 1024
    assert gateway.count("tools/call", "disconnected") == 1


@pytest.mark.requirement("E-05")
@pytest.mark.parametrize(
    ("change", "refused_with"),
    [("removed", 404), ("forbidden", 404), ("without the tool", 200)],
)
async def test_a_call_under_way_ends_well_when_it_would_not_be_let_in_any_more(
    gateway: Gateway, upstream: ScriptedUpstream, change: str, refused_with: int
) -> None:
    finish = asyncio.Event()

    async def wait(received: Request) -> None:
        await finish.wait()
        await received.result({"done": True})

    upstream.behaviour = wait
    url = gateway.routes.routes["demo"].url
    changed = {
        "removed": {},
        "forbidden": {"demo": make_route(url, facts=PRIVATE)},
        "without the tool": {"demo": make_route(url, tools=[])},
    }
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        under_way = tasks.create_task(gateway.call())
        await upstream.arrived.wait()

        gateway.routes.routes = changed[change]
        refused = await gateway.call()
        finish.set()

    assert under_way.result().json()["result"] == {"done": True}
    assert refused.status_code == refused_with
    assert "error" in refused.json()
    assert len(upstream.requests) == 1
