"""Two tools in place of all: what they find, and that a call by them is a call like any other."""

import base64
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from mcp_types import CreateMessageResult, ElicitResult, TextContent

from registry.access.policy import ServerScope
from registry.access.toolsets.values import Toolset, ToolsetEntry
from registry.core.json import load_text
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.edge.tool_search import ToolSearch, inner_call, outer_call
from registry.gateway.protocol.envelope import load_object, read_envelope
from registry.gateway.values import ToolEntry, tool_entry
from registry.gateway.view.catalogue import Catalogue
from registry.gateway.view.toolsets import Toolsets
from registry.search.ports import Candidates, DocumentKey, Explanation, FoundTool, Kind
from registry.servers.values import Era
from tests.conftest import ALICE
from tests.fakes.clock import FakeClock
from tests.fakes.everything.serving import serving_everything
from tests.gateway.confirming import agreeing, confirming
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import modern
from tests.gateway.fakes import PRIVATE, ScriptedUpstream, make_route
from tests.gateway.meeting import Kind as ServerKind
from tests.gateway.peers import FakeWorkers
from tests.gateway.policies import deny, policed
from tests.gateway.serving import serve
from tests.gateway.test_combined import ERAS, MODES, Mode, connect, everything_route, text
from tests.gateway.test_crossing_modern_client import Asking

pytestmark = pytest.mark.integration

SEARCH = "?tools=search"


@dataclass
class Finder:
    """Implements `ToolFinder`: finds what it is told, be it in the caller's list or not.

    Attributes:
        found: Servers' ids and tools' names, best first; None for all candidates.
        asked: What was asked for.
    """

    found: list[tuple[str, str]] | None = None
    asked: list[tuple[str, str | None, Candidates, int]] = field(default_factory=list)

    async def find(
        self, description: str, keywords: str | None, candidates: Candidates, limit: int
    ) -> Sequence[FoundTool]:
        """Find it."""
        self.asked.append((description, keywords, candidates, limit))
        found = self.found
        if found is None:
            found = [(key, name) for key, names in candidates.tools.items() for name in names]
        why = Explanation((), 0.0, None, is_exact=False, fused=0.0)
        return [
            FoundTool(DocumentKey(Kind.TOOL, name), server_id, name, 1.0, why)
            for server_id, name in found[:limit]
        ]


def many(count: int) -> list[ToolEntry]:
    """Return tools as long as those of real servers."""
    schema = {
        "type": "object",
        "properties": {
            f"argument_{one}": {"type": "string", "description": "What it is about, in words."}
            for one in range(4)
        },
    }
    return [
        tool_entry(
            f"tool_{number}",
            orjson.dumps(
                {"name": f"tool_{number}", "description": "Does it. " * 8, "inputSchema": schema}
            ).decode(),
        )
        for number in range(count)
    ]


async def unused(*_: Any) -> Any:
    """Stand for a channel that nothing is read from or written to."""


async def ask(
    gateway: Gateway,
    name: str,
    arguments: Any,
    *,
    query: str = SEARCH,
    era: str = "legacy",
    user: str = "alice",
    path: str = "/mcp",
) -> Any:
    """Call a tool and return the JSON-RPC response."""
    params = {"name": name, "arguments": arguments}
    message = request("tools/call", params)
    headers: dict[str, str] = {}
    if era == "modern":
        message, headers = modern("tools/call", params)
    answer = await gateway.http.post(
        f"{path}{query}", content=orjson.dumps(message), headers=head(user, **headers)
    )
    return orjson.loads(answer.content)


async def found(gateway: Gateway, **arguments: Any) -> Any:
    """Return what is found."""
    body = await ask(gateway, "find_tool", {"tool_description": "x", **arguments})
    content = body["result"]["structuredContent"]
    assert orjson.loads(body["result"]["content"][0]["text"]) == content
    return content


@pytest.fixture
def finder() -> Finder:
    return Finder()


