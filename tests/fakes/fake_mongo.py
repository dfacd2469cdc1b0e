"""A server that speaks MongoDB's wire protocol and answers what a test says.

For what no server at hand is or does. Only what drivers send without being asked is answered by
itself; any other command is unknown. The wire protocol:
https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/.
"""

import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import bson
from typing_extensions import override

HOST = "127.0.0.1"
HEADER = struct.Struct("<iiii")
QUERY, REPLY, MESSAGE = 2004, 1, 2013
NUMBERS_OF_QUERY = 8
"""Bytes of the numbers after a query's collection."""

Document: TypeAlias = dict[str, Any]
Answer: TypeAlias = Callable[[Document], Document]
"""What a command is answered. One that raises ConnectionError closes the connection."""

OK: Document = {"ok": 1.0}
UNKNOWN_COMMAND: Document = {
    "ok": 0.0,
    "code": 59,
    "codeName": "CommandNotFound",
    "errmsg": "no such",
}


@dataclass
class FakeMongo:
    """What runs.

    Attributes:
        port: On loopback.
        hello: What it says of itself.
        answers: To further commands, by name.
        asked: Names of all commands so far.
    """

    port: int
    hello: Document
    answers: Mapping[str, Answer]
    asked: list[str] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """Return a connection string without a database name."""
        return f"mongodb://{HOST}:{self.port}/"

    def answer(self, command: Document) -> Document:
        """Answer one command."""
        name = next(iter(command))
        self.asked.append(name)
        if name in self.answers:
            return self.answers[name](command)
        match name:
            case "hello" | "ismaster" | "isMaster":
                return OK | self.hello
            case "ping" | "endSessions":
                return OK
            case _:
                return UNKNOWN_COMMAND


def release(wire_version: int) -> Document:
    """Return what a server of a release says of itself, without being part of anything."""
    return {
        "isWritablePrimary": True,
        "ismaster": True,
        "helloOk": True,
        "maxBsonObjectSize": 16 * 2**20,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "minWireVersion": 0,
        "maxWireVersion": wire_version,
    }


@contextmanager
def fake_mongo(
    hello: Mapping[str, Any], answers: Mapping[str, Answer] | None = None
) -> Iterator[FakeMongo]:
    """Run one on a free port.

    Args:
        hello: What it says of itself; a `setName` makes it the only member of a replica set.
        answers: To further commands, by name.
    """
    fake = FakeMongo(0, dict(hello), answers or {})

    class Connection(socketserver.StreamRequestHandler):
        @override
        def handle(self) -> None:
            try:
                while header := self.rfile.read(HEADER.size):
                    length, request_id, _, code = HEADER.unpack(header)
                    body = self.rfile.read(length - HEADER.size)
                    answer = bson.encode(fake.answer(_command(code, body)))
                    self.wfile.write(_message(code, request_id, answer))
            except ConnectionError:
                pass

    with socketserver.ThreadingTCPServer((HOST, 0), Connection) as server:
        server.daemon_threads = True
        fake.port = server.server_address[1]
        if "setName" in hello:
            address = f"{HOST}:{fake.port}"
            fake.hello |= {"hosts": [address], "primary": address, "me": address}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


def _command(code: int, body: bytes) -> Document:
    start = body.index(b"\0", 4) + 1 + NUMBERS_OF_QUERY if code == QUERY else 5
    (length,) = struct.unpack_from("<i", body, start)
    return bson.decode(body[start : start + length])


def _message(code: int, request_id: int, answer: bytes) -> bytes:
    if code == QUERY:
        body = struct.pack("<iqii", 0, 0, 0, 1) + answer
        return HEADER.pack(HEADER.size + len(body), 0, request_id, REPLY) + body
    body = struct.pack("<iB", 0, 0) + answer
    return HEADER.pack(HEADER.size + len(body), 0, request_id, MESSAGE) + body
