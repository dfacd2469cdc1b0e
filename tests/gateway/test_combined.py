"""The combined server `/mcp`, through the official client, in front of servers of all eras."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import httpx2
import orjson
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolResult,
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    Root,
    TextContent,
)

from registry.auth.errors import REALM
from registry.gateway.values import FeatureEntry, tool_entry
from registry.gateway.view.catalogue import Catalogue
from registry.servers.values import Era, Transport
from tests.fakes.everything import catalog
from tests.fakes.everything.serving import serving_everything
from tests.fakes.everything.tools import TOOLS
from tests.gateway.conftest import Gateway, StartGateway, request
from tests.gateway.fakes import PRIVATE, Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

Mode = Literal["legacy", "auto", "2026-07-28"]
MODES: tuple[Mode, ...] = ("legacy", "auto", "2026-07-28")
ERAS: Mapping[str, frozenset[Era]] = {
    "old": frozenset({Era.LEGACY}),
    "new": frozenset({Era.MODERN}),
    "both": frozenset(Era),
}
CAPABILITIES = {
    "tools": {"listChanged": True},
    "prompts": {},
    "resources": {"subscribe": True},
    "completions": {},
    "logging": {},
}


def _features(listed: list[Any], member: str) -> list[FeatureEntry]:
    found = [item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in listed]
    return [FeatureEntry(item[member], orjson.dumps(item)) for item in found]


def everything_route(url: str, slug: str, **changes: Any) -> Any:
    """Return a route to an everything server, as discovery would have read it."""
    tools = [
        tool_entry(
            name,
            orjson.dumps(
                offered.tool.model_dump(mode="json", by_alias=True, exclude_none=True)
            ).decode(),
        )
        for name, offered in TOOLS.items()
    ]
    facts: dict[str, Any] = {
        "slug": slug,
        "eras": ERAS.get(slug, frozenset(Era)),
        "tools": tools,
        "capabilities": CAPABILITIES,
        "instructions": f"Instructions of {slug}.",
        "prompts": _features(catalog.PROMPTS, "name"),
        "resources": _features(catalog.RESOURCES, "uri"),
        "templates": _features(catalog.TEMPLATES, "uriTemplate"),
        "features_known": True,
    }
    return make_route(url, **{**facts, **changes})


@pytest.fixture
async def combined(stack: AsyncExitStack, start_gateway: StartGateway) -> Gateway:
    """Return a gateway in front of three servers, each of other eras."""
    everything = await stack.enter_async_context(serving_everything())
    routes = [everything_route(everything.url, slug) for slug in ERAS]
    started: Gateway = await start_gateway(*routes)
    return started


@asynccontextmanager
async def connect(
    gateway: Gateway, mode: Mode, *, user: str = "alice", path: str = "", **options: Any
) -> AsyncIterator[Client]:
    """Connect the official client."""
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {user}"}, timeout=30) as http:
        transport = streamable_http_client(f"{gateway.url}/mcp{path}", http_client=http)
        async with Client(transport, mode=mode, **options) as client:
            yield client


def text(result: Any) -> str:
    """Return the text of a result's first content."""
    return str(result.content[0].text)


@pytest.mark.requirement("R-011")
@pytest.mark.requirement("R-236")
@pytest.mark.parametrize("mode", MODES)
async def test_everything_of_all_servers_is_listed_under_names_of_its_own(
    combined: Gateway, mode: Mode
) -> None:
    async with connect(combined, mode) as client:
        tools = (await client.list_tools()).tools
        prompts = (await client.list_prompts()).prompts
        resources = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates

    names = [tool.name for tool in tools]
    assert set(names) == {f"{slug}__{name}" for slug in ERAS for name in TOOLS}
    assert names == sorted(names)
    assert {prompt.name for prompt in prompts} == {
        f"{slug}__{prompt.name}" for slug in ERAS for prompt in catalog.PROMPTS
    }
    # The oldest server keeps the URIs that several have; by id that is "both".
    uris = {str(resource.uri) for resource in catalog.RESOURCES}
    qualified = {f"mcp.{slug}+{uri}" for slug in ("old", "new") for uri in uris}
    assert {str(resource.uri) for resource in resources} == uris | qualified
    assert len(templates) == 3


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_handshake_tells_of_all_servers(combined: Gateway, mode: Mode) -> None:
    async with connect(combined, mode) as client:
        capabilities = client.server_capabilities
        instructions = client.instructions

    assert capabilities.tools is not None
    assert capabilities.prompts is not None
    assert capabilities.resources is not None
    assert capabilities.completions is not None
    assert instructions is not None
    for slug in ERAS:
        assert f"Instructions of {slug}." in instructions


