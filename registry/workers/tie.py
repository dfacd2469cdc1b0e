"""The tie between a worker and the process that started it.

A pair of sockets: the worker sends a letter for each step of its life; the parent sends
connections that it accepted while no worker listened. Either end learns from it when the other is
gone, however it died.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

READY = b"R"
"""The worker serves."""
DRAINING = b"D"
"""The worker does not listen any more."""
CONNECTION = b"C"
"""A connection comes with this letter."""

FEW = 16


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
        end.setblocking(False)
        asyncio.get_running_loop().add_reader(end.fileno(), self._read)

    def hand(self, connection: socket.socket) -> bool:
        """Give the worker a connection; False when it cannot take it."""
        try:
            socket.send_fds(self._end, [CONNECTION], [connection.fileno()])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Cut the tie."""
        asyncio.get_running_loop().remove_reader(self._end.fileno())
        self._end.close()

    def _read(self) -> None:
        try:
            letters = self._end.recv(FEW)
        except BlockingIOError:
            return
        except OSError:
            letters = b""
        if not letters:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
        for letter in letters:
            self._said(bytes([letter]))
