"""A TCP proxy on loopback that spoils what passes through it, in one direction."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from registry.core.clock import SystemClock

HOST = "127.0.0.1"
PIECE_BYTES = 65536
LATENCY_SECONDS = 0.05
DRIP_SECONDS = 0.01
GARBAGE = b"\x16\x03\x01 220 mail.example ESMTP\r\n\r\n"
LONG_LINE = b"x-long: " + b"x" * 200_000 + b"\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Fault(StrEnum):
    """What goes wrong."""

    NONE = "none"
    LATENCY = "latency"
    RESET = "reset"
    BLACKHOLE = "blackhole"
    HALF_CLOSE = "half-close"
    SLOW_DRIP = "slow drip"
    CORRUPTION = "corruption"
    CUT = "cut"
    GARBAGE = "garbage"
    LONG_HEADER = "oversized header"


class Direction(StrEnum):
    """Which way the spoilt bytes go."""

    REQUEST = "request"
    ANSWER = "answer"


@dataclass
class FaultProxy:
    """Passes connections on to *target*.

    Attributes:
        target: Host and port.
        fault: Applied to connections that are made, and to bytes that come, from now on.
        direction: Which way.
        after: How many bytes pass before that.
        made: How many connections were made.
        open: How many are open.
    """

    target: tuple[str, int]
    fault: Fault = Fault.NONE
    direction: Direction = Direction.ANSWER
    after: int = 0
    made: int = 0
    open: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """The proxy's address."""
        return f"http://{HOST}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until both sides are done with it."""
        self.made += 1
        self.open += 1
        try:
            target_reader, target_writer = await asyncio.open_connection(*self.target)
            try:
                await self._pump_both(
                    (
                        (Direction.REQUEST, reader, target_writer, writer),
                        (Direction.ANSWER, target_reader, writer, target_writer),
                    )
                )
            finally:
                await _close(target_writer)
        finally:
            await _close(writer)
            self.open -= 1

    async def _pump_both(
        self,
        ways: tuple[
            tuple[Direction, asyncio.StreamReader, asyncio.StreamWriter, asyncio.StreamWriter], ...
        ],
    ) -> None:
        pumps = [asyncio.ensure_future(self._pump(*way)) for way in ways]
        try:
            # When one side is done with the connection, so is the other.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        direction: Direction,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
    ) -> None:
        passed = 0
        while piece := await source.read(PIECE_BYTES):
            fault = self.fault if direction is self.direction else Fault.NONE
            clean = piece if fault is Fault.NONE else piece[: max(0, self.after - passed)]
            passed += len(clean)
            sink.write(clean)
            await sink.drain()
            spoilt = piece[len(clean) :]
            if spoilt and fault is Fault.RESET:
                _reset(sink)
                _reset(back)
                return
            if spoilt and fault is Fault.CUT:
                return
            if spoilt:
                await _spoil(fault, spoilt, sink)


async def _spoil(fault: Fault, piece: bytes, sink: asyncio.StreamWriter) -> None:
    """Write what becomes of *piece*."""
    match fault:
        case Fault.LATENCY:
            await SystemClock().sleep(LATENCY_SECONDS)
            sink.write(piece)
        case Fault.HALF_CLOSE if not sink.is_closing():
            sink.write_eof()
        case Fault.SLOW_DRIP:
            for at in range(len(piece)):
                sink.write(piece[at : at + 1])
                await sink.drain()
                await SystemClock().sleep(DRIP_SECONDS)
        case Fault.CORRUPTION:
            sink.write(bytes(byte ^ 0x80 for byte in piece[:8]) + piece[8:])
        case Fault.GARBAGE:
            sink.write(GARBAGE)
        case Fault.LONG_HEADER:
            first, line, rest = piece.partition(b"\r\n")
            sink.write(first + line + LONG_LINE + rest)
        case _:
            pass  # It is swallowed.
    await sink.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()


@asynccontextmanager
async def fault_proxy(port: int) -> AsyncIterator[FaultProxy]:
    """Run a proxy to *port* on a free port; it spoils nothing until told so."""
    proxy = FaultProxy((HOST, port))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            await proxy.serve(reader, writer)

    server = await asyncio.start_server(serve, HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
