"""Budgets on behalf of administrators: those of a tenant for its own, others for all tenants."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from packages.database.client import Database, Transaction
from registry.access.budgets.errors import (
    BudgetForbiddenError,
    BudgetModifiedError,
    BudgetNotFoundError,
    SpendingNotRecordedError,
    TooManyBudgetsError,
    UnknownBudgetUsersError,
)
from registry.access.budgets.presenter import present_content
from registry.access.budgets.repository import BudgetRepository, new_budget_id
from registry.access.budgets.values import Budget, BudgetChange, BudgetRecord
from registry.access.policies.values import NO_SUBJECTS, PolicyEditor, Subjects
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType, changes_of
from registry.auth.identity import UserContext
from registry.auth.repository import USER, DirectoryRepository
from registry.core.clock import Clock
from registry.core.paging import Page, PageRequest
from registry.usage.repository import UsageRepository
from registry.usage.totals import MonthKey, month_of

log = structlog.get_logger()

MAX_BUDGETS = 500
"""Maximum number of budgets: each replica holds them in memory."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget, and what was spent of it this month.

    Attributes:
        spent: Millionths, as far as it is written: all but the last second.
    """

    record: BudgetRecord
    month: datetime
    spent: int


class BudgetService:
    """Reads and writes budgets.

    Args:
        is_recorded: Whether calls leave records at all.
    """

    def __init__(
        self,
        database: Database,
        budgets: BudgetRepository,
        usage: UsageRepository,
        directory: DirectoryRepository,
        audit: AuditTrail,
        *,
        clock: Clock,
        is_recorded: bool,
    ) -> None:
        self._database = database
        self._budgets = budgets
        self._usage = usage
        self._directory = directory
        self._audit = audit
        self._clock = clock
        self._is_recorded = is_recorded

    async def page(self, user: UserContext, page: PageRequest) -> Page[BudgetState]:
        """Return one page of the budgets that *user* may write; nobody but administrators may."""
        if not user.is_admin:
            return Page((), 0, page)
        found = await self._budgets.list_page(user.tenants, page)
        month, spending = await self._spending()
        states = tuple(
            BudgetState(one, month, one.budget.spent(spending, month)) for one in found.items
        )
        return Page(states, found.total, page)

    async def get(self, budget_id: str, user: UserContext) -> BudgetState:
        """Return one budget.

        Raises:
            BudgetNotFoundError: There is none, or *user* may not write it.
        """
        return await self._state(await self._require(budget_id, user))

    async def create(self, change: BudgetChange, user: UserContext) -> BudgetState:
        """Create a budget for the callers of the administrator's tenant, or of all.

        Raises:
            BudgetForbiddenError: *user* is no administrator.
            SpendingNotRecordedError: It would have no effect.
            UnknownBudgetUsersError: It names users who do not exist.
            BudgetExistsError: The name is taken.
            TooManyBudgetsError: The limit is reached.
        """
        if not user.is_admin:
            raise BudgetForbiddenError
        if not self._is_recorded:
            raise SpendingNotRecordedError
        now, person = self._clock.now(), PolicyEditor(user.user_id, user.username)
        tenant_id = None if user.sees_all_tenants else user.tenant_id
        blank = Budget(new_budget_id(), "", tenant_id, 0, NO_SUBJECTS)
        record = _changed(BudgetRecord(blank, None, 0, now, person, now, person), change)
        await self._require_known(record.budget.subjects, NO_SUBJECTS, user)

        async def write(tx: Transaction) -> None:
            if await self._budgets.count(tx) >= MAX_BUDGETS:
                raise TooManyBudgetsError(MAX_BUDGETS)
            await self._budgets.insert(record, tx)
            await self._record(user, AuditAction.CREATE, None, record, tx)

        await self._database.transaction(write)
        return await self._state(record)

    async def update(
        self,
        budget_id: str,
        change: BudgetChange,
        user: UserContext,
        *,
        expected_etag: str | None = None,
    ) -> BudgetState:
        """Change the given members; what was spent this month stays spent.

        Raises:
            BudgetNotFoundError: There is none, or *user* may not write it.
            BudgetModifiedError: *expected_etag* is not the budget's any more.
            UnknownBudgetUsersError: It would name users who do not exist.
            BudgetExistsError: The name is taken.
        """
        seen = await self._require(budget_id, user)
        if change.subjects is not None:
            await self._require_known(change.subjects, seen.budget.subjects, user)

        async def write(tx: Transaction) -> BudgetRecord:
            before = await self._require(budget_id, user, tx)
            _require_etag(before, expected_etag)
            after = _changed(before, change)
            if present_content(after) == present_content(before):
                return before
            person = PolicyEditor(user.user_id, user.username)
            after = replace(after, updated_at=self._clock.now(), updated_by=person)
            if not await self._budgets.update(after, tx):
                raise BudgetModifiedError(before.etag, expected_etag)
            await self._record(user, AuditAction.UPDATE, before, after, tx)
            return after

        return await self._state(await self._database.transaction(write))

    async def delete(
        self, budget_id: str, user: UserContext, *, expected_etag: str | None = None
    ) -> None:
        """Remove a budget.

        Raises:
            BudgetNotFoundError: There is none, or *user* may not write it.
            BudgetModifiedError: *expected_etag* is not the budget's any more.
        """

        async def write(tx: Transaction) -> None:
            record = await self._require(budget_id, user, tx)
            _require_etag(record, expected_etag)
            await self._budgets.delete(budget_id, tx)
            await self._record(user, AuditAction.DELETE, record, None, tx)

        await self._database.transaction(write)

    async def _record(
        self,
        user: UserContext,
        action: AuditAction,
        before: BudgetRecord | None,
        after: BudgetRecord | None,
        tx: Transaction,
    ) -> None:
        about = after or before
        assert about is not None  # noqa: S101 - one of them is given
        changes = changes_of(
            None if before is None else present_content(before),
            None if after is None else present_content(after),
        )
        event = AuditEvent(action, EntityType.BUDGET, about.budget.id, changes)
        await self._audit.record(user, event, tx)

    async def _require(
        self, budget_id: str, user: UserContext, tx: Transaction | None = None
    ) -> BudgetRecord:
        record = await self._budgets.get(budget_id, tx) if user.is_admin else None
        if record is None or not (
            user.sees_all_tenants or record.budget.tenant_id == user.tenant_id
        ):
            raise BudgetNotFoundError
        return record

    async def _require_known(
        self, subjects: Subjects, before: Subjects, user: UserContext
    ) -> None:
        asked = [(USER, user_id) for user_id in sorted(subjects.users - before.users)]
        found = await self._directory.known(asked, user.tenants) if asked else {}
        unknown = [key for kind, key in asked if (kind, key) not in found]
        if unknown:
            raise UnknownBudgetUsersError(unknown)

    async def _spending(self) -> tuple[datetime, Mapping[MonthKey, int]]:
        month = month_of(self._clock.now())
        return month, await self._usage.spending(month)

    async def _state(self, record: BudgetRecord) -> BudgetState:
        month, spending = await self._spending()
        return BudgetState(record, month, record.budget.spent(spending, month))


def _changed(record: BudgetRecord, change: BudgetChange) -> BudgetRecord:
    before = record.budget
    after = replace(
        before,
        name=before.name if change.name is None else change.name,
        amount=before.amount if change.amount is None else change.amount,
        subjects=before.subjects if change.subjects is None else change.subjects,
        billing_tags=before.billing_tags if change.billing_tags is None else change.billing_tags,
    )
    # Another name is no reason to report the same spending again.
    is_only_renamed = replace(after, name=before.name) == before
    return replace(
        record,
        budget=after,
        noticed=record.noticed if is_only_renamed else None,
        revision=record.revision + 1,
    )


def _require_etag(record: BudgetRecord, expected_etag: str | None) -> None:
    if expected_etag is not None and expected_etag != record.etag:
        raise BudgetModifiedError(record.etag, expected_etag)
