"""Clients of the stateless era in front of servers of the handshake's: the wire."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest
from multidict import CIMultiDict

from registry.gateway.aggregate import parked
from registry.servers.values import Era
from tests.fakes.clock import FakeClock
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.eras import EVENTS, LegacyServer, event, modern, notice
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.peers import FakeWorkers
from tests.gateway.serving import serve

WAIT_SECONDS = 30
CALL: dict[str, Any] = {"name": "echo", "arguments": {}}
LEGACY = frozenset({Era.LEGACY})
QUESTION = {
    "jsonrpc": "2.0",
    "id": "q1",
    "method": "elicitation/create",
    "params": {"message": "Who?"},
}


def answer_to(received: Request, result: Any = None, error: Any = None) -> dict[str, Any]:
    """Return what answers a request."""
    outcome = {"error": error} if error is not None else {"result": result or {"content": []}}
    return {"jsonrpc": "2.0", "id": received.message["id"], **outcome}


async def plainly(received: Request) -> None:
    """Answer at once."""
    await received.answer(200, orjson.dumps(answer_to(received)))


class Asking:
    """Asks during each call, and answers when it was answered."""

    def __init__(self, *questions: Any) -> None:
        self.questions = questions or (QUESTION,)
        self.server = LegacyServer(self)
        self.hung_up = asyncio.Event()

    async def __call__(self, received: Request) -> None:
        """Behave as a server in a session."""
        await received.start(**EVENTS)
        for question in self.questions:
            self.server.answered.clear()
            await received.chunk(event(question))
            gone = asyncio.ensure_future(received.wait_for_disconnect())
            heard = asyncio.ensure_future(self.server.answered.wait())
            done, pending = await asyncio.wait({gone, heard}, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            if gone in done:
                self.hung_up.set()
                return
        said = [told.get("result") or told.get("error") for told in self.server.told[1:]]
        await received.chunk(event(answer_to(received, {"said": said})), more=False)


async def ask(
    gateway: Gateway, params: Any = None, request_id: Any = 1, user: str = "alice", **can: Any
) -> httpx.Response:
    """Call a tool."""
    level = can.pop("level", None)
    message, headers = modern("tools/call", params or CALL, request_id, level=level, **can)
    return await gateway.post(message, user=user, **headers)


def resumed(first: httpx.Response, **responses: Any) -> dict[str, Any]:
    """Return the parameters that go on with a call."""
    result = first.json()["result"]
    return {**CALL, "inputResponses": responses, "requestState": result["requestState"]}


@pytest.fixture
async def gateway(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> Gateway:
    """Return a gateway in front of a server of the handshake's era."""
    url = await stack.enter_async_context(serve(upstream))
    capabilities: Any = {"logging": {}, "resources": {}}
    started: Gateway = await start_gateway(
        make_route(f"{url}/mcp", eras=LEGACY, capabilities=capabilities)
    )
    return started


