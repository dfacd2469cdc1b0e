"""Listening sockets: one for each worker, all on the same port (SO_REUSEPORT).

The system spreads connections over them evenly; docs/decisions/0009-workers.md has the figures.
"""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

BACKLOG = 2048
"""Connections that may wait to be accepted, also before a worker serves."""

SPREADS = sys.platform == "linux"
"""Whether the system spreads connections over sockets of one port. Elsewhere all share one."""


@contextmanager
def listening(host: str, port: int, count: int) -> Iterator[list[socket.socket]]:
    """Listen on a port, with as many sockets as there are workers.

    Raises:
        OSError: The port is taken, or there is no such address.
    """
    family, kind, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with ExitStack() as stack:
        first = stack.enter_context(socket.socket(family, kind))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Without SO_REUSEPORT, so that binding fails if another process listens on the port.
        first.bind(address)
        listeners = [first]
        if count > 1 and SPREADS:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listeners += [
                stack.enter_context(_beside(family, kind, first.getsockname()))
                for _ in range(count - 1)
            ]
        for listener in listeners:
            # A port that is only bound can still be taken by another process that listens.
            listener.listen(BACKLOG)
        yield listeners if SPREADS else listeners * count


def _beside(family: int, kind: int, address: object) -> socket.socket:
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)  # type: ignore[arg-type]  # as its kind of socket names it
    return listener
