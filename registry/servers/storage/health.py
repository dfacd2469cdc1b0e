"""Health events: write what calls show of a server's health to its document.

Such a write is no modification: `updatedAt` stays, preconditions still hold, and of the fields
that people change only `status` is written. Its changes are audited, each in the transaction of
the change, on behalf of the registry itself.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeAlias

import structlog

from packages.database.client import Database, Transaction
from packages.database.errors import ReplicaSetNeeded
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import OPERATOR
from registry.core.json import JsonObject
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import ServerStatus

log = structlog.get_logger()

MESSAGE_CHARACTERS = 1_000

Change: TypeAlias = Callable[[Transaction], Awaitable[bool]]


class ServerHealth:
    """Implements `connections.ports.HealthRecords`.

    Args:
        failures_until_error: After this many failures in a row, an active server is in error.
        interval_seconds: What another process wrote within this time is not written again.
    """

    def __init__(
        self,
        database: Database,
        servers: ServerRepository,
        audit: AuditTrail,
        *,
        failures_until_error: int,
        interval_seconds: float,
    ) -> None:
        self._database = database
        self._servers = servers
        self._audit = audit
        self._failures_until_error = failures_until_error
        # Half of it, or two processes that alternate would suppress each other's writes for ever.
        self._quiet = timedelta(seconds=interval_seconds / 2)

    async def connected(self, server_id: str, at: datetime) -> bool:
        """Record a connection that works; a server in error becomes active again.

        Raises:
            DatabaseUnavailable: It is unknown whether anything was written.
        """
        if await self._servers.note_connected(server_id, at, quiet_since=at - self._quiet):
            return True
        if not await self._servers.is_in_error(server_id):
            return False

        async def recover(tx: Transaction) -> bool:
            if not await self._servers.recover(server_id, at, tx):
                return False
            await self._record(server_id, ServerStatus.ERROR, ServerStatus.ACTIVE, tx)
            return True

        return await self._changed(recover, server_id, ServerStatus.ACTIVE)

    async def failed(
        self, server_id: str, at: datetime, message: str, *, failures: int, is_after_success: bool
    ) -> bool:
        """Record failed attempts; enough of them in a row set an active server to error.

        Raises:
            DatabaseUnavailable: It is unknown whether anything was written.
            ServerUnusableError: The stored document has no place for it.
        """
        count = await self._servers.note_failed(
            server_id,
            at,
            message[:MESSAGE_CHARACTERS],
            failures=failures,
            is_after_success=is_after_success,
        )
        if count < self._failures_until_error:
            return count > 0

        async def give_up(tx: Transaction) -> bool:
            if not await self._servers.give_up(server_id, self._failures_until_error, tx):
                return False
            await self._record(server_id, ServerStatus.ACTIVE, ServerStatus.ERROR, tx)
            return True

        await self._changed(give_up, server_id, ServerStatus.ERROR)
        return True

    async def _changed(self, change: Change, server_id: str, status: ServerStatus) -> bool:
        try:
            has_changed = await self._database.transaction(change)
        except ReplicaSetNeeded:
            # The document cannot be changed; the state in memory is still updated.
            return False
        if has_changed:
            log.info("server_status_changed", server_id=server_id, status=status.value)
        return has_changed

    async def _record(
        self, server_id: str, before: ServerStatus, after: ServerStatus, tx: Transaction
    ) -> None:
        changes: JsonObject = {
            "before": {"status": before.value},
            "after": {"status": after.value},
        }
        event = AuditEvent(AuditAction.UPDATE, EntityType.SERVER, server_id, changes)
        await self._audit.record(OPERATOR, event, tx)
