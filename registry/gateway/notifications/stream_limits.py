"""Limits of long-lived streams: how many connections they use, and until when they are allowed."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from prometheus_client import Gauge

from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import Scope
from registry.core.drain import Drain
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import NotServing, Refusal, ServerUnknown, ShuttingDown
from registry.gateway.ports import RouteTable
from registry.gateway.values import Route

RECHECK_SECONDS = 5.0
"""How long a stream may outlive its token's expiry; other reasons end it at once."""


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


class StreamGuard:
    """Ends long-lived streams that would be refused if they were opened now.

    A stream may stay open for days, in which its token expires, its user loses the right, and
    its server is turned off, removed or moved.

    Args:
        routes: Announces changes of the data behind decisions.
        drain: Signals that all streams must end.
    """

    def __init__(self, admission: Admission, routes: RouteTable, drain: Drain) -> None:
        self._admission = admission
        self._routes = routes
        self._drain = drain

    def until_ended(
        self, exchange: GatewayRequest, route: Route | None
    ) -> Callable[[], Awaitable[Exception]]:
        """Return what waits for a reason to end a stream, and returns the reason.

        Args:
            exchange: The request that opened the stream.
            route: The one server behind the path; None for all.
        """

        async def until_ended() -> Exception:
            return await self._drain.interrupt(
                lambda: self._until_refused(exchange, route), ShuttingDown()
            )

        return until_ended

    async def _until_refused(self, exchange: GatewayRequest, route: Route | None) -> Exception:
        seen = -1
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_SECONDS):
                    seen = await self._routes.changed(seen)
            try:
                user = await self._admission.identify(exchange)
                if route is None:
                    self._admission.admit_caller(exchange, user, Scope.READ_TOOLS)
                    continue
                current = self._admission.admit(exchange, user, Scope.READ_TOOLS)
            except Refusal as refusal:
                return refusal
            except DatabaseUnavailable:
                # The next check decides; after a longer outage, there is a refusal.
                continue
            if (current.server_id, current.url) != (route.server_id, route.url):
                return ServerUnknown()
