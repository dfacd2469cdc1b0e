"""Latency of one server's calls while another hangs.

Both servers have the same number of callers; those of the
one that hangs are told after a while, and call again.
"""

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from scripts.bench.load import Target, run

HOST = "127.0.0.1"
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

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        # Cancelled when the measurement is over.
        ended = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)
        with contextlib.suppress(*ended):
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


def measure(healthy: Target, seconds: float, rounds: int) -> list[Pair]:
    """Register a server that hangs beside the healthy one, and measure in each round."""
    return asyncio.run(_measure(healthy, seconds, rounds))


async def _measure(healthy: Target, seconds: float, rounds: int) -> list[Pair]:
    async with _hanging_server() as port:
        await asyncio.get_running_loop().run_in_executor(None, _register, healthy, port)
        hanging = replace(healthy, path=f"/mcp/{HANGING}")
        pairs = []
        for _ in range(rounds):
            alone = await run(healthy, CALLERS, seconds)
            callers = [asyncio.ensure_future(_keep_calling(hanging)) for _ in range(CALLERS)]
            try:
                disturbed = await run(healthy, CALLERS, seconds)
            finally:
                for caller in callers:
                    caller.cancel()
                await asyncio.gather(*callers, return_exceptions=True)
            pairs.append(
                Pair(
                    _p99_ms(alone.latencies),
                    _p99_ms(disturbed.latencies),
                    alone.errors + disturbed.errors,
                )
            )
        return pairs


def _p99_ms(latencies: list[float]) -> float:
    return sorted(latencies)[len(latencies) * 99 // 100] * 1000


@asynccontextmanager
async def _hanging_server() -> AsyncIterator[int]:
    server = await asyncio.start_server(HangingServer().serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _keep_calling(target: Target) -> None:
    """Call again and again; what is refused at once is tried again after a second, as told."""
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


def _register(healthy: Target, port: int) -> None:
    body = {"serverName": HANGING, "url": f"http://{HOST}:{port}/mcp"}
    request = urllib.request.Request(
        f"http://{healthy.host}:{healthy.port}/api/v1/servers",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {healthy.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
        server = json.load(answer)
    if server["status"] != "active":
        raise RuntimeError(server["errorMessage"])
