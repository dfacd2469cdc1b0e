"""A FastMCP server, run with the Python of its own environment. Prints its port as JSON.

Usage: python server.py
"""

import json
import socket
import sys
from importlib import import_module
from typing import Any

import uvicorn


def application() -> Any:
    """Return the server as an ASGI application."""
    # By name: here it is not installed.
    fastmcp: Any = import_module("fastmcp")
    exceptions: Any = import_module("fastmcp.exceptions")
    context: Any = import_module("fastmcp.server.dependencies").get_context
    server = fastmcp.FastMCP("fastmcp")

    @server.tool  # type: ignore[untyped-decorator] # as above
    async def remember(text: str) -> str:
        await context().set_state("text", text)
        return text

    @server.tool  # type: ignore[untyped-decorator] # as above
    async def recall() -> str:
        return str(await context().get_state("text") or "nothing")

    @server.tool  # type: ignore[untyped-decorator] # as above
    async def elicit() -> str:
        answer = await context().elicit("Who are you?", response_type=str)
        return f"{answer.action}: {answer.data}"

    @server.tool  # type: ignore[untyped-decorator] # as above
    async def fail() -> str:
        raise exceptions.ToolError("It does not work.")

    return server.http_app(path="/mcp")


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    config = uvicorn.Config(application(), log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])
