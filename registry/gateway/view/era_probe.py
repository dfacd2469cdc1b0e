"""Servers that answer as their stored era does not: asked again, seldom and off the calls."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from cachetools import TTLCache

from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.core.errors import RegistryError

log = structlog.get_logger()

PAUSE_SECONDS = 30.0
"""How long a server is not asked again, whatever came of it."""

REMEMBERED = 10_000
"""Most servers of which it is known that they were asked; beyond it, one may be asked sooner."""

AT_ONCE = 4
"""Servers asked side by side: one that is silent keeps few others waiting."""

Probe = Callable[[str], Awaitable[None]]
"""Asks a server, by id, which eras it speaks, and stores what changed."""


class EraReprobe:
    """Notes servers from calls, and has each probed once in a while."""

    def __init__(self, probe: Probe, *, clock: Clock) -> None:
        self._probe = probe
        self._asked: TTLCache[str, bool] = TTLCache(
            REMEMBERED, PAUSE_SECONDS, timer=clock.monotonic
        )
        self._waiting: asyncio.Queue[str] = asyncio.Queue()

    def note(self, server_id: str) -> None:
        """Have a server probed, unless it was a moment ago or will be."""
        if server_id not in self._asked:
            self._asked[server_id] = True
            self._waiting.put_nowait(server_id)

    async def follow(self) -> None:
        """Probe what is noted, for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            server_id = await self._waiting.get()
            try:
                await self._probe(server_id)
            except (RegistryError, DatabaseUnavailable) as exc:
                log.info("era_not_probed", server_id=server_id, problem=str(exc))
            except Exception:
                # Whatever is wrong with one server, the others are still to be probed.
                log.exception("era_probe_failed", server_id=server_id)
