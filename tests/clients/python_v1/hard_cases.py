"""The Python SDK 1.x with servers of others, run with the Python of its own environment.

Usage: python hard_cases.py '{"url":…,"sse":…,"token":…}'; prints what it saw on `/mcp`, and over
HTTP+SSE at a server of that transport.
"""

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

OPTIONS = json.loads(sys.argv[1])
WAIT_SECONDS = 60
LATE_SECONDS = 0.3
"""Longer than the server waits for an answer, which is not at all."""


async def on_the_combined_path() -> list[str]:
    """Go on in one session whatever fails."""
    # By name: here another release of it is installed, whose types are others.
    mcp: Any = import_module("mcp")
    transport: Any = import_module("mcp.client.streamable_http")
    types: Any = import_module("mcp.types")
    late = asyncio.Event()

    async def elicited(_context: Any, _params: Any) -> Any:
        if not late.is_set():
            await asyncio.sleep(LATE_SECONDS)  # noqa: TID251 - a program without our clock
            late.set()
        return types.ElicitResult(action="accept", content={"name": "Ann"})

    headers = {"Authorization": f"Bearer {OPTIONS['token']}"}
    async with (
        transport.streamablehttp_client(OPTIONS["url"], headers=headers) as (read, write, _),
        mcp.ClientSession(read, write, elicitation_callback=elicited) as session,
    ):
        await session.initialize()

        async def say(name: str) -> str:
            return str((await session.call_tool(f"sdk1__{name}", {})).content[0].text)

        texts = [await say("break_off"), await say("ask_and_go_on")]
        await late.wait()
        return [*texts, await say("elicit"), await say("recall")]


async def over_sse() -> bool:
    """Hear of a tool that is added, and find it."""
    mcp: Any = import_module("mcp")
    transport: Any = import_module("mcp.client.sse")
    types: Any = import_module("mcp.types")
    changed = asyncio.Event()

    async def hear(message: Any) -> None:
        told = isinstance(message, types.ServerNotification) and message.root
        if isinstance(told, types.ToolListChangedNotification):
            changed.set()

    headers = {"Authorization": f"Bearer {OPTIONS['token']}"}
    async with (
        transport.sse_client(OPTIONS["sse"], headers=headers) as (read, write),
        mcp.ClientSession(read, write, message_handler=hear) as session,
    ):
        await session.initialize()
        await session.call_tool("grow", {"name": "grown_over_sse"})
        await changed.wait()
        # A list waits for the gateway to have read the new one, three seconds at most.
        while "grown_over_sse" not in {one.name for one in (await session.list_tools()).tools}:
            pass
        return True


async def converse() -> dict[str, Any]:
    """Return what was seen."""
    async with asyncio.timeout(WAIT_SECONDS):
        return {"combined": await on_the_combined_path(), "sse": await over_sse()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(converse())) + "\n")
