"""Clients of the handshake's era in front of servers of the stateless one: the wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest

from registry.gateway.aggregate import bridge as broker
from registry.gateway.values import tool_entry
from registry.servers.values import Era
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import EVENTS, RESERVED, event, notice
from tests.gateway.failing import error_of, outcome
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.peers import FakeWorkers
from tests.gateway.serving import serve

WAIT_SECONDS = 30
CALL = {"name": "echo", "arguments": {}}
FORM = {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": {}}}
COMPLETE = {"resultType": "complete", "content": []}
HEADED = (
    '{"name":"headed","inputSchema":{"type":"object","properties":'
    '{"region":{"type":"string","x-mcp-header":"Region"}}}}'
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def gateway(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> Gateway:
    """Return a gateway in front of a server of the stateless era."""
    url = await stack.enter_async_context(serve(upstream))
    tools = [tool_entry("echo", '{"name":"echo"}'), tool_entry("headed", HEADED)]
    started: Gateway = await start_gateway(
        make_route(
            f"{url}/mcp",
            eras=frozenset({Era.MODERN}),
            capabilities={"resources": {}, "logging": {}},
            tools=tools,
        )
    )
    return started


async def begin(gateway: Gateway, user: str = "alice", **can: Any) -> str:
    """Begin a session of a client that *can* do these things."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": can,
        "clientInfo": {"name": "tester", "version": "7"},
    }
    answer = await gateway.post(request("initialize", params), user=user)
    return str(answer.headers["mcp-session-id"])


@asynccontextmanager
async def calling(gateway: Gateway, session: str) -> AsyncIterator["Stream"]:
    """Call a tool; yield the messages of the answer."""
    headers = head(mcp_session_id=session)
    body = orjson.dumps(request("tools/call", CALL, "c"))
    async with gateway.http.stream("POST", "/mcp/demo", content=body, headers=headers) as answer:
        yield Stream(answer)


class Stream:
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


def asks_first(*rounds: Any) -> Any:
    """Return what answers with each of *rounds*, one after the other, then with a result."""
    left = list(rounds)

    async def on(received: Request) -> None:
        await received.result(left.pop(0) if left else COMPLETE)

    return on


def wants(requests: Any, state: str | None = "s") -> dict[str, Any]:
    """Return a result that asks for more."""
    found: dict[str, Any] = {"resultType": "input_required"}
    if requests:
        found["inputRequests"] = requests
    return found if state is None else {**found, "requestState": state}


