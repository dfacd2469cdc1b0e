"""Until when what a caller has begun is allowed: streams, and calls that wait for people."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import Scope
from registry.core.drain import Drain
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import Refusal, ServerUnknown, ShuttingDown
from registry.gateway.ports import RouteTable
from registry.gateway.values import Route

RECHECK_SECONDS = 5.0
"""How long a stream may outlive its token's expiry; other reasons end it at once."""


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
