"""Answer who called what, newest first."""

from dataclasses import dataclass

from registry.core.cursor import read_time_cursor, time_cursor
from registry.usage.repository import UsageRepository
from registry.usage.values import UsageFilter, UsageRecord


@dataclass(frozen=True, slots=True)
class UsagePage:
    """Some records, and where the older ones begin; None when there are none."""

    records: tuple[UsageRecord, ...]
    next_cursor: str | None


class UsageService:
    """Reads records of calls. Whoever may call it sees all of them."""

    def __init__(self, repository: UsageRepository) -> None:
        self._repository = repository

    async def page(self, narrowed: UsageFilter, cursor: str | None, limit: int) -> UsagePage:
        """Return up to *limit* records that are older than *cursor*.

        Raises:
            BadCursorError: *cursor* is none of ours.
        """
        before = None if cursor is None else read_time_cursor(cursor)
        # One more than asked for tells whether there are older ones.
        found = await self._repository.page(narrowed, before, limit + 1)
        records = tuple(found[:limit])
        last = records[-1] if len(found) > limit else None
        return UsagePage(records, None if last is None else time_cursor(last.started_at, last.id))
