"""Usage service: lists calls that a caller may see, newest first."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime

from packages.database.errors import translated
from registry.auth.identity import UserContext
from registry.auth.ports import SeenServers
from registry.core.cursor import PLACE, CursorPage, newest_page
from registry.usage.repository import UsageRepository
from registry.usage.values import (
    GroupBy,
    UsageFilter,
    UsageGroup,
    UsageRecord,
    UsageVisibility,
)

MAX_GROUPS = 1_000
"""Groups of one answer. Exports have all."""

EXPORT_PAGE = 500
NOTHING = UsageGroup()


@dataclass(frozen=True, slots=True)
class UsageSummary:
    """Groups of totals.

    Attributes:
        whole: Sums over all groups, also those that are left out.
        has_more: Whether some are left out.
    """

    groups: Sequence[UsageGroup]
    whole: UsageGroup
    has_more: bool


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
        record_filter = self._seen(user, record_filter)

        async def read(before: tuple[datetime, str] | None, count: int) -> list[UsageRecord]:
            return await self._repository.page(record_filter, before, count)

        return await newest_page(
            read, lambda one: (one.started_at, one.id), cursor, limit, id_characters=PLACE
        )

    async def records(
        self, user: UserContext, record_filter: UsageFilter
    ) -> AsyncGenerator[UsageRecord]:
        """Yield all records that *user* may see, newest first, a page in memory at a time.

        Raises:
            ListsOutdatedError: As for `page`.
        """
        cursor = None
        while True:
            page = await self.page(user, record_filter, cursor, EXPORT_PAGE)
            for record in page.records:
                yield record
            cursor = page.next_cursor
            if cursor is None:
                return

    async def groups(
        self, user: UserContext, record_filter: UsageFilter, group_by: Sequence[GroupBy]
    ) -> AsyncGenerator[UsageGroup]:
        """Yield the totals of calls that *user* may see, by group.

        Raises:
            ListsOutdatedError: As for `page`.
            DatabaseUnavailable: The database is unreachable.
        """
        seen = self._seen(user, record_filter)
        async with translated(), aclosing(self._repository.groups(seen, group_by)) as groups:
            async for group in groups:
                yield group

    async def summary(
        self, user: UserContext, record_filter: UsageFilter, group_by: Sequence[GroupBy]
    ) -> UsageSummary:
        """Return the first groups, and the sums over all of them, of one moment.

        Raises:
            ListsOutdatedError: As for `page`.
            DatabaseUnavailable: The database is unreachable.
        """
        groups: list[UsageGroup] = []
        whole, has_more = NOTHING, False
        async for group in self.groups(user, record_filter, group_by):
            whole = whole.plus(group)
            has_more = len(groups) == MAX_GROUPS
            if not has_more:
                groups.append(group)
        return UsageSummary(groups, whole, has_more)

    def _seen(self, user: UserContext, record_filter: UsageFilter) -> UsageFilter:
        """Return the filter for what *user* may see."""
        if user.is_of_all_tenants or self._servers.sees_everything(user):
            return record_filter
        shown = UsageVisibility(user.user_id, frozenset(self._servers.rights(user)))
        return replace(record_filter, shown=shown)
