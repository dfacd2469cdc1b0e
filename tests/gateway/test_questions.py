"""Questions of the gateway during calls: the wire, two workers, and users who take their time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from starlette.types import Message
from typing_extensions import override

from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import Scope
from registry.core.clock import SystemClock
from registry.core.drain import Drain
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.edge.questions import MAX_HELD_PER_CALLER, ClientQuestions
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.edge.spent_states import SpentStateRepository, SpentStates
from registry.gateway.edge.stream_guard import StreamGuard
from registry.gateway.errors import TooManyQuestions
from registry.gateway.transport.call_watch import ClientGone
from registry.gateway.transport.early_stream import KEEP_ALIVE
from registry.gateway.values import Route, tool_entry
from registry.servers.values import Era
from registry.workers.peers import SingleWorker
from tests.conftest import ALICE
from tests.fakes.clock import FakeClock
from tests.fakes.oauth.access_tokens import make_oauth_server
from tests.gateway.confirming import CONFIRMED, confirmed
from tests.gateway.conftest import INSTANCE, Gateway, StartGateway, head, request
from tests.gateway.eras import EVENTS, event, modern, notice
from tests.gateway.failing import error_of
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.listening import Told
from tests.gateway.peers import FakeWorkers
from tests.gateway.serving import serve
from tests.gateway.test_crossing_modern_client import Asking
from tests.kit.waiting import until

AGREED = {"action": "accept", "content": {"confirm": True}}
SECRET = (
    '{"name":"echo","inputSchema":{"type":"object","properties":{'
    '"user":{"type":"string"},"password":{"type":"string","format":"password"}}}}'
)
CALL = {"name": "echo", "arguments": {"user": "ada", "password": "hunter2"}}
OTHER = {"name": "echo", "arguments": {"user": "eve", "password": "hunter2"}}
CHANGED = SECRET.replace('"user"', '"owner"')
FORMS: Any = {"elicitation": {}}
BIG = 123456789012345678901


@pytest.fixture
async def url(stack: AsyncExitStack, upstream: ScriptedUpstream) -> str:
    """Return the address of *upstream*."""
    upstream.behaviour = sessions
    return await stack.enter_async_context(serve(upstream)) + "/mcp"


@pytest.fixture
async def gateway(start_gateway: StartGateway, url: str) -> Gateway:
    """Return a gateway in front of *upstream*, whose tool must be confirmed."""
    started: Gateway = await start_gateway(route_to(url))
    return started


def route_to(url: str, **changes: Any) -> Any:
    """Return a route to a server whose tool must be confirmed."""
    return make_route(url, **{"tools": [tool_entry("echo", SECRET, rules=CONFIRMED)], **changes})


async def sessions(received: Request) -> None:
    """Behave as a server that keeps sessions, and echoes calls."""
    named = {"mcp_session_id": "up-1"} if received.message.get("method") == "initialize" else {}
    await received.result(
        {"protocolVersion": "2025-11-25", "capabilities": {}, "got": received.message}, **named
    )


def calls(upstream: ScriptedUpstream) -> list[Any]:
    """Return the calls that reached the server."""
    messages = [one.message for one in upstream.requests if one.body]
    return [message for message in messages if message["method"] == "tools/call"]


async def begin(gateway: Gateway, user: str = "alice", **can: Any) -> dict[str, str]:
    """Begin a session of a client that *can* be asked; return the headers of its requests."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": can or FORMS,
        "clientInfo": {"name": "tester", "version": "7"},
    }
    answer = await gateway.post(request("initialize", params), user=user)
    return head(user, mcp_session_id=answer.headers["mcp-session-id"])


@asynccontextmanager
async def calling(gateway: Gateway, session: dict[str, str]) -> AsyncIterator[Told]:
    """Call the tool, and yield what comes on the stream."""
    body = orjson.dumps(request("tools/call", CALL, "c"))
    async with gateway.http.stream("POST", "/mcp/demo", content=body, headers=session) as answer:
        yield Told(answer)


async def respond(
    gateway: Gateway, session: dict[str, str], question: Any, result: Any = AGREED
) -> int:
    """Answer a question of the gateway; return the HTTP status."""
    message = {"jsonrpc": "2.0", "id": question["id"], "result": result}
    answer = await gateway.http.post("/mcp/demo", json=message, headers=session)
    return answer.status_code


