"""The tie between a worker and the process that started it.

A pair of sockets: the worker sends a letter for each step of its life; the parent sends
connections that it accepted while no worker listened. Either end learns from it when the other is
gone, however it died.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

READY = b"R"
"""The worker serves."""
DRAINING = b"D"
"""The worker does not listen any more."""
CONNECTION = b"C"
"""A connection comes with this letter."""
TAKEN = b"T"
"""The worker has taken the oldest connection that it had not yet taken."""

FEW = 16
MANY = 4096


class WorkerEnd:
    """The worker's end.

    Args:
        end: Its socket.
        connection: Called with each connection that comes.
        orphaned: Called once the parent is gone.
    """

    def __init__(
        self,
        end: socket.socket,
        connection: Callable[[socket.socket], None],
        orphaned: Callable[[], None],
    ) -> None:
        self._end = end
        self._connection = connection
        self._orphaned = orphaned
        end.setblocking(False)
        asyncio.get_running_loop().add_reader(end.fileno(), self._read)

    def say(self, letter: bytes) -> None:
        """Send a letter; a parent that is gone is noticed elsewhere."""
        with suppress(OSError):
            self._end.send(letter)

    def close(self) -> None:
        """Listen to it no longer."""
        asyncio.get_running_loop().remove_reader(self._end.fileno())
        self._end.close()

    def _read(self) -> None:
        try:
            letters, descriptors, _, _ = socket.recv_fds(self._end, FEW, FEW)
        except BlockingIOError:
            return
        except OSError:
            letters, descriptors = b"", []
        for descriptor in descriptors:
            self.say(TAKEN)
            self._connection(socket.socket(fileno=descriptor))
        if not letters:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
            self._orphaned()


class ParentEnd:
    """The parent's end.

    Args:
        end: Its socket.
        said: Called with each letter.
    """

    def __init__(self, end: socket.socket, said: Callable[[bytes], None]) -> None:
        self._end = end
        self._said = said
        self._handed: deque[socket.socket] = deque()
        end.setblocking(False)
        asyncio.get_running_loop().add_reader(end.fileno(), self._read)

    def hand(self, connection: socket.socket) -> bool:
        """Give the worker a connection; False when it cannot take it."""
        try:
            # Kept open until it is taken: a worker that dies before must not cost it.
            kept = connection.dup()
        except OSError:
            return False
        try:
            socket.send_fds(self._end, [CONNECTION], [connection.fileno()])
        except OSError:
            kept.close()
            return False
        self._handed.append(kept)
        return True

    def close(self) -> list[socket.socket]:
        """Cut the tie and return the connections that the worker did not take."""
        self._read()
        asyncio.get_running_loop().remove_reader(self._end.fileno())
        self._end.close()
        left = list(self._handed)
        self._handed.clear()
        return left

    def _read(self) -> None:
        try:
            letters = self._end.recv(MANY)
        except BlockingIOError:
            return
        except OSError:
            letters = b""
        if not letters:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
        for letter in letters:
            if letter == TAKEN[0]:
                self._handed.popleft().close()
            else:
                self._said(bytes([letter]))