@pytest.mark.requirement("R-010")
@pytest.mark.requirement("R-019")
@pytest.mark.parametrize("slug", ERAS)
@pytest.mark.parametrize("mode", MODES)
async def test_tools_of_servers_of_every_era_are_called(
    combined: Gateway, mode: Mode, slug: str
) -> None:
    steps: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with connect(combined, mode) as client:
        simple = await client.call_tool(f"{slug}__test_simple_text")
        walked = await client.call_tool(f"{slug}__test_tool_with_progress", progress_callback=note)
        failed = await client.call_tool(f"{slug}__test_error_handling")

    assert text(simple) == "This is a simple text response for testing."
    assert not walked.is_error
    assert steps == sorted(steps)
    assert len(steps) >= 3
    assert failed.is_error


@pytest.mark.parametrize("slug", ERAS)
@pytest.mark.parametrize("mode", MODES)
async def test_prompts_resources_and_completions_go_to_their_owner(
    combined: Gateway, mode: Mode, slug: str
) -> None:
    uri = "test://static-text" if slug == "both" else f"mcp.{slug}+test://static-text"
    template = "test://template/{id}/data"
    if slug != "both":
        template = f"mcp.{slug}+{template}"
    async with connect(combined, mode) as client:
        prompt = await client.get_prompt(
            f"{slug}__test_prompt_with_arguments", {"arg1": "a", "arg2": "b"}
        )
        read = await client.read_resource(uri)
        made = await client.read_resource(template.replace("{id}", "7"))
        by_prompt = await client.complete(
            PromptReference(name=f"{slug}__test_prompt_with_arguments"),
            {"name": "arg1", "value": "par"},
        )
        by_template = await client.complete(
            ResourceTemplateReference(uri=template), {"name": "id", "value": "te"}
        )

    assert "arg1='a'" in str(prompt.messages[0].content)
    assert str(read.contents[0].uri) == uri
    assert "Data for ID: 7" in str(made.contents[0])
    assert by_prompt.completion.values == ["paris", "park", "party"]
    assert by_template.completion.values == ["testing"]


@pytest.mark.parametrize("slug", ERAS)
@pytest.mark.parametrize("mode", MODES)
async def test_what_a_server_asks_reaches_the_caller_and_comes_back(
    combined: Gateway, mode: Mode, slug: str
) -> None:
    async def elicited(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"username": "ann", "email": "a@b.c"})

    async def sampled(context: Any, params: Any) -> CreateMessageResult:
        content = TextContent(text="sampled")
        return CreateMessageResult(role="assistant", content=content, model="m")

    async def roots(context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri="file:///r", name="r")])  # type: ignore[arg-type]

    async with connect(
        combined,
        mode,
        elicitation_callback=elicited,
        sampling_callback=sampled,
        list_roots_callback=roots,
    ) as client:
        asked = await client.call_tool(f"{slug}__test_elicitation", {"message": "Who?"})
        thought = await client.call_tool(f"{slug}__test_sampling", {"prompt": "Think."})
        rooted = await client.call_tool(f"{slug}__test_input_required_result_list_roots")

    assert "ann" in text(asked)
    assert "sampled" in text(thought)
    assert "file:///r" in text(rooted)


@pytest.mark.parametrize("mode", MODES)
async def test_calls_at_the_same_time_do_not_meet(combined: Gateway, mode: Mode) -> None:
    async with connect(combined, mode) as first, connect(combined, mode) as second:

        async def call(client: Client, slug: str, number: int) -> bool:
            sent = f"{slug}-{number}"
            result = await client.call_tool(f"{slug}__test_echo", {"text": sent})
            return sent in text(result)

        answers = await asyncio.gather(
            *(
                call(client, slug, number * 2 + index)
                for number in range(20)
                for slug in ERAS
                for index, client in enumerate((first, second))
            )
        )

    assert all(answers)


@pytest.mark.requirement("R-221")
@pytest.mark.parametrize("name", ["private__test_echo", "unknown__test_echo", "old__nothing", "x"])
@pytest.mark.parametrize("mode", MODES)
async def test_what_the_caller_may_not_use_is_like_what_does_not_exist(
    stack: AsyncExitStack, start_gateway: StartGateway, mode: Mode, name: str
) -> None:
    upstream = ScriptedUpstream()
    url = await stack.enter_async_context(serve(upstream))
    gateway: Gateway = await start_gateway(
        everything_route(f"{url}/mcp", "old"),
        everything_route(f"{url}/mcp", "private", facts=PRIVATE),
    )

    async with connect(gateway, mode) as client:
        listed = await client.list_tools()
        with pytest.raises(MCPError) as refused:
            await client.call_tool(name, {"text": "x"})

    assert not [tool for tool in listed.tools if tool.name.startswith("private")]
    assert refused.value.error.code == -32602
    assert refused.value.error.message == f"Unknown tool: {name}"
    # A client's session may be listened for, but nothing is called.
    assert not [one for one in upstream.requests if b"tools/call" in one.body]


