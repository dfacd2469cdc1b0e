"""Answer who did what, newest first."""

from datetime import datetime

from registry.audit.repository import AuditRepository
from registry.audit.values import AuditFilter, AuditRecord
from registry.core.cursor import Page, newest_page


class AuditService:
    """Reads the audit trail. Whoever may call it sees all of it."""

    def __init__(self, repository: AuditRepository) -> None:
        self._repository = repository

    async def page(
        self, narrowed: AuditFilter, cursor: str | None, limit: int
    ) -> Page[AuditRecord]:
        """Return up to *limit* records that are older than *cursor*.

        Raises:
            BadCursorError: *cursor* is none of ours.
        """

        async def read(before: tuple[datetime, str] | None, count: int) -> list[AuditRecord]:
            return await self._repository.page(narrowed, before, count)

        return await newest_page(read, lambda one: (one.timestamp, one.id), cursor, limit)
