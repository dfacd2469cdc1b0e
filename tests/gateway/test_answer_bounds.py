"""How large an answer, and how long a silence, may be."""

import asyncio
from contextlib import AsyncExitStack

import orjson
import pytest

from registry.core.settings import Settings
from registry.servers.values import Era
from tests.gateway.conftest import Gateway, StartGateway, request
from tests.gateway.eras import EVENTS, event
from tests.gateway.failing import error_of
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

CALL = request("tools/call", {"name": "demo__echo", "arguments": {}})
LARGE = 20 * 1024 * 1024


def saying(characters: int, *, is_stream: bool) -> ScriptedUpstream:
    """Return an upstream of the handshake's era whose tool says as much."""

    async def behave(received: Request) -> None:
        message = received.message if received.method == "POST" else {}
        if message.get("method") == "initialize":
            await received.result({"protocolVersion": "2025-11-25", "capabilities": {}})
        elif "id" not in message:
            await received.answer(202 if message else 405, b"")
        else:
            content = [{"type": "text", "text": "x" * characters}]
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": content}}
            if is_stream:
                await received.start(200, **EVENTS)
                await received.chunk(event(answer), more=False)
            else:
                await received.answer(200, orjson.dumps(answer))

    return ScriptedUpstream(behave)


@pytest.mark.parametrize("form", ["stream", "JSON"])
async def test_an_event_may_be_as_large_as_any_answer(
    stack: AsyncExitStack, start_gateway: StartGateway, form: str
) -> None:
    url = await stack.enter_async_context(serve(saying(LARGE, is_stream=form == "stream")))
    route = make_route(f"{url}/mcp", eras=frozenset({Era.LEGACY}))
    gateway: Gateway = await start_gateway(route)
    bounded: Gateway = await start_gateway(route, gateway_max_response_bytes=1024)

    passed = await gateway.post(CALL, slug="")
    refused = await bounded.post(CALL, slug="")

    assert len(passed.json()["result"]["content"][0]["text"]) == LARGE
    assert "GATEWAY_MAX_RESPONSE_BYTES" in error_of(refused)["message"]


@pytest.mark.parametrize("slug", ["demo", ""])
async def test_a_servers_own_timeout_may_be_longer_than_that_of_all(
    gateway: Gateway, start_gateway: StartGateway, upstream: ScriptedUpstream, slug: str
) -> None:
    late = asyncio.Event()

    async def silent(received: Request) -> None:
        asyncio.get_running_loop().call_later(0.4, late.set)
        await late.wait()
        await received.result({"content": []})

    upstream.behaviour = silent
    url = gateway.routes.routes["demo"].url
    patient: Gateway = await start_gateway(
        make_route(
            url, eras=frozenset({Era.MODERN} if not slug else Era), idle_timeout_seconds=5.0
        ),
        gateway_total_timeout_seconds=0.1,
    )
    hasty: Gateway = await start_gateway(make_route(url, idle_timeout_seconds=0.1))
    call = CALL if not slug else request("tools/call", {"name": "echo", "arguments": {}})

    answered = await patient.post(call, slug=slug)
    late.clear()
    given_up = await hasty.post(call, slug=slug)

    assert answered.json()["result"] == {"content": []}
    assert error_of(given_up)["code"] == 504


def test_silence_is_not_cut_before_the_whole_is() -> None:
    fields = Settings.model_fields

    assert (
        fields["gateway_first_byte_timeout_seconds"].default
        == fields["gateway_idle_timeout_seconds"].default
        == fields["gateway_total_timeout_seconds"].default
    )