@pytest.mark.requirement("R-230")
async def test_lists_and_other_servers_are_whole_while_a_server_is_away(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    everything = await stack.enter_async_context(serving_everything())
    gateway: Gateway = await start_gateway(
        everything_route("http://127.0.0.1:9/mcp", "old"),
        everything_route(everything.url, "new"),
    )

    async with connect(gateway, "legacy") as client:
        listed = await client.list_tools()
        away = client.call_tool("old__test_simple_text")
        there = client.call_tool("new__test_simple_text")
        refused, answered = await asyncio.gather(away, there, return_exceptions=True)

    assert len(listed.tools) == 2 * len(TOOLS)
    assert isinstance(refused, CallToolResult)
    assert refused.is_error
    assert text(refused) == "The server old cannot be reached."
    assert text(answered) == "This is a simple text response for testing."


async def test_a_message_without_a_session_is_served_too(combined: Gateway) -> None:
    answer = await combined.post(
        request("tools/call", {"name": "new__test_echo", "arguments": {"text": "hello"}}),
        slug="",
    )

    assert answer.status_code == 200
    assert "hello" in answer.text


async def test_numbers_beyond_64_bits_arrive_whole(
    start_gateway: StartGateway, stack: AsyncExitStack, upstream: ScriptedUpstream
) -> None:
    url = await stack.enter_async_context(serve(upstream))
    gateway: Gateway = await start_gateway(
        make_route(f"{url}/mcp", slug="demo", eras=frozenset({Era.MODERN}))
    )
    number = 2**70 + 1
    message = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
        b'"params":{"name":"demo__echo","arguments":{"n":%d}}}' % number
    )
    await gateway.http.post("/mcp", content=message, headers=_head())
    sent = [one.body for one in upstream.requests if b"tools/call" in one.body]

    assert sent
    assert all(str(number).encode() in body for body in sent)


def _head() -> dict[str, str]:
    return {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "authorization": "Bearer alice",
    }


async def test_a_session_of_another_caller_is_unknown(combined: Gateway) -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    begun = await combined.post(request("initialize", hello), slug="")
    session = begun.headers["mcp-session-id"]

    own = await combined.post(request("ping"), slug="", mcp_session_id=session)
    foreign = await combined.post(request("ping"), slug="", user="bob", mcp_session_id=session)
    elsewhere = await combined.post(request("ping"), slug="old", mcp_session_id=session)

    assert own.json()["result"] == {}
    assert foreign.status_code == 404
    assert elsewhere.status_code == 404


@pytest.mark.parametrize("answered_id", [99, "abc", None])
async def test_an_answer_that_nobody_asked_for_does_not_cost_the_client_its_session(
    combined: Gateway, answered_id: object
) -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    begun = await combined.post(request("initialize", hello), slug="")
    session = begun.headers["mcp-session-id"]
    unasked = {"jsonrpc": "2.0", "id": answered_id, "result": {}}

    refused = await combined.post(unasked, slug="", mcp_session_id=session)

    # Clients give up their session when they are told 404.
    assert refused.status_code == 400
    assert "Session" not in refused.text


async def test_pages_of_a_long_list_follow_each_other(start_gateway: StartGateway) -> None:
    tools = [
        tool_entry(f"tool_{number:04d}", f'{{"name":"tool_{number:04d}"}}')
        for number in range(900)
    ]
    gateway: Gateway = await start_gateway(
        *(make_route(slug=slug, tools=tools) for slug in ("a", "a-b", "b"))
    )
    listed: list[str] = []
    cursor: str | None = None

    while True:
        params = {"cursor": cursor} if cursor else {}
        answer = await gateway.post(request("tools/list", params), slug="")
        result = answer.json()["result"]
        listed += [tool["name"] for tool in result["tools"]]
        cursor = result.get("nextCursor")
        if cursor is None:
            break

    assert len(listed) == len(set(listed)) == 2700
    assert listed == sorted(listed)


async def test_a_cancelled_call_is_cancelled_upstream(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    upstream = ScriptedUpstream()
    upstream.behaviour = upstream.hang
    url = await stack.enter_async_context(serve(upstream))
    gateway: Gateway = await start_gateway(
        make_route(f"{url}/mcp", slug="demo", eras=frozenset({Era.MODERN}))
    )
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    begun = await gateway.post(request("initialize", hello), slug="")
    session = begun.headers["mcp-session-id"]

    async def call() -> Any:
        params = {"name": "demo__echo", "arguments": {}}
        return await gateway.post(
            request("tools/call", params, 7), slug="", mcp_session_id=session
        )

    async with asyncio.TaskGroup() as tasks:
        calling = tasks.create_task(call())
        await upstream.arrived.wait()
        message = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": 7},
        }
        told = await gateway.post(message, slug="", mcp_session_id=session)
        async with asyncio.timeout(30):
            await upstream.gone.wait()

    assert told.status_code == 202
    # What was cancelled gets no answer.
    assert b"data: {" not in calling.result().content