@pytest.fixture
async def gateway(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream, finder: Finder
) -> Gateway:
    url = await stack.enter_async_context(serve(upstream))
    started: Gateway = await start_gateway(
        make_route(f"{url}/mcp", eras=frozenset({Era.MODERN})),
        make_route(f"{url}/mcp", slug="private", facts=PRIVATE),
        finder=finder,
    )
    return started


@pytest.fixture
async def everywhere(
    stack: AsyncExitStack, start_gateway: StartGateway, finder: Finder
) -> Gateway:
    """Return a gateway in front of servers of each era."""
    everything = await stack.enter_async_context(serving_everything())
    routes = [everything_route(everything.url, slug) for slug in ERAS]
    started: Gateway = await start_gateway(*routes, finder=finder)
    return started


@pytest.mark.requirement("R-206")
@pytest.mark.parametrize("slug", ERAS)
@pytest.mark.parametrize("mode", MODES)
async def test_clients_of_both_eras_find_and_call_tools_of_servers_of_every_era(
    everywhere: Gateway, finder: Finder, mode: Mode, slug: str
) -> None:
    finder.found = [(slug.ljust(24, "0"), "test_simple_text")]
    steps: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    def call(tool: str, **parameters: Any) -> dict[str, Any]:
        return {"server_name": slug, "tool_name": tool, "parameters": parameters}

    async with connect(everywhere, mode, path=SEARCH) as client:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        answer = await client.call_tool(
            "find_tool", {"tool_description": "say something", "tool_keywords": "text"}
        )
        (tool,) = answer.structured_content["tools"]
        arguments = call(tool["name"])
        arguments["server_name"] = tool["mcp_server_name"]
        simple = await client.call_tool("call_tool", arguments)
        walked = await client.call_tool(
            "call_tool", call("test_tool_with_progress"), progress_callback=note
        )
        failed = await client.call_tool("call_tool", call("test_error_handling"))
        metrics = answer.structured_content["token_metrics"]

    assert listed == ["find_tool", "call_tool"]
    assert text(simple) == "This is a simple text response for testing."
    assert (walked.is_error, len(steps) >= 3, failed.is_error) == (False, True, True)
    assert {"name", "inputSchema", "mcp_server_name"} <= tool.keys()
    assert list(metrics) == [
        "baseline_tokens",
        "returned_tokens",
        "tokens_saved",
        "savings_percentage",
    ]
    assert metrics["tokens_saved"] == metrics["baseline_tokens"] - metrics["returned_tokens"]
    assert finder.asked[0][:2] == ("say something", "text")


@pytest.mark.parametrize("slug", ERAS)
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_what_a_server_asks_during_such_a_call_reaches_the_caller(
    everywhere: Gateway, mode: Mode, slug: str
) -> None:
    async def elicited(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"username": "ann", "email": "a@b.c"})

    async def sampled(context: Any, params: Any) -> CreateMessageResult:
        content = TextContent(text="sampled")
        return CreateMessageResult(role="assistant", content=content, model="m")

    def call(tool: str, **parameters: Any) -> dict[str, Any]:
        return {"server_name": slug, "tool_name": tool, "parameters": parameters}

    async with connect(
        everywhere, mode, path=SEARCH, elicitation_callback=elicited, sampling_callback=sampled
    ) as client:
        asked = await client.call_tool("call_tool", call("test_elicitation", message="Who?"))
        thought = await client.call_tool("call_tool", call("test_sampling", prompt="Think."))

    assert "ann" in text(asked)
    assert "sampled" in text(thought)


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("kind", ServerKind)
async def test_such_a_call_is_confirmed_once_under_the_real_name(
    start_gateway: StartGateway, finder: Finder, kind: ServerKind, mode: Mode
) -> None:
    user = agreeing()
    arguments: dict[str, Any] = {
        "server_name": "demo",
        "tool_name": "test_simple_text",
        "parameters": {},
    }
    async with confirming(kind, start_gateway, finder=finder) as place:
        arguments["server_name"] = place.route.slug
        async with connect(place.gateway, mode, path=SEARCH, elicitation_callback=user) as client:
            answer = await client.call_tool("call_tool", arguments)
        calls = [one for one in place.gateway.notes.calls if one.method == "tools/call"]

    assert text(answer) == "This is a simple text response for testing."
    assert len(user.questions) == 1
    assert "test_simple_text" in user.questions[0].message
    assert {one.tool for one in calls} == {"test_simple_text"}


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    ("server", "tool"),
    [
        ("demo", "echo"),
        ("demo", "demo__echo"),
        ("/mcp/demo", "echo"),
    ],
)
async def test_a_call_is_recorded_under_the_real_name_and_sent_as_it_is(
    gateway: Gateway, upstream: ScriptedUpstream, era: str, server: str, tool: str
) -> None:
    arguments = {"server_name": server, "tool_name": tool, "parameters": {"a": [1, None]}}

    answer = await ask(gateway, "call_tool", arguments, era=era)

    sent = [orjson.loads(one.body) for one in upstream.requests if b"tools/call" in one.body]
    calls = [one for one in gateway.notes.calls if one.method == "tools/call"]
    headers = upstream.requests[-1].headers
    assert "result" in answer
    assert [(one["params"]["name"], one["params"]["arguments"]) for one in sent] == [
        ("echo", {"a": [1, None]})
    ]
    assert [(one.target, one.tool, one.slug) for one in calls] == [("demo__echo", "echo", "demo")]
    assert headers["mcp-name"] == "echo"


