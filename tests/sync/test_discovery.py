"""Reading upstreams that behave, and upstreams that do not."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from mcp.server.mcpserver import MCPServer

from packages.models.states import FeatureKind
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.servers.errors import (
    CredentialsRefusedError,
    DiscoveryFailedError,
    OAuthRequiredError,
    UnsafeUrlError,
)
from registry.servers.values import ConnectionSpec, Era, Transport
from registry.sync.discovery import DiscoveryService
from registry.upstream.guard import UrlGuard
from registry.upstream.loops import Instance
from tests.fakes import upstreams
from tests.fakes.upstreams import TOOL, Handler, mcp, pages, serve, tools
from tests.gateway.serving import serve as serve_asgi
from tests.kit.waiting import until

LOOPBACK = ("127.0.0.0/8", "::1/128")


def service(
    settings: Settings, networks: Iterable[str] = LOOPBACK, **changes: Any
) -> DiscoveryService:
    return DiscoveryService(
        UrlGuard(tuple(networks)),
        Instance.of([bytes(32)]),
        settings=settings.model_copy(update={"discovery_timeout_seconds": 3.0, **changes}),
        clock=SystemClock(),
        metrics=Metrics(),
    )


def spec(url: str, transport: Transport = Transport.STREAMABLE_HTTP) -> ConnectionSpec:
    return ConnectionSpec(url, transport)


@asynccontextmanager
async def sdk_server(*, sse: bool = False) -> AsyncIterator[str]:
    server = MCPServer("sdk", instructions="Add things.")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    app = server.sse_app() if sse else server.streamable_http_app()
    async with serve_asgi(app, lifespan=not sse) as url:
        yield f"{url}/{'sse' if sse else 'mcp'}"


async def failure(settings: Settings, handler: Handler, **changes: Any) -> str:
    """Return why an upstream of this behaviour cannot be read."""
    async with serve(handler) as url, asyncio.timeout(15):
        with pytest.raises(DiscoveryFailedError) as caught:
            await service(settings, **changes).discover(spec(f"{url}/mcp?key=sentinel"))
    assert "sentinel" not in caught.value.message
    return caught.value.message


@pytest.mark.requirement("R-123")
async def test_the_sdks_server_is_read_in_both_eras(settings: Settings) -> None:
    async with sdk_server() as url:
        found = await service(settings).discover(spec(url))

    assert found.eras == {Era.LEGACY, Era.MODERN}
    assert [tool.name for tool in found.snapshot.tools] == ["add"]
    assert found.instructions == "Add things."
    assert "tools" in found.capabilities
    assert found.init_duration_ms >= 0


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        (frozenset[Era](), True),
        (frozenset({Era.LEGACY}), True),
        (frozenset({Era.MODERN}), False),
        (frozenset({Era.MODERN, Era.LEGACY}), False),
    ],
)
async def test_what_is_known_of_eras_is_not_asked_again(
    settings: Settings, known: frozenset[Era], *, asked: bool
) -> None:
    heard: list[str] = []
    answering = mcp(tools(TOOL), modern=True)

    async def modern(request: web.Request) -> web.StreamResponse:
        heard.append((await request.json())["method"])
        return await answering(request)

    async with serve(modern) as url:
        connection = replace(spec(f"{url}/mcp"), known_eras=known)
        found = await service(settings).discover(connection)

    assert ("initialize" in heard) is asked
    assert Era.MODERN in found.eras
    assert (Era.LEGACY in found.eras) is (Era.LEGACY in known and not asked)
    assert [tool.name for tool in found.snapshot.tools] == [TOOL["name"]]


async def test_the_sdks_sse_server_is_read(settings: Settings) -> None:
    async with sdk_server(sse=True) as url:
        found = await service(settings).discover(spec(url, Transport.SSE))

    assert found.eras == {Era.LEGACY}
    assert [tool.name for tool in found.snapshot.tools] == ["add"]


@pytest.mark.parametrize(("modern", "era"), [(False, Era.LEGACY), (True, Era.MODERN)])
async def test_a_server_of_one_era_is_known_as_such(
    settings: Settings,
    modern: bool,  # noqa: FBT001 - a column of the table above
    era: Era,
) -> None:
    async with serve(mcp(tools(TOOL), modern=modern)) as url:
        found = await service(settings).discover(spec(url))

    assert found.eras == {era}
    assert [tool.name for tool in found.snapshot.tools] == ["echo"]


@pytest.mark.requirement("R-164")
async def test_tools_are_taken_as_they_came(settings: Settings) -> None:
    odd = {
        "name": "odd",
        "inputSchema": {
            "type": "object",
            "properties": {"a.b": {"$ref": "#/$defs/n"}, "$filter": {"type": "string"}},
            "$defs": {"n": {"type": "integer", "maximum": 99999999999999999999}},
        },
        "x-unknown": [1, {"deep": None}],
    }
    async with serve(mcp(tools(odd))) as url:
        found = await service(settings).discover(spec(url))

    assert json.loads(found.snapshot.tools[0].definition) == odd


@pytest.mark.requirement("R-169")
async def test_all_pages_are_read(settings: Settings) -> None:
    content: list[list[object]] = [
        [{**TOOL, "name": f"t{page}{item}"} for item in range(3)] for page in range(4)
    ]
    async with serve(mcp(pages(*content))) as url:
        found = await service(settings).discover(spec(url))

    assert len(found.snapshot.tools) == 12


async def test_a_broken_tool_costs_only_itself(settings: Settings) -> None:
    items = [TOOL, {"name": "bad name"}, 7, {"name": "x", "inputSchema": []}, {**TOOL}]
    async with serve(mcp(tools(*items))) as url:
        found = await service(settings).discover(spec(url))

    assert [tool.name for tool in found.snapshot.tools] == ["echo"]
    assert len(found.snapshot.rejected) == 4


async def test_credentials_are_sent(settings: Settings) -> None:
    handler = upstreams.wants("X-Key", "sentinel", mcp(tools(TOOL)))
    async with serve(handler) as url:
        found = await service(settings).discover(
            ConnectionSpec(url, Transport.STREAMABLE_HTTP, {"X-Key": "sentinel"})
        )
        with pytest.raises(CredentialsRefusedError, match="401: credentials are missing or wrong"):
            await service(settings).discover(spec(url))

    assert len(found.snapshot.tools) == 1


@pytest.mark.requirement("E-04")
@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (upstreams.hangs, "did not finish answering within 3 s"),
        (upstreams.html, "with HTML, not MCP"),
        (upstreams.redirects("http://127.0.0.2:9/mcp"), "redirects elsewhere"),
        (upstreams.redirects("http://169.254.169.254/latest"), "redirects elsewhere"),
        (upstreams.unpacks_to_much, "compressed answer unasked"),
        (mcp(tools("x", tools={"not": "a list"})), "no list"),
        (mcp(tools(TOOL, nextCursor="again")), "goes in circles"),
    ],
    ids=["hang", "html", "redirect", "metadata", "gzip", "no-list", "circle"],
)
async def test_a_misbehaving_upstream_has_a_clear_and_bounded_end(
    settings: Settings, handler: Handler, reason: str
) -> None:
    assert reason in await failure(settings, handler)


async def test_an_endless_answer_is_cut_by_size(settings: Settings) -> None:
    text = await failure(settings, upstreams.streams_for_ever, discovery_max_bytes=1_000_000)

    assert "more than 1000000 bytes" in text


@pytest.mark.requirement("R-160")
async def test_an_answer_that_breaks_off_is_a_failure(settings: Settings) -> None:
    assert await failure(settings, upstreams.closes_in_the_middle)


@pytest.mark.requirement("R-160")
@pytest.mark.requirement("E-03")
async def test_too_many_tools_are_refused_as_a_whole(settings: Settings) -> None:
    many = [{**TOOL, "name": f"t{number}"} for number in range(10_001)]

    text = await failure(settings, mcp(tools(*many)))

    assert "more than 10000 tools" in text


async def test_a_server_that_is_not_there_is_named_without_its_query(settings: Settings) -> None:
    with pytest.raises(DiscoveryFailedError) as caught:
        await service(settings).discover(spec("http://127.0.0.1:9/mcp?key=sentinel"))

    assert caught.value.message == "Could not connect to http://127.0.0.1:9."


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/", "http://localhost:9/", "http://10.0.0.1/", "http://169.254.169.254/"],
)
async def test_addresses_that_are_not_allowed_are_refused_before_any_contact(
    settings: Settings, url: str, transport: Transport
) -> None:
    guarded = service(settings, networks=())

    with pytest.raises(UnsafeUrlError):
        await guarded.discover(spec(url, transport))
    with pytest.raises(UnsafeUrlError):
        await guarded.oauth_metadata(spec(url, transport))
    with pytest.raises(UnsafeUrlError):
        await guarded.check_url(url)


async def test_an_event_stream_that_names_another_origin_is_refused(settings: Settings) -> None:
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        reached.append(request.path)
        return web.Response(status=202)

    async with serve(elsewhere) as other:

        async def stream(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(f"event: endpoint\ndata: {other}/steal\n\n".encode())
            await asyncio.Event().wait()
            return response

        async with serve(stream) as url:
            with pytest.raises(DiscoveryFailedError):
                await service(settings).discover(spec(f"{url}/sse", Transport.SSE))

    assert reached == []


@pytest.mark.requirement("R-039")
async def test_oauth_metadata_is_found_and_cut_to_what_is_known(settings: Settings) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/meta":
            document = {
                "resource": f"http://{request.host}/mcp",
                "authorization_servers": ["https://as.example.com", 7],
                "scopes_supported": "repo",
                "evil": {"$where": "1"},
            }
            return web.json_response(document)
        origin = f"http://{request.host}"
        challenge = f'Bearer resource_metadata="{origin}/meta"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with serve(handler) as url:
        metadata = await service(settings).oauth_metadata(spec(f"{url}/mcp"))

    assert metadata == {
        "resource": f"{url}/mcp",
        "authorization_servers": ["https://as.example.com"],
    }


async def test_an_upstream_without_oauth_metadata_has_none(settings: Settings) -> None:
    async with serve(mcp(tools(TOOL))) as url:
        assert await service(settings).oauth_metadata(spec(f"{url}/mcp")) is None


async def test_metadata_that_points_to_a_forbidden_address_is_refused(settings: Settings) -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        challenge = 'Bearer resource_metadata="http://169.254.169.254/latest"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with serve(handler) as url:
        with pytest.raises(UnsafeUrlError):
            await service(settings).oauth_metadata(spec(f"{url}/mcp"))


def offering(**lists: Any) -> Handler:
    """Return an upstream with all capabilities; the lists are results or errors by member."""
    capabilities: dict[str, Any] = {"tools": {}, "prompts": {}, "resources": {}}
    methods = {
        "tools/list": "tools",
        "prompts/list": "prompts",
        "resources/list": "resources",
        "resources/templates/list": "resourceTemplates",
    }

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return web.Response(status=405)
        message = await request.json()
        if "id" not in message:
            return web.Response(status=202)
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        member = methods.get(message["method"])
        if message["method"] == "initialize":
            answer["result"] = {
                "protocolVersion": "2025-11-25",
                "capabilities": capabilities,
                "serverInfo": {"name": "x", "version": "1", "title": "All of it"},
            }
        elif member is None or member not in lists:
            answer["error"] = {"code": -32601, "message": "Method not found"}
        elif isinstance(lists[member], list):
            answer["result"] = {member: lists[member]}
        elif isinstance(lists[member], asyncio.Event):
            await lists[member].wait()
        elif lists[member] is None:
            assert request.transport is not None
            request.transport.abort()
        else:
            answer["error"] = {"code": -32000, "message": lists[member]}
        return web.json_response(answer)

    return handler


PROMPT = {"name": "hello", "x-own": 1}
RESOURCE = {"uri": "x:a", "name": "a"}
TEMPLATE = {"uriTemplate": "x:{a}", "name": "t"}


async def test_prompts_resources_and_templates_are_read_as_they_came(settings: Settings) -> None:
    whole = offering(
        tools=[TOOL], prompts=[PROMPT], resources=[RESOURCE], resourceTemplates=[TEMPLATE]
    )
    async with serve(whole) as url:
        discovered = await service(settings).discover(spec(f"{url}/mcp"))

    listed = {
        kind: [(item.key, json.loads(item.definition)) for item in items]
        for kind, items in discovered.features.lists.items()
    }
    assert listed == {
        FeatureKind.PROMPT: [("hello", PROMPT)],
        FeatureKind.RESOURCE: [("x:a", RESOURCE)],
        FeatureKind.TEMPLATE: [("x:{a}", TEMPLATE)],
    }
    assert discovered.features.problems == ()
    assert discovered.title == "All of it"


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        ("no prompts today", "It answered: no prompts today"),
        ([PROMPT] * 5, "It offers more than 4 prompts."),
        (None, "broke"),
        (asyncio.Event(), "It did not finish answering in time."),
    ],
)
async def test_a_list_that_fails_costs_neither_the_tools_nor_the_registration(
    settings: Settings, prompts: Any, reason: str
) -> None:
    whole = offering(tools=[TOOL], prompts=prompts)
    reader = service(settings, discovery_max_tools=4, discovery_timeout_seconds=2.0)
    async with serve(whole) as url:
        discovered = await reader.discover(spec(f"{url}/mcp"))

    assert [item.name for item in discovered.snapshot.tools] == ["echo"]
    assert FeatureKind.PROMPT not in discovered.features.lists
    problem = discovered.features.problems[0]
    assert problem.name == "prompts"
    assert reason in problem.reason


async def test_a_server_without_a_list_that_its_capability_suggests_has_none(
    settings: Settings,
) -> None:
    async with serve(offering(tools=[TOOL], prompts=[], resources=[RESOURCE])) as url:
        discovered = await service(settings).discover(spec(f"{url}/mcp"))

    assert discovered.features.lists[FeatureKind.TEMPLATE] == ()
    assert discovered.features.problems == ()


async def test_an_upstream_without_the_capability_is_not_asked(settings: Settings) -> None:
    asked: list[str] = []

    def results(method: str, params: dict[str, Any]) -> object:
        asked.append(method)
        return tools(TOOL)(method, params)

    async with serve(mcp(results)) as url:
        discovered = await service(settings).discover(spec(f"{url}/mcp"))

    assert set(asked) <= {"server/discover", "tools/list"}
    assert discovered.features.lists == dict.fromkeys(FeatureKind, ())


async def test_the_official_servers_lists_are_read_in_the_newest_era(settings: Settings) -> None:
    server = MCPServer("everything", title="Everything")

    @server.prompt()
    def greet(name: str) -> str:
        """Greet somebody."""
        return f"Say hello to {name}."

    @server.resource("notes://today")
    def today() -> str:
        """Today's note."""
        return "rain"

    @server.resource("notes://{day}")
    def of_day(day: str) -> str:
        """A day's note."""
        return day

    async with serve_asgi(server.streamable_http_app(), lifespan=True) as url:
        discovered = await service(settings).discover(spec(f"{url}/mcp"))

    keys = {
        kind: [item.key for item in items] for kind, items in discovered.features.lists.items()
    }
    assert Era.MODERN in discovered.eras
    assert keys == {
        FeatureKind.PROMPT: ["greet"],
        FeatureKind.RESOURCE: ["notes://today"],
        FeatureKind.TEMPLATE: ["notes://{day}"],
    }
    assert discovered.title == "Everything"


