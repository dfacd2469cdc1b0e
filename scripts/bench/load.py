"""A closed-loop load: each connection keeps one request in flight and checks every answer."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import orjson
from typing_extensions import override

ANSWER_SECONDS = 30.0
WARM_UP_CALLS = 20
OK = 200
MODERN = "2026-07-28"
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
}


class Kind(StrEnum):
    """What is asked for, again and again."""

    CALL = "tools/call"
    LIST = "tools/list"
    PAGE = "GET"


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask, on loopback.

    Attributes:
        kind: What for.
        tool: What to call.
        tools: How many tools there are to be listed.
        is_modern: Whether requests are of the stateless era.
        arguments: What else each call has as arguments.
        is_json: Whether the tool answers the text in a JSON object.
        called_by: The tool that calls `tool`, with its other arguments; `parameters` are added.
    """

    host: str
    port: int
    path: str
    token: str | None = None
    kind: Kind = Kind.CALL
    tool: str = "echo"
    tools: int = 1
    is_modern: bool = False
    arguments: Mapping[str, object] = field(default_factory=dict)
    is_json: bool = False
    called_by: tuple[str, Mapping[str, object]] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One measured interval. Times in seconds."""

    calls: int
    errors: int
    seconds: float
    latencies: list[float]

    @property
    def p99_ms(self) -> float:
        """Return the 99th percentile of the latencies in milliseconds."""
        return sorted(self.latencies)[len(self.latencies) * 99 // 100] * 1000

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
        self._body_at = 0
        self._ends_at = 0
        self._answer: asyncio.Future[tuple[int, bytes, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP gives no other
        self._transport = transport

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError("closed by the peer"))

    @override
    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._body_at:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(buffer[:end]).lower()
            _, found, length = head.partition(b"content-length:")
            if not found:
                self._fail(ValueError("an answer without Content-Length"))
                return
            self._body_at = end + 4
            self._ends_at = self._body_at + int(length.partition(b"\r\n")[0])
        if len(buffer) < self._ends_at or self._answer is None or self._answer.done():
            return
        head, body = bytes(buffer[: self._body_at]), bytes(buffer[self._body_at :])
        buffer.clear()
        self._body_at = 0
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

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


async def run(target: Target, connections: int, seconds: float) -> Result:
    """Load *target* for *seconds* over *connections* connections."""
    latencies: list[float] = []
    errors = 0
    gate = asyncio.Event()
    ready = 0

    async def worker(number: int) -> None:
        nonlocal errors, ready
        client = Client(target)
        await client.connect()
        calls = 0
        for _ in range(WARM_UP_CALLS):
            calls += 1
            errors += not await client.ask(f"{number}-{calls}")
        ready += 1
        if ready == connections:
            gate.set()
        await gate.wait()
        deadline = time.perf_counter() + seconds
        while (before := time.perf_counter()) < deadline:
            calls += 1
            good = await client.ask(f"{number}-{calls}")
            latencies.append(time.perf_counter() - before)
            errors += not good
        client.close()

    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(worker(number))
        await gate.wait()
        started = time.perf_counter()
    return Result(len(latencies), errors, time.perf_counter() - started, latencies)


def requests_of(result: Result, connections: int) -> int:
    """Return how many requests an interval had whose CPU was counted from before its beginning."""
    return result.calls + connections * (WARM_UP_CALLS + 2)


class Client:
    """One client.

    Attributes:
        session: Its id, once there is one.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection = Connection()
        self.session: str | None = None
        self._listed: bytes | None = None

    async def connect(self) -> None:
        """Connect, and shake hands in the era that does."""
        target, loop = self._target, asyncio.get_running_loop()
        await loop.create_connection(lambda: self._connection, target.host, target.port)
        if target.kind is not Kind.PAGE and not target.is_modern:
            await self._shake_hands()

    async def ask(self, text: str) -> bool:
        """Send one request of the kind that is wanted; *text* is like no other's."""
        match self._target.kind:
            case Kind.CALL:
                return await self._call(text)
            case Kind.LIST:
                return await self._list()
            case Kind.PAGE:
                status, _, _ = await self._connection.request(self._raw(None))
                return status == OK

    async def send(self, message: object) -> tuple[int, bytes, bytes]:
        """Send a JSON-RPC message; return status, head and body of the answer."""
        return await self._connection.request(self._raw(message))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    async def _shake_hands(self) -> None:
        params = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "1"},
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        status, head, body = await self.send(message)
        if status != OK:
            raise RuntimeError(body.decode(errors="replace"))
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"mcp-session-id":
                self.session = value.strip().decode()
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self.send(note)

    async def _call(self, text: str) -> bool:
        name, arguments = self._target.tool, {"text": text, **self._target.arguments}
        if self._target.called_by is not None:
            name, others = self._target.called_by
            arguments = {**others, "parameters": arguments}
        params: dict[str, object] = {"name": name, "arguments": arguments}
        if self._target.is_modern:
            params["_meta"] = MODERN_META
        message = {"jsonrpc": "2.0", "id": text, "method": "tools/call", "params": params}
        status, _, body = await self.send(message)
        if status != OK:
            return False
        answer = orjson.loads(body)
        expected = f'{{"text":"{text}"}}' if self._target.is_json else text
        return bool(answer["id"] == text and answer["result"]["content"][0]["text"] == expected)

    async def _list(self) -> bool:
        params = {"_meta": MODERN_META} if self._target.is_modern else {}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}
        status, _, body = await self.send(message)
        if self._listed is None and status == OK:
            # Reading the answer costs a client far more than it costs the gateway to give it.
            result = orjson.loads(body)["result"]
            names = {tool["name"] for tool in result["tools"] if tool["inputSchema"]["type"]}
            if len(names) == self._target.tools and "nextCursor" not in result:
                self._listed = body
        return self._listed is not None and body == self._listed

    def _raw(self, message: object) -> bytes:
        target = self._target
        body = b"" if message is None else orjson.dumps(message)
        lines = [
            f"{'GET' if target.kind is Kind.PAGE else 'POST'} {target.path} HTTP/1.1",
            f"Host: {target.host}:{target.port}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"Content-Length: {len(body)}",
        ]
        if target.token is not None:
            lines.append(f"Authorization: Bearer {target.token}")
        if target.is_modern:
            lines += [f"MCP-Protocol-Version: {MODERN}", f"Mcp-Method: {target.kind}"]
            if target.kind is Kind.CALL:
                lines.append(f"Mcp-Name: {target.tool}")
        elif message is not None:
            lines.append("MCP-Protocol-Version: 2025-06-18")
        if self.session is not None:
            lines.append(f"Mcp-Session-Id: {self.session}")
        return "\r\n".join([*lines, "", ""]).encode() + body
