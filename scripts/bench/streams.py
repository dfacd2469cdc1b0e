"""What open streams cost on one worker, and how fast a change is sent to all of them.

Half are sessions of the handshake's era at `/mcp`, each with its GET stream; the others are
`subscriptions/listen` of the stateless era. Measured are resident memory, CPU while nothing
happens, and the time until all were notified of a change.
"""

import asyncio
import time
from dataclasses import dataclass

import orjson

from scripts.bench.load import MODERN, MODERN_META
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds, resident_mib
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage

STREAMS = 2_000
AT_ONCE = 50
IDLE_SECONDS = 25.0
"""Longer than the pause between two comments."""

ANSWER_SECONDS = 30.0
CLOSED_SECONDS = 2.0
"""How long a registry is given to notice that streams were closed."""

CHANGED = b"list_changed"
ROUNDS = 2
LISTEN = orjson.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "subscriptions/listen",
        "params": {"notifications": {"toolsListChanged": True}, "_meta": MODERN_META},
    }
)
HELLO = orjson.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "1"},
        },
    }
)


@dataclass(frozen=True, slots=True)
class Streams:
    """What was measured of many open streams.

    Attributes:
        resident: MiB of the process with them.
        each: KiB that each of them added.
        opening: CPU milliseconds for each session and its stream.
        idle: CPU milliseconds in each second while nothing happens.
        notifying: Seconds until all were notified of a change.
        notifying_cpu: CPU milliseconds of that.
        left: MiB more than before, once all are closed.
    """

    resident: float
    each: float
    opening: float
    idle: float
    notifying: float
    notifying_cpu: float
    left: float


class _Stream:
    """One open stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def changed(self) -> None:
        async with asyncio.timeout(ANSWER_SECONDS):
            while CHANGED not in await self._reader.readline():
                if self._reader.at_eof():
                    raise RuntimeError("a stream ended")


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Open many streams, change what they report, and close them again."""
    found = [asyncio.run(_measure(stage)) for _ in range(min(ROUNDS, plan.rounds))]
    report.section(f"{STREAMS} open streams on `/mcp`, one worker")
    bars = {"resident": Bar(300)}
    for name, label, unit in (
        ("resident", f"resident memory with {STREAMS} open streams", "MiB"),
        ("each", "memory of each", "KiB"),
        ("opening", "CPU of opening each, with the session if it has one", "ms"),
        ("idle", "CPU while nothing happens", "ms/s"),
        ("notifying", "all are notified of a change after", "s"),
        ("notifying_cpu", "CPU of that", "ms"),
        ("left", "memory that stays when all are closed", "MiB"),
    ):
        report.row(label, [getattr(one, name) for one in found], unit, bars.get(name))


async def _measure(stage: Stage) -> Streams:
    port, token, pid = stage.port, stage.token, stage.pid
    await _closed(await _opened_many(port, token))
    before, cpu = resident_mib(pid), cpu_seconds(pid)
    opened: list[_Stream] = []
    while len(opened) < STREAMS:
        opened += await _opened_many(port, token)
    opening = (cpu_seconds(pid) - cpu) / STREAMS * 1000
    began_at, cpu = time.monotonic(), cpu_seconds(pid)
    await asyncio.to_thread(time.sleep, IDLE_SECONDS)
    idle = (cpu_seconds(pid) - cpu) / (time.monotonic() - began_at) * 1000
    resident = resident_mib(pid)
    began_at, cpu = time.monotonic(), cpu_seconds(pid)
    changing = asyncio.ensure_future(asyncio.to_thread(stage.toggle, is_enabled=False))
    await asyncio.gather(*(stream.changed() for stream in opened))
    notifying = time.monotonic() - began_at
    notifying_cpu = (cpu_seconds(pid) - cpu) * 1000
    await changing
    await _closed(opened)
    await asyncio.to_thread(stage.toggle, is_enabled=True)
    return Streams(
        resident=resident,
        each=(resident - before) * 1024 / STREAMS,
        opening=opening,
        idle=idle,
        notifying=notifying,
        notifying_cpu=notifying_cpu,
        left=resident_mib(pid) - before,
    )


async def _opened_many(port: int, token: str) -> list[_Stream]:
    openings = [_fetched(port, token) for _ in range(AT_ONCE // 2)]
    openings += [_listening(port, token) for _ in range(AT_ONCE // 2)]
    return await asyncio.gather(*openings)


async def _fetched(port: int, token: str) -> _Stream:
    """Open the GET stream of a new session."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(_post(port, token, HELLO))
    async with asyncio.timeout(ANSWER_SECONDS):
        answer = await _head(reader)
        await reader.readexactly(int(answer["content-length"]))
        session = f"Mcp-Session-Id: {answer['mcp-session-id']}\r\n"
        writer.write(f"GET /mcp HTTP/1.1\r\n{_common(port, token)}{session}\r\n".encode())
        await _head(reader)
    return _Stream(reader, writer)


async def _listening(port: int, token: str) -> _Stream:
    """Open a stream of the stateless era; its first event is the acknowledgement."""
    reader, writer = await asyncio.open_connection(HOST, port)
    era = f"MCP-Protocol-Version: {MODERN}\r\nMcp-Method: subscriptions/listen\r\n"
    writer.write(_post(port, token, LISTEN, era))
    async with asyncio.timeout(ANSWER_SECONDS):
        await _head(reader)
        while b"acknowledged" not in await reader.readline():
            pass
    return _Stream(reader, writer)


def _common(port: int, token: str) -> str:
    return (
        f"Host: {HOST}:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Accept: application/json, text/event-stream\r\n"
    )


def _post(port: int, token: str, body: bytes, more: str = "") -> bytes:
    return (
        f"POST /mcp HTTP/1.1\r\n{_common(port, token)}{more}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def _head(reader: asyncio.StreamReader) -> dict[str, str]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    if " 200 " not in first:
        raise RuntimeError(first)
    pairs = (line.partition(": ") for line in lines if line)
    return {name.lower(): value for name, _, value in pairs}


async def _closed(streams: list[_Stream]) -> None:
    for stream in streams:
        stream.writer.close()
    await asyncio.gather(*(stream.writer.wait_closed() for stream in streams))
    await asyncio.to_thread(time.sleep, CLOSED_SECONDS)
