"""Calls that their user must confirm, with the official clients at real servers."""

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from mcp_types import ElicitResult

from registry.gateway.edge.confirmation import CONFIRM_META_KEY
from registry.tools.call_rules import NO_CALL_RULES
from registry.upstream.loops import Instance
from tests.gateway.confirming import User, agreeing, confirmed, confirming, refusal
from tests.gateway.conftest import StartGateway
from tests.gateway.fakes import make_route
from tests.gateway.meeting import Kind, Speech, connected, everything_tools, text

SPEECHES = pytest.mark.parametrize("speech", [*Speech])
PATHS = pytest.mark.parametrize("path", ["/mcp/demo", "/mcp"])
KINDS = pytest.mark.parametrize("kind", [*Kind])

TOOL = "test_simple_text"
BY_REQUEST: Any = {CONFIRM_META_KEY: True}
ANSWERS = (
    ElicitResult(action="decline"),
    ElicitResult(action="cancel"),
    ElicitResult(action="accept", content={"confirm": False}),
)
REASONS = ("declined", "dismissed the question", "did not tick")


def named(path: str, tool: str = TOOL) -> str:
    """Return the name of a tool at a path."""
    return tool if path == "/mcp/demo" else f"demo__{tool}"


@pytest.mark.requirement("R-224")
@KINDS
@SPEECHES
@PATHS
async def test_a_call_is_sent_once_its_user_has_agreed(
    stack: AsyncExitStack, start_gateway: StartGateway, kind: Kind, speech: Speech, path: str
) -> None:
    place = await stack.enter_async_context(confirming(kind, start_gateway))
    calls: list[int] = []
    user = agreeing()
    user.on_asked = lambda: calls.append(len(place.server.calls))
    url = place.gateway.url

    async with connected(url, speech, path, elicitation_callback=user) as client:
        result = await client.call_tool(named(path), {"path": "a.txt"})

    assert not result.is_error
    assert calls == [0]
    assert place.server.calls == [(TOOL, {"path": "a.txt"})]
    [question] = user.questions
    assert TOOL in question.message
    assert "demo" in question.message
    assert '"path": "a.txt"' in question.message


@SPEECHES
@PATHS
async def test_without_agreement_nothing_is_sent(
    stack: AsyncExitStack, start_gateway: StartGateway, speech: Speech, path: str
) -> None:
    place = await stack.enter_async_context(confirming(Kind.LEGACY, start_gateway))
    user = User(ElicitResult(action="decline"))
    said = []
    url = place.gateway.url

    async with connected(url, speech, path, elicitation_callback=user) as client:
        for answer in ANSWERS:
            user.result = answer
            said.append(await refusal(client, named(path)))

    assert [reason in text for reason, text in zip(REASONS, said, strict=True)] == [True] * 3
    assert place.server.calls == []
    recorded = [event.changes for _, event in place.gateway.refusals.events]
    assert [one["confirmation"] for one in recorded] == ["decline", "cancel", "accept"]
    assert {one["tool"] for one in recorded} == {TOOL}
    assert {call.outcome for call in place.gateway.notes.calls} <= {"ok", "unconfirmed"}
    ended = [call for call in place.gateway.notes.calls if call.decided_at]
    assert ended == []


@SPEECHES
@PATHS
async def test_a_client_that_cannot_be_asked_is_told_how_else(
    stack: AsyncExitStack, start_gateway: StartGateway, speech: Speech, path: str
) -> None:
    place = await stack.enter_async_context(confirming(Kind.MODERN, start_gateway))

    async with connected(place.gateway.url, speech, path) as client:
        said = await refusal(client, named(path))
        mine = await refusal(client, named(path), meta=BY_REQUEST)
    async with connected(place.gateway.url, speech, path, "root") as client:
        result = await client.call_tool(named(path), {}, meta=BY_REQUEST)

    assert "elicitation" in said
    assert CONFIRM_META_KEY in said
    assert "confirm:tools (this one lacks it)" in said
    assert "needs a token with confirm:tools" in mine
    assert not result.is_error
    assert len(place.server.calls) == 1
    assert [event.changes["confirmation"] for _, event in place.gateway.refusals.events] == [
        "unasked",
        "unasked",
        "request",
    ]


@pytest.mark.parametrize("kind", [Kind.LEGACY, Kind.MODERN])
@SPEECHES
@PATHS
async def test_a_server_that_asks_something_itself_does_so_after_the_confirmation(
    stack: AsyncExitStack, start_gateway: StartGateway, kind: Kind, speech: Speech, path: str
) -> None:
    place = await stack.enter_async_context(confirming(kind, start_gateway))
    asked: list[str] = []

    async def answer(_: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        said: Any = {"name": "Ada"} if len(asked) > 1 else {"confirm": True}
        return ElicitResult(action="accept", content=said)

    url = place.gateway.url
    async with connected(url, speech, path, elicitation_callback=answer) as client:
        tool = "test_input_required_result_elicitation"
        result = await client.call_tool(named(path, tool), {})

    assert text(result) == "Hello, Ada!"
    assert [message.startswith("Confirm a call") for message in asked] == [True, False]


@pytest.mark.parametrize("speech", [Speech.LEGACY, Speech.MODERN])
async def test_what_another_gateway_behind_this_one_asks_is_between_it_and_the_client(
    stack: AsyncExitStack, start_gateway: StartGateway, speech: Speech
) -> None:
    inner = await stack.enter_async_context(confirming(Kind.MODERN, start_gateway))
    headers = {"Authorization": "Bearer bob"}
    outer = await start_gateway(
        make_route(
            f"{inner.gateway.url}/mcp/demo", headers=headers, tools=confirmed(everything_tools())
        ),
        instance=Instance.of([b"another gateway" * 3]),
    )
    user = agreeing()

    async with connected(outer.url, speech, elicitation_callback=user) as client:
        result = await client.call_tool(TOOL, {})

    assert not result.is_error
    assert len(user.questions) == 2
    assert len(inner.server.calls) == 1


async def test_a_stream_with_the_server_itself_that_is_open_already_is_told_to_begin_again(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    place = await stack.enter_async_context(confirming(Kind.OLD, start_gateway))
    free = replace(
        place.route,
        tools={tool.name: replace(tool, rules=NO_CALL_RULES) for tool in everything_tools()},
    )
    place.gateway.routes.replace(free)
    user = agreeing()
    url = place.gateway.url

    async with connected(url, Speech.OLD, elicitation_callback=user) as client:
        before = await client.call_tool(TOOL, {})
        place.gateway.routes.replace(place.route)
        said = await refusal(client, TOOL)
    async with connected(url, Speech.OLD, elicitation_callback=user) as client:
        after = await client.call_tool(TOOL, {})

    assert (before.is_error, after.is_error) == (False, False)
    assert "its stream began before" in said
    assert len(user.questions) == 1
    assert len(place.server.calls) == 2
