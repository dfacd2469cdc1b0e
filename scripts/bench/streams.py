"""What open streams cost: `python -m scripts.bench.streams [--streams N] [--rounds N]`.

Sessions of the handshake's era at `/mcp`, each with its GET stream, on one worker. Measured are
resident memory, CPU while nothing happens, and the time until all have heard of a change.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson

from scripts.bench.process import cpu_seconds, free_port, resident_mib, running

HOST = "127.0.0.1"
STREAMS = 2_000
AT_ONCE = 50
IDLE_SECONDS = 25.0
"""Longer than the pause between two comments."""

ANSWER_SECONDS = 30.0
CHANGED = b"list_changed"
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
        told: Seconds until all had heard of a change.
        telling: CPU milliseconds of that.
        left: MiB more than before, once all are closed.
    """

    resident: float
    each: float
    opening: float
    idle: float
    told: float
    telling: float
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


async def measure(
    port: int, token: str, pid: int, change: Callable[[], object], streams: int = STREAMS
) -> Streams:
    """Open *streams* at the registry on *port*, whose process is *pid*, and close them again.

    Args:
        port: Of the registry, on loopback.
        token: Whoever is to have all of them.
        pid: Of the one worker.
        change: Changes what the user sees at `/mcp`; called in a thread.
        streams: How many.
    """
    await _closed([await _opened(port, token) for _ in range(AT_ONCE)])
    before, cpu = resident_mib(pid), cpu_seconds(pid)
    opened: list[_Stream] = []
    while len(opened) < streams:
        opened += await asyncio.gather(*(_opened(port, token) for _ in range(AT_ONCE)))
    opening = (cpu_seconds(pid) - cpu) / streams * 1000
    began_at, cpu = time.monotonic(), cpu_seconds(pid)
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, IDLE_SECONDS)
    idle = (cpu_seconds(pid) - cpu) / (time.monotonic() - began_at) * 1000
    resident = resident_mib(pid)
    began_at, cpu = time.monotonic(), cpu_seconds(pid)
    changing = asyncio.get_running_loop().run_in_executor(None, change)
    await asyncio.gather(*(stream.changed() for stream in opened))
    told, telling = time.monotonic() - began_at, (cpu_seconds(pid) - cpu) * 1000
    await changing
    await _closed(opened)
    return Streams(
        resident=resident,
        each=(resident - before) * 1024 / streams,
        opening=opening,
        idle=idle,
        told=told,
        telling=telling,
        left=resident_mib(pid) - before,
    )


async def _opened(port: int, token: str) -> _Stream:
    reader, writer = await asyncio.open_connection(HOST, port)
    common = (
        f"Host: {HOST}:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Accept: application/json, text/event-stream\r\n"
    )
    writer.write(
        f"POST /mcp HTTP/1.1\r\n{common}Content-Type: application/json\r\n"
        f"Content-Length: {len(HELLO)}\r\n\r\n".encode()
        + HELLO
    )
    async with asyncio.timeout(ANSWER_SECONDS):
        answer = await _head(reader)
        await reader.readexactly(int(answer["content-length"]))
        session = answer["mcp-session-id"]
        writer.write(f"GET /mcp HTTP/1.1\r\n{common}Mcp-Session-Id: {session}\r\n\r\n".encode())
        await _head(reader)
    return _Stream(reader, writer)


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
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 1.0)


def report(found: list[Streams]) -> None:
    """Print what several rounds found; memory is reused from the second round on."""
    print(f"  memory of each, first round: {found[0].each:.1f} KiB")
    for name, label, unit in (
        ("resident", "resident memory with them (at most 300)", "MiB"),
        ("opening", "CPU of each session and its stream", "ms"),
        ("idle", "CPU while nothing happens", "ms/s"),
        ("told", "all have heard of a change after", "s"),
        ("telling", "CPU of that", "ms"),
        ("left", "memory that stays when all are closed", "MiB"),
    ):
        values = [getattr(one, name) for one in found]
        middle = statistics.median(values)
        print(f"  {label}: {middle:.2f} [{min(values):.2f} .. {max(values):.2f}] {unit}")


def main() -> None:
    """Start a registry with one server, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_port, port = free_port(), free_port()
        upstream = [sys.executable, "-m", "scripts.bench.upstream", str(upstream_port)]
        stack.enter_context(running(upstream, f"http://{HOST}:{upstream_port}/"))
        command = [str(Path(sys.executable).with_name("registry")), "serve", "--local"]
        environment = {"REGISTRY_HOME": str(home), "REGISTRY_PORT": str(port)}
        process = stack.enter_context(
            running(command, f"http://{HOST}:{port}/health/ready", environment)
        )
        token = (home / "admin.token").read_text().strip()
        api = _Api(port, token)
        server = api.post("", {"serverName": "bench", "url": f"http://{HOST}:{upstream_port}/mcp"})
        is_enabled = True

        def toggle() -> None:
            nonlocal is_enabled
            is_enabled = not is_enabled
            api.post(f"/{server['id']}/toggle", {"enabled": is_enabled})

        found = [
            asyncio.run(measure(port, token, process.pid, toggle, options.streams))
            for _ in range(options.rounds)
        ]
    print(f"{options.streams} open streams at /mcp, one worker")
    report(found)


class _Api:
    """The servers' API."""

    def __init__(self, port: int, token: str) -> None:
        self._url = f"http://{HOST}:{port}/api/v1/servers"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(self, path: str, body: dict[str, object]) -> dict[str, str]:
        """Send a request and return the answer."""
        request = urllib.request.Request(  # noqa: S310 - loopback
            self._url + path, json.dumps(body).encode(), self._headers
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
            found: dict[str, str] = json.load(answer)
        return found


if __name__ == "__main__":
    main()