async def test_it_is_read_with_all_that_a_client_of_the_gateway_can_be_asked(
    settings: Settings,
) -> None:
    declared: list[Any] = []

    def results(method: str, params: dict[str, Any]) -> object:
        meta = params.get("_meta", {})
        declared.append(meta.get("io.modelcontextprotocol/clientCapabilities"))
        return tools(TOOL)(method, params)

    async def legacy(request: web.Request) -> web.StreamResponse:
        message = await request.json() if request.method == "POST" else {}
        if message.get("method") == "initialize":
            declared.append(message["params"]["capabilities"])
        return await mcp(tools(TOOL))(request)

    for handler in (mcp(results, modern=True), legacy):
        async with serve(handler) as url:
            await service(settings).discover(spec(url))

    assert [set(one) for one in declared if one] == [{"sampling", "elicitation", "roots"}] * 2
    assert all(set(one["elicitation"]) == {"form", "url"} for one in declared if one)


async def test_what_a_server_asks_while_it_is_read_is_refused_in_words(
    settings: Settings,
) -> None:
    refused: list[str] = []

    async def asks(request: web.Request) -> web.StreamResponse:
        message = await request.json() if request.method == "POST" else {}
        if message.get("id") == "q":
            refused.append(message["error"]["message"])
            return web.Response(status=202)
        if message.get("method") != "tools/list":
            return await mcp(tools(TOOL))(request)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        asked = {"jsonrpc": "2.0", "id": "q", "method": "roots/list"}
        result = {"jsonrpc": "2.0", "id": message["id"], "result": {"tools": [TOOL]}}
        await answer.write(f"data: {json.dumps(asked)}\n\n".encode())
        await until(lambda: refused, 5)
        await answer.write(f"data: {json.dumps(result)}\n\n".encode())
        return answer

    async with serve(asks) as url:
        found = await service(settings).discover(spec(url))

    assert [tool.name for tool in found.snapshot.tools] == ["echo"]
    assert refused == ["No client is connected while the registry reads the server."]