@pytest.mark.requirement("R-221")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_hidden_tool_is_answered_like_one_that_does_not_exist(
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    finder: Finder,
    era: str,
) -> None:
    url = await stack.enter_async_context(serve(upstream))
    gateway: Gateway = await start_gateway(
        await policed(make_route(f"{url}/mcp"), deny("add")),
        make_route(f"{url}/mcp", slug="private", facts=PRIVATE),
        finder=finder,
    )

    for server, tool in (("private", "echo"), ("demo", "add"), ("demo", "no"), ("no", "echo")):
        arguments = {"server_name": server, "tool_name": tool, "parameters": {}}
        wrapped = await ask(gateway, "call_tool", arguments, era=era)
        direct = await ask(gateway, f"{server}__{tool}", {}, query="", era=era)
        assert wrapped == direct
        assert wrapped["error"]["message"] == f"Unknown tool: {server}__{tool}"
    calls = [one for one in gateway.notes.calls if one.method == "tools/call"]
    assert len({(one.target, one.server_id, one.outcome, one.tool) for one in calls}) == 4
    assert not [one for one in upstream.requests if b"tools/call" in one.body]


async def test_only_what_the_list_shows_is_found(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream, finder: Finder
) -> None:
    url = await stack.enter_async_context(serve(upstream))
    open_route = await policed(make_route(f"{url}/mcp"), deny("add"))
    private = make_route(f"{url}/mcp", slug="private", facts=PRIVATE)
    gateway: Gateway = await start_gateway(open_route, private, finder=finder)
    finder.found = [
        (route.server_id, name) for route in (private, open_route) for name in ("add", "echo")
    ]

    content = await found(gateway)
    await found(gateway)

    assert [(one["mcp_server_name"], one["name"]) for one in content["tools"]] == [
        ("demo", "echo")
    ]
    candidates = finder.asked[0][2]
    assert {key: sorted(names) for key, names in candidates.tools.items()} == {
        open_route.server_id: ["echo"]
    }
    # The mask of a search is cached by it.
    assert finder.asked[1][2] is candidates


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("inner", ["call_tool", "find_tool", "list_tools"])
async def test_a_call_cannot_call_the_tools_that_stand_for_others(
    gateway: Gateway, upstream: ScriptedUpstream, era: str, inner: str
) -> None:
    nested = {"server_name": "demo", "tool_name": "echo", "parameters": {}}
    for server in ("demo", inner, "x"):
        arguments = {"server_name": server, "tool_name": inner, "parameters": nested}
        answer = await ask(gateway, "call_tool", arguments, era=era)
        assert answer["error"]["message"] == f"Unknown tool: {server}__{inner}"
    assert upstream.requests == []


