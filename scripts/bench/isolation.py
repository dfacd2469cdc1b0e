"""Latency of one server's calls while another hangs.

Both servers have the same number of callers; calls of the one that hangs fail after a while, and
are made again.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from scripts.bench.load import Target, run
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage

CALLERS = 64
HANGING = "bench-hanging"
CALL = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "x"}},
    }
).encode()
TOOLS = [{"name": "echo", "inputSchema": {"type": "object"}}]


@dataclass(frozen=True, slots=True)
class Pair:
    """The 99th percentile of the healthy server's calls in milliseconds."""

    alone_ms: float
    while_hanging_ms: float
    errors: int

    @property
    def ratio(self) -> float:
        """Return how much slower they are while the other hangs."""
        return self.while_hanging_ms / self.alone_ms


class HangingServer:
    """Answers everything but calls."""

    def __init__(self) -> None:
        self._connections: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End all connections."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, until it or the server ends."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this in one
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Its end is no error, but asyncio reports a cancelled connection as one.
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError
        ):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
                sent = await reader.readexactly(length)
                if not head.startswith(b"post"):
                    status, body = b"405 Method Not Allowed", b""
                else:
                    status, body = await self._answer(json.loads(sent))
                writer.write(
                    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%s" % (status, len(body), body)
                )
        writer.close()

    async def _answer(self, message: dict[str, object]) -> tuple[bytes, bytes]:
        if "id" not in message:
            return b"202 Accepted", b""
        result: dict[str, object] = {}
        match message["method"]:
            case "initialize":
                result = {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": HANGING, "version": "1"},
                }
            case "tools/list":
                result = {"tools": TOOLS}
            case "tools/call":
                await asyncio.Event().wait()
            case _:
                error = {"code": -32601, "message": "Method not found"}
                body = {"jsonrpc": "2.0", "id": message["id"], "error": error}
                return b"200 OK", json.dumps(body).encode()
        body = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        return b"200 OK", json.dumps(body).encode()


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Register a server that hangs beside the healthy one, and measure in each round."""
    pairs = asyncio.run(_measure(stage, plan))
    report.section(f"one server hangs, {CALLERS} callers each")
    report.row("p99 of another server's calls, alone", [pair.alone_ms for pair in pairs], "ms")
    report.row("the same while it hangs", [pair.while_hanging_ms for pair in pairs], "ms")
    report.row(
        "p99 of a server's calls while another hangs / alone",
        [pair.ratio for pair in pairs],
        bar=Bar(1.2, 1.05),
    )
    report.errors(sum(pair.errors for pair in pairs))


async def _measure(stage: Stage, plan: Plan) -> list[Pair]:
    healthy = stage.one()
    async with _hanging_server() as port:
        await asyncio.to_thread(stage.register, HANGING, port)
        hanging = replace(healthy, path=f"/mcp/{HANGING}")
        pairs = []
        for _ in range(plan.rounds):
            alone = await run(healthy, CALLERS, plan.seconds)
            callers = [asyncio.ensure_future(_keep_calling(hanging)) for _ in range(CALLERS)]
            try:
                disturbed = await run(healthy, CALLERS, plan.seconds)
            finally:
                for caller in callers:
                    caller.cancel()
                await asyncio.gather(*callers, return_exceptions=True)
            pairs.append(
                Pair(
                    alone.p99_ms,
                    disturbed.p99_ms,
                    alone.errors + disturbed.errors,
                )
            )
        return pairs


@asynccontextmanager
async def _hanging_server() -> AsyncIterator[int]:
    hanging = HangingServer()
    server = await asyncio.start_server(hanging.serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await hanging.close()


async def _keep_calling(target: Target) -> None:
    """Call again and again; a call that is refused at once is made again after a second."""
    while True:
        reader, writer = await asyncio.open_connection(target.host, target.port)
        try:
            writer.write(
                f"POST {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
                f"Authorization: Bearer {target.token}\r\nContent-Type: application/json\r\n"
                "MCP-Protocol-Version: 2025-06-18\r\nConnection: close\r\n"
                f"Accept: application/json, text/event-stream\r\n"
                f"Content-Length: {len(CALL)}\r\n\r\n".encode()
                + CALL
            )
            await reader.read()
        finally:
            writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.Event().wait()
