"""Both protocol eras on one path: lists, header agreement, and eras that do not meet."""

from typing import Any

import httpx
import pytest

from registry.gateway.edge.eras import is_of_another_era
from registry.gateway.values import tool_entry
from registry.servers.values import Era
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.fakes import TOOLS, Request, ScriptedUpstream, make_route

MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
LEGACY_ONLY = frozenset({Era.LEGACY})
MODERN_ONLY = frozenset({Era.MODERN})


async def post_modern(
    gateway: Gateway, method: str, params: dict[str, Any] | None = None, **headers: str
) -> httpx.Response:
    """Send a request of the stateless era with headers that agree with it."""
    agreeing = {"mcp_protocol_version": MODERN, "mcp_method": method}
    if method == "tools/call" and params:
        agreeing["mcp_name"] = params["name"]
    message = request(method, {**(params or {}), "_meta": META})
    return await gateway.post(message, **(agreeing | headers))


async def test_a_modern_call_passes_with_its_routing_headers(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    await post_modern(gateway, "tools/call", {"name": "echo"}, mcp_param_unknown="1")

    sent = upstream.requests[0].headers
    assert {name: value for name, value in sent.items() if name.startswith("mcp-")} == {
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/call",
        "mcp-name": "echo",
        "mcp-param-unknown": "1",
    }


async def test_the_stateless_era_has_no_sessions(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def offer_session(received: Any) -> None:
        await received.result({}, mcp_session_id="unasked")

    upstream.behaviour = offer_session

    answer = await post_modern(gateway, "tools/call", {"name": "echo"}, mcp_session_id="x")

    assert answer.status_code == 200
    assert "mcp-session-id" not in answer.headers
    assert "mcp-session-id" not in upstream.requests[0].headers


DISAGREEING = [
    {"mcp_method": "tools/list"},
    {"mcp_name": "hidden"},
    {"mcp_protocol_version": "2025-11-25"},
]


@pytest.mark.parametrize("headers", DISAGREEING)
async def test_headers_that_disagree_with_the_body_are_refused(
    gateway: Gateway, upstream: ScriptedUpstream, headers: dict[str, str]
) -> None:
    answer = await post_modern(gateway, "tools/call", {"name": "echo"}, **headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32020
    assert upstream.requests == []


async def test_a_modern_body_without_the_version_header_is_refused(gateway: Gateway) -> None:
    answer = await gateway.post(request("tools/call", {"name": "echo", "_meta": META}))

    assert answer.json()["error"]["code"] == -32020


async def test_a_repeated_routing_header_is_refused(gateway: Gateway) -> None:
    headers = [
        *head(mcp_protocol_version=MODERN, mcp_method="tools/call").items(),
        ("mcp-name", "echo"),
        ("mcp-name", "hidden"),
    ]

    answer = await gateway.http.post(
        "/mcp/demo",
        json=request("tools/call", {"name": "echo", "_meta": META}),
        headers=headers,
    )

    assert answer.json()["error"]["code"] == -32020


async def test_a_modern_request_without_its_envelope_is_refused(gateway: Gateway) -> None:
    answer = await gateway.post(request("ping"), mcp_protocol_version=MODERN, mcp_method="ping")

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32602


async def test_a_modern_response_is_refused(gateway: Gateway) -> None:
    answer = await gateway.post(
        {"jsonrpc": "2.0", "id": 1, "result": {}}, mcp_protocol_version=MODERN
    )

    assert answer.json()["error"]["code"] == -32600


@pytest.mark.parametrize(
    ("named", "status"), [("notifications/cancelled", 200), ("tools/call", 400)]
)
async def test_a_modern_notification_must_be_what_its_header_says(
    gateway: Gateway, upstream: ScriptedUpstream, named: str, status: int
) -> None:
    async def accept(received: Any) -> None:
        await received.answer(200, b"{}")

    upstream.behaviour = accept

    answer = await gateway.post(
        {"jsonrpc": "2.0", "method": "notifications/cancelled"},
        mcp_protocol_version=MODERN,
        mcp_method=named,
    )

    assert answer.status_code == status


@pytest.mark.parametrize(
    ("sent", "status"),
    [({"mcp_param_region": "eu"}, 200), ({"mcp_param_region": "us"}, 400), ({}, 400)],
)
async def test_mirrored_arguments_must_agree_with_their_headers(
    gateway: Gateway, sent: dict[str, str], status: int
) -> None:
    tool = tool_entry(
        "echo",
        '{"name":"echo","inputSchema":{"type":"object","properties":'
        '{"region":{"type":"string","x-mcp-header":"Region"}}}}',
    )
    url = gateway.routes.routes["demo"].url
    gateway.routes.routes["demo"] = make_route(url, tools=[tool])

    answer = await post_modern(
        gateway, "tools/call", {"name": "echo", "arguments": {"region": "eu"}}, **sent
    )

    assert answer.status_code == status


async def test_an_unknown_tool_has_the_status_of_its_era(gateway: Gateway) -> None:
    answer = await post_modern(gateway, "tools/call", {"name": "hidden"})

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Unknown tool: hidden"


@pytest.mark.requirement("R-005")
async def test_tools_are_listed_from_memory_in_the_era_of_the_handshake(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await gateway.post(request("tools/list", request_id="a"))

    assert answer.text == (
        '{"jsonrpc":"2.0","id":"a","result":{"tools":['
        + TOOLS["add"]
        + ","
        + TOOLS["echo"]
        + "]}}"
    )
    assert upstream.requests == []


async def test_tools_are_listed_from_memory_in_the_stateless_era(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await post_modern(gateway, "tools/list")

    result = answer.json()["result"]
    assert [tool["name"] for tool in result.pop("tools")] == ["add", "echo"]
    assert result == {"resultType": "complete", "ttlMs": 30000, "cacheScope": "private"}
    assert upstream.requests == []


@pytest.mark.requirement("R-003")
async def test_a_dead_upstream_does_not_empty_the_list(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(make_route("http://127.0.0.1:9/mcp"))

    answer = await gateway.post(request("tools/list"))

    assert len(answer.json()["result"]["tools"]) == len(TOOLS)


async def test_long_lists_are_paged(start_gateway: StartGateway) -> None:
    names = [f"tool_{number:05d}" for number in range(2500)]
    tools = [tool_entry(name, f'{{"name":"{name}"}}') for name in names]
    gateway = await start_gateway(make_route(tools=tools))
    listed: list[str] = []
    sizes: list[int] = []
    cursor: str | None = ""

    while cursor is not None:
        params = {"cursor": cursor} if cursor else {}
        result = (await gateway.post(request("tools/list", params))).json()["result"]
        listed += [tool["name"] for tool in result["tools"]]
        sizes.append(len(result["tools"]))
        cursor = result.get("nextCursor")

    assert listed == names
    assert sizes == [1000, 1000, 500]


@pytest.mark.parametrize("cursor", ["x", "YQ", "%%%", "", 7, ["a"]])
async def test_a_cursor_of_someone_elses_making_is_refused(
    gateway: Gateway, cursor: object
) -> None:
    answer = await gateway.post(request("tools/list", {"cursor": cursor}))

    assert answer.json()["error"]["code"] == -32602


async def test_a_version_that_nobody_knows_is_refused_with_those_that_are(
    gateway: Gateway,
) -> None:
    meta = META | {"io.modelcontextprotocol/protocolVersion": "2099-01-01"}

    answer = await gateway.post(
        request("ping", {"_meta": meta}), mcp_protocol_version="2099-01-01", mcp_method="ping"
    )

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32022
    assert answer.json()["error"]["data"]["supported"] == [MODERN]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_the_stateless_era_has_post_only(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    answer = await gateway.http.request(
        method, "/mcp/demo", headers=head(mcp_protocol_version=MODERN)
    )

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert upstream.requests == []


async def test_a_stream_takes_a_session(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(make_route(eras=MODERN_ONLY))

    answer = await gateway.http.get("/mcp/demo", headers=head())

    assert answer.status_code == 400


REFUSED_SESSION = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"No session"}}'
REFUSED_VERSION = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"Version"}}'
REFUSED_PARAMS = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Params"}}'


@pytest.mark.parametrize(
    ("era", "status", "answer", "expected"),
    [
        (Era.MODERN, 400, REFUSED_SESSION, True),
        (Era.MODERN, 405, b"Method Not Allowed", True),
        (Era.MODERN, 400, REFUSED_PARAMS, False),
        (Era.MODERN, 400, REFUSED_VERSION, False),
        (Era.LEGACY, 400, REFUSED_VERSION, True),
        (Era.LEGACY, 400, REFUSED_SESSION, False),
        (Era.LEGACY, 400, REFUSED_PARAMS, False),
        (Era.MODERN, 500, b"<html>", False),
    ],
)
def test_some_answers_say_that_a_server_speaks_another_era(
    era: Era,
    status: int,
    answer: bytes,
    expected: bool,  # noqa: FBT001 - from the table
) -> None:
    assert is_of_another_era(era, status, answer) is expected


async def test_a_server_that_answers_so_is_suspected(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def refuse(request: Request) -> None:
        await request.answer(400, REFUSED_VERSION)

    upstream.behaviour = refuse
    answer = await gateway.call()

    assert answer.json()["error"]["code"] == -32022
    assert gateway.routes.suspected == ["demo"]