BAD_CALLS = [
    [],
    "text",
    7,
    {"server_name": "demo", "tool_name": "echo", "parameters": "text"},
    {"server_name": "demo", "tool_name": "echo", "parameters": [1]},
]


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("arguments", BAD_CALLS)
async def test_arguments_that_are_none_are_refused(
    gateway: Gateway, upstream: ScriptedUpstream, era: str, arguments: Any
) -> None:
    answer = await ask(gateway, "call_tool", arguments, era=era)

    assert answer["error"]["code"] == -32602
    assert upstream.requests == []


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    "name",
    ["\u202eohce", "ec\u200bho", "\uff45cho", "e\u0301cho", "__", "echo\x00", "🔧", "../echo"],
)
async def test_odd_names_are_unknown_and_nothing_else(
    gateway: Gateway, upstream: ScriptedUpstream, era: str, name: str
) -> None:
    for arguments in (
        {"server_name": "demo", "tool_name": name, "parameters": {}},
        {"server_name": name, "tool_name": "echo", "parameters": {}},
    ):
        answer = await ask(gateway, "call_tool", arguments, era=era)
        assert answer["error"]["code"] == -32602
        assert answer["error"]["message"].startswith("Unknown tool: ")
    assert upstream.requests == []


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_long_arguments_and_large_numbers_arrive_whole(
    gateway: Gateway, upstream: ScriptedUpstream, era: str
) -> None:
    number, long = 2**70 + 1, "é" * (1024 * 1024)
    message = request("tools/call", {"name": "call_tool"})
    headers: dict[str, str] = {}
    if era == "modern":
        message, headers = modern("tools/call", {"name": "call_tool"})
    message["params"]["arguments"] = {
        "server_name": "demo",
        "tool_name": "echo",
        "parameters": {"long": long, "number": "NUMBER"},
    }
    raw = orjson.dumps(message).replace(b'"NUMBER"', str(number).encode())

    await gateway.http.post(f"/mcp{SEARCH}", content=raw, headers=head("alice", **headers))

    (sent,) = [one.body for one in upstream.requests if b"tools/call" in one.body]
    assert str(number).encode() in sent
    assert orjson.loads(sent)["params"]["arguments"]["long"] == long


async def test_headers_of_arguments_are_made_for_a_caller_who_cannot_know_them(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream, finder: Finder
) -> None:
    url = await stack.enter_async_context(serve(upstream))
    text = (
        '{"name":"far","inputSchema":{"type":"object","properties":'
        '{"region":{"type":"string","x-mcp-header":"Region"}}}}'
    )
    gateway: Gateway = await start_gateway(
        make_route(f"{url}/mcp", eras=frozenset({Era.MODERN}), tools=[tool_entry("far", text)]),
        finder=finder,
    )

    await ask(
        gateway,
        "call_tool",
        {"server_name": "demo", "tool_name": "far", "parameters": {"region": "eu"}},
        era="modern",
    )

    (sent,) = [one for one in upstream.requests if b"tools/call" in one.body]
    assert sent.headers["mcp-param-region"] in {"eu", base64.b64encode(b"eu").decode()}


@pytest.mark.parametrize("user", ["nobody", "reader"])
async def test_a_token_that_may_not_call_may_not_call_so(
    gateway: Gateway, upstream: ScriptedUpstream, user: str
) -> None:
    arguments = {"server_name": "demo", "tool_name": "echo", "parameters": {}}

    answer = await ask(gateway, "call_tool", arguments, user=user)

    assert "scope" in answer["error"]["message"]
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("?tools=", "all or search"),
        ("?tools=Search", "all or search"),
        ("?tools=search&tools=all", "given once"),
        ("?tools=search%00", "all or search"),
        ("?tools=none", "all or search"),
        ("?" + "&".join(f"a{one}=1" for one in range(50)), "too many fields"),
    ],
)
async def test_a_path_that_says_something_else_is_refused(
    gateway: Gateway, query: str, told: str
) -> None:
    body = request("tools/list")
    listed = await gateway.http.post(f"/mcp{query}", json=body, headers=head("alice"))
    streamed = await gateway.http.get(f"/mcp{query}", headers=head("alice"))

    assert told in listed.json()["error"]["message"]
    assert (streamed.status_code, told in streamed.text) == (400, True)


