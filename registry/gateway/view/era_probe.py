"""Era re-probe: asks a server again which eras it speaks, after an unexpected answer."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from cachetools import TTLCache

from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.core.errors import RegistryError

log = structlog.get_logger()

PAUSE_SECONDS = 30.0
"""How long a server is not probed again, whatever the result."""

REMEMBERED = 10_000
"""Maximum number of servers with a recorded probe; beyond it, one may be probed sooner."""

AT_ONCE = 4
"""Servers probed concurrently: a silent one delays few others."""

Probe = Callable[[str], Awaitable[None]]
"""Asks a server, by id, which eras it speaks, and stores what changed."""


class EraReprobe:
    """Queues servers that calls report, and probes each at most once per interval."""

    def __init__(self, probe: Probe, *, clock: Clock) -> None:
        self._probe = probe
        self._asked: TTLCache[str, bool] = TTLCache(
            REMEMBERED, PAUSE_SECONDS, timer=clock.monotonic
        )
        self._waiting: asyncio.Queue[str] = asyncio.Queue()

    def note(self, server_id: str) -> None:
        """Queue a server for a probe, unless it was probed recently or is queued."""
        if server_id not in self._asked:
            self._asked[server_id] = True
            self._waiting.put_nowait(server_id)

    async def follow(self) -> None:
        """Probe queued servers, for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            server_id = await self._waiting.get()
            try:
                await self._probe(server_id)
            except (RegistryError, DatabaseUnavailable) as exc:
                log.info("era_probe_inconclusive", server_id=server_id, error=str(exc))
            except Exception:
                # Whatever is wrong with one server, the others must still be probed.
                log.exception("era_probe_failed", server_id=server_id)
