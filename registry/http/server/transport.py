"""Transport that joins head and body of an answer into one write, to save system calls."""

import asyncio
from typing import Any

from typing_extensions import override

MAX_JOINED_BYTES = 64 * 1024
"""Longer data is written at once, so that the transport's own limits can pause the writer."""


class JoiningTransport(asyncio.Transport):
    """Collects writes until the loop's next iteration, and writes them in one piece."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes | bytearray | memoryview] = []
        self._pending_bytes = 0

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._pending:
            self._loop.call_soon(self.flush)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > MAX_JOINED_BYTES:
            self.flush()

    def write_whole(self, head: bytes, body: bytes | bytearray) -> None:
        """Write a complete answer."""
        self._pending += (head, body)
        self._pending_bytes += len(head) + len(body)
        self.flush()

    def flush(self) -> None:
        """Write the collected data now."""
        if not self._pending:
            return
        if self._pending_bytes > MAX_JOINED_BYTES:
            # Joining a long answer would hold it in memory twice.
            pending, self._pending = self._pending, []
            self._pending_bytes = 0
            self._transport.writelines(pending)
            return
        joined = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._transport.write(joined)

    @override
    def close(self) -> None:
        self.flush()
        self._transport.close()

    @override
    def abort(self) -> None:
        self._transport.abort()

    @override
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    @override
    def get_write_buffer_size(self) -> int:
        return self._pending_bytes + self._transport.get_write_buffer_size()

    @override
    def pause_reading(self) -> None:
        self._transport.pause_reading()

    @override
    def resume_reading(self) -> None:
        self._transport.resume_reading()

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)
