"""Remove orphaned data: documents of servers that the other application deleted.

It deletes from its own collections alone. Every process is notified of a deletion and removes the
rest: that is idempotent, and one of them finds something. Deletions while no process ran are found
at start.
"""

import asyncio
from collections.abc import Iterable

import structlog
from bson import ObjectId

from packages.database.client import Database, Transaction
from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.oauth.ports import RemovalListener
from registry.servers.reconciliation.store import ServerRepositories
from registry.tokens.values import TokenRow

log = structlog.get_logger()

SETTLE_SECONDS = 5.0
"""Delay between the notification of a deletion and the removal: a restore of a collection may
delete a document to write it again."""

FEW = 20
"""Up to this many missing servers are accepted at a start, whatever else is stored."""

DATABASE_RETRY_SECONDS = 5.0


class OrphanedServerData:
    """The orphaned data of deleted servers.

    Args:
        removals: Revokes users' tokens; without it they stay.
        settle_seconds: Delay between the notification of a deletion and the removal.
    """

    def __init__(
        self,
        database: Database,
        repositories: ServerRepositories,
        *,
        clock: Clock,
        removals: RemovalListener | None = None,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._database = database
        self._repositories = repositories
        self._clock = clock
        self._removals = removals
        self._settle_seconds = settle_seconds
        self._noted: set[str] = set()
        self._woken = asyncio.Event()

    def note(self, server_ids: Iterable[str]) -> None:
        """Queue servers that may be deleted. Cheap."""
        before = len(self._noted)
        # Documents of other programs may have any id; none of our data belongs to those.
        self._noted.update(one for one in server_ids if ObjectId.is_valid(one))
        if len(self._noted) > before:
            self._woken.set()

    async def find(self, *, every: bool = False) -> list[str]:
        """Return the ids of deleted servers with orphaned data.

        Args:
            every: Check all rows of tools and features too, not one row per server.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        repositories = self._repositories
        left = await repositories.servers.read_ids() | await repositories.versions.server_ids()
        if every:
            left |= await repositories.tools.owner_ids() | await repositories.features.owner_ids()
        # Read afterwards: servers that were registered since are found.
        return sorted(left - set(await repositories.servers.ids_unchecked()))

    async def remove(self, server_id: str) -> bool:
        """Remove the orphaned data of a server, unless it exists; return whether there was any.

        Of users' values, the tokens go that say which server they were obtained for. Others stay:
        they are stored under the server's name, which another may have.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        repositories = self._repositories

        # Checked without a transaction first: most notified servers are only turned off.
        if await repositories.servers.record_unchecked(server_id) is not None:
            return False

        async def remove(tx: Transaction) -> tuple[bool, list[TokenRow]] | None:
            if await repositories.servers.record_unchecked(server_id, tx) is not None:
                return None
            removed = [
                await repositories.servers.forget_reading(server_id, tx),
                await repositories.versions.delete_of(server_id, tx),
                await repositories.tools.delete_of(server_id, tx),
                await repositories.features.delete_of(server_id, tx),
                await repositories.policies.delete_of(server_id, tx),
                await repositories.limits.delete_of(server_id, tx),
                await repositories.acl.delete_of(server_id, tx),
            ]
            await repositories.flows.delete_of(server_id, self._clock.now(), tx)
            rows: list[TokenRow] = []
            if self._removals is not None:
                rows = await repositories.tokens.take_of_former_server(server_id, tx)
            return any(removed) or bool(rows), rows

        found = await self._database.transaction(remove)
        if found is None:
            return False
        is_removed, rows = found
        if self._removals is not None:
            # Also without rows: the process that removed the server may not have come to it.
            self._removals.removed(server_id, rows)
        if is_removed:
            log.info("orphaned_data_removed", server_id=server_id)
        return is_removed

    async def follow(self) -> None:
        """Remove existing orphaned data, and then that of each notification, for ever."""
        is_begun = False
        while True:
            try:
                if not is_begun:
                    await self._sweep()
                    is_begun = True
                await self._woken.wait()
                await self._clock.sleep(self._settle_seconds)
                await self._remove_noted()
            except DatabaseUnavailable:
                await self._clock.sleep(DATABASE_RETRY_SECONDS)
            except Exception:
                # What is orphaned now is found again at the next start.
                log.exception("orphaned_data_removal_failed")
                is_begun = True

    async def _sweep(self) -> None:
        left = await self.find()
        if len(left) > FEW and len(left) > len(await self._repositories.servers.ids_unchecked()):
            # It is more likely that a restored database is incomplete.
            log.warning("orphaned_data_removal_skipped", servers=len(left))
            return
        self.note(left)

    async def _remove_noted(self) -> None:
        self._woken.clear()
        while self._noted:
            server_id = self._noted.pop()
            try:
                await self.remove(server_id)
            except DatabaseUnavailable:
                self.note([server_id])
                raise
            except Exception:
                # An error of one server must not stop the work on others.
                log.exception("orphaned_data_removal_failed", server_id=server_id)
