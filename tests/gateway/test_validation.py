"""Arguments and results against the definition that is served, on each path and in each era."""

from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from registry.gateway.values import ToolEntry, tool_entry
from registry.tools.call_rules import ArgumentValidation, CallRules, OutputValidation
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import MODERN, event, modern
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

pytestmark = pytest.mark.integration

SCHEMA = {
    "type": "object",
    "properties": {"cents": {"type": "integer"}},
    "required": ["cents"],
}
RECURSIVE = {**SCHEMA, "properties": {**SCHEMA["properties"], "next": {"$ref": "#"}}}  # type: ignore[dict-item]
OUTPUT = {"type": "object", "properties": {"paid": {"type": "boolean"}}, "required": ["paid"]}


def pay(name: str, rules: CallRules | None = None, **members: Any) -> ToolEntry:
    text = orjson.dumps({"name": name, "inputSchema": SCHEMA, **members}).decode()
    return tool_entry(name, text, rules=rules or CallRules())


TOOLS = [
    pay("pay"),
    pay("reported", CallRules(ArgumentValidation.REPORT)),
    pay("unchecked", CallRules(ArgumentValidation.OFF)),
    pay("recursive", inputSchema=RECURSIVE),
    pay("broken", inputSchema={"type": "strng"}),
    pay("enforced", CallRules(validate_output=OutputValidation.ENFORCE), outputSchema=OUTPUT),
    pay("watched", CallRules(validate_output=OutputValidation.REPORT), outputSchema=OUTPUT),
    pay(
        "elsewhere",
        CallRules(validate_output=OutputValidation.ENFORCE),
        outputSchema={"$ref": "https://example.com/s"},
    ),
]


@dataclass
class Bank:
    """An upstream that answers every call with one result."""

    result: dict[str, Any] = field(default_factory=lambda: {"content": []})
    calls: list[str] = field(default_factory=list)
    streams: bool = False

    async def __call__(self, received: Request) -> None:
        """Behave as an upstream."""
        self.calls.append(received.message["params"]["name"])
        answer = {"jsonrpc": "2.0", "id": received.message["id"], "result": self.result}
        if self.streams:
            await received.start(200, content_type="text/event-stream")
            await received.chunk(event(answer), more=False)
        else:
            await received.answer(200, orjson.dumps(answer))


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
async def gateway(stack: Any, start_gateway: StartGateway, bank: Bank) -> Gateway:
    upstream = ScriptedUpstream()
    upstream.behaviour = bank
    url = await stack.enter_async_context(serve(upstream))
    started: Gateway = await start_gateway(make_route(f"{url}/mcp", tools=TOOLS))
    return started


async def call(
    gateway: Gateway, tool: str, arguments: Any, *, era: str = "legacy", path: str = "demo"
) -> dict[str, Any]:
    """Call a tool and return the result."""
    name = tool if path else f"demo__{tool}"
    params = {"name": name, "arguments": arguments}
    if era == "legacy":
        message = request("tools/call", params)
        headers: dict[str, str] = {}
    else:
        message, headers = modern("tools/call", params)
    sent = orjson.dumps(message)
    answer = await gateway.http.post(
        f"/mcp/{path}".rstrip("/"), content=sent, headers=head(**headers)
    )
    assert answer.status_code == 200, answer.text
    text = answer.text
    if text.startswith(("event:", "data:")):
        text = next(line for line in text.splitlines() if line.startswith("data: "))[6:]
    body: dict[str, Any] = orjson.loads(text)
    return body


PATHS = pytest.mark.parametrize(
    ("era", "path"), [("legacy", "demo"), (MODERN, "demo"), (MODERN, "")]
)


@PATHS
@pytest.mark.requirement("R-223")
async def test_arguments_that_do_not_match_are_not_sent(
    gateway: Gateway, bank: Bank, era: str, path: str
) -> None:
    for tool in ("pay", "recursive"):
        refused = await call(gateway, tool, {"cents": "secret"}, era=era, path=path)
        text = refused["result"]["content"][0]["text"]
        assert refused["result"]["isError"] is True
        assert "/cents violates properties/cents/type (it is a string)" in text
        assert "secret" not in str(refused)
        assert bank.calls == []
        if era == MODERN:
            assert refused["result"]["resultType"] == "complete"
        assert "isError" not in (await call(gateway, tool, {"cents": 7}, era=era, path=path))
        assert bank.calls == [tool]
        bank.calls.clear()