async def test_results_get_what_the_new_era_demands(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def on(received: Request) -> None:
        await received.result({"contents": [], "_meta": {"a": 1}, "more": 2})

    upstream.behaviour = LegacyServer(on)
    message, headers = modern("resources/read", {"uri": "x://y"})

    read = await gateway.post(message, **headers)
    called = await ask(gateway)

    assert read.json()["result"] == {
        "contents": [],
        "_meta": {"a": 1},
        "more": 2,
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
    }
    assert called.json()["result"].keys().isdisjoint({"ttlMs", "cacheScope"})


@pytest.mark.parametrize(("mark", "end"), [(b"", b"\r"), (b"\xef\xbb\xbf", b"\n")])
async def test_events_of_any_form_are_understood(
    gateway: Gateway, upstream: ScriptedUpstream, mark: bytes, end: bytes
) -> None:
    async def on(received: Request) -> None:
        await received.start(**EVENTS)
        text = mark + event(answer_to(received, {"content": [{"type": "text", "text": "x"}]}))
        await received.chunk(text.replace(b"\n", end), more=True)
        await received.wait_for_disconnect()

    upstream.behaviour = LegacyServer(on)

    async with asyncio.timeout(WAIT_SECONDS):
        answer = await ask(gateway)

    assert answer.json()["result"]["content"] == [{"type": "text", "text": "x"}]


async def test_what_only_the_new_era_knows_does_not_reach_the_server(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = LegacyServer(plainly)

    await ask(gateway, {**CALL, "_meta": {"progressToken": 3}})

    sent = upstream.requests[-1]
    assert sent.message["params"] == {**CALL, "_meta": {"progressToken": 3}}
    assert sent.headers["mcp-protocol-version"] == "2025-11-25"
    assert sent.headers["mcp-session-id"] == "s1"
    assert "mcp-method" not in sent.headers


async def test_the_server_is_told_what_the_client_can_do(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = LegacyServer(plainly)

    await ask(gateway, sampling={}, elicitation={"form": {}}, extensions={"x": {}})

    assert server.methods == ["initialize", "GET", "notifications/initialized", "tools/call"]
    assert server.sessions["s1"]["capabilities"] == {"sampling": {}, "elicitation": {"form": {}}}


@pytest.mark.parametrize(
    ("method", "code", "status", "told"),
    [
        ("resources/read", -32002, 400, -32602),
        ("tools/call", -32602, 400, -32602),
        ("tools/call", 77, 200, 77),
        ("something/else", -32601, 404, -32601),
    ],
)
async def test_errors_have_codes_and_statuses_of_the_new_era(
    gateway: Gateway, upstream: ScriptedUpstream, method: str, code: int, status: int, told: int
) -> None:
    async def on(received: Request) -> None:
        error = {"code": code, "message": "no"}
        await received.answer(200, orjson.dumps(answer_to(received, error=error)))

    upstream.behaviour = LegacyServer(on)
    params = {"uri": "x://y"} if method == "resources/read" else dict(CALL)
    message, headers = modern(method, params)
    if method == "something/else":
        del headers["mcp_name"]

    answer = await gateway.post(message, **headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, told)


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel"])
async def test_methods_of_the_old_era_are_unknown(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    message, headers = modern(method)

    answer = await gateway.post(message, **headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)
    assert upstream.requests == []


async def test_log_messages_come_from_the_level_that_was_asked_for(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def on(received: Request) -> None:
        if received.message["method"] == "logging/setLevel":
            await received.result({})
            return
        await received.start(**EVENTS)
        for level in ("info", "warning", "error"):
            await received.chunk(event(notice("message", {"level": level, "data": level})))
        await received.chunk(event(answer_to(received)), more=False)

    server = upstream.behaviour = LegacyServer(on)

    loud = await ask(gateway, level="warning")
    silent = await ask(gateway)

    assert b'"data":"info"' not in loud.content
    assert b'"data":"warning"' in loud.content
    assert b'"data":"error"' in loud.content
    assert silent.headers["content-type"] == "application/json"
    assert server.methods.count("logging/setLevel") == 1
    assert len(server.sessions) == 1


async def test_a_page_to_visit_first_is_asked_for_and_the_call_repeated(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    page = {"url": "https://x.example/login", "elicitationId": "e", "message": "Log in"}
    visited = False

    async def on(received: Request) -> None:
        error = {"code": -32042, "message": "first", "data": {"elicitations": [page]}}
        found = answer_to(received) if visited else answer_to(received, error=error)
        await received.answer(200, orjson.dumps(found))

    upstream.behaviour = LegacyServer(on)

    unable = await ask(gateway, elicitation={"form": {}})
    first = await ask(gateway, elicitation={"url": {}})
    visited = True
    [key] = first.json()["result"]["inputRequests"]
    second = await ask(
        gateway, resumed(first, **{key: {"action": "accept"}}), elicitation={"url": {}}
    )

    assert unable.json()["error"]["code"] == -32021
    assert unable.json()["error"]["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}}
    result = first.json()["result"]
    assert result["resultType"] == "input_required"
    assert result["inputRequests"][key] == {
        "method": "elicitation/create",
        "params": {**page, "mode": "url"},
    }
    assert second.json()["result"]["resultType"] == "complete"
    assert "requestState" not in upstream.requests[-1].message["params"]


async def test_a_question_parks_the_call_until_it_is_answered(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    asking = Asking()
    upstream.behaviour = asking.server

    first = await ask(gateway, elicitation={})
    second = await ask(
        gateway, resumed(first, input={"action": "accept"}), "second", elicitation={}
    )

    result = first.json()["result"]
    assert result["resultType"] == "input_required"
    assert result["inputRequests"] == {
        "input": {"method": "elicitation/create", "params": {"message": "Who?"}}
    }
    assert second.json()["id"] == "second"
    assert second.json()["result"] == {"said": [{"action": "accept"}], "resultType": "complete"}
    assert asking.server.told[1] == {"jsonrpc": "2.0", "id": "q1", "result": {"action": "accept"}}
    assert asking.server.methods.count("tools/call") == 1


async def test_several_questions_park_the_call_several_times(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    asking = Asking(QUESTION, {**QUESTION, "id": 2}, {**QUESTION, "id": 3})
    upstream.behaviour = asking.server

    answer = await ask(gateway, elicitation={})
    for number in range(3):
        answer = await ask(gateway, resumed(answer, input={"n": number}), elicitation={})

    assert answer.json()["result"]["said"] == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_repeat_without_an_answer_is_asked_again(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    asking = Asking()
    upstream.behaviour = asking.server

    first = await ask(gateway, elicitation={})
    second = await ask(gateway, resumed(first), elicitation={})
    third = await ask(gateway, resumed(second, input={"n": 1}), elicitation={})

    assert second.json()["result"]["inputRequests"] == first.json()["result"]["inputRequests"]
    assert third.json()["result"]["said"] == [{"n": 1}]


async def test_an_answer_counts_once(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    asking = Asking()
    upstream.behaviour = asking.server

    first = await ask(gateway, elicitation={})
    params = resumed(first, input={"n": 1})
    second, again = (
        await ask(gateway, params, elicitation={}),
        await ask(gateway, params, elicitation={}),
    )

    assert second.json()["result"]["said"] == [{"n": 1}]
    assert (again.status_code, again.json()["error"]["code"]) == (400, -32602)


@pytest.mark.parametrize(
    ("user", "changes"),
    [
        ("bob", {}),
        ("alice", {"arguments": {"other": 1}}),
        ("alice", {"name": "add"}),
        ("alice", {"requestState": "made up"}),
    ],
)
async def test_nobody_else_and_nothing_else_goes_on_with_a_parked_call(
    gateway: Gateway, upstream: ScriptedUpstream, user: str, changes: Any
) -> None:
    asking = Asking()
    upstream.behaviour = asking.server
    first = await ask(gateway, elicitation={})
    params = resumed(first, input={"n": 1})

    stolen = await ask(gateway, {**params, **changes}, user=user, elicitation={})
    owner = await ask(gateway, params, elicitation={})

    assert (stolen.status_code, stolen.json()["error"]["code"]) == (400, -32602)
    assert owner.json()["result"]["said"] == [{"n": 1}]


async def test_a_question_that_the_client_cannot_be_asked_is_declined(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    asking = Asking(QUESTION, {"jsonrpc": "2.0", "id": 5, "method": "ping"})
    upstream.behaviour = asking.server

    answer = await ask(gateway, sampling={})

    declined, pong = asking.server.told[1:]
    assert (declined["id"], declined["error"]["code"]) == ("q1", -32601)
    assert pong == {"jsonrpc": "2.0", "id": 5, "result": {}}
    assert answer.json()["result"]["resultType"] == "complete"


async def test_only_so_many_calls_are_parked(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "MAX_PARKED", 1)
    asking = Asking()
    upstream.behaviour = asking.server

    await ask(gateway, elicitation={})
    refused = await ask(gateway, elicitation={})

    assert refused.status_code == 503
    async with asyncio.timeout(WAIT_SECONDS):
        await asking.server.cancelled.wait()


async def test_a_call_that_waits_too_long_is_given_up(
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parked, "SWEEP_SECONDS", 0.01)
    asking = Asking()
    upstream.behaviour = asking.server
    clock = FakeClock()
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(make_route(f"{url}/mcp", eras=LEGACY), clock=clock)

    first = await ask(gateway, elicitation={})
    clock.move(parked.PARKED_SECONDS + 1)
    async with asyncio.timeout(WAIT_SECONDS):
        await asking.server.cancelled.wait()
        await asking.hung_up.wait()
    late = await ask(gateway, resumed(first, input={}), elicitation={})

    assert (late.status_code, late.json()["error"]["code"]) == (400, -32602)
    told = asking.server.told[-1]
    call = next(sent for sent in upstream.requests if b"tools/call" in sent.body)
    assert told["params"]["requestId"] == call.message["id"]


async def test_a_parked_call_whose_server_has_gone_fails_clearly(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def on(received: Request) -> None:
        await received.start(**EVENTS)
        await received.chunk(event(QUESTION), more=False)

    upstream.behaviour = LegacyServer(on)

    first = await ask(gateway, elicitation={})
    second = await ask(gateway, resumed(first, input={"n": 1}), elicitation={})

    assert second.status_code == 502
    assert "broke off" in second.json()["error"]["message"]


async def test_calls_that_are_parked_may_go_while_the_gateway_closes(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    asking = Asking()
    upstream.behaviour = asking.server
    for _ in range(3):
        await ask(gateway, elicitation={})

    await asyncio.gather(gateway.endpoint.close(), gateway.endpoint.close())

    assert asking.server.methods.count("notifications/cancelled") == 3


async def test_a_parked_call_is_found_through_any_worker_and_lost_with_its_own(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    asking = Asking()
    upstream.behaviour = asking.server
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=LEGACY)
    workers = FakeWorkers()
    first = await start_gateway(route, peers=workers.peer("aaaaaaaa"))
    second = await start_gateway(route, peers=workers.peer("bbbbbbbb"))
    workers.serve({"aaaaaaaa": first.endpoint, "bbbbbbbb": second.endpoint})

    parked = await ask(first, elicitation={})
    done = await ask(second, resumed(parked, input={"n": 1}), elicitation={})
    lost = await ask(first, elicitation={})
    workers.kill("aaaaaaaa")
    refused = await ask(second, resumed(lost, input={"n": 1}), elicitation={})

    assert done.json()["result"]["said"] == [{"n": 1}]
    assert workers.forwarded == ["aaaaaaaa"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32602)


async def test_a_client_that_hangs_up_has_its_call_cancelled(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    begun = asyncio.Event()

    async def on(received: Request) -> None:
        begun.set()
        await received.wait_for_disconnect()

    server = upstream.behaviour = LegacyServer(on)

    calling = asyncio.ensure_future(ask(gateway))
    await begun.wait()
    calling.cancel()
    async with asyncio.timeout(WAIT_SECONDS):
        await server.cancelled.wait()

    call = next(sent for sent in upstream.requests if b"tools/call" in sent.body)
    assert server.told[-1]["params"]["requestId"] == call.message["id"]


async def test_a_server_that_is_silent_for_too_long_is_told_to_stop(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = LegacyServer(upstream.hang)
    route = gateway.routes.routes["demo"]
    gateway.routes.routes["demo"] = replace(route, idle_timeout_seconds=0.1)

    answer = await ask(gateway)
    async with asyncio.timeout(WAIT_SECONDS):
        await server.cancelled.wait()

    assert answer.status_code == 504


@pytest.mark.parametrize("status", [401, 404, 500])
async def test_a_server_that_refused_is_not_told_to_stop(
    gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    async def refuse(received: Request) -> None:
        await received.answer(status, b"no", content_type="text/plain")

    server = upstream.behaviour = LegacyServer(refuse)

    answer = await ask(gateway)
    await gateway.endpoint.close()

    assert "error" in answer.json()
    assert "notifications/cancelled" not in server.methods


@pytest.mark.parametrize(
    "forgotten",
    [
        (404, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"gone"}}'),
        (404, b""),
        (400, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"No valid Session"}}'),
    ],
)
async def test_a_session_that_the_server_forgot_is_begun_again(
    gateway: Gateway, upstream: ScriptedUpstream, forgotten: tuple[int, bytes]
) -> None:
    server = upstream.behaviour = LegacyServer(plainly)
    server.forgotten = forgotten

    await ask(gateway)
    server.sessions.clear()
    answer = await ask(gateway)

    assert answer.json()["result"]["resultType"] == "complete"
    assert server.methods.count("initialize") == 2
    assert server.used == ["s1", "s2"]


@pytest.mark.parametrize("status", [404, 400])
async def test_a_session_that_is_forgotten_at_once_is_begun_again_only_once(
    gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    server = upstream.behaviour = LegacyServer(plainly)
    server.knows_none = True
    server.forgotten = (status, b'{"jsonrpc":"2.0","id":null,"error":{"message":"session"}}')

    answer = await ask(gateway)

    assert "error" in answer.json()
    assert server.methods.count("tools/call") == 2
    assert server.methods.count("initialize") == 2


async def test_what_else_a_server_refuses_is_no_lost_session(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def on(received: Request) -> None:
        error = {"code": -32602, "message": "bad argument"}
        await received.answer(400, orjson.dumps(answer_to(received, error=error)))

    server = upstream.behaviour = LegacyServer(on)

    answer = await ask(gateway)

    assert answer.json()["error"]["message"] == "bad argument"
    assert server.methods.count("tools/call") == 1


async def test_first_calls_at_once_shake_hands_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = LegacyServer(plainly)
    server.greets_when.clear()

    calls = [asyncio.ensure_future(ask(gateway, request_id=number)) for number in range(50)]
    await upstream.arrived.wait()
    server.greets_when.set()
    answers = await asyncio.gather(*calls)

    assert [answer.json()["id"] for answer in answers] == list(range(50))
    assert server.methods.count("initialize") == 1
    assert set(server.used) == {"s1"}


async def test_a_first_caller_that_goes_away_takes_nothing_from_the_others(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = LegacyServer(plainly)
    server.greets_when.clear()

    first = asyncio.ensure_future(ask(gateway))
    await upstream.arrived.wait()
    second = asyncio.ensure_future(ask(gateway))
    first.cancel()
    server.greets_when.set()
    answer = await second

    assert answer.json()["result"]["resultType"] == "complete"
    assert server.methods.count("initialize") == 1


async def test_a_handshake_that_failed_is_tried_again_by_the_next_call(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def down(received: Request) -> None:
        await received.answer(503, b"")

    upstream.behaviour = down
    failed = await ask(gateway)
    upstream.behaviour = LegacyServer(plainly)
    answer = await ask(gateway)

    assert failed.status_code in {502, 503}
    assert answer.json()["result"]["resultType"] == "complete"


async def test_sessions_are_shared_by_those_alone_who_are_served_alike(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = LegacyServer(plainly)
    route = gateway.routes.routes["demo"]
    gateway.routes.routes["demo"] = replace(route, per_user=True)
    for name, key in (("alice", "a"), ("bob", "b")):
        user = gateway.authenticate.cached(f"Bearer {name}")
        assert user is not None
        gateway.routes.own_headers[user.user_id, "demo"] = {"Authorization": key}

    await ask(gateway)
    await ask(gateway)
    await ask(gateway, user="bob")
    await ask(gateway, roots={})
    await ask(gateway, level="debug")

    assert len(set(server.used)) == 3
    credentials = {
        (sent.headers["mcp-session-id"], sent.headers["authorization"])
        for sent in upstream.requests
        if "mcp-session-id" in sent.headers
    }
    assert credentials == {("s1", "a"), ("s2", "b"), ("s3", "a")}


async def test_a_changed_credential_has_a_session_of_its_own(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = LegacyServer(plainly)

    await ask(gateway)
    route = gateway.routes.routes["demo"]
    changed = CIMultiDict({"Authorization": "Bearer changed"})
    gateway.routes.routes["demo"] = replace(route, headers=changed)
    await ask(gateway)

    assert server.used == ["s1", "s2"]


async def test_a_session_that_nobody_uses_is_ended(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = LegacyServer(plainly)
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(
        make_route(f"{url}/mcp", eras=LEGACY), gateway_upstream_session_idle_seconds=0.1
    )

    await ask(gateway)
    async with asyncio.timeout(WAIT_SECONDS):
        while not server.ended:
            await asyncio.wait({asyncio.ensure_future(upstream.arrived.wait())})
            upstream.arrived.clear()
    await ask(gateway)

    assert server.ended == ["s1"]
    assert server.used == ["s1", "s2"]


async def test_the_end_of_the_gateway_ends_its_sessions(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    server = upstream.behaviour = LegacyServer(plainly)

    await ask(gateway)
    await ask(gateway, roots={})
    await gateway.endpoint.close()

    assert sorted(server.ended) == ["s1", "s2"]


async def test_a_stream_is_taken_up_where_it_ended(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    progress = notice("progress", {"progressToken": 1, "progress": 1})

    async def on(received: Request) -> None:
        await received.start(**EVENTS)
        if received.method == "POST":
            calls.append(received)
            await received.chunk(b"id: e1\nretry: 1\ndata: \n\n", more=False)
        elif received.headers["last-event-id"] == "e1":
            await received.chunk(event(progress, "e2"), more=False)
        else:
            await received.chunk(event(answer_to(calls[0]), "e3"), more=False)

    calls: list[Request] = []
    server = upstream.behaviour = LegacyServer(on)

    answer = await ask(gateway)

    fetched = [sent for sent in upstream.requests if "last-event-id" in sent.headers]
    assert [sent.headers["last-event-id"] for sent in fetched] == ["e1", "e2"]
    assert {sent.headers["mcp-session-id"] for sent in fetched} == {"s1"}
    assert b'"resultType":"complete"' in answer.content
    assert server.methods.count("tools/call") == 1


async def test_a_stream_that_ends_again_and_again_is_given_up(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.gateway.client.conversations.MAX_RESUMES", 3)

    async def on(received: Request) -> None:
        await received.start(**EVENTS)
        await received.chunk(b"id: e1\nretry: 1\ndata: \n\n", more=False)

    upstream.behaviour = LegacyServer(on)

    answer = await ask(gateway)

    assert answer.status_code == 502
    assert len([sent for sent in upstream.requests if "last-event-id" in sent.headers]) == 3
