"""Answer who did what, newest first."""

from dataclasses import dataclass

from registry.audit.repository import AuditRepository
from registry.audit.values import AuditFilter, AuditRecord
from registry.core.cursor import read_time_cursor, time_cursor


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some records, and where the older ones begin; None when there are none."""

    records: tuple[AuditRecord, ...]
    next_cursor: str | None


class AuditService:
    """Reads the audit trail. Whoever may call it sees all of it."""

    def __init__(self, repository: AuditRepository) -> None:
        self._repository = repository

    async def page(self, narrowed: AuditFilter, cursor: str | None, limit: int) -> AuditPage:
        """Return up to *limit* records that are older than *cursor*.

        Raises:
            BadCursorError: *cursor* is none of ours.
        """
        before = None if cursor is None else read_time_cursor(cursor)
        # One more than asked for tells whether there are older ones.
        found = await self._repository.page(narrowed, before, limit + 1)
        records = tuple(found[:limit])
        last = records[-1] if len(found) > limit else None
        return AuditPage(records, None if last is None else time_cursor(last.timestamp, last.id))