async def test_a_server_of_the_newest_version_is_asked_for_the_handshake_in_full(
    settings: Settings,
) -> None:
    hellos: list[Any] = []

    async def strict(request: web.Request) -> web.StreamResponse:
        message = await request.json() if request.method == "POST" else {}
        if message.get("method") == "initialize":
            hellos.append(request.headers)
        return await mcp(tools(TOOL), modern=True)(request)

    async with serve(strict) as url:
        found = await service(settings).discover(spec(url))

    assert found.eras == {Era.MODERN}
    assert [(one["MCP-Protocol-Version"], one["Mcp-Method"]) for one in hellos] == [
        ("2025-11-25", "initialize")
    ]


async def test_a_server_that_names_versions_of_both_eras_is_not_asked(settings: Settings) -> None:
    methods: list[str] = []

    async def both(request: web.Request) -> web.StreamResponse:
        message = await request.json() if request.method == "POST" else {}
        methods.append(message.get("method", ""))
        if message.get("method") != "server/discover":
            return await mcp(tools(TOOL), modern=True)(request)
        result = {
            "resultType": "complete",
            "supportedVersions": ["2026-07-28", "2025-11-25"],
            "capabilities": {"tools": {}},
            "ttlMs": 0,
            "cacheScope": "private",
        }
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async with serve(both) as url:
        found = await service(settings).discover(spec(url))

    assert found.eras == set(Era)
    assert "initialize" not in methods


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer resource_metadata="https://x.example/.well-known/x"',
        "Bearer resource_metadata=https://x.example/.well-known/x",
        'bearer scope="a", Resource_Metadata = "https://x.example/.well-known/x"',
    ],
)
async def test_a_server_that_names_its_oauth_metadata_is_recognised(
    settings: Settings, challenge: str
) -> None:
    async def wants_oauth(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with serve(wants_oauth) as url:
        with pytest.raises(OAuthRequiredError, match="it wants OAuth"):
            await service(settings).discover(spec(url))
