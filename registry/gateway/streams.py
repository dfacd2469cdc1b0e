"""Keep standing streams from using up the connections that calls need."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from registry.gateway.errors import NotServing


class StandingStreams:
    """Counts the streams that stay open to each server.

    Args:
        most_per_server: How many may be open to one server at a time.
    """

    def __init__(self, most_per_server: int) -> None:
        self._most_per_server = most_per_server
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, server_id: str) -> Iterator[None]:
        """Count one more stream while the context lasts.

        Raises:
            NotServing: There are enough.
        """
        if self._open[server_id] >= self._most_per_server:
            raise NotServing("Too many streams are open to this server; try again later.")
        self._open[server_id] += 1
        try:
            yield
        finally:
            self._open[server_id] -= 1
            if not self._open[server_id]:
                del self._open[server_id]
