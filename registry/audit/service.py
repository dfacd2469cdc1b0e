"""Audit service: lists records that a caller may see, newest first."""

from datetime import datetime

from registry.audit.repository import AuditRepository
from registry.audit.values import AuditFilter, AuditRecord, AuditVisibility
from registry.auth.identity import UserContext
from registry.auth.ports import SeenServers
from registry.core.cursor import CursorPage, newest_page


class AuditService:
    """Reads the audit trail.

    Callers who see all present and removed servers see all records. Others see records about
    servers that they see, and their own actions.
    """

    def __init__(self, repository: AuditRepository, servers: SeenServers) -> None:
        self._repository = repository
        self._servers = servers

    async def page(
        self, user: UserContext, record_filter: AuditFilter, cursor: str | None, limit: int
    ) -> CursorPage[AuditRecord]:
        """Return up to *limit* records that *user* may see and that are older than *cursor*.

        Raises:
            BadCursorError: *cursor* was not issued by this API.
            ListsOutdatedError: The database has been unreachable for a while, so it is unknown
                what *user* may see.
        """
        shown = self._shown(user)

        async def read(before: tuple[datetime, str] | None, count: int) -> list[AuditRecord]:
            return await self._repository.page(record_filter, before, count, shown)

        return await newest_page(read, lambda one: (one.timestamp, one.id), cursor, limit)

    def _shown(self, user: UserContext) -> AuditVisibility | None:
        """Return which records *user* may see; None means all."""
        if user.is_of_all_tenants or self._servers.sees_everything(user):
            return None
        return AuditVisibility(
            user.user_id,
            frozenset(self._servers.rights(user)),
            user.tenant_id,
            whole_tenant=self._servers.sees_private(user),
        )
