"""What the gateway does while its process is on its way out."""

import asyncio
from typing import Any

import orjson
import pytest
from mcp_types import SubscriptionsListenResult
from starlette.types import Message

from registry.gateway.errors import NotServing, ShuttingDown
from registry.gateway.transport.forwarder import (
    SUBSCRIPTION_ID,
    StreamTermination,
    stream_termination,
)
from tests.gateway.conftest import Gateway, head, request
from tests.gateway.failing import error_of, outcome
from tests.gateway.fakes import Behaviour, Request, ScriptedUpstream

MODERN = {"mcp_protocol_version": "2026-07-28"}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def begin(gateway: Gateway) -> None:
    gateway.drain.begin()


async def test_a_call_in_flight_is_answered(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    async def slow(received: Request) -> None:
        begun.set()
        await released.wait()
        await received.result({})

    upstream.behaviour = slow

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        call = group.create_task(gateway.call())
        await begun.wait()
        begin(gateway)
        released.set()

    assert (call.result().status_code, call.result().json()["result"]) == (200, {})


async def test_a_new_request_is_told_to_go_elsewhere(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    begin(gateway)

    called = await gateway.call()
    listened = await gateway.http.get("/mcp/demo", headers=head())

    assert [outcome(called), outcome(listened)] == [503, 503]
    assert called.json()["id"] == 1
    assert error_of(called)["data"]["error"] == "service_unavailable"
    assert {got.headers["connection"] for got in (called, listened)} == {"close"}
    assert all(int(got.headers["retry-after"]) > 0 for got in (called, listened))
    assert upstream.requests == []


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "id": 9, "result": {"action": "accept"}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
    ],
)
async def test_what_belongs_to_calls_in_flight_still_passes(
    gateway: Gateway, upstream: ScriptedUpstream, message: dict[str, Any]
) -> None:
    async def take(received: Request) -> None:
        await received.answer(202, b"")

    upstream.behaviour = take
    begin(gateway)

    taken = await gateway.post(message)

    assert taken.status_code == 202
    assert [orjson.loads(each.body) for each in upstream.requests] == [message]


async def test_a_standing_stream_ends_in_good_order(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = _stream(b"data: {}\n\n")

    async with asyncio.timeout(30), gateway.http.stream("GET", "/mcp/demo", headers=head()) as got:
        pieces = []
        async for piece in got.aiter_bytes():
            pieces.append(piece)
            begin(gateway)

    assert pieces == [b"data: {}\n\n"]


async def test_a_subscription_ends_with_its_result(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    event = b'data: {"jsonrpc":"2.0","method":"notifications/x"}\r\n\r\n'

    last = await _listen(gateway, upstream, event)

    message = orjson.loads(last.removeprefix(b"event: message\ndata: "))
    assert last.endswith(b"\n\n")
    assert (message["id"], message["jsonrpc"]) == ("s", "2.0")
    result = SubscriptionsListenResult.model_validate(message["result"])
    assert (result.meta or {})[SUBSCRIPTION_ID] == "s"


async def test_a_subscription_that_stands_within_an_event_just_ends(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    last = await _listen(gateway, upstream, b'data: {"jsonrpc":"2.0",')

    assert last == b""


async def _listen(gateway: Gateway, upstream: ScriptedUpstream, first: bytes) -> bytes:
    """Return what came after the first piece of a subscription that the drain ended."""
    upstream.behaviour = _stream(first)
    body = orjson.dumps(
        request("subscriptions/listen", {"notifications": {}, "_meta": META}, request_id="s")
    )
    headers = head(**MODERN, mcp_method="subscriptions/listen")
    pieces: list[bytes] = []
    async with (
        asyncio.timeout(30),
        gateway.http.stream("POST", "/mcp/demo", content=body, headers=headers) as got,
    ):
        assert got.status_code == 200, await got.aread()
        async for piece in got.aiter_bytes():
            pieces.append(piece)
            begin(gateway)
    assert pieces[0] == first
    return b"".join(pieces[1:])


def _stream(first: bytes) -> Behaviour:
    """Return an upstream's answer: an event stream that stays open after *first*."""

    async def behave(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.chunk(first)
        await received.wait_for_disconnect()

    return behave


@pytest.mark.parametrize(
    ("pieces", "is_between"),
    [
        ([], True),
        ([b"data: 1\n\n"], True),
        ([b"data: 1\r\n\r", b"\n"], True),
        ([b"data: 1\n", b"\n"], True),
        ([b"data: 1\r\r"], True),
        ([b"data: 1\n"], False),
        ([b"data: 1\n\n", b"d"], False),
        ([b"data: 1\r\n"], False),
    ],
)
async def test_it_is_known_where_an_event_ends(pieces: list[bytes], *, is_between: bool) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    stream = StreamTermination(send)
    for piece in pieces:
        await stream({"type": "http.response.body", "body": piece, "more_body": True})

    assert (stream.is_between_events, len(sent)) == (is_between, len(pieces))
    assert bool(stream_termination(stream, ShuttingDown(), 1)) is is_between
    assert stream_termination(stream, NotServing("other"), 1) == b""
    assert stream_termination(None, ShuttingDown(), 1) == b""
