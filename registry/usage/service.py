"""Usage service: lists calls that a caller may see, newest first."""

from dataclasses import replace
from datetime import datetime

from registry.auth.identity import UserContext
from registry.auth.ports import SeenServers
from registry.core.cursor import PLACE, CursorPage, newest_page
from registry.usage.repository import UsageRepository
from registry.usage.values import UsageFilter, UsageRecord, UsageVisibility


class UsageService:
    """Reads records of calls.

    Callers who see all present and removed servers see all records. Others see records of servers
    that they see, and of their own calls.
    """

    def __init__(self, repository: UsageRepository, servers: SeenServers) -> None:
        self._repository = repository
        self._servers = servers

    async def page(
        self, user: UserContext, record_filter: UsageFilter, cursor: str | None, limit: int
    ) -> CursorPage[UsageRecord]:
        """Return up to *limit* records that *user* may see and that are older than *cursor*.

        Raises:
            BadCursorError: *cursor* was not issued by this API.
            ListsOutdatedError: The database has been unreachable for a while, so it is unknown
                what *user* may see.
        """
        if not (user.is_of_all_tenants or self._servers.sees_everything(user)):
            shown = UsageVisibility(user.user_id, frozenset(self._servers.rights(user)))
            record_filter = replace(record_filter, shown=shown)

        async def read(before: tuple[datetime, str] | None, count: int) -> list[UsageRecord]:
            return await self._repository.page(record_filter, before, count)

        return await newest_page(
            read, lambda one: (one.started_at, one.id), cursor, limit, id_characters=PLACE
        )
