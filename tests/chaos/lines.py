"""Connections of clients, each of which can be told from all others and known to be cut."""

import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohappyeyeballs import AddrInfoType

CALL_SECONDS = 30.0
BROKEN = (aiohttp.ClientError, OSError)


class BrokenOffError(Exception):
    """The stream of an answer ended before the answer."""


@dataclass(slots=True, eq=False)
class Connection:
    """One connection, or the attempt at one.

    Attributes:
        target: The address that it leads to.
        port: Of the client's end.
        is_cut: Whether its process was killed.
    """

    target: str
    port: int
    is_cut: bool = False


class Line:
    """Sends requests to one address, over one connection at a time.

    Args:
        target: The address.
        connections: Told of each connection that is made.
    """

    def __init__(self, target: str, connections: list[Connection]) -> None:
        self.target = target
        self._connections = connections
        self.connection = Connection(target, 0)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, socket_factory=self._socket)
        )

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        message: Any = None,
        *,
        seconds: float | None = CALL_SECONDS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield the head of its answer; all of it may take *seconds*."""
        body = None if message is None else orjson.dumps(message)
        async with self._session.request(
            method,
            f"{self.target}{path}",
            headers=headers,
            data=body,
            timeout=aiohttp.ClientTimeout(total=seconds),
        ) as answer:
            yield answer

    async def aclose(self) -> None:
        """Hang up."""
        await self._session.close()
        if self.connection in self._connections:
            self._connections.remove(self.connection)

    def _socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        # Bound now, so that the connection is known by its port whatever becomes of it.
        made.bind(("127.0.0.1", 0))
        if self.connection in self._connections:
            self._connections.remove(self.connection)
        self.connection = Connection(self.target, made.getsockname()[1])
        self._connections.append(self.connection)
        return made


async def messages(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Return the JSON-RPC messages of an answer, whether it is a stream or not."""
    if answer.content_type != "text/event-stream":
        yield orjson.loads(await answer.read())
        return
    async for line in answer.content:
        # The first event of a stream may hold nothing but its id.
        if line.startswith(b"data: ") and line.strip() != b"data:":
            yield orjson.loads(line.removeprefix(b"data: "))


def served_by(pid: int, port: int) -> set[int]:
    """Return the clients' ports of all connections to *port* that a process holds (Linux)."""
    own = set(_sockets(Path(f"/proc/{pid}/fd").iterdir()))
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *_rest = fields = line.split()
        if fields[9] in own and int(local.rpartition(":")[2], 16) == port:
            found.add(int(remote.rpartition(":")[2], 16))
    # Of the socket that it listens on.
    return found - {0}


def _sockets(descriptors: Iterable[Path]) -> Iterable[str]:
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").removesuffix("]")
