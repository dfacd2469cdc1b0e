"""Requests that come back to the gateway that sent them, and what other gateways are told."""

from contextlib import AsyncExitStack

import orjson

from registry.core.definitions import LISTED_VIA
from registry.core.json import JsonObject
from registry.servers.values import Era
from tests.gateway.conftest import INSTANCE, Gateway, StartGateway, head, request
from tests.gateway.fakes import ScriptedUpstream, make_route
from tests.gateway.serving import serve

OTHER = "mcp-gateway-registry-00112233445566aa"


async def test_a_request_that_was_here_before_is_refused_with_its_id(gateway: Gateway) -> None:
    answer = await gateway.post(request("tools/call", {"name": "echo"}, 7), via=INSTANCE.via)

    error = answer.json()["error"]
    assert (answer.json()["id"], error["code"]) == (7, 508)
    assert error["message"].startswith("Loop detected")
    assert error["data"]["error"] == "loop_detected"


async def test_it_is_recognised_behind_other_gateways_and_proxies(gateway: Gateway) -> None:
    passed = f"{INSTANCE.via}, 1.1 nginx, 1.1 {OTHER}"

    for user in ("alice", None):
        answer = await gateway.post(request("prompts/list"), user=user, via=passed)
        assert answer.json()["error"]["code"] == 508
    combined = await gateway.http.get("/mcp", headers=head(via=passed))
    assert combined.json()["error"]["code"] == 508


async def test_replicas_with_an_earlier_key_are_recognised() -> None:
    replica = type(INSTANCE).of([b"new" * 11, b"old" * 11])

    assert replica.sent(type(INSTANCE).of([b"old" * 11]).via)
    assert not type(INSTANCE).of([b"old" * 11]).sent(replica.via)


async def test_servers_are_told_who_asks_after_those_that_it_came_through(
    gateway: Gateway, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    url = gateway.routes.routes["demo"].url
    ours = await start_gateway(make_route(url, via=INSTANCE.via))

    await ours.call(via="1.1 proxy")

    lines = [value for name, value in upstream.requests[0].headers.items() if name == "via"]
    assert lines[-1] == INSTANCE.via


async def test_a_crossing_tells_servers_the_same(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    upstream = ScriptedUpstream()
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=frozenset({Era.MODERN}), via=INSTANCE.via)
    gateway: Gateway = await start_gateway(route)

    await gateway.call(via=f"1.1 {OTHER}")

    assert upstream.requests[0].headers["via"] == f"1.1 {OTHER}, {INSTANCE.via}"


async def test_only_gateways_are_told_that_tools_were_listed_here(gateway: Gateway) -> None:
    listed = []
    for path in ("/mcp", "/mcp/demo"):
        for via in (f"1.1 {OTHER}", INSTANCE.via, "1.1 Caddy"):
            answer = await gateway.http.post(
                path, content=orjson.dumps(request("tools/list")), headers=head(via=via)
            )
            listed.append(answer.json()["result"]["tools"][0].get("_meta"))

    marked = {LISTED_VIA: [INSTANCE.id]}
    assert listed == [marked, marked, None] * 2


def test_what_was_listed_before_keeps_the_gateways_it_came_through() -> None:
    tool: JsonObject = {"name": "a", "_meta": {"kept": 1, LISTED_VIA: [OTHER]}}

    INSTANCE.mark(tool)

    assert tool["_meta"] == {"kept": 1, LISTED_VIA: [INSTANCE.id, OTHER]}
    assert INSTANCE.without_own([tool, {"name": "b"}, "odd"]) == ({"name": "b"}, "odd")
