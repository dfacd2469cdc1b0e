"""The client of the Python SDK 1.x, run with the Python of its own environment.

Usage: python client.py '{"url":…,"token":…}'; prints what it saw of servers that work, are away,
and stop waiting.
"""

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

OPTIONS = json.loads(sys.argv[1])
LATE_SECONDS = 1.0
"""Longer than the server waits for an answer."""


async def converse() -> dict[str, Any]:
    """Go on in one session whatever fails, and return what was seen."""
    # By name: here another release of it is installed, whose types are others.
    mcp: Any = import_module("mcp")
    transport: Any = import_module("mcp.client.streamable_http")
    types: Any = import_module("mcp.types")

    asked = asyncio.Event()
    answered = asyncio.Event()

    async def answer_late(_context: Any, _params: Any) -> Any:
        asked.set()
        await asyncio.sleep(LATE_SECONDS)  # noqa: TID251 - a program of its own, without our clock
        answered.set()
        return types.ElicitResult(action="accept", content={"name": "late"})

    async def failure(request: Any) -> str:
        try:
            await request
        except mcp.McpError as exc:
            return str(exc)
        return "no error"

    headers = {"Authorization": f"Bearer {OPTIONS['token']}"}
    report: dict[str, Any] = {"alive": []}
    async with (
        transport.streamablehttp_client(OPTIONS["url"], headers=headers) as (read, write, _),
        mcp.ClientSession(read, write, elicitation_callback=answer_late) as session,
    ):
        await session.initialize()

        async def works() -> None:
            result = await session.call_tool("works__echo", {})
            report["alive"].append(not result.isError)

        await works()
        away = await session.call_tool("away__echo", {})
        report["away"] = [away.isError, away.content[0].text]
        await works()
        report["prompt"] = await failure(session.get_prompt("away__none"))
        report["tool"] = await failure(session.call_tool("away__no_such_tool", {}))
        await works()
        if OPTIONS.get("asks"):
            late = await session.call_tool("asks__echo", {})
            report["late"] = late.content[0].text
            await answered.wait()
            await works()
    return report


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(asyncio.wait_for(converse(), 60))) + "\n")
