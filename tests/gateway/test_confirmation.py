"""Calls that their user must confirm, with the official clients at real servers."""

from contextlib import AsyncExitStack

import pytest

from tests.gateway.confirming import agreeing, confirming
from tests.gateway.conftest import StartGateway
from tests.gateway.meeting import Kind, Speech, connected

SPEECHES = pytest.mark.parametrize("speech", [*Speech])
PATHS = pytest.mark.parametrize("path", ["/mcp/demo", "/mcp"])
KINDS = pytest.mark.parametrize("kind", [Kind.LEGACY, Kind.MODERN])

TOOL = "test_simple_text"


def named(path: str, tool: str = TOOL) -> str:
    """Return the name of a tool at a path."""
    return tool if path == "/mcp/demo" else f"demo__{tool}"


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
