"""Operations of REST APIs as tools at the gateway: both eras, every path, the same rules."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from registry.core.clock import SystemClock
from registry.openapi.binding import OPERATION
from registry.tools.call_rules import CallRules
from tests.gateway.conftest import Gateway, StartGateway, request, start_gateway
from tests.gateway.eras import modern
from tests.rest.serving import ITEM, ScriptedApi, api_route, api_tool, scripted_api

pytestmark = pytest.mark.integration

__all__ = ["start_gateway"]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def api(stack: AsyncExitStack) -> ScriptedApi:
    return await stack.enter_async_context(scripted_api())


@pytest.fixture
async def gateway(api: ScriptedApi, start_gateway: StartGateway) -> Gateway:
    started: Gateway = await start_gateway(api_route(api.url))
    return started


async def session_of(gateway: Gateway, slug: str) -> dict[str, str]:
    """Begin a session of the handshake's era, and return its headers."""
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "tester", "version": "1"},
    }
    begun = await gateway.post(request("initialize", hello), slug=slug)
    assert begun.status_code == 200, begun.text
    headers = {"mcp_session_id": begun.headers["mcp-session-id"]}
    headers["mcp_protocol_version"] = "2025-11-25"
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await gateway.post(ready, slug=slug, **headers)
    return headers


async def called(
    gateway: Gateway, era: str, slug: str, tool: str = "get_item", **arguments: Any
) -> Any:
    """Call a tool, and return the result."""
    name = tool if slug else f"demo__{tool}"
    params = {"name": name, "arguments": arguments}
    if era == "modern":
        message, headers = modern("tools/call", params)
    else:
        message, headers = request("tools/call", params), await session_of(gateway, slug)
    answer = await gateway.post(message, slug=slug, **headers)
    body = answer.json()
    return body.get("result", body)


def said(result: Any) -> str:
    """Return what a failed call says, in either era's form."""
    if "error" in result:
        return str(result["error"]["message"])
    assert result["isError"] is True
    return str(result["content"][0]["text"])


ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])
PATHS = pytest.mark.parametrize("slug", ["demo", ""])


@ERAS
@PATHS
async def test_a_call_of_a_tool_becomes_one_of_the_operation(
    gateway: Gateway, api: ScriptedApi, era: str, slug: str
) -> None:
    result = await called(gateway, era, slug, id="a/b", q=["x"])

    assert result.pop("resultType", "complete") == "complete"
    assert result == {
        "content": [{"type": "text", "text": '{"fine":true}'}],
        "structuredContent": {"fine": True},
        "isError": False,
    }
    (seen,) = api.seen
    assert (seen.method, seen.target) == ("GET", "/items/a%2Fb?q=x")
    assert seen.headers["Authorization"] == "Bearer upstream-secret"


@ERAS
@PATHS
async def test_an_api_gets_nothing_of_the_client_or_its_protocol(
    gateway: Gateway, api: ScriptedApi, era: str, slug: str
) -> None:
    await called(gateway, era, slug, id="7")

    (seen,) = api.seen
    assert {name.lower() for name in seen.headers} <= {
        "accept",
        "accept-encoding",
        "authorization",
        "host",
        "traceparent",
        "tracestate",
        "user-agent",
        "via",
    }
    assert "alice" not in str(seen)


@ERAS
@PATHS
async def test_tools_are_listed_without_what_only_calls_need(
    gateway: Gateway, era: str, slug: str
) -> None:
    if era == "modern":
        message, headers = modern("tools/list")
    else:
        message, headers = request("tools/list"), await session_of(gateway, slug)

    answer = await gateway.post(message, slug=slug, **headers)

    tools = answer.json()["result"]["tools"]
    assert [tool["name"].removeprefix("demo__") for tool in tools] == [
        "get_item",
        "make_item",
        "remove_item",
        "send_item",
    ]
    assert OPERATION not in answer.text
    assert all("_meta" not in tool for tool in tools)


@ERAS
async def test_what_is_listed_besides_tools_is_empty(gateway: Gateway, era: str) -> None:
    headers = {} if era == "modern" else await session_of(gateway, "demo")
    found = {}
    for method, kind in (("prompts/list", "prompts"), ("resources/list", "resources")):
        message = request(method)
        if era == "modern":
            message, headers = modern(method)
        found[kind] = (await gateway.post(message, **headers)).json()["result"][kind]

    assert found == {"prompts": [], "resources": []}


async def test_the_gateway_is_the_server_at_the_path(gateway: Gateway, api: ScriptedApi) -> None:
    headers = await session_of(gateway, "demo")
    message, modern_headers = modern("server/discover")

    pinged = await gateway.post(request("ping"), **headers)
    unknown = await gateway.post(request("prompts/get", {"name": "x"}), **headers)
    discovered = await gateway.post(message, **modern_headers)

    assert pinged.json()["result"] == {}
    assert unknown.json()["error"]["code"] == -32601
    assert "tools" in discovered.json()["result"]["capabilities"]
    assert api.seen == []


