"""Servers that quote the credentials that they were asked with."""

import base64
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

from registry.gateway.transport.forwarder import WHOLE_BODY_BYTES
from registry.servers.values import Era
from tests.gateway.conftest import StartGateway, request
from tests.gateway.eras import LegacyServer, modern
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

KEY = "sk-sentinel/1234+5678"
BASIC = base64.b64encode(b"robot:pass-sentinel").decode()
HEADERS = {"Authorization": f"Basic {BASIC}", "X-Api-Key": KEY}
QUOTED = (
    f"{KEY} Basic {BASIC} robot:pass-sentinel pass-sentinel "
    + KEY.replace("/", "%2F").replace("+", "%2B")
    + " "
    + base64.b64encode(KEY.encode()).decode()
)
SECRETS = (
    KEY,
    BASIC,
    "pass-sentinel",
    "sk-sentinel",
    base64.b64encode(KEY.encode()).decode()[:-4],
)
CALL: dict[str, Any] = {"name": "echo", "arguments": {}}
EVENT_STREAM: dict[str, str] = {"content_type": "text/event-stream"}


def failure(kind: str, request_id: Any) -> bytes:
    outcome: dict[str, Any] = (
        {"error": {"code": -32001, "message": f"refused {QUOTED}"}}
        if kind == "error"
        else {"result": {"content": [{"type": "text", "text": QUOTED}], "isError": True}}
    )
    text = orjson.dumps({"jsonrpc": "2.0", "id": request_id, **outcome})
    return text.replace(b"/", b"\\/") if kind == "escaped" else text


@pytest.mark.parametrize("kind", ["error", "tool", "escaped"])
@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("form", ["whole", "stream"])
@pytest.mark.parametrize("path", ["demo", ""])
@pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN])
async def test_an_error_is_told_without_the_credentials_that_were_sent(
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    *,
    kind: str,
    status: int,
    form: str,
    path: str,
    era: Era,
) -> None:
    async def on(received: Request) -> None:
        text = failure(kind, received.message["id"])
        if form == "whole":
            await received.answer(status, text)
            return
        await received.start(status, **EVENT_STREAM)
        await received.chunk(b"event: message\ndata: " + text + b"\n\n", more=False)

    upstream.behaviour = LegacyServer(on) if era is Era.LEGACY else on
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(make_route(f"{url}/mcp", eras=frozenset({era}), headers=HEADERS))
    name = "echo" if path else "demo__echo"
    message, headers = modern("tools/call", {**CALL, "name": name})

    as_modern = await gateway.post(message, slug=path, **headers)
    as_legacy = await gateway.post(request("tools/call", {**CALL, "name": name}), slug=path)

    told = as_modern.text + as_legacy.text
    assert [secret for secret in SECRETS if secret in told] == []
    assert "****" not in told


async def test_a_long_error_is_cut_without_telling_how_long_the_credentials_are(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def on(received: Request) -> None:
        error = {"code": -32001, "message": f"{'.' * 2 * WHOLE_BODY_BYTES} {KEY}"}
        await received.answer(500, orjson.dumps({"jsonrpc": "2.0", "id": 1, "error": error}))

    upstream.behaviour = on
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(make_route(f"{url}/mcp", headers=HEADERS))

    answer = await gateway.call()

    assert answer.json()["error"]["message"].endswith(". ***")


async def test_a_result_that_is_no_error_passes_as_it_is(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [], "said": KEY}})

    async def on(received: Request) -> None:
        await received.answer(200, body)

    upstream.behaviour = on
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(make_route(f"{url}/mcp", headers=HEADERS))

    assert (await gateway.call()).content == body
