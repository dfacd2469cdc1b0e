"""Limits of long-lived streams: how many connections they use."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from registry.gateway.errors import NotServing


class StreamLimits:
    """Counts the long-lived streams to each server.

    Args:
        max_per_server: How many may be open to one server at a time.
    """

    def __init__(self, max_per_server: int) -> None:
        self._max_per_server = max_per_server
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, server_id: str) -> Iterator[None]:
        """Count one more stream while the context lasts.

        Raises:
            NotServing: The limit is reached.
        """
        if self._open[server_id] >= self._max_per_server:
            raise NotServing("Too many streams are open to this server; try again later.")
        self._open[server_id] += 1
        try:
            yield
        finally:
            self._open[server_id] -= 1
            if not self._open[server_id]:
                del self._open[server_id]


class ClientStreamLimit:
    """Counts the long-lived streams to clients whose server is the gateway itself.

    Args:
        max_open: How many may be open in this worker.
        max_per_user: How many may be open for one user.
        open_streams: The metric of open streams.
    """

    def __init__(self, max_open: int, max_per_user: int, open_streams: Gauge) -> None:
        self._max_open = max_open
        self._max_per_user = max_per_user
        self._open_streams = open_streams
        self._open: Counter[str] = Counter()
        self._total = 0

    @contextmanager
    def hold(self, principal: str) -> Iterator[None]:
        """Count one more stream of *principal* while the context lasts.

        Raises:
            NotServing: The limit is reached.
        """
        if self._total >= self._max_open:
            raise NotServing("Too many streams are open; try again later.")
        if self._open[principal] >= self._max_per_user:
            raise NotServing("You have too many streams open; close some first.")
        self._total += 1
        self._open[principal] += 1
        self._open_streams.inc()
        try:
            yield
        finally:
            self._total -= 1
            self._open_streams.dec()
            self._open[principal] -= 1
            if not self._open[principal]:
                del self._open[principal]
