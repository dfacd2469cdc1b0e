"""Clients of the HTTP+SSE transport (2024-11-05), in front of servers of each kind."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent
from pydantic import FileUrl

from registry.gateway.sse import endpoint as old_clients
from registry.gateway.sse import session as inner_talk
from registry.gateway.sse.send_queue import MAX_WAITING_BYTES, SendQueue
from registry.servers.values import Era
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.meeting import Kind, Speech, connected, everything, route_to, text
from tests.gateway.peers import FakeWorkers
from tests.gateway.raw_old import WAIT_SECONDS, raw_old
from tests.kit.waiting import until

PATHS = {"/mcp/demo": "", "/mcp": "demo__"}
MEETINGS = [(kind, path) for kind in Kind for path in PATHS]
OLD = {"accept": "text/event-stream"}
LEGACY = frozenset({Era.LEGACY})


@pytest.mark.parametrize(("kind", "path"), MEETINGS)
async def test_it_lists_and_calls_on_any_server(
    stack: AsyncExitStack, start_gateway: StartGateway, kind: Kind, path: str
) -> None:
    running = await stack.enter_async_context(everything(kind))
    gateway = await start_gateway(route_to(kind, running.url))
    prefix = PATHS[path]

    async with asyncio.timeout(20), connected(gateway.url, Speech.OLD, path) as client:
        tools = await client.list_tools()
        said = await client.call_tool(f"{prefix}test_echo", {"text": "hello"})
        prompt: Any = await client.get_prompt(f"{prefix}test_simple_prompt")
        resource: Any = await client.read_resource("test://static-text")

    assert f"{prefix}test_echo" in {tool.name for tool in tools.tools}
    assert text(said) == "hello"
    assert prompt.messages[0].content.text == "This is a simple prompt for testing."
    assert resource.contents[0].text.startswith("This is the content")


@pytest.mark.parametrize(("kind", "path"), MEETINGS)
async def test_servers_report_to_it_and_ask_it(
    stack: AsyncExitStack, start_gateway: StartGateway, kind: Kind, path: str
) -> None:
    running = await stack.enter_async_context(everything(kind))
    gateway = await start_gateway(route_to(kind, running.url))
    prefix = PATHS[path]
    seen: list[float] = []
    options: dict[str, Any] = {
        "elicitation_callback": _elicited,
        "sampling_callback": _sampled,
        "list_roots_callback": _rooted,
    }

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with asyncio.timeout(20), connected(gateway.url, Speech.OLD, path, **options) as client:
        await client.call_tool(f"{prefix}test_tool_with_progress", {}, progress_callback=note)
        elicited = await client.call_tool(f"{prefix}test_elicitation", {"message": "Who?"})
        sampled = await client.call_tool(f"{prefix}test_sampling", {"prompt": "Say"})
        rooted = await client.call_tool(f"{prefix}test_input_required_result_list_roots", {})
        rounds = await client.call_tool(f"{prefix}test_input_required_result_multi_round", {})

    assert seen == [0, 50, 100]
    assert "action=accept" in text(elicited)
    assert text(sampled) == "LLM response: a model's words"
    assert text(rooted) == "file:///home"
    assert text(rounds) == "Ann likes blue."


@pytest.mark.parametrize("kind", Kind)
async def test_a_call_that_it_cancels_is_cancelled_at_the_server(
    stack: AsyncExitStack, start_gateway: StartGateway, kind: Kind
) -> None:
    running = await stack.enter_async_context(everything(kind))
    gateway = await start_gateway(route_to(kind, running.url))

    async with raw_old(gateway) as client:
        await client.hello()
        call = {"name": "test_wait", "arguments": {}, "_meta": {"progressToken": "p"}}
        await client.send(request("tools/call", call, "c"))
        begun = await client.message()
        await client.send(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c"}}
        )
        async with asyncio.timeout(WAIT_SECONDS):
            await running.state.cancelled.wait()

    assert begun["method"] == "notifications/progress"


@pytest.mark.parametrize("kind", Kind)
async def test_a_client_that_hangs_up_cancels_what_it_asked_for(
    stack: AsyncExitStack, start_gateway: StartGateway, kind: Kind
) -> None:
    running = await stack.enter_async_context(everything(kind))
    gateway = await start_gateway(route_to(kind, running.url))

    async with raw_old(gateway) as client:
        await client.hello()
        call = {"name": "test_wait", "arguments": {}, "_meta": {"progressToken": "p"}}
        await client.send(request("tools/call", call, "c"))
        await client.message()

    async with asyncio.timeout(WAIT_SECONDS):
        await running.state.cancelled.wait()
    await until(lambda: gateway.in_flight == 0)


@pytest.mark.parametrize("kind", [Kind.LEGACY, Kind.OLD])
async def test_what_a_server_says_outside_of_calls_arrives(
    stack: AsyncExitStack, start_gateway: StartGateway, kind: Kind
) -> None:
    running = await stack.enter_async_context(everything(kind))
    gateway = await start_gateway(route_to(kind, running.url))

    async with raw_old(gateway) as client:
        await client.hello()
        heard = []
        async with asyncio.timeout(WAIT_SECONDS):
            while "notifications/tools/list_changed" not in heard:
                await client.send(request("tools/call", {"name": "test_trigger_tool_change"}))
                heard += [(await client.message()).get("method") for _ in range(1)]


async def test_an_answer_that_the_server_has_fetched_later_arrives(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    running = await stack.enter_async_context(everything(Kind.LEGACY))
    gateway = await start_gateway(route_to(Kind.LEGACY, running.url))

    async with asyncio.timeout(20), connected(gateway.url, Speech.OLD) as client:
        result = await client.call_tool("test_reconnection", {})

    assert text(result) == "Answered after the stream was closed."


@pytest.mark.parametrize("kind", Kind)
async def test_a_hidden_tool_is_no_tool(
    stack: AsyncExitStack, start_gateway: StartGateway, kind: Kind
) -> None:
    running = await stack.enter_async_context(everything(kind))
    gateway = await start_gateway(route_to(kind, running.url, tools=[]))

    async with asyncio.timeout(20), connected(gateway.url, Speech.OLD) as client:
        tools = await client.list_tools()
        with pytest.raises(MCPError, match="Unknown tool: test_echo"):
            await client.call_tool("test_echo", {"text": "x"})

    assert tools.tools == []


async def test_it_is_told_to_post_to_the_same_path(gateway: Gateway) -> None:
    async with raw_old(gateway) as client:
        url = urlsplit(client.endpoint)
        taken = await client.send(request("ping", request_id="p"))
        answer = await client.message()

    assert (url.scheme, url.netloc, url.path) == ("", "", "/mcp/demo")
    assert list(parse_qs(url.query)) == ["stream"]
    assert client.answer.headers["content-type"] == "text/event-stream"
    assert client.answer.headers["x-accel-buffering"] == "no"
    assert (taken.status_code, taken.content) == (202, b"")
    assert answer["id"] == "p"


async def test_another_user_cannot_post_to_its_stream(gateway: Gateway) -> None:
    async with raw_old(gateway) as client:
        refused = await client.send(request("ping"), user="bob")
        without = await gateway.http.post(client.endpoint, json=request("ping"))
        client.endpoint = client.endpoint[:-4] + "AAAA"
        changed = await client.send(request("ping"))

    assert [refused.status_code, changed.status_code] == [404, 404]
    assert refused.json()["error"]["message"] == changed.json()["error"]["message"]
    assert without.status_code == 401


async def test_a_stream_that_was_closed_takes_nothing(gateway: Gateway) -> None:
    async with raw_old(gateway) as client:
        await client.hello()
    async with asyncio.timeout(WAIT_SECONDS):
        while (refused := await client.send(request("ping"))).status_code == 202:
            pass

    assert refused.status_code == 404


async def test_the_name_of_a_stream_serves_at_its_own_path_only(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(make_route(), make_route(slug="other"))

    async with raw_old(gateway) as client:
        client.endpoint = client.endpoint.replace("/mcp/demo", "/mcp/other")
        refused = await client.send(request("ping"))

    assert refused.status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 400), (b'{"jsonrpc":"2.0","method":"tools/list"}', 400)],
)
async def test_what_is_no_message_is_refused_at_once(
    gateway: Gateway, body: bytes, status: int
) -> None:
    async with raw_old(gateway) as client:
        refused = await gateway.http.post(client.endpoint, content=body, headers=head())

    assert refused.status_code == status


async def test_a_token_without_the_right_is_refused_at_once(gateway: Gateway) -> None:
    async with raw_old(gateway, user="reader") as client:
        refused = await client.send(request("tools/call", {"name": "echo"}), user="reader")

    assert refused.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"accept": "application/json, text/event-stream"},
        {"accept": "text/event-stream", "mcp_protocol_version": "2025-06-18"},
        {"accept": "text/event-stream", "last_event_id": "1"},
    ],
)
async def test_a_client_of_streamable_http_is_not_taken_for_an_old_one(
    gateway: Gateway, upstream: ScriptedUpstream, headers: dict[str, str]
) -> None:
    answer = await gateway.http.get("/mcp/demo", headers=head(**headers))

    assert [sent.method for sent in upstream.requests] == ["GET"]
    assert answer.headers["content-type"] == "application/json"


async def test_its_session_is_held_for_it_and_ended_when_it_hangs_up(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = SessionServer()
    upstream.behaviour = server

    async with raw_old(gateway) as client:
        hello = await client.hello()
        await client.send(request("tools/call", {"name": "echo", "arguments": {}}, "c"))
        answer = await client.message()
    async with asyncio.timeout(WAIT_SECONDS):
        await server.ended.wait()

    assert hello["result"]["protocolVersion"] == "2025-06-18"
    assert answer == {"jsonrpc": "2.0", "id": "c", "result": {"session": "s1"}}
    assert server.seen == [
        "initialize",
        "notifications/initialized",
        "GET",
        "tools/call",
        "DELETE",
    ]
    assert {sent.headers.get("authorization") for sent in upstream.requests} == {
        "Bearer upstream-secret"
    }
    assert upstream.requests[3].headers["mcp-protocol-version"] == "2025-06-18"


async def test_a_session_that_the_server_forgot_is_begun_again_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = SessionServer()
    upstream.behaviour = server

    async with raw_old(gateway) as client:
        await client.hello()
        server.sessions.clear()
        for number in range(3):
            await client.send(request("tools/call", {"name": "echo", "arguments": {}}, number))
        answers = [await client.message() for _ in range(3)]

    assert {answer["id"] for answer in answers} == {0, 1, 2}
    assert [answer["result"] for answer in answers] == [{"session": "s2"}] * 3
    assert server.seen.count("initialize") == 2


async def test_a_server_that_knows_no_session_at_all_gives_an_error_and_no_loop(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = SessionServer()
    upstream.behaviour = server

    async with raw_old(gateway) as client:
        await client.hello()
        server.forgets_all = True
        server.sessions.clear()
        await client.send(request("tools/call", {"name": "echo", "arguments": {}}, "c"))
        answer = await client.message()

    assert answer["id"] == "c"
    assert "error" in answer
    assert server.seen.count("initialize") == 2


async def test_an_answer_that_breaks_off_is_told_as_an_error(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def breaks_off(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.chunk(b'data: {"jsonrpc":"2.0","method":"notifications/x"}\n\n')
        await received.chunk(b'data: {"jsonrpc"', more=False)

    upstream.behaviour = breaks_off

    async with raw_old(gateway) as client:
        await client.send(request("tools/call", {"name": "echo", "arguments": {}}, "c"))
        first, second = await client.message(), await client.message()

    assert first["method"] == "notifications/x"
    assert second["id"] == "c"
    assert second["error"]["code"] == 502


async def test_a_server_that_is_away_is_told_for_each_call(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(make_route(eras=LEGACY))

    async with raw_old(gateway) as client:
        await client.hello()
        await client.send(request("tools/list", request_id="l"))
        listed = await client.message()
        await client.send(request("tools/call", {"name": "echo", "arguments": {}}, "c"))
        called = await client.message()

    assert [tool["name"] for tool in listed["result"]["tools"]] == ["add", "echo"]
    assert "cannot be reached" in called["result"]["content"][0]["text"]


async def test_its_stream_ends_as_soon_as_it_may_not_use_the_server(gateway: Gateway) -> None:
    async with raw_old(gateway) as client:
        gateway.routes.routes.clear()
        gateway.routes.change.set()
        event = await client.event()

    assert event == ("end", "")


async def test_on_the_way_out_calls_under_way_are_still_answered(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    async def slow(received: Request) -> None:
        begun.set()
        await released.wait()
        await received.result({})

    upstream.behaviour = slow

    async with raw_old(gateway) as client:
        await client.send(request("tools/call", {"name": "echo", "arguments": {}}, "c"))
        await begun.wait()
        gateway.routes.fresh = False
        gateway.routes.change.set()
        refused = await client.send(request("tools/call", {"name": "echo", "arguments": {}}, "d"))
        released.set()
        answer, end = await client.message(), await client.event()

    assert refused.status_code == 503
    assert (answer["id"], end) == ("c", ("end", ""))


@pytest.mark.parametrize("path", PATHS)
async def test_its_messages_find_the_worker_that_has_the_stream(
    stack: AsyncExitStack, start_gateway: StartGateway, path: str
) -> None:
    running = await stack.enter_async_context(everything(Kind.LEGACY))
    workers = FakeWorkers()
    route = route_to(Kind.LEGACY, running.url)
    first = await start_gateway(route, peers=workers.peer("aaaaaaaa"))
    second = await start_gateway(route, peers=workers.peer("bbbbbbbb"))
    workers.serve({"aaaaaaaa": first.endpoint, "bbbbbbbb": second.endpoint})

    async with raw_old(first, path) as client:
        client.post_to(second)
        await client.hello()
        name = f"{PATHS[path]}test_echo"
        call = {"name": name, "arguments": {"text": "over there"}}
        taken = await client.send(request("tools/call", call, "c"))
        answer = await client.message()
        another = await client.send(request("ping"), user="bob")

    assert (taken.status_code, another.status_code) == (202, 404)
    assert answer["result"]["content"][0]["text"] == "over there"
    assert workers.forwarded == ["aaaaaaaa"] * 3


async def test_a_worker_that_is_gone_had_no_stream(start_gateway: StartGateway) -> None:
    workers = FakeWorkers()
    first = await start_gateway(make_route(), peers=workers.peer("aaaaaaaa"))
    second = await start_gateway(make_route(), peers=workers.peer("bbbbbbbb"))

    async with raw_old(first) as client:
        client.post_to(second)
        refused = await client.send(request("ping"))

    assert refused.status_code == 404


async def test_silent_streams_get_comments(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_clients, "TICK_SECONDS", 0.02)

    async with raw_old(gateway) as client:
        event = await client.event()

    assert event == (":", "keep-alive")


async def test_streams_are_limited(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_clients, "MAX_STREAMS_PER_CALLER", 1)

    async with raw_old(gateway), raw_old(gateway, user="bob"):
        refused = await gateway.http.get("/mcp/demo", headers=head(**OLD))

    assert refused.status_code == 503
    assert "retry-after" in refused.headers


async def test_requests_under_way_are_limited(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner_talk, "MAX_IN_PROGRESS", 1)
    upstream.behaviour = upstream.hang

    async with raw_old(gateway) as client:
        call = request("tools/call", {"name": "echo", "arguments": {}}, "c")
        taken, refused = await client.send(call), await client.send(call)

    assert [taken.status_code, refused.status_code] == [202, 503]


async def test_a_full_outbox_makes_its_senders_wait() -> None:
    outbox = SendQueue()
    await outbox.put(b"x" * MAX_WAITING_BYTES)

    waiting = asyncio.ensure_future(outbox.put(b"y"))
    await asyncio.wait({waiting}, timeout=0.05)
    was_waiting, since = not waiting.done(), outbox.was_full_at
    first, second = await outbox.take(), await outbox.take()

    assert was_waiting
    assert since is not None
    assert first == b"x" * MAX_WAITING_BYTES
    assert second == b"y"
    assert outbox.was_full_at is None


async def test_a_closed_outbox_lets_go_of_its_senders() -> None:
    outbox = SendQueue()
    await outbox.put(b"x" * MAX_WAITING_BYTES)
    waiting = asyncio.ensure_future(outbox.put(b"y"))

    outbox.close()
    async with asyncio.timeout(WAIT_SECONDS):
        await waiting

    assert [await outbox.take(), await outbox.take()] == [b"x" * MAX_WAITING_BYTES, None]


class SessionServer:
    """A server of streamable HTTP that keeps sessions, and says in which one it was called."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.sessions: set[str] = set()
        self.forgets_all = False
        self.ended = asyncio.Event()
        self._count = 0

    async def __call__(self, received: Request) -> None:
        """Behave as an upstream."""
        message = received.message if received.body else {}
        method = message.get("method", received.method)
        self.seen.append(method)
        session = received.headers.get("mcp-session-id", "")
        match method:
            case "initialize":
                self._count += 1
                session = f"s{self._count}"
                if not self.forgets_all:
                    self.sessions.add(session)
                result = {"protocolVersion": "2025-06-18", "capabilities": {}}
                await received.result(result, mcp_session_id=session)
            case "GET":
                await received.answer(405, b"")
            case "DELETE":
                self.ended.set()
                await received.answer(200, b"")
            case "notifications/initialized":
                await received.answer(202, b"")
            case _ if session not in self.sessions:
                await received.answer(404, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001}}')
            case _:
                await received.result({"session": session})


async def _elicited(context: Any, params: Any) -> ElicitResult:
    values = {"name": "Ann", "color": "blue", "username": "ann", "email": "a@b.example"}
    wanted = params.requested_schema["properties"]
    return ElicitResult(action="accept", content={name: values[name] for name in wanted})


async def _sampled(context: Any, params: Any) -> CreateMessageResult:
    content = TextContent(text="a model's words")
    return CreateMessageResult(role="assistant", content=content, model="m")


async def _rooted(context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root(uri=FileUrl("file:///home"))])