@ERAS
@PATHS
async def test_what_cannot_be_sent_is_a_failed_result_and_nothing_is_sent(
    gateway: Gateway, api: ScriptedApi, era: str, slug: str
) -> None:
    result = await called(gateway, era, slug, id="..")

    assert result["isError"] is True
    assert result["content"][0]["text"] == (
        "The argument 'id' must not hold the path segments '.' and '..'. Nothing was sent."
    )
    assert api.seen == []


@ERAS
@PATHS
async def test_an_error_of_the_api_is_a_failed_result(
    gateway: Gateway, api: ScriptedApi, era: str, slug: str
) -> None:
    async def fails(_: web.Request) -> web.Response:
        return web.json_response(
            {"sent": "Bearer upstream-secret"}, status=429, headers={"Retry-After": "9"}
        )

    api.answers = fails

    result = await called(gateway, era, slug, id="7")

    assert result["isError"] is True
    assert result["_meta"]["mcp-gateway-registry/http"] == {"status": 429, "retryAfter": "9"}
    assert "upstream-secret" not in str(result)
    assert [(call.tool, call.outcome) for call in gateway.notes.calls] == [
        ("get_item", "tool_error")
    ]


async def test_a_redirect_elsewhere_is_a_failed_result(gateway: Gateway, api: ScriptedApi) -> None:
    async def leads_away(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://evil.example/?a=b"})

    api.answers = leads_away

    result = await called(gateway, "modern", "demo", id="7")

    assert result["content"][0]["text"] == (
        "The API redirects to another origin, http://evil.example, which is not followed."
    )


@PATHS
async def test_an_api_that_cannot_be_reached_fails_as_a_server_does(
    start_gateway: StartGateway, slug: str
) -> None:
    gateway: Gateway = await start_gateway(api_route("http://127.0.0.1:9"))

    result = await called(gateway, "legacy", slug, id="7")

    assert said(result) == "The API demo cannot be reached."


@ERAS
@PATHS
async def test_an_answer_that_breaks_off_fails_as_that_of_a_server_does(
    gateway: Gateway, api: ScriptedApi, era: str, slug: str
) -> None:
    async def hang_up(answered: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(answered)
        assert answered.transport is not None
        answered.transport.abort()
        return response

    api.answers = hang_up

    result = await called(gateway, era, slug, "send_item")

    assert said(result) == "The API demo broke the connection."
    assert len(api.seen) == 1


async def test_a_key_of_the_query_is_nowhere_but_in_the_request(
    stack: AsyncExitStack, api: ScriptedApi, start_gateway: StartGateway
) -> None:
    secret = "s3cr3t&key/12345"
    route = api_route(api.url, headers={"?api_key": secret, "Cookie": "sid=c00kie-12345"})
    gateway: Gateway = await start_gateway(route)

    async def quotes(answered: web.Request) -> web.Response:
        return web.Response(status=400, text=f"{answered.raw_path} {answered.headers['Cookie']}")

    api.answers = quotes

    found = [await called(gateway, era, slug, id="7") for era in ("legacy", "modern")
             for slug in ("demo", "")]  # fmt: skip

    assert {seen.target for seen in api.seen} == {"/items/7?api_key=s3cr3t%26key%2F12345"}
    assert "s3cr3t" not in str(found)
    assert "c00kie" not in str(found)
    assert "s3cr3t" not in str(gateway.notes.calls)


async def test_each_user_calls_with_their_own_credentials(
    api: ScriptedApi, start_gateway: StartGateway
) -> None:
    route = api_route(api.url, headers={}, per_user=True)
    gateway: Gateway = await start_gateway(route)
    gateway.routes.own_headers = {
        (user.user_id, "demo"): {"X-Key": user.username}
        for user in gateway.authenticate._users.values()
    }

    for user in ("alice", "bob"):
        message, headers = modern("tools/call", {"name": "get_item", "arguments": {"id": "7"}})
        await gateway.post(message, user=user, **headers)

    assert [seen.headers["X-Key"] for seen in api.seen] == ["alice", "bob"]


async def test_confirmation_is_asked_before_anything_is_sent(
    api: ScriptedApi, start_gateway: StartGateway
) -> None:
    tool = replace(api_tool("get_item", ITEM), rules=CallRules(is_confirmed=True))
    gateway: Gateway = await start_gateway(api_route(api.url, tools=[tool]))

    message, headers = modern(
        "tools/call", {"name": "get_item", "arguments": {"id": "7"}}, elicitation={"form": {}}
    )
    answer = await gateway.post(message, **headers)

    assert answer.json()["result"]["resultType"] == "input_required"
    assert api.seen == []


async def test_an_api_whose_front_is_down_is_not_asked_for_a_while(
    api: ScriptedApi, start_gateway: StartGateway
) -> None:
    async def down(_: web.Request) -> web.Response:
        return web.Response(status=503)

    api.answers = down
    gateway: Gateway = await start_gateway(api_route(api.url), gateway_breaker_failures=2)

    results = [await called(gateway, "modern", "demo", id="7") for _ in range(3)]

    assert len(api.seen) == 2
    assert "HTTP 503" in said(results[0])
    assert "HTTP 503" not in said(results[2])


ELSEWHERE = {
    "dead": "http://127.0.0.1:9",
    "forbidden": "http://169.254.169.254",
}


@ERAS
@PATHS
@pytest.mark.parametrize("where", ELSEWHERE)
async def test_failures_at_another_origin_cost_the_operations_there_alone(
    api: ScriptedApi, start_gateway: StartGateway, where: str, era: str, slug: str
) -> None:
    there = ITEM.model_copy(update={"base_url": ELSEWHERE[where]})
    tools = [api_tool("get_item", ITEM), api_tool("far_item", there)]
    route = api_route(api.url, tools=tools)
    gateway: Gateway = await start_gateway(route, gateway_breaker_failures=2)

    far = [said(await called(gateway, era, slug, "far_item", id="7")) for _ in range(4)]
    near = await called(gateway, era, slug, id="7")

    place = f"The API demo at {ELSEWHERE[where]} "
    assert all(one.startswith(place) for one in far)
    assert "cannot be reached" in far[0]
    assert "cannot be reached" not in far[-1]
    assert near["isError"] is False


async def test_what_was_not_sent_does_not_show_that_an_api_works_again(
    api: ScriptedApi, start_gateway: StartGateway
) -> None:
    async def down(_: web.Request) -> web.Response:
        return web.Response(status=503)

    api.answers = down
    gateway: Gateway = await start_gateway(
        api_route(api.url), gateway_breaker_failures=2, gateway_breaker_cool_down_seconds=0.001
    )
    for _ in range(2):
        await called(gateway, "modern", "demo", id="7")

    refused = said(await called(gateway, "modern", "demo", id=".."))
    closed = gateway.metrics.registry.get_sample_value(
        "mcp_gateway_breaker_transitions_total", {"server": "demo", "state": "closed"}
    )

    assert "Nothing was sent" in refused
    assert closed is None


@ERAS
async def test_an_answer_that_drips_ends_with_the_call(
    api: ScriptedApi, start_gateway: StartGateway, era: str
) -> None:
    clock = SystemClock()

    async def drip(answered: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(answered)
        while True:
            await response.write(b" ")
            await clock.sleep(0.05)

    api.answers = drip
    route = api_route(api.url, idle_timeout_seconds=0.3)
    gateway: Gateway = await start_gateway(route, gateway_total_timeout_seconds=0.3)

    result = await called(gateway, era, "demo", id="7")

    assert "demo" in said(result)
    assert gateway.notes.calls[0].outcome == "timeout"


@ERAS
@PATHS
async def test_a_projection_leaves_its_part_and_announces_no_schema(
    api: ScriptedApi, start_gateway: StartGateway, era: str, slug: str
) -> None:
    schema = {"type": "object", "required": ["items"]}
    tool = api_tool(
        "get_item", ITEM, rules=CallRules(projection="items[].id"), outputSchema=schema
    )
    gateway: Gateway = await start_gateway(api_route(api.url, tools=[tool]))

    async def many(_: web.Request) -> web.Response:
        return web.json_response({"items": [{"id": 1, "secret": "x"}, {"id": 2}]})

    api.answers = many

    result = await called(gateway, era, slug, id="7")

    assert result["structuredContent"] == {"result": [1, 2]}
    assert "secret" not in str(result)
    assert b"outputSchema" not in tool.wire


@ERAS
async def test_a_projection_that_is_none_fails_and_sends_nothing(
    api: ScriptedApi, start_gateway: StartGateway, era: str
) -> None:
    tool = api_tool("get_item", ITEM, rules=CallRules(projection="a["))
    gateway: Gateway = await start_gateway(api_route(api.url, tools=[tool]))

    result = await called(gateway, era, "demo", id="7")

    assert said(result).startswith("The projection of this tool is no JMESPath")
    assert api.seen == []


@PATHS
async def test_cancelling_a_call_ends_the_request_to_the_api(
    gateway: Gateway, api: ScriptedApi, slug: str
) -> None:
    reached, gone = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        return web.Response()

    api.answers = wait
    headers = await session_of(gateway, slug)
    name = "get_item" if slug else "demo__get_item"
    message = request("tools/call", {"name": name, "arguments": {"id": "7"}}, "the call")
    cancel = {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": "the call"},
    }

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        call = tasks.create_task(gateway.post(message, slug=slug, **headers))
        await reached.wait()
        cancelled = await gateway.post(cancel, slug=slug, **headers)
        await call
        await gone.wait()

    assert cancelled.status_code == 202
    assert gateway.in_flight == 0


def test_a_changed_binding_makes_another_entry() -> None:
    one = api_tool("get_item", ITEM)
    other = api_tool("get_item", ITEM.model_copy(update={"path": "/others/{id}"}))

    assert one.wire == other.wire
    assert one != other
