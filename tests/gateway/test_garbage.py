"""What a request leaves behind goes when it ends: nothing waits for the garbage collector."""

import asyncio
import gc
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest

from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.transport.bulkhead import Permit
from registry.gateway.transport.call_watch import CallWatch, ClientGone
from registry.gateway.transport.forwarder import ClientChannel
from registry.http.client.exchange import UpstreamAnswer
from registry.http.server.cycle import Cycle
from tests.gateway import test_questions as questions
from tests.gateway.conftest import Gateway, head, request
from tests.gateway.fakes import Behaviour, Request, ScriptedUpstream
from tests.kit.waiting import until

ROUNDS = 3
OF_REQUESTS = {
    CallWatch,
    ClientChannel,
    ClientGone,
    Cycle,
    Envelope,
    GatewayRequest,
    Permit,
    UpstreamAnswer,
}
"""Made for each request."""


def left_over() -> set[str]:
    """Return which of what requests are made of only the collector can free."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        types = {type(item) for item in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    return {kind.__name__ for kind in types & OF_REQUESTS}


async def settled(gateway: Gateway) -> None:
    await until(lambda: not gateway.in_flight, 5)


@pytest.mark.usefixtures("no_collector")
async def test_calls_leave_nothing(gateway: Gateway) -> None:
    for _ in range(ROUNDS):
        await gateway.call()
        await gateway.call("unheard-of")
        await gateway.post(request("tools/list"))
        await gateway.post(b"no message")
    await settled(gateway)

    assert left_over() == set()


async def fall_silent(received: Request) -> None:
    await received.wait_for_disconnect()


async def break_off(_received: Request) -> None:
    raise OSError("no answer")


async def break_off_within(received: Request) -> None:
    await received.start(content_type="application/json")
    await received.chunk(b"{")
    raise OSError("half an answer")


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("behaviour", [fall_silent, break_off, break_off_within])
async def test_an_upstream_that_fails_leaves_nothing(
    gateway: Gateway, upstream: ScriptedUpstream, behaviour: Behaviour
) -> None:
    upstream.behaviour = behaviour
    route = gateway.routes.routes["demo"]
    gateway.routes.replace(replace(route, first_byte_timeout_seconds=0.1))

    for _ in range(ROUNDS):
        with suppress(httpx.HTTPError):
            await gateway.call()
    await settled(gateway)

    assert left_over() == set()


@pytest.mark.usefixtures("no_collector")
async def test_a_client_that_leaves_leaves_nothing(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def never_end(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.chunk(b": hello\n\n")
        await received.wait_for_disconnect()

    upstream.behaviour = never_end
    for path in ("/mcp/demo", "/mcp"):
        for _ in range(ROUNDS):
            headers = head()
            if path == "/mcp":
                hello = {"protocolVersion": "2025-06-18", "capabilities": {}}
                begun = await gateway.post(request("initialize", hello), slug="")
                headers["mcp-session-id"] = begun.headers["mcp-session-id"]
            async with (
                asyncio.timeout(30),
                gateway.http.stream("GET", path, headers=headers) as got,
            ):
                assert got.status_code == 200
                if path != "/mcp":
                    await anext(got.aiter_raw())
    await settled(gateway)

    assert left_over() == set()


@pytest.mark.usefixtures("no_collector")
async def test_confirmed_calls_leave_nothing(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.behaviour = questions.sessions
    route = questions.route_to(gateway.routes.routes["demo"].url)
    gateway.routes.replace(route)
    session = await questions.begin(gateway)

    for _ in range(ROUNDS):
        async with questions.calling(gateway, session) as told:
            await questions.respond(gateway, session, await told.next())
            await told.next()
        asked = await questions.ask(gateway, questions.CALL)
        await questions.ask(gateway, questions.repeated(asked))
    await settled(gateway)

    assert len(questions.calls(upstream)) == 2 * ROUNDS
    assert left_over() == set()
