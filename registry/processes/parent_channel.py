"""Control channel between a worker and the supervisor that started it.

A socket pair: the worker sends one byte for each change of its state; the parent sends
connections that it accepted while a worker did not listen. Each end notices the other's exit,
however it died, because the socket closes.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

READY = b"R"
"""The worker serves."""
DRAINING = b"D"
"""The worker no longer listens."""
CONNECTION = b"C"
"""Accompanies a connection."""
TAKEN = b"T"
"""The worker has received the oldest connection that it had not acknowledged."""

WORKER_READ_SIZE = 16
PARENT_READ_SIZE = 4096


class WorkerEnd:
    """The worker's end.

    Args:
        end: Its socket.
        on_connection: Called with each connection that arrives.
        on_parent_exit: Called once the parent has exited.
    """

    def __init__(
        self,
        end: socket.socket,
        on_connection: Callable[[socket.socket], None],
        on_parent_exit: Callable[[], None],
    ) -> None:
        self._end = end
        self._on_connection = on_connection
        self._on_parent_exit = on_parent_exit
        end.setblocking(False)
        asyncio.get_running_loop().add_reader(end.fileno(), self._read)

    def send(self, message: bytes) -> None:
        """Send a message. A failure is ignored: `on_parent_exit` reports an exited parent."""
        with suppress(OSError):
            self._end.send(message)

    def close(self) -> None:
        """Close the channel."""
        asyncio.get_running_loop().remove_reader(self._end.fileno())
        self._end.close()

    def _read(self) -> None:
        try:
            messages, descriptors, _, _ = socket.recv_fds(
                self._end, WORKER_READ_SIZE, WORKER_READ_SIZE
            )
        except BlockingIOError:
            return
        except OSError:
            messages, descriptors = b"", []
        for descriptor in descriptors:
            self.send(TAKEN)
            self._on_connection(socket.socket(fileno=descriptor))
        if not messages:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
            self._on_parent_exit()


class ParentEnd:
    """The parent's end.

    Args:
        end: Its socket.
        on_message: Called with each message of the worker.
    """

    def __init__(self, end: socket.socket, on_message: Callable[[bytes], None]) -> None:
        self._end = end
        self._on_message = on_message
        self._unacknowledged: deque[socket.socket] = deque()
        end.setblocking(False)
        asyncio.get_running_loop().add_reader(end.fileno(), self._read)

    def send_connection(self, connection: socket.socket) -> bool:
        """Send the worker a connection; return False if it cannot receive it."""
        try:
            # Kept open until acknowledged, so that it survives a worker that dies first.
            kept = connection.dup()
        except OSError:
            return False
        try:
            socket.send_fds(self._end, [CONNECTION], [connection.fileno()])
        except OSError:
            kept.close()
            return False
        self._unacknowledged.append(kept)
        return True

    def close(self) -> list[socket.socket]:
        """Close the channel and return the connections that the worker did not acknowledge."""
        self._read()
        asyncio.get_running_loop().remove_reader(self._end.fileno())
        self._end.close()
        left = list(self._unacknowledged)
        self._unacknowledged.clear()
        return left

    def _read(self) -> None:
        try:
            messages = self._end.recv(PARENT_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            messages = b""
        if not messages:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
        for message in messages:
            if message == TAKEN[0]:
                self._unacknowledged.popleft().close()
            else:
                self._on_message(bytes([message]))