async def test_the_question_names_what_is_asked_and_hides_secrets(gateway: Gateway) -> None:
    session = await begin(gateway)

    async with calling(gateway, session) as told:
        question = await told.next()

    assert question is not None
    assert question["method"] == "elicitation/create"
    assert question["params"]["message"] == (
        "Confirm a call of the tool \u201cecho\u201d of the server \u201cdemo\u201d.\nArguments:\n"
        '{\n  "user": "ada",\n  "password": "(hidden)"\n}'
    )


async def pretty(received: Request) -> None:
    """Answer with JSON on several lines."""
    answer = {"jsonrpc": "2.0", "id": "c", "result": {"content": []}}
    await received.answer(200, orjson.dumps(answer, option=orjson.OPT_INDENT_2))


async def streamed(received: Request) -> None:
    """Answer with JSON in pieces of unknown length, on several lines."""
    await received.start(200, content_type="application/json")
    text = orjson.dumps(
        {"jsonrpc": "2.0", "id": "c", "result": {"content": []}}, option=orjson.OPT_INDENT_2
    )
    await received.chunk(text[:20])
    await received.chunk(text[20:], more=False)


async def eventful(received: Request) -> None:
    """Answer with an event stream."""
    await received.start(**EVENTS)
    await received.chunk(event(notice("progress", {"progress": 1, "progressToken": 1})))
    answer = {"jsonrpc": "2.0", "id": "c", "result": {"content": []}}
    await received.chunk(event(answer), more=False)


async def failing(received: Request) -> None:
    """Answer with a JSON-RPC error and its status."""
    error = {"jsonrpc": "2.0", "id": "c", "error": {"code": -32001, "message": "no"}}
    await received.answer(404, orjson.dumps(error))


async def other_json(received: Request) -> None:
    """Answer with an error that is no JSON-RPC."""
    await received.answer(400, b'{"error":"bad"}')


async def page(received: Request) -> None:
    """Answer with a page."""
    await received.answer(500, b"<html>", content_type="text/html")


async def nothing(received: Request) -> None:
    """Answer with nothing."""
    await received.answer(405, b"")


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (pretty, "result"),
        (streamed, "result"),
        (eventful, "result"),
        (failing, "-32001"),
        (other_json, "HTTP 400"),
        (page, "HTTP 500"),
        (nothing, "HTTP 405"),
    ],
)
async def test_whatever_the_server_answers_ends_the_stream_that_began(
    gateway: Gateway, upstream: ScriptedUpstream, behaviour: Any, expected: str
) -> None:
    session = await begin(gateway)
    upstream.behaviour = behaviour

    async with calling(gateway, session) as told:
        question = await told.next()
        before = len(calls(upstream))
        status = await respond(gateway, session, question)
        messages = [message async for message in rest_of(told)]

    assert (before, status) == (0, 202)
    assert messages[-1]["id"] == "c"
    assert expected in orjson.dumps(messages[-1]).decode()
    assert len(calls(upstream)) == 1


async def rest_of(told: Told) -> AsyncIterator[Any]:
    """Yield the other messages of a stream."""
    while (message := await told.next()) is not None:
        yield message


