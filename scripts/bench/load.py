"""A closed-loop load: each connection keeps one request in flight and checks every answer."""

import asyncio
import time
from dataclasses import dataclass

import orjson
from typing_extensions import override

ANSWER_SECONDS = 30.0
WARM_UP_CALLS = 20
MODERN = "2026-07-28"
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
}


@dataclass(frozen=True, slots=True)
class Target:
    """What to call, on loopback.

    Attributes:
        method: `POST` for MCP calls, `GET` for pages.
        tool: What to call.
        is_modern: Whether calls are of the stateless era.
    """

    host: str
    port: int
    path: str
    token: str | None = None
    method: str = "POST"
    tool: str = "echo"
    is_modern: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One measured interval. Times in seconds."""

    calls: int
    errors: int
    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        """Return calls per second."""
        return self.calls / self.seconds

    @property
    def median_ms(self) -> float:
        """Return the median latency in milliseconds."""
        return sorted(self.latencies)[len(self.latencies) // 2] * 1000


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request in flight."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP gives no other
        self._transport = transport

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("closed by the peer"))

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = bytes(self._buffer[:end])
        at = head.lower().find(b"content-length:")
        if at < 0:
            self._answer.set_exception(ValueError("an answer without Content-Length"))
            return
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        body = bytes(self._buffer[end + 4 :])
        if len(body) >= length and not self._answer.done():
            self._buffer.clear()
            self._answer.set_result((int(head[9:12]), head, body))

    async def request(self, raw: bytes) -> tuple[int, bytes, bytes]:
        """Send one request and return status, head and body of its answer."""
        assert self._transport is not None  # noqa: S101 - set before anyone can call this
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        return await asyncio.wait_for(self._answer, ANSWER_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def run(target: Target, connections: int, seconds: float) -> Result:
    """Load *target* for *seconds* over *connections* connections."""
    latencies: list[float] = []
    errors = 0
    gate = asyncio.Event()
    ready = 0

    async def worker(number: int) -> None:
        nonlocal errors, ready
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, target.host, target.port)
        session = await _handshake(connection, target)
        calls = 0
        for _ in range(WARM_UP_CALLS):
            calls += 1
            await _call(connection, target, session, f"{number}-{calls}")
        ready += 1
        if ready == connections:
            gate.set()
        await gate.wait()
        deadline = time.perf_counter() + seconds
        while (before := time.perf_counter()) < deadline:
            calls += 1
            good = await _call(connection, target, session, f"{number}-{calls}")
            latencies.append(time.perf_counter() - before)
            errors += not good
        connection.close()

    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(worker(number))
        await gate.wait()
        started = time.perf_counter()
    return Result(len(latencies), errors, time.perf_counter() - started, latencies)


async def _handshake(connection: Connection, target: Target) -> str | None:
    if target.method == "GET" or target.is_modern:
        return None
    params = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    }
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    status, head, body = await connection.request(_raw(target, None, message))
    if status != 200:  # noqa: PLR2004 - HTTP OK
        raise RuntimeError(body.decode(errors="replace"))
    session = None
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"mcp-session-id":
            session = value.strip().decode()
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await connection.request(_raw(target, session, note))
    return session


async def _call(connection: Connection, target: Target, session: str | None, text: str) -> bool:
    if target.method == "GET":
        status, _, _ = await connection.request(_raw(target, None, None))
        return status == 200  # noqa: PLR2004 - HTTP OK
    params: dict[str, object] = {"name": target.tool, "arguments": {"text": text}}
    if target.is_modern:
        params["_meta"] = MODERN_META
    message = {"jsonrpc": "2.0", "id": text, "method": "tools/call", "params": params}
    status, _, body = await connection.request(_raw(target, session, message))
    if status != 200:  # noqa: PLR2004 - HTTP OK
        return False
    answer = orjson.loads(body)
    return bool(answer["id"] == text and answer["result"]["content"][0]["text"] == text)


def _raw(target: Target, session: str | None, message: object) -> bytes:
    body = b"" if message is None else orjson.dumps(message)
    lines = [
        f"{target.method} {target.path} HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"Content-Length: {len(body)}",
    ]
    if target.token is not None:
        lines.append(f"Authorization: Bearer {target.token}")
    if target.is_modern:
        lines += [
            f"MCP-Protocol-Version: {MODERN}",
            "Mcp-Method: tools/call",
            f"Mcp-Name: {target.tool}",
        ]
    elif message is not None:
        lines.append("MCP-Protocol-Version: 2025-06-18")
    if session is not None:
        lines.append(f"Mcp-Session-Id: {session}")
    return "\r\n".join([*lines, "", ""]).encode() + body