async def test_one_servers_path_has_no_search(gateway: Gateway) -> None:
    answer = await ask(gateway, "echo", {}, path="/mcp/demo")

    assert "not for one server's" in answer["error"]["message"]


async def test_where_search_is_off_the_path_says_so(
    start_gateway: StartGateway, finder: Finder
) -> None:
    gateway: Gateway = await start_gateway(make_route())
    gateway.authenticate.change(replace(ALICE, tools="search"))

    asked = await ask(gateway, "find_tool", {"tool_description": "x"}, user="bob")
    claimed = await ask(gateway, "find_tool", {"tool_description": "x"}, query="")

    assert "SEARCH_ENABLED=false" in asked["error"]["message"]
    assert claimed == asked


async def listed(gateway: Gateway, query: str, user: str = "alice") -> list[str]:
    """Return the names of the listed tools."""
    answer = await gateway.http.post(
        f"/mcp{query}", json=request("tools/list"), headers=head(user)
    )
    return [tool["name"] for tool in answer.json()["result"]["tools"]]


async def test_the_path_goes_before_the_token_and_the_token_before_the_setting(
    start_gateway: StartGateway, finder: Finder
) -> None:
    gateway: Gateway = await start_gateway(make_route(), finder=finder, gateway_tools="search")
    two, every = ["find_tool", "call_tool"], ["demo__add", "demo__echo"]

    assert await listed(gateway, "") == two
    assert await listed(gateway, "?tools=all") == every
    gateway.authenticate.change(replace(ALICE, tools="all"))
    assert await listed(gateway, "") == every
    assert await listed(gateway, "?tools=search") == two
    assert await listed(gateway, "", "bob") == two


async def test_tools_that_are_always_visible_are_listed_beside(
    start_gateway: StartGateway, finder: Finder
) -> None:
    gateway: Gateway = await start_gateway(
        make_route(),
        make_route(slug="private", facts=PRIVATE),
        finder=finder,
        gateway_tools="search",
        gateway_always_visible_tools="demo__add, private__add, gone__x, list_tools",
    )

    names = await listed(gateway, "")
    whole = (await ask(gateway, "list_tools", {}))["result"]["structuredContent"]
    short = (await ask(gateway, "list_tools", {"detail": "names"}))["result"]["structuredContent"]

    assert names == ["find_tool", "call_tool", "list_tools", "demo__add"]
    assert [(one["mcp_server_name"], one["name"]) for one in whole["tools"]] == [
        ("demo", "add"),
        ("demo", "echo"),
    ]
    assert short["tools"][0] == {"name": "add", "mcp_server_name": "demo"}
    assert all("inputSchema" in one for one in whole["tools"])


async def test_list_tools_does_not_exist_unless_it_is_named(gateway: Gateway) -> None:
    answer = await ask(gateway, "list_tools", {})

    assert answer["error"]["message"] == "Unknown tool: list_tools"


