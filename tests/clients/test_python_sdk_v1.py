"""The Python SDK 1.x, whose session ends on the first HTTP error, with servers that fail."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

from registry.servers.values import Era
from tests.clients.launching import PYTHON_SDK_V1, python_of, run_program
from tests.gateway.conftest import StartGateway, stack, start_gateway
from tests.gateway.eras import EVENTS, event
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

FIXTURES = (stack, start_gateway)
SAID = {"content": [{"type": "text", "text": "said"}]}
LEGACY = frozenset({Era.LEGACY})


async def works(received: Request) -> None:
    """Answer everything, in the era of the handshake."""
    if received.method != "POST":
        await received.answer(405, b"")
    elif "id" not in received.message:
        await received.answer(202, b"")
    elif received.message["method"] == "initialize":
        await received.result({"protocolVersion": "2025-11-25", "capabilities": {}})
    else:
        await received.result(SAID)


async def stops_waiting(received: Request) -> None:
    """Ask something during a call, and answer it without waiting."""
    if received.method == "POST" and received.message.get("method") == "tools/call":
        asked = {"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": FORM}
        answer = {"jsonrpc": "2.0", "id": received.message["id"], "result": SAID}
        await received.start(200, **EVENTS)
        await received.chunk(event(asked))
        await received.chunk(event(answer), more=False)
    elif received.method == "POST" and "method" not in received.message:
        await received.answer(400, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600}}')
    else:
        await works(received)


FORM = {
    "message": "Who are you?",
    "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
}


async def test_a_session_outlives_servers_that_fail_and_answers_that_come_too_late(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    url = await stack.enter_async_context(serve(ScriptedUpstream(works)))
    asking = await stack.enter_async_context(serve(ScriptedUpstream(stops_waiting)))
    gateway = await start_gateway(
        make_route(f"{url}/mcp", slug="works", eras=LEGACY),
        make_route("http://127.0.0.1:9/mcp", slug="away", eras=LEGACY),
        make_route(f"{asking}/mcp", slug="asks", eras=LEGACY),
    )
    python = await asyncio.to_thread(python_of, PYTHON_SDK_V1)
    options = {"url": f"{gateway.url}/mcp", "token": "alice", "asks": True}

    report: dict[str, Any] = await run_program(
        python, str(PYTHON_SDK_V1 / "client.py"), json.dumps(options)
    )

    assert report == {
        "alive": [True] * 4,
        "away": [True, "The server away cannot be reached."],
        "prompt": "Unknown prompt: away__none",
        "tool": "Unknown tool: away__no_such_tool",
        "late": "said",
    }
