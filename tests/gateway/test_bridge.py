"""The bridge between client and server, as playbooks: no socket, no other task."""

import asyncio
from datetime import timedelta
from typing import Any

import orjson
import pytest

from registry.core.background_tasks import BackgroundTasks
from registry.core.latency_watcher import LatencyWatcher
from registry.core.metrics import Metrics
from registry.gateway.aggregate.bridge import ClientBridge, ClientRequest
from registry.gateway.edge.client_sessions import ClientContext, ClientSession
from registry.gateway.edge.session_seal import SessionSeal
from registry.gateway.errors import AnswerUnwanted, StateUnknown, UpstreamFailed
from registry.gateway.protocol.envelope import read_envelope
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.view.offering import SingleOffering
from registry.servers.values import Era
from registry.workers.peers import SingleWorker
from tests.conftest import ALICE, BOB
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.clock import FakeClock
from tests.fakes.scripted_wire import (
    Line,
    ScriptedWire,
    legacy_session,
    result,
    stream,
    taken,
)
from tests.gateway.conftest import request
from tests.gateway.fakes import FakeRoutes, make_route
from tests.gateway.offline import make_ask, make_connector

LEGACY, MODERN = frozenset({Era.LEGACY}), frozenset({Era.MODERN})
CAPABILITIES: dict[str, Any] = {"elicitation": {}, "roots": {}}
SESSION = ClientSession("sealed", "nonce", "2025-03-26", CAPABILITIES)
OLD_CLIENT = ClientContext(
    user=ALICE, era=Era.LEGACY, capabilities=CAPABILITIES, info={}, session=SESSION
)
NEW_CLIENT = ClientContext(user=ALICE, era=Era.MODERN, capabilities=CAPABILITIES, info={})
ELICITATION = {"method": "elicitation/create", "params": {"message": "Name?"}}
DONE = {"content": [{"type": "text", "text": "done"}]}


class Bridged:
    """A bridge to a server that follows a playbook."""

    def __init__(self, eras: frozenset[Era], *playbook: Line) -> None:
        self.wire = ScriptedWire(*playbook)
        self.route = make_route(eras=eras)
        self.tasks = BackgroundTasks()
        self.to_sync: list[str] = []
        clock, peers, routes = FakeClock(), SingleWorker("worker00"), FakeRoutes(self.route)
        connector = make_connector(self.wire, routes, tasks=self.tasks, clock=clock)
        seal = SessionSeal([b"k" * 32], lifetime=timedelta(hours=1), clock=clock)
        self.bridge = ClientBridge(
            connector,
            LatencyWatcher(),
            seal,
            peers,
            self.tasks,
            clock,
            total_timeout_seconds=60,
            announced_lists=AnnouncedLists(routes, clock, Metrics(), self.to_sync.append),
        )

    async def ask(
        self, caller: ClientContext, client: AsgiClient, params: dict[str, Any] | None = None
    ) -> None:
        """Forward a call of *caller*, and answer *client*."""
        await self.bridge.ask(
            ClientRequest(
                client.exchange,
                read_envelope(orjson.dumps(client.message), client.message),
                caller,
                SingleOffering(self.route),
            ),
            make_ask(
                self.route,
                caller.era,
                params=params or {"name": "echo", "arguments": {}},
                capabilities=caller.capabilities,
            ),
        )

    async def answer(self, question: dict[str, Any], **answer: Any) -> None:
        """Answer a question as the client does: by another request."""
        _, worker, token, key = self.bridge.answer_address(ALICE, question["id"])
        await self.bridge.deliver(worker, token, key, answer)


def call() -> AsgiClient:
    return AsgiClient(request("tools/call", {"name": "echo", "arguments": {}}, 7))


async def test_an_answer_gets_the_clients_id() -> None:
    bridged = Bridged(MODERN, result(DONE))
    client = call()

    await bridged.ask(NEW_CLIENT, client)

    assert client.messages == [{"jsonrpc": "2.0", "id": 7, "result": DONE}]
    assert bridged.wire.answers[0].is_closed


async def test_a_server_that_needs_input_gets_what_the_client_answers() -> None:
    required = {"resultType": "input_required", "inputRequests": {"who": ELICITATION}}
    bridged = Bridged(MODERN, result({**required, "requestState": "state"}), result(DONE))
    client = call()

    asking = asyncio.ensure_future(bridged.ask(OLD_CLIENT, client))
    [question] = await client.received(1)
    await bridged.answer(question, result={"action": "accept"})
    await asking

    assert (question["method"], question["params"]) == (
        ELICITATION["method"],
        ELICITATION["params"],
    )
    assert client.messages[1]["result"]["content"] == DONE["content"]
    repeated = bridged.wire.sent[1].message["params"]
    assert repeated["inputResponses"] == {"who": {"action": "accept"}}
    assert repeated["requestState"] == "state"


