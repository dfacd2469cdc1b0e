"""Limits of long-lived streams: how many connections they use, and until when they are allowed."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

from prometheus_client import Gauge

from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import Scope
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import NotServing, Refusal, ServerUnknown
from registry.gateway.values import Route

RECHECK_SECONDS = 5.0
"""How long a stream may outlive its token's expiry; other reasons end it at once."""


Changed: TypeAlias = Callable[[int], Awaitable[int]]
"""Waits for another version of the data behind decisions; see `gateway.ports.RouteTable`."""


class StreamLimits:
    """Counts the long-lived streams to each server.

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
            NotServing: The limit is reached.
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


class ClientStreamLimit:
    """Counts the long-lived streams to clients whose server is the gateway itself.

    Args:
        most: How many may be open in this worker.
        most_per_user: How many may be open for one user.
        open_streams: The metric of open streams.
    """

    def __init__(self, most: int, most_per_user: int, open_streams: Gauge) -> None:
        self._most = most
        self._most_per_user = most_per_user
        self._open_streams = open_streams
        self._open: Counter[str] = Counter()
        self._total = 0

    @contextmanager
    def hold(self, principal: str) -> Iterator[None]:
        """Count one more stream of *principal* while the context lasts.

        Raises:
            NotServing: The limit is reached.
        """
        if self._total >= self._most:
            raise NotServing("Too many streams are open; try again later.")
        if self._open[principal] >= self._most_per_user:
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


async def until_refused(
    admission: Admission, exchange: GatewayRequest, route: Route | None, changed: Changed
) -> Refusal:
    """Return the refusal as soon as the request would be refused if it were sent now.

    A stream may stay open for days, in which its token expires, its user loses the right, and
    its server is turned off, removed or moved. *route* is None on the combined path.
    """
    seen = -1
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(RECHECK_SECONDS):
                seen = await changed(seen)
        try:
            user = await admission.identify(exchange)
            if route is None:
                admission.admit_caller(exchange, user, Scope.READ_TOOLS)
                continue
            current = admission.admit(exchange, user, Scope.READ_TOOLS)
        except Refusal as refusal:
            return refusal
        except DatabaseUnavailable:
            # The next check decides; after a longer outage, there is a refusal.
            continue
        if (current.server_id, current.url) != (route.server_id, route.url):
            return ServerUnknown()
