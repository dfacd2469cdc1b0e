"""Calls that people must approve, with the official clients at real servers."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.models.states import ApprovalState, Verdict
from tests.conftest import ROOT
from tests.gateway.approving import approving
from tests.gateway.conftest import StartGateway
from tests.gateway.meeting import Kind, Speech, connected

pytestmark = pytest.mark.wire

TOOL = "test_simple_text"
ARGUMENTS = {"path": "a.txt"}


def named(path: str) -> str:
    """Return the name of the tool at a path."""
    return TOOL if path == "/mcp/demo" else f"demo__{TOOL}"


@pytest.mark.requirement("R-225")
@pytest.mark.parametrize("kind", [Kind.LEGACY, Kind.MODERN])
@pytest.mark.parametrize("path", ["/mcp/demo", "/mcp"])
async def test_a_call_waits_for_people_and_is_made_once(
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    database: Database,
    cipher: Cipher,
    kind: Kind,
    path: str,
) -> None:
    place = await stack.enter_async_context(
        approving(kind, start_gateway, database, cipher, gateways=2)
    )

    for number, speech in enumerate(Speech, 1):
        async with connected(place.gateway.url, speech, path) as client:
            async with asyncio.TaskGroup() as group:
                called = group.create_task(client.call_tool(named(path), ARGUMENTS))
                approval = await place.pending()
                assert len(place.server.calls) == number - 1
                await place.service.decide(approval.id, ROOT, Verdict.APPROVE)
            result = called.result()

        assert not result.is_error, result
        assert place.server.calls == [(TOOL, ARGUMENTS)] * number
    assert len(await place.all(ApprovalState.EXECUTED)) == len(Speech)
