"""Quarantine on behalf of a caller: who may put what in it, and what it had reached."""

from datetime import datetime, timedelta

import structlog

from packages.database.client import Database, Transaction
from packages.models.states import QuarantineKind
from registry.access.policies.authority import RuleAuthority, writes_about_all
from registry.access.policies.errors import PolicyForbiddenError, UnknownOwnerError
from registry.access.policies.ports import PolicyServers
from registry.access.policies.values import PolicyEditor
from registry.access.ports import TableChanges
from registry.access.quarantine.errors import (
    QuarantineForbiddenError,
    QuarantineNotFoundError,
    UnknownQuarantineSubjectError,
)
from registry.access.quarantine.ports import CallHistory
from registry.access.quarantine.repository import QuarantineRepository
from registry.access.quarantine.values import BlastRadius, NewQuarantine, Quarantine
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import UserContext
from registry.auth.repository import DirectoryRepository
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject
from registry.core.text import timestamp
from registry.tools.repository import ToolRepository

log = structlog.get_logger()

OF_SERVERS = frozenset({QuarantineKind.SERVER, QuarantineKind.TOOL})
ADMINISTRATORS = "administrators"
ALL_TENANTS = "administrators without a tenant"


class QuarantineService:
    """Puts in quarantine, lists, and lifts."""

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        database: Database,
        quarantines: QuarantineRepository,
        authority: RuleAuthority,
        servers: PolicyServers,
        tools: ToolRepository,
        directory: DirectoryRepository,
        history: CallHistory,
        audit: AuditTrail,
        changes: TableChanges,
        *,
        clock: Clock,
    ) -> None:
        self._database = database
        self._quarantines = quarantines
        self._authority = authority
        self._servers = servers
        self._tools = tools
        self._directory = directory
        self._history = history
        self._audit = audit
        self._changes = changes
        self._clock = clock

    def now(self) -> datetime:
        """Return the time by which quarantines expire."""
        return self._clock.now()

    async def add(self, new: NewQuarantine, user: UserContext) -> tuple[Quarantine, BlastRadius]:
        """Put something in quarantine; return it, and what was reached from there.

        Raises:
            QuarantineForbiddenError: *user* may not.
            UnknownQuarantineSubjectError: It does not exist, or they may not see it.
            ValidationFailedError: It would have expired already, or keep *user* out.
        """
        now = self._clock.now()
        if new.expires_at is not None and new.expires_at <= now:
            raise ValidationFailedError("expires_at", "lies in the past")
        if _is_own(new, user):
            raise ValidationFailedError("subject", "is yours, and you could not lift it again")
        name, tenant_id = await self._named(new, user)
        person = PolicyEditor(user.user_id, user.username)

        async def write(tx: Transaction) -> Quarantine:
            await self._require(new.kind, new.subject, user, tx)
            added = await self._quarantines.insert(new, name, tenant_id, person, now, tx)
            await self._record(AuditAction.CREATE, added, user, tx)
            return added

        added = await self._database.transaction(write)
        log.warning(
            "quarantine_changed",
            quarantine_id=added.id,
            action=AuditAction.CREATE,
            kind=added.kind.value,
            user_id=user.user_id,
        )
        await self._changes.table_changed("quarantines", added.id)
        # Afterwards: nothing may delay it.
        radius = await self._history.reached(new, now - timedelta(hours=new.hours))
        return added, radius

    async def listed(self, user: UserContext, *, active: bool | None) -> list[Quarantine]:
        """Return the quarantines that *user* may lift, the newest first.

        Args:
            user: Who asks.
            active: Only those in force, or only former ones; None for both.
        """
        now = self._clock.now()
        found = await self._quarantines.latest()
        owners = self._authority.owners_of(user)
        return [
            one
            for one in found
            if (active is None or one.is_active(now) is active) and self._sees(one, user, owners)
        ]

    async def lift(
        self, quarantine_id: str, user: UserContext
    ) -> tuple[Quarantine, tuple[str, ...]]:
        """End a quarantine; one that has ended stays as it is.

        Returns:
            It, and the ids of others of the same subject that still hold.

        Raises:
            QuarantineNotFoundError: There is none, or *user* may not lift it.
        """
        found = await self._quarantines.get(quarantine_id)
        if found is None or not self._sees(found, user, self._authority.owners_of(user)):
            raise QuarantineNotFoundError
        now, person = self._clock.now(), PolicyEditor(user.user_id, user.username)

        async def write(tx: Transaction) -> bool:
            is_lifted = await self._quarantines.lift(quarantine_id, person, now, tx)
            if is_lifted:
                await self._record(AuditAction.DELETE, found, user, tx)
            return is_lifted

        if await self._database.transaction(write):
            log.warning(
                "quarantine_changed",
                quarantine_id=found.id,
                action=AuditAction.DELETE,
                kind=found.kind.value,
                user_id=user.user_id,
            )
            await self._changes.table_changed("quarantines", quarantine_id)
        lifted = await self._quarantines.get(quarantine_id)
        if lifted is None:
            raise QuarantineNotFoundError
        subject = lifted.kind, lifted.subject, lifted.tool
        others = await self.listed(user, active=True)
        return lifted, tuple(
            one.id for one in others if (one.kind, one.subject, one.tool) == subject
        )

    def _sees(self, found: Quarantine, user: UserContext, owners: set[str | None] | None) -> bool:
        if found.kind in OF_SERVERS:
            return owners is None or found.subject in owners
        if not user.is_admin:
            return False
        return writes_about_all(user) or (
            found.kind is not QuarantineKind.CLIENT and user.sees_tenant(found.tenant_id)
        )

    async def _named(self, new: NewQuarantine, user: UserContext) -> tuple[str, str | None]:
        """Return what people call a subject, and its tenant.

        Raises:
            QuarantineForbiddenError: *user* may not put it in quarantine.
            UnknownQuarantineSubjectError: It does not exist, or not for them.
        """
        match new.kind:
            case QuarantineKind.SERVER | QuarantineKind.TOOL:
                return await self._named_server(new)
            case QuarantineKind.USER:
                return await self._named_user(new, user)
            case QuarantineKind.TOKEN | QuarantineKind.CLIENT:
                if not writes_about_all(user):
                    raise QuarantineForbiddenError(ALL_TENANTS)
                return new.subject, None

    async def _named_server(self, new: NewQuarantine) -> tuple[str, str | None]:
        owner = await self._servers.policy_owner(new.subject)
        if owner is None:
            raise UnknownQuarantineSubjectError("server")
        if new.tool is None:
            return owner.name, owner.tenant_id
        stored = await self._tools.get(owner.id, new.tool)
        if stored is None and not owner.is_described_elsewhere:
            raise UnknownQuarantineSubjectError("tool")
        return f"{new.tool} of {owner.name}", owner.tenant_id

    async def _named_user(self, new: NewQuarantine, user: UserContext) -> tuple[str, str | None]:
        if not user.is_admin:
            raise QuarantineForbiddenError(ADMINISTRATORS)
        entry = await self._directory.get(new.subject)
        if entry is None and user.sees_all_tenants:
            # A service account is in no directory.
            return new.subject, None
        if entry is None or not user.sees_tenant(entry.tenant_id):
            raise UnknownQuarantineSubjectError("user")
        return entry.username, entry.tenant_id

    async def _require(
        self, kind: QuarantineKind, subject: str, user: UserContext, tx: Transaction
    ) -> None:
        if kind in OF_SERVERS:
            try:
                await self._authority.require_may_write(subject, user, tx)
            except UnknownOwnerError:
                raise UnknownQuarantineSubjectError("server") from None
            except PolicyForbiddenError:
                raise QuarantineForbiddenError("those who may share the server") from None

    async def _record(
        self, action: AuditAction, found: Quarantine, user: UserContext, tx: Transaction
    ) -> None:
        expires = None if found.expires_at is None else timestamp(found.expires_at)
        changes: JsonObject = {
            "kind": found.kind.value,
            "subject": found.subject,
            "tool": found.tool,
            "reason": found.reason,
            "expires_at": expires,
            "ends_calls": found.ends_calls,
        }
        event = AuditEvent(
            action,
            EntityType.QUARANTINE,
            found.id,
            changes,
            server_id=found.subject if found.kind in OF_SERVERS else None,
        )
        await self._audit.record(user, event, tx)


def _is_own(new: NewQuarantine, user: UserContext) -> bool:
    match new.kind:
        case QuarantineKind.USER:
            return new.subject == user.user_id
        case QuarantineKind.TOKEN:
            return new.subject in {user.token_id, user.session_id, *user.ancestors}
        case QuarantineKind.SERVER | QuarantineKind.TOOL | QuarantineKind.CLIENT:
            return False