async def test_a_question_of_one_caller_is_not_answered_by_another() -> None:
    required = {"resultType": "input_required", "inputRequests": {"who": ELICITATION}}
    bridged = Bridged(MODERN, result(required), result(DONE))
    client = call()

    asking = asyncio.ensure_future(bridged.ask(OLD_CLIENT, client))
    [question] = await client.received(1)
    with pytest.raises(AnswerUnwanted):
        bridged.bridge.answer_address(BOB, question["id"])
    await bridged.answer(question, result={"action": "decline"})
    await asking

    assert client.messages[1]["id"] == 7


async def test_a_server_that_asks_for_ever_is_given_up() -> None:
    again = result({"resultType": "input_required", "requestState": "state"})
    bridged = Bridged(MODERN, *([again] * 11))

    with pytest.raises(UpstreamFailed, match="more than 10 times"):
        await bridged.ask(OLD_CLIENT, call())

    assert all(answer.is_closed for answer in bridged.wire.answers)


async def test_a_conversation_is_parked_until_the_client_comes_back_with_its_answer() -> None:
    question = {"jsonrpc": "2.0", "id": "q", **ELICITATION}
    bridged = Bridged(LEGACY, *legacy_session(), stream(question, is_open=True), taken())
    first, second = call(), call()
    await bridged.ask(NEW_CLIENT, first)
    required = first.messages[0]["result"]
    params = {"name": "echo", "arguments": {}, "requestState": required["requestState"]}
    second.exchange.params = {**params, "inputResponses": {"input": {"action": "accept"}}}

    server = bridged.wire.answers[2]
    server.say({"jsonrpc": "2.0", "id": bridged.wire.sent[2].message["id"], "result": DONE})
    await bridged.ask(NEW_CLIENT, second, dict(second.exchange.params))

    assert required["inputRequests"] == {"input": ELICITATION}
    assert second.messages[0]["result"]["content"] == DONE["content"]
    assert bridged.wire.sent[3].message == {
        "jsonrpc": "2.0",
        "id": "q",
        "result": {"action": "accept"},
    }


async def test_a_parked_conversation_is_continued_once() -> None:
    question = {"jsonrpc": "2.0", "id": "q", **ELICITATION}
    bridged = Bridged(LEGACY, *legacy_session(), stream(question, is_open=True), taken(), taken())
    first, second = call(), call()
    await bridged.ask(NEW_CLIENT, first)
    state = first.messages[0]["result"]["requestState"]
    params = {"name": "echo", "arguments": {}, "requestState": state}
    second.exchange.params = {**params, "inputResponses": {"input": {"action": "accept"}}}
    server = bridged.wire.answers[2]
    server.say({"jsonrpc": "2.0", "id": bridged.wire.sent[2].message["id"], "result": DONE})
    await bridged.ask(NEW_CLIENT, second, dict(second.exchange.params))

    with pytest.raises(StateUnknown):
        await bridged.ask(NEW_CLIENT, call(), dict(second.exchange.params))


async def test_what_the_client_cannot_do_is_refused_for_it() -> None:
    question = {"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage", "params": {}}
    answer = {"jsonrpc": "2.0", "id": ..., "result": DONE}
    bridged = Bridged(LEGACY, *legacy_session(), stream(question, answer), taken())
    client = call()

    await bridged.ask(NEW_CLIENT, client)

    assert bridged.wire.sent[3].message["error"]["code"] == -32601
    assert client.messages[0]["result"]["content"] == DONE["content"]


async def test_a_list_change_during_a_call_is_heard_and_not_relayed() -> None:
    changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    report = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
    answer = {"jsonrpc": "2.0", "id": ..., "result": DONE}
    bridged = Bridged(MODERN, stream(changed, report, answer))
    client = call()

    await bridged.ask(NEW_CLIENT, client)

    assert client.messages == [report, {**answer, "id": 7}]
    assert bridged.to_sync == [bridged.route.server_id]


async def test_a_stream_that_breaks_off_is_a_failure_of_the_server() -> None:
    report = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
    bridged = Bridged(MODERN, stream(report))
    client = call()

    with pytest.raises(UpstreamFailed, match="broke off its answer"):
        await bridged.ask(NEW_CLIENT, client)

    assert client.messages == [report]
