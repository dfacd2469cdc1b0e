"""Servers that announced a list change, until the gateway has read the list again.

On the pass-through, clients get the announcement at the same moment and ask for the list at once,
when the gateway does not know it yet. So list requests wait for it, for a bounded time.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.gateway.ports import RouteTable
from registry.gateway.values import Route

MAX_WAIT_SECONDS = 3.0
"""Counted from the announcement; a sync takes one or two seconds, and may find nothing new."""


class AnnouncedLists:
    """Recent announcements.

    Args:
        routes: Returns another route once the server was read again and has changed.
        metrics: Counts the announcements.
        requires_sync: Called with the id of a server whose lists must be read again.
        wait_seconds: How long after an announcement list requests wait.
    """

    def __init__(
        self,
        routes: RouteTable,
        clock: Clock,
        metrics: Metrics,
        requires_sync: Callable[[str], None],
        *,
        wait_seconds: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._routes = routes
        self._clock = clock
        self._count = metrics.upstream_list_changes
        self._requires_sync = requires_sync
        self._wait_seconds = wait_seconds
        self._announced: dict[str, tuple[Route | None, float]] = {}

    def add(self, route: Route) -> None:
        """Note that the server of *route* announced a list change, and have its lists read."""
        self._count.inc()
        now = self._clock.monotonic()
        for slug, (_, until) in tuple(self._announced.items()):
            if until <= now:
                del self._announced[slug]
        self._announced[route.slug] = (self._routes.route(route.slug), now + self._wait_seconds)
        self._requires_sync(route.server_id)

    async def wait(self, slug: str) -> bool:
        """Wait until the announced lists of a server are read; return whether they changed."""
        announced = self._announced.get(slug)
        if announced is None:
            return False
        route, until = announced
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - self._clock.monotonic())):
                seen = -1
                while self._routes.route(slug) is route:
                    seen = await self._routes.changed(seen)
        if self._announced.get(slug) is announced:
            del self._announced[slug]
        return self._routes.route(slug) is not route
