"""An HTTP server on loopback that plays the page of a release."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import override

CHUNK = b" " * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        stalls: Whether it stops in the middle and waits until the server ends.
        is_endless: Whether it goes on until the client hangs up.
    """

    body: bytes = b""
    status: int = 200
    location: str = ""
    stalls: bool = False
    is_endless: bool = False


@dataclass(slots=True)
class ReleaseServer:
    """What to answer, and what was asked."""

    port: int
    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: dict[str, str | None] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    playing: ReleaseServer

    def do_GET(self) -> None:
        self.playing.asked.append(self.path)
        self.playing.tokens[self.path] = self.headers.get("authorization")
        reply = self.playing.replies.get(self.path, Reply(status=404))
        self.send_response(reply.status)
        if reply.location:
            self.send_header("location", reply.location)
        if not (reply.stalls or reply.is_endless):
            self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)
        self.wfile.flush()
        if reply.stalls:
            self.playing.ended.wait(timeout=10)
        while reply.is_endless and self._goes_on():
            pass

    def _goes_on(self) -> bool:
        try:
            self.wfile.write(CHUNK)
        except OSError:
            return False
        return True

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on the terminal."""


@contextmanager
def start_release_server() -> Iterator[ReleaseServer]:
    """Serve until the block ends."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        playing = ReleaseServer(http.server_address[1])
        handler.playing = playing  # type: ignore[attr-defined]  # a class made for this server
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield playing
        finally:
            playing.ended.set()
            http.shutdown()
            thread.join()
