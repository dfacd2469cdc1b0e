"""Answer who called what, newest first."""

from datetime import datetime

from registry.core.cursor import PLACE, Page, newest_page
from registry.usage.repository import UsageRepository
from registry.usage.values import UsageFilter, UsageRecord


class UsageService:
    """Reads records of calls. Whoever may call it sees all of them."""

    def __init__(self, repository: UsageRepository) -> None:
        self._repository = repository

    async def page(
        self, narrowed: UsageFilter, cursor: str | None, limit: int
    ) -> Page[UsageRecord]:
        """Return up to *limit* records that are older than *cursor*.

        Raises:
            BadCursorError: *cursor* is none of ours.
        """

        async def read(before: tuple[datetime, str] | None, count: int) -> list[UsageRecord]:
            return await self._repository.page(narrowed, before, count)

        return await newest_page(
            read, lambda one: (one.started_at, one.id), cursor, limit, id_characters=PLACE
        )