async def test_details_and_a_budget_shorten_what_is_found(
    start_gateway: StartGateway, finder: Finder
) -> None:
    gateway: Gateway = await start_gateway(make_route(tools=many(20)), finder=finder)

    full, summary, names, few, tight = [
        (await found(gateway, limit=10, **more))
        for more in (
            {},
            {"detail": "summary"},
            {"detail": "names"},
            {"max_tokens": 400},
            {"max_tokens": 50},
        )
    ]

    tokens = [one["token_metrics"]["returned_tokens"] for one in (full, summary, names)]
    assert tokens == sorted(tokens, reverse=True)
    assert summary["tools"][0]["description"] == "Does it"
    assert set(names["tools"][0]) == {"name", "mcp_server_name"}
    assert few["token_metrics"]["returned_tokens"] <= 400
    assert "inputSchema" in few["tools"][0]
    assert "inputSchema" not in few["tools"][-1]
    assert len(tight["tools"]) + tight["omitted"] == 10


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    ("tool", "named", "arguments"),
    [
        ("find_tool", "tool_description", {}),
        ("find_tool", "tool_description", {"tool_description": ""}),
        ("find_tool", "tool_description", {"tool_description": 7}),
        ("find_tool", "tool_description", {"tool_description": "x" * 2001}),
        ("find_tool", "tool_keywords", {"tool_description": "x", "tool_keywords": 7}),
        ("find_tool", "limit", {"tool_description": "x", "limit": 0}),
        ("find_tool", "limit", {"tool_description": "x", "limit": 51}),
        ("find_tool", "limit", {"tool_description": "x", "limit": True}),
        ("find_tool", "detail", {"tool_description": "x", "detail": "all"}),
        ("find_tool", "max_tokens", {"tool_description": "x", "max_tokens": 1}),
        ("call_tool", "server_name", {}),
        ("call_tool", "tool_name", {"server_name": "demo"}),
        ("call_tool", "server_name", {"tool_name": "echo"}),
        ("call_tool", "server_name", {"server_name": 1, "tool_name": "echo"}),
        ("call_tool", "tool_name", {"server_name": "demo", "tool_name": ["echo"]}),
        ("call_tool", "server_name", {"server_name": "", "tool_name": "echo"}),
        ("call_tool", "tool_name", {"server_name": "demo", "tool_name": "e" * 300}),
    ],
)
async def test_an_argument_that_cannot_be_is_named_in_a_result_for_the_model(
    gateway: Gateway,
    upstream: ScriptedUpstream,
    finder: Finder,
    tool: str,
    named: str,
    arguments: Any,
    era: str,
) -> None:
    answer = await ask(gateway, tool, arguments, era=era)

    text = answer["result"]["content"][0]["text"]
    assert answer["result"]["isError"] is True
    assert text.startswith(f"The arguments do not match the tool's definition: {named}: ")
    assert finder.asked == []
    assert upstream.requests == []


async def test_arguments_of_a_search_are_an_object(gateway: Gateway, finder: Finder) -> None:
    answer = await ask(gateway, "find_tool", [])

    assert answer["error"]["code"] == -32602
    assert finder.asked == []


@pytest.mark.requirement("R-206")
async def test_a_caller_with_three_thousand_tools_gets_two(
    start_gateway: StartGateway, finder: Finder
) -> None:
    routes = [make_route(slug=f"s{number}", tools=many(100)) for number in range(30)]
    gateway: Gateway = await start_gateway(*routes, finder=finder)

    first = await gateway.http.post("/mcp", json=request("tools/list"), headers=head("alice"))
    two = await gateway.http.post(
        f"/mcp{SEARCH}", json=request("tools/list"), headers=head("alice")
    )
    content = await ask(gateway, "find_tool", {"tool_description": "do it"})

    metrics = content["result"]["structuredContent"]["token_metrics"]
    spent = len(two.content) / 4 + len(orjson.dumps(content["result"]["structuredContent"])) / 4
    # The first page of the whole list holds a third of the tools.
    assert len(first.json()["result"]["tools"]) == 1000
    assert spent <= 0.05 * metrics["baseline_tokens"]
    assert metrics["savings_percentage"] >= 95


def test_toolsets_are_searched_by_their_own_names() -> None:
    routes = {slug: make_route(slug=slug) for slug in ("demo", "other")}
    view = Catalogue(routes).view(ALICE, admin_uses_private=False)
    entries = (
        ToolsetEntry(routes["demo"].server_id, "echo", name="say"),
        ToolsetEntry(routes["other"].server_id, "add"),
    )
    toolset = Toolset("t" * 24, "set", None, ALICE.user_id, ServerScope.SHARED_APP, entries)
    whole = Toolsets(FakeClock()).offering(view, [toolset])

    offering = ToolSearch(Finder()).offering(whole)

    assert {key: set(names) for key, names in offering.tools.candidates.tools.items()} == {
        routes["demo"].server_id: {"echo"},
        routes["other"].server_id: {"add"},
    }
    (said,) = offering.tools.listed(routes["demo"].server_id, "echo")
    assert (said.server, said.name, orjson.loads(said.wire)["name"]) == ("demo", "say", "say")
    for name in ("demo__say", "say"):
        owned = offering.tool(name)
        assert owned is not None
        assert (owned.route.slug, owned.key, offering.public_name(name)) == ("demo", "echo", "say")
    assert [offering.tool(name) for name in ("other__say", "demo__echo", "demo__add", "echo")] == [
        None
    ] * 4
    assert offering.tools.listed(routes["demo"].server_id, "add") == ()
    assert offering.tools is ToolSearch(Finder()).offering(whole).tools


