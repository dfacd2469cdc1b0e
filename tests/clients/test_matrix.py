"""Clients of several makers do everything with servers of both eras, through the gateway."""

import asyncio
from pathlib import Path

import pytest

from tests.clients import python_sdk
from tests.clients.conftest import Registered
from tests.clients.launching import (
    FASTMCP,
    TYPESCRIPT,
    python_of,
    run_conversation,
    run_inspector,
)
from tests.clients.matrix import Cell, Program, Upstream, cells
from tests.clients.report import Report
from tests.npm.programs import INSTALL_SECONDS, new_node

CANCELLED_SECONDS = 5

pytestmark = [
    pytest.mark.wire,
    pytest.mark.timeout(INSTALL_SECONDS + 120),
    pytest.mark.asyncio(loop_scope="module"),
]


def parameters() -> list[object]:
    """Return the cells; those of programs from npm need Node."""
    return [
        pytest.param(
            cell,
            id=str(cell),
            marks=[]
            if cell.client.program in {Program.PYTHON, Program.FASTMCP}
            else pytest.mark.node,
        )
        for cell in cells()
    ]


@pytest.mark.requirement("R-019")
@pytest.mark.parametrize("cell", parameters())
async def test_a_client_does_everything_that_the_server_offers(
    registered: dict[Upstream, Registered], cell: Cell, tmp_path: Path
) -> None:
    server = registered[cell.upstream]
    server.everything.state.cancelled.clear()

    report = await converse(cell, server, tmp_path)

    assert report == cell.client.expected
    if "cancelled" in report:
        async with asyncio.timeout(CANCELLED_SECONDS):
            await server.everything.state.cancelled.wait()
    assert server.everything.state.waiting == 0


async def converse(cell: Cell, server: Registered, home: Path) -> Report:
    """Let a client do all it can, and return what it saw."""
    url = server.gateway + cell.path.of(server.slug)
    told = (url, server.token, cell.client.mode, cell.path.prefix(server.slug))
    match cell.client.program:
        case Program.PYTHON:
            return await python_sdk.converse(*told)
        case Program.FASTMCP:
            python = await asyncio.to_thread(python_of, FASTMCP)
            return await run_conversation(python, FASTMCP / "client.py", *told)
        case Program.INSPECTOR:
            return await run_inspector(await asyncio.to_thread(new_node), home, *told)
        case Program.TYPESCRIPT_V1:
            node = await asyncio.to_thread(new_node)
            return await run_conversation(node, TYPESCRIPT / "typescript_v1.mjs", *told)
        case Program.TYPESCRIPT_V2:
            node = await asyncio.to_thread(new_node)
            return await run_conversation(node, TYPESCRIPT / "typescript_v2.mjs", *told)