async def test_a_tool_says_whether_mismatches_are_refused_reported_or_ignored(
    gateway: Gateway, bank: Bank
) -> None:
    for tool in ("pay", "reported", "unchecked", "broken"):
        await call(gateway, tool, {"cents": None})

    assert bank.calls == ["reported", "unchecked"]
    counted = {
        (sample.labels["part"], sample.labels["action"]): sample.value
        for family in gateway.metrics.gateway_mismatches.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert counted == {("arguments", "refused"): 2, ("arguments", "reported"): 1}


async def test_a_schema_that_cannot_be_used_refuses_and_says_who_can_help(
    gateway: Gateway,
) -> None:
    refused = await call(gateway, "broken", {"cents": 7})
    assert "operators must decide" in refused["result"]["content"][0]["text"]


@pytest.mark.parametrize("text", ["[]", '"a"', "7", "true"])
async def test_arguments_that_are_no_object_are_a_malformed_request(
    gateway: Gateway, bank: Bank, text: str
) -> None:
    refused = await call(gateway, "pay", orjson.loads(text))
    assert refused["error"]["code"] == -32602
    assert bank.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param('{"cents": NaN}', id="no number"),
        pytest.param('{"cents": 1, "cents": "x"}', id="a repeated name"),
        pytest.param('{"cents":' + "[" * 3000 + "]" * 3000 + "}", id="depth"),
        pytest.param('{"cents": "' + "x" * 1_000_000 + '"}', id="a megabyte"),
        pytest.param('{"cents": 1e400}', id="an infinite number"),
        pytest.param('{"cents": "' + "x" * (1 << 20) + '"}', id="a mebibyte"),
        pytest.param('{"cents": [' + "9" * 5_000 + "]}", id="an integer of 5,000 digits"),
        pytest.param('{"cents": 1, "\\ud800": 1}', id="half a character"),
    ],
)
async def test_odd_arguments_are_refused_and_not_sent(
    gateway: Gateway, bank: Bank, arguments: str
) -> None:
    for path, name in (("/mcp/demo", "pay"), ("/mcp", "demo__pay")):
        params = {"name": name, "arguments": "here"}
        for message, headers in (
            (request("tools/call", params), {}),
            modern("tools/call", params),
        ):
            text = orjson.dumps(message).decode().replace('"here"', arguments)
            answer = await gateway.http.post(path, content=text.encode(), headers=head(**headers))
            assert answer.status_code < 500
            said = answer.json()
            assert "error" in said or said["result"]["isError"] is True
    assert bank.calls == []


@PATHS
@pytest.mark.parametrize("streams", [False, True])
async def test_results_are_checked_where_that_is_asked_for(
    gateway: Gateway,
    bank: Bank,
    era: str,
    path: str,
    streams: bool,  # noqa: FBT001 - a row of the table
) -> None:
    bank.streams = streams
    complete = {"resultType": "complete"} if era == MODERN else {}
    wrong = {"content": [], "structuredContent": {"paid": "secret"}, **complete}
    for bank.result in (wrong, {"content": [], **complete}):
        refused = await call(gateway, "enforced", {"cents": 1}, era=era, path=path)
        assert refused["result"]["isError"] is True
        assert "does not match the tool's outputSchema" in str(refused["result"]["content"])
        assert "secret" not in str(refused)
        watched = await call(gateway, "watched", {"cents": 1}, era=era, path=path)
        assert watched["result"] == bank.result
    for bank.result in (
        {"content": [], "structuredContent": {"paid": True}, **complete},
        {"content": [], "isError": True, **complete},
    ):
        passed = await call(gateway, "enforced", {"cents": 1}, era=era, path=path)
        assert passed["result"] == bank.result


async def test_an_output_schema_that_cannot_be_enforced_refuses_the_call(
    gateway: Gateway, bank: Bank
) -> None:
    refused = await call(gateway, "elsewhere", {"cents": 1})
    assert "cannot be checked" in refused["result"]["content"][0]["text"]
    assert bank.calls == []


async def test_a_large_result_is_checked_as_a_whole(gateway: Gateway, bank: Bank) -> None:
    padding = "x" * 2_000_000
    bank.result = {
        "content": [{"type": "text", "text": padding}],
        "structuredContent": {"paid": 1},
    }
    refused = await call(gateway, "enforced", {"cents": 1})
    assert refused["result"]["isError"] is True
    assert len(str(refused)) < 1_000
