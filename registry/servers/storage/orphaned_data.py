"""Removes what is left of servers that the other application deleted.

It knows its own collections alone. Every process hears of a deletion and removes what is left:
that is idempotent, and of several one finds something. What was deleted while none ran is found
at start.
"""

import asyncio
from collections.abc import Iterable

import structlog
from bson import ObjectId

from packages.database.client import Database, Transaction
from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.servers.storage.store import ServerRepositories

log = structlog.get_logger()

SETTLE_SECONDS = 5.0
"""How long after a deletion was heard of its leftovers are removed: somebody who restores a
collection may remove a document to write it again."""

FEW = 20
"""Up to so many servers may be gone at a start whatever is there."""

AWAY_SECONDS = 5.0


class OrphanedServerData:
    """What is stored of servers that are no more.

    Args:
        settle_seconds: How long to wait after a deletion was heard of.
    """

    def __init__(
        self,
        database: Database,
        repositories: ServerRepositories,
        *,
        clock: Clock,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._database = database
        self._repositories = repositories
        self._clock = clock
        self._settle_seconds = settle_seconds
        self._heard: set[str] = set()
        self._woken = asyncio.Event()

    def note(self, server_ids: Iterable[str]) -> None:
        """Have these servers looked at, which may be gone. Cheap."""
        before = len(self._heard)
        # Documents of other programs may have any id; of those nothing is ours.
        self._heard.update(one for one in server_ids if ObjectId.is_valid(one))
        if len(self._heard) > before:
            self._woken.set()

    async def find(self, *, every: bool = False) -> list[str]:
        """Return the ids of servers that are no more and of which something is left.

        Args:
            every: Look at all rows of tools and features too, not at one row a server.

        Raises:
            DatabaseUnavailable: It is away.
        """
        repositories = self._repositories
        left = await repositories.servers.read_ids() | await repositories.versions.server_ids()
        if every:
            left |= await repositories.tools.owner_ids() | await repositories.features.owner_ids()
        # Read afterwards: what is registered meanwhile is there.
        return sorted(left - set(await repositories.lookup.ids_unchecked()))

    async def remove(self, server_id: str) -> bool:
        """Remove what is left of a server, unless it is there; say whether there was something.

        What users stored for it stays: it goes by the server's name, which another may have.

        Raises:
            DatabaseUnavailable: It is away.
        """
        repositories = self._repositories

        # Looked at first without a transaction: most that are heard of are turned off.
        if await repositories.lookup.facts_unchecked(server_id) is not None:
            return False

        async def remove(tx: Transaction) -> bool:
            if await repositories.lookup.facts_unchecked(server_id, tx) is not None:
                return False
            removed = [
                await repositories.servers.forget_reading(server_id, tx),
                await repositories.versions.delete_of(server_id, tx),
                await repositories.tools.delete_of(server_id, tx),
                await repositories.features.delete_of(server_id, tx),
                await repositories.policies.delete_of(server_id, tx),
                await repositories.acl.delete_of(server_id, tx),
            ]
            return any(removed)

        is_removed = await self._database.transaction(remove)
        if is_removed:
            log.info("server_leftovers_removed", server_id=server_id)
        return is_removed

    async def follow(self) -> None:
        """Remove what was left before, and then what is heard of, for ever."""
        is_begun = False
        while True:
            try:
                if not is_begun:
                    await self._sweep()
                    is_begun = True
                await self._woken.wait()
                await self._clock.sleep(self._settle_seconds)
                await self._remove_heard()
            except DatabaseUnavailable:
                await self._clock.sleep(AWAY_SECONDS)
            except Exception:
                # What is left of one server must not end the work on others.
                log.exception("server_leftovers_kept")
                is_begun = True

    async def _sweep(self) -> None:
        left = await self.find()
        if len(left) > FEW and len(left) > len(await self._repositories.lookup.ids_unchecked()):
            # More likely is that a restored database is not complete yet.
            log.warning("server_leftovers_too_many", servers=len(left))
            return
        self.note(left)

    async def _remove_heard(self) -> None:
        self._woken.clear()
        while self._heard:
            server_id = self._heard.pop()
            try:
                await self.remove(server_id)
            except DatabaseUnavailable:
                self.note([server_id])
                raise
