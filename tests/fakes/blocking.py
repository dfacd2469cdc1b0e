"""Notices calls that would make the event loop wait: the interpreter tells of them itself."""

import socket
import sys
import threading
from typing import Any

# time.sleep tells of itself from Python 3.13 on.
WAITING = frozenset(
    {"time.sleep", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system"}
)


class BlockingCalls:
    """While it is entered, collects the blocking calls of the entering thread."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._thread: int | None = None
        # A hook cannot be taken away again, so it looks whether it is wanted.
        sys.addaudithook(self._hear)

    def __enter__(self) -> list[str]:
        self._thread = threading.get_ident()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._thread = None

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._thread is None or self._thread != threading.get_ident():
            return
        if event in WAITING:
            self.seen.append(event)
        elif event == "socket.connect":
            connecting: socket.socket = arguments[0]
            if connecting.gettimeout() != 0:
                self.seen.append(event)