async def test_servers_of_the_old_transport_take_part(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    from tests.gateway.test_sdk_clients import build_server

    url = await stack.enter_async_context(serve(build_server().sse_app()))
    gateway: Gateway = await start_gateway(
        make_route(f"{url}/sse", slug="ancient", transport=Transport.SSE)
    )

    async with connect(gateway, "auto") as client:
        result = await client.call_tool("ancient__echo", {"text": "hello"})

    assert text(result) == "hello"


async def test_links_in_answers_lead_back_at_little_cost(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    links = [
        {"type": "resource_link", "name": "x", "uri": f"note://{number}"} for number in range(2000)
    ]

    async def answer(received: Request) -> None:
        await received.result({"resultType": "complete", "content": links})

    url = await stack.enter_async_context(serve(ScriptedUpstream(answer)))
    templates = [
        FeatureEntry(uri, orjson.dumps({"uriTemplate": uri}))
        for uri in (f"note://{{a}}-{{b}}-{{c}}-x{number}" for number in range(2000))
    ]
    gateway: Gateway = await start_gateway(
        make_route(f"{url}/mcp", eras=frozenset({Era.MODERN}), templates=templates)
    )
    async with connect(gateway, "2026-07-28") as client:
        async with asyncio.timeout(30):
            result = await client.call_tool("demo__echo", {})

    assert [str(block.uri) for block in result.content] == [  # type: ignore[union-attr]
        f"mcp.demo+note://{number}" for number in range(2000)
    ]


def test_the_catalogue_keeps_the_older_of_two_servers_whose_names_would_be_the_same() -> None:
    one = make_route(slug="one")
    catalogue = Catalogue({"one": one})

    member = catalogue.member("one")

    assert member is not None
    assert member.route is one


async def test_an_answer_to_a_question_counts_once_and_while_the_call_goes_on(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    answers: list[Any] = []
    answered, done = asyncio.Event(), asyncio.Event()
    question = {"jsonrpc": "2.0", "id": "q1", "method": "elicitation/create", "params": {}}

    async def ask(received: Request) -> None:
        message = received.message if received.body else {}
        if message.get("method") == "initialize":
            await received.result({"protocolVersion": "2025-11-25", "capabilities": {}})
        elif message.get("method") == "tools/call":
            await received.start(content_type="text/event-stream")
            await received.chunk(b"data: " + orjson.dumps(question) + b"\n\n")
            await done.wait()
            last = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}
            await received.chunk(b"data: " + orjson.dumps(last) + b"\n\n", more=False)
        else:
            if "result" in message:
                answers.append(message)
                answered.set()
            await received.answer(202, b"")

    url = await stack.enter_async_context(serve(ScriptedUpstream(ask)))
    gateway: Gateway = await start_gateway(make_route(f"{url}/mcp", eras=frozenset({Era.LEGACY})))
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {}},
        "clientInfo": {},
    }
    session = (await gateway.post(request("initialize", hello), slug="")).headers["mcp-session-id"]
    call = request("tools/call", {"name": "demo__echo", "arguments": {}})
    headers = {**_head(), "mcp-session-id": session}
    statuses: list[int] = []

    async def answer(question_id: str) -> None:
        reply = {"jsonrpc": "2.0", "id": question_id, "result": {"action": "decline"}}
        told = await gateway.post(reply, slug="", mcp_session_id=session)
        statuses.append(told.status_code)

    async with gateway.http.stream("POST", "/mcp", json=call, headers=headers) as stream:
        lines = stream.aiter_lines()
        asked = orjson.loads([line async for line in _until_data(lines)][-1])
        await answer(asked["id"])
        await answered.wait()
        await answer(asked["id"])
        done.set()
        rest = [line async for line in lines]
    await answer(asked["id"])

    assert any('"result"' in line for line in rest)
    assert [message["id"] for message in answers] == ["q1"]
    # What comes too late is taken, and goes nowhere: an error would end sessions of some clients.
    assert statuses == [202, 202, 202]


async def _until_data(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield what the first line with data holds."""
    async for line in lines:
        if line.startswith("data: {"):
            yield line.removeprefix("data:")
            return


async def test_without_a_token_the_caller_is_asked_for_one(
    combined: Gateway,
) -> None:
    answer = await combined.post(request("ping"), slug="", user=None)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == REALM