async def test_the_request_says_who_and_what_the_client_is(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await begin(gateway, roots={"listChanged": True}, experimental={"x": {}})
    params = {**CALL, "_meta": {"progressToken": 3}, "unknown": [1.50]}

    await gateway.post(request("tools/call", params), mcp_session_id=session, traceparent=TRACE)

    [sent] = upstream.requests
    meta = sent.message["params"]["_meta"]
    assert meta == {
        "progressToken": 3,
        f"{RESERVED}protocolVersion": "2026-07-28",
        f"{RESERVED}clientCapabilities": {"roots": {"listChanged": True}},
        f"{RESERVED}clientInfo": {"name": "tester", "version": "7"},
        f"{RESERVED}logLevel": "info",
    }
    assert sent.message["params"]["unknown"] == [1.5]
    assert {name: sent.headers[name] for name in sent.headers if name.startswith("mcp-")} == {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "echo",
    }
    assert sent.headers["traceparent"] == TRACE
    assert sent.headers["authorization"] == "Bearer upstream-secret"


async def test_arguments_become_headers(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    session = await begin(gateway)
    params = {"name": "headed", "arguments": {"region": "Zürich"}}

    await gateway.post(request("tools/call", params), mcp_session_id=session)

    assert upstream.requests[0].headers["mcp-param-region"] == "=?base64?WsO8cmljaA==?="


async def test_results_lose_what_only_the_new_era_has(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def on(received: Request) -> None:
        info = {f"{RESERVED}serverInfo": {"name": "x"}}
        caching = {"ttlMs": 1000, "cacheScope": "public"}
        await received.result({**COMPLETE, **caching, "_meta": info, "more": 1})

    upstream.behaviour = on
    session = await begin(gateway)

    answer = await gateway.post(request("tools/call", CALL), mcp_session_id=session)

    assert answer.json() == {"jsonrpc": "2.0", "id": 1, "result": {"content": [], "more": 1}}


@pytest.mark.parametrize(
    ("method", "params", "code", "told"),
    [
        ("tools/call", CALL, -32020, -32600),
        ("tools/call", CALL, -32021, -32600),
        ("tools/call", CALL, -32022, -32600),
        ("tools/call", CALL, -32602, -32602),
        ("tools/call", CALL, 77, 77),
        ("resources/read", {"uri": "x://y"}, -32602, -32002),
    ],
)
async def test_errors_have_the_codes_of_the_old_era(
    gateway: Gateway,
    upstream: ScriptedUpstream,
    method: str,
    params: Any,
    code: int,
    told: int,
) -> None:
    async def on(received: Request) -> None:
        error = {"code": code, "message": "no", "data": {"a": 1}}
        body = {"jsonrpc": "2.0", "id": received.message["id"], "error": error}
        await received.answer(404 if code == -32601 else 400, orjson.dumps(body))

    upstream.behaviour = on
    session = await begin(gateway)

    answer = await gateway.post(request(method, params), mcp_session_id=session)

    assert answer.status_code == 200
    assert answer.json()["id"] == 1
    assert answer.json()["error"] == {"code": told, "message": "no", "data": {"a": 1}}


async def test_a_ping_is_answered_here(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    session = await begin(gateway)

    answer = await gateway.post(request("ping"), mcp_session_id=session)

    assert answer.json()["result"] == {}
    assert upstream.requests == []


async def test_the_log_level_of_the_session_goes_with_each_request(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await begin(gateway)

    done = await gateway.post(
        request("logging/setLevel", {"level": "error"}), mcp_session_id=session
    )
    refused = await gateway.post(
        request("logging/setLevel", {"level": "loud"}), mcp_session_id=session
    )
    await gateway.post(request("tools/call", CALL), mcp_session_id=session)

    assert done.json()["result"] == {}
    assert refused.json()["error"]["code"] == -32602
    assert upstream.requests[0].message["params"]["_meta"][f"{RESERVED}logLevel"] == "error"


async def test_a_session_is_its_owners_alone(gateway: Gateway) -> None:
    session = await begin(gateway)

    other = await gateway.post(request("ping"), user="bob", mcp_session_id=session)
    changed = await gateway.post(request("ping"), mcp_session_id=session[:-4] + "AAAA")

    assert [other.status_code, changed.status_code] == [404, 404]


async def test_what_the_server_wants_is_asked_on_the_calls_own_stream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = asks_first(wants({"who": FORM}, "round 1"), wants({"what": FORM}, None))
    session = await begin(gateway, elicitation={})

    async with calling(gateway, session) as stream:
        for number in range(2):
            asked = await stream.next()
            reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"n": number}}
            taken = await gateway.post(reply, mcp_session_id=session)
            assert (taken.status_code, taken.content) == (202, b"")
            assert (asked["method"], asked["params"]) == (FORM["method"], FORM["params"])
        answer = await stream.next()

    first, second, third = (sent.message for sent in upstream.requests)
    assert answer == {"jsonrpc": "2.0", "id": "c", "result": {"content": []}}
    assert second["params"]["inputResponses"] == {"who": {"n": 0}}
    assert second["params"]["requestState"] == "round 1"
    assert third["params"]["inputResponses"] == {"what": {"n": 1}}
    assert "requestState" not in third["params"]
    assert len({first["id"], second["id"], third["id"]}) == 3


async def test_what_was_asked_can_be_answered_by_its_owner_only_and_counts_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = asks_first(wants({"who": FORM}))
    session = await begin(gateway, elicitation={})
    others = await begin(gateway, user="bob", elicitation={})

    async with calling(gateway, session) as stream:
        asked = await stream.next()
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"n": 1}}
        stolen = await gateway.post(
            {**reply, "result": {"n": "bob's"}}, user="bob", mcp_session_id=others
        )
        made_up = await gateway.post({**reply, "id": "made up"}, mcp_session_id=session)
        taken = await gateway.post(reply, mcp_session_id=session)
        answer = await stream.next()
    replayed = await gateway.post({**reply, "result": {"n": 2}}, mcp_session_id=session)

    assert [stolen.status_code, made_up.status_code] == [400, 400]
    assert [taken.status_code, replayed.status_code] == [202, 202]
    assert answer["result"] == {"content": []}
    assert len(upstream.requests) == 2
    assert upstream.requests[1].message["params"]["inputResponses"] == {"who": {"n": 1}}


async def test_an_answer_finds_its_call_through_any_worker(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = asks_first(wants({"who": FORM}))
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=frozenset({Era.MODERN}))
    workers = FakeWorkers()
    first = await start_gateway(route, peers=workers.peer("aaaaaaaa"))
    second = await start_gateway(route, peers=workers.peer("bbbbbbbb"))
    session = await begin(second, elicitation={})

    async with calling(first, session) as stream:
        asked = await stream.next()
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"n": 1}}
        taken = await second.post(reply, mcp_session_id=session)
        answer = await stream.next()

    assert taken.status_code == 202
    assert answer["result"] == {"content": []}


async def test_an_answer_whose_call_is_elsewhere_is_refused_instead_of_lost_in_silence(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = asks_first(wants({"who": FORM}))
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=frozenset({Era.MODERN}))
    one = await start_gateway(route, peers=FakeWorkers().peer("aaaaaaaa"))
    replica = await start_gateway(route, peers=FakeWorkers().peer("bbbbbbbb"))
    session = await begin(replica, elicitation={})

    async with calling(one, session) as stream:
        asked = await stream.next()
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"n": 1}}
        refused = await replica.post(reply, mcp_session_id=session)
        taken = await one.post(reply, mcp_session_id=session)
        answer = await stream.next()

    assert (refused.status_code, taken.status_code) == (400, 202)
    assert "another replica" in refused.json()["error"]["message"]
    assert answer["result"] == {"content": []}


