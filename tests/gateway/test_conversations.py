"""Conversations with servers, as playbooks: what goes upstream, and what comes of it."""

from typing import Any

import pytest
from aiohttp import ClientPayloadError

from registry.gateway.client.conversations import converse
from registry.gateway.client.sessions import SessionLimits, SessionOwner
from registry.gateway.errors import NoJsonRpcAnswer, NotServing, UpstreamFailed
from registry.gateway.protocol.messages import Message, MessageKind
from registry.gateway.values import Route
from registry.servers.values import Era, Transport
from tests.fakes.scripted_wire import (
    Line,
    ScriptedAnswer,
    ScriptedWire,
    SentRequest,
    body,
    legacy_session,
    result,
    stream,
    taken,
)
from tests.gateway.fakes import FakeRoutes, make_route
from tests.gateway.offline import make_ask, make_connector

DONE: dict[str, Any] = {"content": []}
OLD, NEW = make_route(eras=frozenset({Era.LEGACY})), make_route(eras=frozenset({Era.MODERN}))
SSE = make_route(eras=frozenset({Era.LEGACY}), transport=Transport.SSE)
LOST = body(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Unknown."}}', 404)


async def exchange(wire: ScriptedWire, route: Route, era: Era = Era.LEGACY) -> Message:
    """Hold one conversation, and return its last message."""
    connector = make_connector(wire, FakeRoutes(route))
    conversation = await converse(connector, make_ask(route, era))
    try:
        while (message := await conversation.next()).kind is not MessageKind.ANSWER:
            pass
        return message
    finally:
        await conversation.close()


async def test_a_stateless_server_is_asked_at_once_and_named_all_it_needs() -> None:
    wire = ScriptedWire(result(DONE))

    answer = await exchange(wire, NEW, Era.MODERN)

    [sent] = wire.sent
    assert answer.body["result"] == DONE
    assert (sent.headers["Mcp-Method"], sent.headers["Mcp-Name"]) == ("tools/call", "echo")
    assert sent.message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == (
        "2026-07-28"
    )


async def test_a_session_is_begun_once_and_used_again() -> None:
    wire = ScriptedWire(*legacy_session(), result(DONE), result(DONE))
    connector = make_connector(wire, FakeRoutes(OLD))

    for _ in range(2):
        conversation = await converse(connector, make_ask(OLD))
        await conversation.next()
        await conversation.close()

    assert wire.rpcs == ["initialize", "notifications/initialized", "tools/call", "tools/call"]
    assert [sent.headers.get("mcp-session-id") for sent in wire.sent] == [None, "s1", "s1", "s1"]


async def test_a_forgotten_session_is_begun_again_and_the_call_repeated_once() -> None:
    wire = ScriptedWire(*legacy_session("s1"), LOST, *legacy_session("s2"), result(DONE))

    answer = await exchange(wire, OLD)

    assert answer.body["result"] == DONE
    assert [sent.headers.get("mcp-session-id") for sent in wire.sent] == [
        *(None, "s1", "s1"),
        *(None, "s2", "s2"),
    ]


async def test_a_server_that_forgets_each_session_is_not_asked_for_ever() -> None:
    wire = ScriptedWire(*legacy_session("s1"), LOST, *legacy_session("s2"), LOST)

    answer = await exchange(wire, OLD)

    assert answer.body["error"]["message"] == "Unknown."
    assert wire.rpcs.count("tools/call") == 2


async def test_a_session_that_a_call_still_uses_is_not_ended_for_another_person() -> None:
    wire = ScriptedWire(*legacy_session(), stream(is_open=True))
    limits = SessionLimits(total=1, per_server=9, per_user=9, idle_seconds=9)
    connector = make_connector(wire, FakeRoutes(OLD), limits=limits)
    conversation = await converse(connector, make_ask(OLD))

    with pytest.raises(NotServing):
        await converse(connector, make_ask(OLD, owner=SessionOwner("bob")))
    wire.answers[2].say({"jsonrpc": "2.0", "id": conversation.request_id, "result": DONE})

    assert (await conversation.next()).body["result"] == DONE
    assert "DELETE" not in wire.rpcs
    await conversation.close()


def cut_off(*messages: object) -> Line:
    """Answer with events that have ids, and break off."""

    def line(sent: SentRequest) -> ScriptedAnswer:
        found = stream(*messages, is_open=True)(sent)
        found.body.feed(b"id: 41\nretry: 10\ndata:\n\n")
        found.body.fail(ClientPayloadError("cut off"))
        return found

    return line


async def test_an_answer_that_breaks_off_is_fetched_from_its_last_event_on() -> None:
    rest = ScriptedAnswer(200, {"content-type": "text/event-stream"})
    wire = ScriptedWire(*legacy_session(), cut_off(), lambda _: rest)
    connector = make_connector(wire, FakeRoutes(OLD))
    conversation = await converse(connector, make_ask(OLD))
    rest.say({"jsonrpc": "2.0", "id": conversation.request_id, "result": DONE})

    answer = await conversation.next()
    await conversation.close()

    assert answer.body["result"] == DONE
    assert (wire.sent[3].method, wire.sent[3].headers["last-event-id"]) == ("GET", "41")


async def test_an_answer_of_another_request_is_none() -> None:
    wire = ScriptedWire(stream({"jsonrpc": "2.0", "id": "another", "result": DONE}))

    with pytest.raises(UpstreamFailed, match="broke off its answer"):
        await exchange(wire, NEW, Era.MODERN)


@pytest.mark.parametrize("text", [b"{}", b"[]", b"true"])
async def test_a_body_that_is_no_answer_is_the_servers_failure(text: bytes) -> None:
    with pytest.raises(NoJsonRpcAnswer):
        await exchange(ScriptedWire(body(text)), NEW, Era.MODERN)


async def test_an_sse_server_is_spoken_to_at_the_endpoint_that_it_names() -> None:
    channel = ScriptedAnswer(200, {"content-type": "text/event-stream"})
    channel.body.feed(b"event: endpoint\ndata: /messages?id=1\n\n")

    def hello(sent: SentRequest) -> ScriptedAnswer:
        channel.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": {}})
        return taken()(sent)

    def call(sent: SentRequest) -> ScriptedAnswer:
        channel.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": DONE})
        return taken()(sent)

    wire = ScriptedWire(lambda _: channel, hello, taken(), call)

    answer = await exchange(wire, SSE)

    assert answer.body["result"] == DONE
    assert {sent.url for sent in wire.sent[1:]} == {"http://127.0.0.1:9/messages?id=1"}
    assert channel.is_closed