@pytest.mark.parametrize("space", [b"", b" "])
def test_a_call_for_another_worker_is_what_the_client_sent(space: bytes) -> None:
    raw = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"call_tool","arguments":'
        b'{"server_name":"demo","tool_name":"a__b","parameters":{"n":%d}}%s}}' % (2**70, space)
    )
    exchange = GatewayRequest({"path": "/mcp", "method": "POST"}, unused, unused)
    envelope = read_envelope(raw, load_object(raw))

    inner = inner_call(exchange, envelope)

    assert inner.params["name"] == exchange.target == "demo__a__b"
    assert load_text(outer_call(inner.raw)) == load_text(raw)


def test_the_header_names_the_inner_tool_from_then_on() -> None:
    arguments = {"server_name": "demo", "tool_name": "echo", "parameters": {}}
    message, named = modern("tools/call", {"name": "call_tool", "arguments": arguments})
    exchange = GatewayRequest({"path": "/mcp", "method": "POST"}, unused, unused)
    exchange.headers = {name.replace("_", "-"): value for name, value in named.items()}
    exchange.is_modern = True
    raw = orjson.dumps(message)

    inner_call(exchange, read_envelope(raw, load_object(raw)))

    assert exchange.headers["mcp-name"] == "demo__echo"


async def test_such_a_call_goes_on_in_the_worker_that_holds_it(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream, finder: Finder
) -> None:
    asking = Asking()
    upstream.behaviour = asking.server
    url = await stack.enter_async_context(serve(upstream))
    route = make_route(f"{url}/mcp", eras=frozenset({Era.LEGACY}))
    workers = FakeWorkers()
    first = await start_gateway(route, peers=workers.peer("aaaaaaaa"), finder=finder)
    second = await start_gateway(route, peers=workers.peer("bbbbbbbb"), finder=finder)
    workers.serve({"aaaaaaaa": first.endpoint, "bbbbbbbb": second.endpoint})
    params = {
        "name": "call_tool",
        "arguments": {"server_name": "demo", "tool_name": "echo", "parameters": {"a": 1}},
    }

    async def post(gateway: Gateway, params: Any) -> Any:
        message, headers = modern("tools/call", params, elicitation={})
        answer = await gateway.http.post(
            f"/mcp{SEARCH}", json=message, headers=head("alice", **headers)
        )
        return answer.json()

    parked = await post(first, params)
    state = parked["result"]["requestState"]
    done = await post(
        second, {**params, "inputResponses": {"input": {"n": 1}}, "requestState": state}
    )

    assert done["result"]["said"] == [{"n": 1}]
    assert workers.forwarded == ["aaaaaaaa"]


async def test_a_server_is_also_known_by_its_name_and_its_path(
    start_gateway: StartGateway, upstream: ScriptedUpstream, stack: AsyncExitStack, finder: Finder
) -> None:
    url = await stack.enter_async_context(serve(upstream))
    gateway: Gateway = await start_gateway(
        make_route(f"{url}/mcp", slug="a__b", server_name="The server"), finder=finder
    )
    finder.found = None

    content = await found(gateway)
    for server in (content["tools"][0]["mcp_server_name"], "The server"):
        arguments: dict[str, Any] = {"server_name": server, "tool_name": "echo", "parameters": {}}
        assert "result" in await ask(gateway, "call_tool", arguments)

    calls = [one for one in gateway.notes.calls if one.tool == "echo"]
    assert len({one.target for one in calls}) == 1