async def test_a_server_that_asks_again_and_again_is_given_up(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "STATE_ONLY_SECONDS", 0.0)
    upstream.behaviour = asks_first(*[wants({}, "again")] * 20)
    session = await begin(gateway)

    answer = await gateway.post(request("tools/call", CALL), mcp_session_id=session)

    assert outcome(answer) == 502
    assert "more than 10 times" in error_of(answer)["message"]
    assert len(upstream.requests) == 11


async def test_a_server_that_only_wants_its_state_back_gets_it(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = asks_first(wants({}, "one"), wants({}, "two"))
    session = await begin(gateway)

    answer = await gateway.post(request("tools/call", CALL), mcp_session_id=session)

    assert answer.json()["result"] == {"content": []}
    states = [sent.message["params"].get("requestState") for sent in upstream.requests]
    assert states == [None, "one", "two"]
    assert all("inputResponses" not in sent.message["params"] for sent in upstream.requests)


@pytest.mark.parametrize(
    "wanted", [FORM, {"method": "tools/list"}, {"method": "sampling/createMessage"}]
)
async def test_a_server_that_asks_what_the_client_cannot_give_is_refused(
    gateway: Gateway, upstream: ScriptedUpstream, wanted: Any
) -> None:
    upstream.behaviour = asks_first(wants({"x": wanted}))
    session = await begin(gateway, roots={})

    answer = await gateway.post(request("tools/call", CALL), mcp_session_id=session)

    assert outcome(answer) == 502
    assert "does not support" in error_of(answer)["message"]
    assert len(upstream.requests) == 1


async def test_a_page_to_visit_is_asked_of_clients_that_open_pages(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    page = {"method": "elicitation/create", "params": {"mode": "url", "url": "https://x.example"}}
    upstream.behaviour = asks_first(wants({"x": page}))
    plain = await begin(gateway, elicitation={})
    able = await begin(gateway, elicitation={"url": {}})

    refused = await gateway.post(request("tools/call", CALL), mcp_session_id=plain)
    upstream.behaviour = asks_first(wants({"x": page}))
    async with calling(gateway, able) as stream:
        asked = await stream.next()

        body = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}}
        await gateway.post(body, mcp_session_id=able)
        told, answer = await stream.next(), await stream.next()

    assert outcome(refused) == 502
    # The handshake's era has an id for each page, and is told when the server goes on.
    page_id = asked["params"].pop("elicitationId")
    assert asked["params"] == page["params"]
    assert told == notice("elicitation/complete", {"elicitationId": page_id})
    assert answer["id"] == "c"


async def test_a_client_that_answers_with_an_error_ends_the_call(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = asks_first(wants({"who": FORM}))
    session = await begin(gateway, elicitation={})

    async with calling(gateway, session) as stream:
        asked = await stream.next()
        error = {"code": -1, "message": "not now"}
        await gateway.post(
            {"jsonrpc": "2.0", "id": asked["id"], "error": error}, mcp_session_id=session
        )
        answer = await stream.next()

    assert answer["id"] == "c"
    assert answer["result"]["isError"] is True
    assert "not now" in answer["result"]["content"][0]["text"]


async def test_a_cancelled_call_closes_the_servers_stream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def on(received: Request) -> None:
        await received.start(**EVENTS)
        await received.chunk(event(notice("progress", {"progressToken": 1, "progress": 1})))
        await upstream.hang(received)

    upstream.behaviour = on
    session = await begin(gateway)

    async with calling(gateway, session) as stream:
        await stream.next()
        cancelled = notice("cancelled", {"requestId": "c"})
        taken = await gateway.post(cancelled, mcp_session_id=session)
        async with asyncio.timeout(WAIT_SECONDS):
            await upstream.gone.wait()

    assert taken.status_code == 202


async def test_a_call_is_cancelled_through_any_worker(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = upstream.hang
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=frozenset({Era.MODERN}))
    workers = FakeWorkers()
    first = await start_gateway(route, peers=workers.peer("aaaaaaaa"))
    second = await start_gateway(route, peers=workers.peer("bbbbbbbb"))
    session = await begin(first)

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
        call = group.create_task(
            first.post(request("tools/call", CALL, "c"), mcp_session_id=session)
        )
        await upstream.arrived.wait()
        await second.post(notice("cancelled", {"requestId": "c"}), mcp_session_id=session)
        await upstream.gone.wait()

    # What was cancelled gets no answer.
    assert call.result().status_code == 200
    assert b"data: {" not in call.result().content


async def test_list_changes_do_not_travel_with_calls(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def on(received: Request) -> None:
        await received.start(**EVENTS)
        await received.chunk(event(notice("tools/list_changed")))
        answer = {"jsonrpc": "2.0", "id": received.message["id"], "result": COMPLETE}
        await received.chunk(event(answer), more=False)

    upstream.behaviour = on
    session = await begin(gateway)

    answer = await gateway.post(request("tools/call", CALL), mcp_session_id=session)

    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"] == {"content": []}
