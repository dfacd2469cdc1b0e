"""Limits: who writes them, on behalf of a caller.

Owners of a server write the limits about it, administrators those about all servers.
"""

from dataclasses import replace

import structlog

from packages.database.client import Database, Transaction
from registry.access.limits.errors import (
    LimitModifiedError,
    LimitNotFoundError,
    LimitUnreadableError,
    TooManyLimitsError,
)
from registry.access.limits.presenter import present_content
from registry.access.limits.repository import LimitRepository, new_limit_id
from registry.access.limits.values import Limit, LimitChange, LimitRecord
from registry.access.policies.authority import RuleAuthority
from registry.access.policies.values import NO_SUBJECTS, PolicyEditor, PolicyTarget
from registry.access.ports import TableChanges
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType, changes_of
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError
from registry.core.paging import Page, PageRequest

log = structlog.get_logger()

MAX_PER_SERVER = 200
"""Maximum number of limits about one server, and about all: each replica holds them in memory."""

CHANGEABLE = (
    *("name", "is_enabled", "target", "subjects"),
    *("per", "rates", "in_flight", "on_database_loss"),
)


class LimitService:
    """Reads and writes limits."""

    def __init__(
        self,
        database: Database,
        limits: LimitRepository,
        authority: RuleAuthority,
        audit: AuditTrail,
        changes: TableChanges,
        *,
        clock: Clock,
    ) -> None:
        self._database = database
        self._limits = limits
        self._authority = authority
        self._audit = audit
        self._changes = changes
        self._clock = clock

    async def page(
        self, user: UserContext, owner_id: str | None, page: PageRequest
    ) -> Page[LimitRecord]:
        """Return one page of the limits that *user* may write."""
        return await self._limits.list_page(self._authority.owners_of(user), owner_id, page)

    async def get(
        self, limit_id: str, user: UserContext, tx: Transaction | None = None
    ) -> LimitRecord:
        """Return one limit.

        Raises:
            LimitNotFoundError: The limit does not exist, or *user* may not write it.
        """
        record = await self._limits.get(limit_id, tx)
        if record is None or not await self._authority.may_write(
            record.limit.target.owner_id, user, tx
        ):
            raise LimitNotFoundError
        return record

    async def create(self, change: LimitChange, user: UserContext) -> LimitRecord:
        """Create a limit.

        Raises:
            PolicyForbiddenError: *user* may not write limits with this target.
            UnknownOwnerError: The server does not exist, or they may not see it.
            UnknownSubjectsError: It names a subject that does not exist.
            LimitExistsError: The name is taken.
            TooManyLimitsError: The maximum is reached.
        """
        now = self._clock.now()
        person = PolicyEditor(user.user_id, user.username)
        limit_id = new_limit_id()
        blank = Limit(limit_id, "", PolicyTarget(), NO_SUBJECTS)
        change = replace(change, target=await self._authority.settled(change.target))
        record = _changed(LimitRecord(blank, None, 0, now, person, now, person), change)
        owner_id = change.target.owner_id
        await self._authority.require_known(change.subjects, NO_SUBJECTS, owner_id, user)

        async def write(tx: Transaction) -> None:
            await self._require_room(owner_id, user, tx)
            await self._limits.insert(record, tx)
            await self._record(AuditAction.CREATE, None, record, user, tx)

        await self._database.transaction(write)
        await self._written(limit_id, AuditAction.CREATE, user)
        return record

    async def update(
        self,
        limit_id: str,
        change: LimitChange,
        user: UserContext,
        *,
        expected_etag: str | None = None,
    ) -> LimitRecord:
        """Change the given members only; a change without effect writes nothing.

        Raises:
            LimitNotFoundError: The limit does not exist, or *user* may not write it.
            PolicyForbiddenError: They may not write limits with its new target.
            LimitModifiedError: *expected_etag* is not the limit's any more.
            LimitUnreadableError: The stored limit cannot be changed.
            UnknownOwnerError: The server does not exist, or they may not see it.
            UnknownSubjectsError: It would name a subject that does not exist.
            LimitExistsError: The name is taken.
            ValidationFailedError: It would limit nothing.
        """
        seen = await self.get(limit_id, user)
        if "target" in change.members:
            change = replace(change, target=await self._authority.settled(change.target))
        if "subjects" in change.members:
            target = change.target if "target" in change.members else seen.limit.target
            await self._authority.require_known(
                change.subjects, seen.limit.subjects, target.owner_id, user
            )

        async def write(tx: Transaction) -> tuple[LimitRecord, bool]:
            before = await self.get(limit_id, user, tx)
            _require_etag(before, expected_etag)
            if before.limit.problem is not None:
                raise LimitUnreadableError(before.limit.problem)
            after = _changed(before, change)
            if not after.limit.rates and after.limit.in_flight is None:
                raise ValidationFailedError("rates", "give rates, in_flight, or both")
            if present_content(after) == present_content(before):
                return before, False
            owner_id = after.limit.target.owner_id
            if owner_id != before.limit.target.owner_id:
                await self._require_room(owner_id, user, tx)
            person = PolicyEditor(user.user_id, user.username)
            after = replace(after, updated_at=self._clock.now(), updated_by=person)
            if not await self._limits.update(after, tx):
                raise LimitModifiedError(before.etag, expected_etag)
            await self._record(AuditAction.UPDATE, before, after, user, tx)
            return after, True

        record, is_changed = await self._database.transaction(write)
        if is_changed:
            await self._written(limit_id, AuditAction.UPDATE, user)
        return record

    async def delete(
        self, limit_id: str, user: UserContext, *, expected_etag: str | None = None
    ) -> None:
        """Remove a limit, even an unreadable one.

        Raises:
            LimitNotFoundError: The limit does not exist, or *user* may not write it.
            LimitModifiedError: *expected_etag* is not the limit's any more.
        """

        async def write(tx: Transaction) -> None:
            record = await self.get(limit_id, user, tx)
            _require_etag(record, expected_etag)
            if not await self._limits.delete(limit_id, tx):
                raise LimitNotFoundError
            await self._record(AuditAction.DELETE, record, None, user, tx)

        await self._database.transaction(write)
        await self._written(limit_id, AuditAction.DELETE, user)

    async def _require_room(
        self, owner_id: str | None, user: UserContext, tx: Transaction
    ) -> None:
        await self._authority.require_may_write(owner_id, user, tx)
        if await self._limits.count_about(owner_id, tx) >= MAX_PER_SERVER:
            raise TooManyLimitsError(MAX_PER_SERVER)

    async def _record(
        self,
        action: AuditAction,
        before: LimitRecord | None,
        after: LimitRecord | None,
        user: UserContext,
        tx: Transaction,
    ) -> None:
        record = after or before
        assert record is not None  # noqa: S101 - one of them is given
        changes = changes_of(
            None if before is None else present_content(before),
            None if after is None else present_content(after),
        )
        event = AuditEvent(
            action,
            EntityType.LIMIT,
            record.limit.id,
            changes,
            server_id=record.limit.target.owner_id,
        )
        await self._audit.record(user, event, tx)

    async def _written(self, limit_id: str, action: AuditAction, user: UserContext) -> None:
        log.info("limit_changed", limit_id=limit_id, action=action, user_id=user.user_id)
        await self._changes.table_changed("limits", limit_id)


def _changed(record: LimitRecord, change: LimitChange) -> LimitRecord:
    limit = record.limit
    fields = {
        name: getattr(change if name in change.members else limit, name) for name in CHANGEABLE
    }
    description = change.description if "description" in change.members else record.description
    return replace(
        record,
        limit=replace(limit, **fields),
        description=description,
        revision=record.revision + 1,
    )


def _require_etag(record: LimitRecord, expected_etag: str | None) -> None:
    if expected_etag is not None and expected_etag != record.etag:
        raise LimitModifiedError(record.etag, expected_etag)