async def test_a_response_of_somebody_else_is_ignored(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session, foreign = await begin(gateway), await begin(gateway, "bob")

    async with calling(gateway, session) as told:
        question = await told.next()
        assert await respond(gateway, foreign, question) == 202
        unknown = {**(question or {}), "id": str((question or {})["id"])[:-3] + "xyz"}
        assert await respond(gateway, session, unknown) == 202
        between = len(calls(upstream))
        await respond(gateway, session, question)
        answer = await told.next()
        assert await respond(gateway, session, question) == 202

    assert between == 0
    assert answer is not None
    assert answer["result"]["got"]["params"] == CALL
    assert len(calls(upstream)) == 1
    assert [one for one in upstream.requests if b'"result"' in one.body] == []


async def test_any_worker_takes_the_response_and_another_replica_says_that_it_cannot(
    start_gateway: StartGateway, url: str, upstream: ScriptedUpstream
) -> None:
    workers, others = FakeWorkers(), FakeWorkers()
    first = await start_gateway(route_to(url), peers=workers.peer("aaaaaaaa"))
    second = await start_gateway(route_to(url), peers=workers.peer("bbbbbbbb"))
    replica = await start_gateway(route_to(url), peers=others.peer("cccccccc"))
    session = await begin(first)

    async with calling(first, session) as told:
        question = await told.next()
        refused = await respond(replica, session, question)
        status = await respond(second, session, question)
        answer = await told.next()

    assert (refused, status) == (400, 202)
    assert answer is not None
    assert "result" in answer
    assert len(calls(upstream)) == 1


async def test_a_call_that_waits_ends_with_its_clients_cancellation_through_any_worker(
    start_gateway: StartGateway, url: str, upstream: ScriptedUpstream
) -> None:
    workers = FakeWorkers()
    first = await start_gateway(route_to(url), peers=workers.peer("aaaaaaaa"))
    second = await start_gateway(route_to(url), peers=workers.peer("bbbbbbbb"))
    session = await begin(first)
    cancel = notice("cancelled", {"requestId": "c"})

    async with calling(first, session) as told:
        await told.next()
        await second.http.post("/mcp/demo", json=cancel, headers=session)
        assert await told.next() is None

    await until(lambda: first.in_flight == 0)
    assert calls(upstream) == []


async def test_a_client_that_leaves_while_its_user_thinks_ends_the_call(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await begin(gateway)

    async with calling(gateway, session) as told:
        question = await told.next()
    await until(lambda: gateway.in_flight == 0)
    status = await respond(gateway, session, question)

    assert status == 202
    assert calls(upstream) == []


async def test_a_question_ends_unanswered_after_its_time(
    start_gateway: StartGateway, url: str, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(route_to(url), gateway_question_timeout_seconds=0.1)
    session = await begin(gateway)

    async with calling(gateway, session) as told:
        question = await told.next()
        cancelled = await told.next()
        answer = await told.next()

    assert question is not None
    assert cancelled is not None
    assert cancelled["params"]["requestId"] == question["id"]
    assert answer is not None
    assert "did not answer in time" in orjson.dumps(answer).decode()
    assert calls(upstream) == []


@pytest.mark.parametrize("way", ["definition", "hidden", "moved", "gone"])
async def test_what_changes_while_the_user_thinks_ends_the_call(
    start_gateway: StartGateway, url: str, upstream: ScriptedUpstream, way: str
) -> None:
    gateway = await start_gateway(route_to(url))
    session = await begin(gateway)
    changed = {
        "definition": [route_to(url, tools=[tool_entry("echo", '{"name":"echo"}')])],
        "hidden": [route_to(url, tools=[])],
        "moved": [route_to(url + "/")],
        "gone": [],
    }

    async with calling(gateway, session) as told:
        question = await told.next()
        gateway.routes.replace(*changed[way])
        await respond(gateway, session, question)
        answer = await told.next()

    assert answer is not None
    assert "error" in answer or answer["result"]["isError"]
    assert calls(upstream) == []


async def test_a_question_ends_when_the_gateway_shuts_down(
    start_gateway: StartGateway, url: str, upstream: ScriptedUpstream
) -> None:
    drain = Drain()
    gateway = await start_gateway(route_to(url), drain=drain)
    session = await begin(gateway)

    async with calling(gateway, session) as told:
        await told.next()
        drain.begin()
        answer = await told.next()

    assert "shutting down" in orjson.dumps(answer).decode()
    assert calls(upstream) == []


async def test_a_server_without_sessions_has_clients_that_can_be_asked(
    start_gateway: StartGateway, url: str, upstream: ScriptedUpstream
) -> None:
    async def sessionless(received: Request) -> None:
        await received.result({"protocolVersion": "2025-11-25", "capabilities": {}})

    upstream.behaviour = sessionless
    gateway = await start_gateway(route_to(url))
    session = await begin(gateway)

    async with calling(gateway, session) as told:
        await respond(gateway, session, await told.next())
        answer = await told.next()
    await gateway.http.delete("/mcp/demo", headers=session)

    assert answer is not None
    assert "result" in answer
    assert len(calls(upstream)) == 1
    assert all("mcp-session-id" not in one.headers for one in upstream.requests)


@pytest.mark.parametrize(
    ("can", "changed"),
    [({"elicitation": {"url": {}}}, {}), (FORMS, {"accept": "application/json"})],
)
async def test_a_client_that_cannot_show_a_form_during_a_call_is_not_asked(
    gateway: Gateway, upstream: ScriptedUpstream, can: Any, changed: dict[str, str]
) -> None:
    session = await begin(gateway, **can) | changed

    answer = await gateway.http.post(
        "/mcp/demo", json=request("tools/call", CALL), headers=session
    )

    assert error_of(answer)["data"]["error"] == "confirmation_required"
    assert calls(upstream) == []


async def ask(gateway: Gateway, params: Any, user: str = "alice") -> Any:
    """Send a call of the stateless era, and return the answer."""
    message, headers = modern("tools/call", params, **FORMS)
    body = json.dumps(message, separators=(",", ":")).encode()
    answer = await gateway.post(body, user=user, **headers)
    return orjson.loads(answer.text[answer.text.index("{") :])


def repeated(asked: Any, response: Any = AGREED, call: Any = CALL) -> Any:
    """Return the repetition of a call."""
    state = asked["result"]["requestState"]
    responses = {} if response is None else {"confirm": response}
    return {**call, "inputResponses": responses, "requestState": state}


async def test_a_call_of_the_stateless_era_is_repeated_with_the_answer_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    asked = await ask(gateway, CALL)
    before = len(calls(upstream))

    answer = await ask(gateway, repeated(asked))
    again = await ask(gateway, repeated(asked))

    assert asked["result"]["resultType"] == "input_required"
    assert before == 0
    sent = answer["result"]["got"]["params"]
    assert (sent["arguments"], "requestState" in sent) == (CALL["arguments"], False)
    assert again["error"]["data"]["error"] == "state_mismatch"
    assert "used before" in again["error"]["message"]
    assert len(calls(upstream)) == 1


async def test_agreement_is_of_one_call_of_one_caller(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    asked = await ask(gateway, CALL)
    large = await ask(gateway, {"name": "echo", "arguments": {"cents": BIG}})
    state = asked["result"]["requestState"]

    refused = [
        await ask(gateway, repeated(asked, call=OTHER)),
        await ask(gateway, repeated(asked), "bob"),
        await ask(gateway, repeated(asked) | {"requestState": state[:-2] + "xx"}),
        await ask(gateway, repeated(asked) | {"requestState": state + "~more"}),
        await ask(gateway, repeated(asked) | {"requestState": (state + "~") * 9}),
        await ask(
            gateway, repeated(large, call={"name": "echo", "arguments": {"cents": BIG + 1}})
        ),
    ]
    unanswered = [
        await ask(gateway, repeated(asked, None)),
        await ask(gateway, {**CALL, "requestState": "of the server"}),
    ]
    declined = await ask(gateway, repeated(asked, {"action": "decline"}))
    changed_mind = await ask(gateway, repeated(asked))

    assert [one["error"]["code"] for one in refused] == [-32602] * 6
    assert [one["result"]["resultType"] for one in unanswered] == ["input_required"] * 2
    assert declined["error"]["data"]["answer"] == "decline"
    assert changed_mind["error"]["data"]["error"] == "state_mismatch"
    assert calls(upstream) == []


async def test_an_agreement_expires_and_is_of_one_definition(
    start_gateway: StartGateway, url: str, upstream: ScriptedUpstream
) -> None:
    clock = FakeClock()
    gateway = await start_gateway(route_to(url), clock=clock)
    asked, late = await ask(gateway, CALL), await ask(gateway, CALL)

    gateway.routes.replace(route_to(url, tools=confirmed([tool_entry("echo", CHANGED)])))
    changed = await ask(gateway, repeated(asked))
    gateway.routes.replace(route_to(url))
    clock.move(16 * 60)
    expired = await ask(gateway, repeated(late))

    assert changed["error"]["data"]["error"] == "conflict"
    assert "has expired" in expired["error"]["message"]
    assert calls(upstream) == []


async def whole(received: Request, answer: bytes) -> None:
    """Answer at once."""
    await received.answer(200, answer)


async def chunked(received: Request, answer: bytes) -> None:
    """Answer in pieces, of unknown length."""
    await received.start(200, content_type="application/json")
    await received.chunk(answer[:30])
    await received.chunk(answer[30:], more=False)


async def evented(received: Request, answer: bytes) -> None:
    """Answer by an event, after a comment."""
    await received.start(**EVENTS)
    await received.chunk(b": hello\n\nid: 7\ndata: " + answer[:40])
    await received.chunk(answer[40:] + b"\n\n", more=False)


@pytest.mark.parametrize("way", [whole, chunked, evented])
async def test_a_server_that_asks_keeps_the_agreement_for_its_own_round_alone(
    gateway: Gateway, upstream: ScriptedUpstream, way: Any
) -> None:
    async def asking(received: Request) -> None:
        params = received.message["params"]
        result: Any = {"resultType": "input_required", "requestState": "round 1"}
        if "requestState" in params:
            result = {"resultType": "complete", "content": [], "got": params}
        await way(received, orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": result}))

    upstream.behaviour = asking
    asked = await ask(gateway, CALL)
    first = await ask(gateway, repeated(asked))
    state = first["result"]["requestState"]
    own = {**CALL, "inputResponses": {"confirm": 1}, "requestState": state}

    stripped = await ask(gateway, own | {"requestState": state.partition("~")[0]})
    moved = await ask(gateway, own | {"requestState": state.replace("round 1", "round 2")})
    done = await ask(gateway, own)
    again = await ask(gateway, own)

    assert state.endswith("~round 1")
    assert done["result"]["got"]["requestState"] == "round 1"
    assert done["result"]["got"]["inputResponses"] == {"confirm": 1}
    assert [one["error"]["data"]["error"] for one in (stripped, moved, again)] == [
        "state_mismatch"
    ] * 3
    assert len(calls(upstream)) == 2


async def test_an_agreement_goes_with_a_parked_call_to_the_worker_that_has_it(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    asking = Asking()
    upstream.behaviour = asking.server
    address = await stack.enter_async_context(serve(upstream)) + "/mcp"
    route = route_to(address, eras=frozenset({Era.LEGACY}))
    workers = FakeWorkers()
    first = await start_gateway(route, peers=workers.peer("aaaaaaaa"))
    second = await start_gateway(route, peers=workers.peer("bbbbbbbb"))
    workers.serve({"aaaaaaaa": first.endpoint, "bbbbbbbb": second.endpoint})

    asked = await ask(first, CALL)
    parked = await ask(first, repeated(asked))
    answers = {"input": {"action": "accept", "content": {"n": 1}}}
    state = parked["result"]["requestState"]
    done = await ask(second, {**CALL, "inputResponses": answers, "requestState": state})
    again = await ask(first, {**CALL, "inputResponses": answers, "requestState": state})

    assert done["result"]["said"] == [answers["input"]]
    assert again["error"]["data"]["error"] == "state_mismatch"
    assert workers.forwarded == ["aaaaaaaa"]


async def test_a_caller_who_must_authorise_the_registry_does_so_after_confirming(
    start_gateway: StartGateway, url: str, upstream: ScriptedUpstream
) -> None:
    route = route_to(url, headers={})
    server = make_oauth_server(route.server_id, url)
    gateway = await start_gateway(route_to(url, headers={}, oauth=server))
    forms: Any = {"elicitation": {"form": {}, "url": {}}}

    async def send(params: Any) -> Any:
        message, headers = modern("tools/call", params, **forms)
        return (await gateway.post(message, **headers)).json()

    asked = await send(CALL)
    link = await send(repeated(asked))
    gateway.routes.tokens.give(ALICE.user_id, route.server_id, "t-alice")
    visited = {
        "inputResponses": {"authorize": {"action": "accept"}},
        "requestState": link["result"]["requestState"],
    }
    done = await send({**CALL, **visited})

    assert [*link["result"]["inputRequests"]] == ["authorize"]
    assert done["result"]["got"]["params"]["arguments"] == CALL["arguments"]
    assert len(calls(upstream)) == 1


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        "accept",
        {},
        {"action": ["accept"]},
        {"action": "accept", "content": None},
        {"action": "accept", "content": {"confirm": "true"}},
        {"action": "accept", "content": {"confirm": 1}},
        {"action": "agree", "content": {"confirm": True}},
    ],
)
async def test_whatever_is_no_agreement_is_none(
    gateway: Gateway, upstream: ScriptedUpstream, result: Any
) -> None:
    session = await begin(gateway)

    async with calling(gateway, session) as told:
        await respond(gateway, session, await told.next(), result)
        answer = await told.next()
    asked = await ask(gateway, CALL)
    repetition = await ask(gateway, repeated(asked) | {"inputResponses": {"confirm": result}})

    assert answer is not None
    assert answer["result"]["isError"]
    assert "error" in repetition or repetition["result"]["resultType"] == "input_required"
    assert calls(upstream) == []


async def test_a_client_whose_program_fails_to_ask_ends_the_call(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await begin(gateway)

    async with calling(gateway, session) as told:
        question = await told.next()
        assert question is not None
        error = {"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "x"}}
        await gateway.http.post("/mcp/demo", json=error, headers=session)
        answer = await told.next()

    assert "with an error" in orjson.dumps(answer).decode()
    assert calls(upstream) == []


class NeverEnding(StreamGuard):
    """Ends nothing."""

    def __init__(self) -> None:
        pass

    @override
    def until_ended(
        self, exchange: GatewayRequest, route: Route | None
    ) -> Callable[[], Awaitable[Exception]]:
        async def forever() -> Exception:
            await asyncio.Event().wait()
            return ClientGone()

        return forever


async def test_a_stream_that_waits_is_kept_open_and_callers_hold_so_many() -> None:
    sent: asyncio.Queue[Message] = asyncio.Queue()
    never = asyncio.Event()

    async def receive() -> Message:
        await never.wait()
        return {}

    def exchange() -> GatewayRequest:
        scope = {"path": "/mcp/demo", "method": "POST"}
        return GatewayRequest(scope, receive, sent.put)

    questions = ClientQuestions(
        NeverEnding(),
        SingleWorker("worker00"),
        INSTANCE,
        LatencyWatcher(),
        timeout_seconds=60,
        keep_alive_seconds=0,
    )
    with ExitStack() as held:
        for _ in range(MAX_HELD_PER_CALLER - 1):
            held.enter_context(questions.hold(exchange(), ALICE, 60))
        asking = asyncio.ensure_future(questions.ask(exchange(), ALICE, {}))
        messages = [await sent.get() for _ in range(4)]
        with pytest.raises(TooManyQuestions):
            await questions.ask(exchange(), ALICE, {})
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    with questions.hold(exchange(), ALICE, 60):
        pass

    assert messages[0]["type"] == "http.response.start"
    assert [message.get("body") for message in messages[2:]] == [KEEP_ALIVE, KEEP_ALIVE]


async def test_one_of_many_replicas_lets_a_state_count(database: Database) -> None:
    clock = FakeClock(SystemClock().now())
    replicas = [SpentStates(SpentStateRepository(database), clock) for _ in range(4)]

    counted = await asyncio.gather(
        *(replica.spend("nonce", timedelta(minutes=1)) for replica in replicas * 3)
    )

    assert sorted(counted) == [False] * 11 + [True]


async def test_the_time_that_a_user_takes_is_no_time_of_the_call(
    start_gateway: StartGateway, url: str
) -> None:
    clock = FakeClock()
    gateway = await start_gateway(route_to(url), clock=clock)
    session = await begin(gateway)

    async with calling(gateway, session) as told:
        question = await told.next()
        clock.move(60)
        await respond(gateway, session, question)
        await told.next()
    await until(lambda: gateway.in_flight == 0)

    [call] = [one for one in gateway.notes.calls if one.method == "tools/call"]
    assert call.decided_at - call.began_at == 0


async def test_a_caller_whose_token_is_withdrawn_while_they_think_is_refused(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await begin(gateway)

    async with calling(gateway, session) as told:
        question = await told.next()
        weak = replace(ALICE, scopes=frozenset({Scope.READ_TOOLS}))
        gateway.authenticate.change(weak)
        await respond(gateway, session, question)
        answer = await told.next()

    assert "invoke:tools" in orjson.dumps(answer).decode()
    assert calls(upstream) == []


async def test_a_long_answer_to_a_confirmed_call_passes_in_pieces(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    text = '"input_required"' * 40_000
    asked = await ask(gateway, CALL)

    async def long(received: Request) -> None:
        result = {"resultType": "complete", "content": [{"type": "text", "text": text}]}
        await chunked(received, orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": result}))

    upstream.behaviour = long
    answer = await ask(gateway, repeated(asked))

    assert answer["result"]["content"][0]["text"] == text


async def test_while_the_database_is_away_no_state_counts(
    start_gateway: StartGateway, url: str, upstream: ScriptedUpstream
) -> None:
    class Away(SpentStateRepository):
        def __init__(self) -> None:
            pass

        @override
        async def insert(self, nonce: str, expires_at: datetime) -> bool:
            raise DatabaseUnavailable

    spent = SpentStates(Away(), SystemClock())
    gateway = await start_gateway(route_to(url), spent_states=spent)

    asked = await ask(gateway, CALL)
    answer = await ask(gateway, repeated(asked))

    assert answer["error"]["code"] == 503
    assert calls(upstream) == []
