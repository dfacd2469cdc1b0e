"""A small MCP server to try a fresh registry with.

Run it as `python -m registry.processes.local.demo_server --port N`. It serves both protocol eras
by streamable HTTP on `/mcp` of the loopback address. It is a program of its own, like any server
that one registers, so it imports nothing of the registry.
"""

import argparse
from datetime import UTC, datetime
from typing import Annotated

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from pydantic import Field

HOST = "127.0.0.1"
PATH = "/mcp"
MAX_STEPS = 1000
SHUTDOWN_SECONDS = 1
"""How long open streams may delay the end; a client's idle stream would delay it for ever."""

PURE = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)


def build_server() -> MCPServer[None]:
    """Return the server with its tools."""
    server: MCPServer[None] = MCPServer(
        name="demo",
        title="Demo server",
        instructions="Harmless tools for trying out a registry and its gateway.",
        version="1.0.0",
        log_level="WARNING",
    )

    @server.tool(title="Echo", annotations=PURE)
    def echo(text: Annotated[str, Field(description="What to say.")]) -> str:
        """Say the given text back, unchanged."""
        return text

    @server.tool(title="Add", annotations=PURE)
    def add(
        a: Annotated[float, Field(description="First summand.")],
        b: Annotated[float, Field(description="Second summand.")],
    ) -> float:
        """Add two numbers."""
        return a + b

    @server.tool(
        title="Current time",
        annotations=PURE.model_copy(update={"idempotent_hint": False}),
    )
    def now() -> str:
        """Tell the current date and time in UTC, in ISO 8601 form."""
        return datetime.now(UTC).isoformat(timespec="seconds")  # noqa: TID251 - a program alone

    @server.tool(title="Count", annotations=PURE)
    async def count(
        to: Annotated[int, Field(description="Last number.", ge=1, le=MAX_STEPS)],
        context: Context,
    ) -> int:
        """Count from 1 to a number, reporting the progress of every step."""
        for step in range(1, to + 1):
            await context.report_progress(step, to, f"{step} of {to}")
        return to

    return server


def main() -> None:
    """Read the command line and serve until a signal."""
    parser = argparse.ArgumentParser(prog="demo_server", description="The demo MCP server.")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument(
        "--home", default="", help="folder it belongs to; shown in the process list, not read"
    )
    options = parser.parse_args()
    app = build_server().streamable_http_app(streamable_http_path=PATH, host=HOST)
    uvicorn.run(
        app,
        host=HOST,
        port=options.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


if __name__ == "__main__":
    main()
