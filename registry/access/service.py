"""Sharing: changes of the entries and the scope of a resource, made together."""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from packages.database.client import Database, Transaction
from registry.access.errors import (
    AccessDeniedError,
    EntryExpiredError,
    ResourceNotFoundError,
    SharingForbiddenError,
    SharingModifiedError,
    UnknownPrincipalError,
)
from registry.access.policy import (
    VIEW_BIT,
    AccessRights,
    Grant,
    Grants,
    Permission,
    PrincipalType,
    ServerFacts,
    ServerScope,
    evaluate,
)
from registry.access.ports import TOOLSET_TYPE, TOOLSETS, Resource, ResourceChanges, Resources
from registry.access.rbac import validate_owner
from registry.access.repository import AclRepository
from registry.access.sharing import (
    PUBLIC,
    Entry,
    SharePlan,
    ShareRequest,
    fingerprint,
    merged,
    plan,
)
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType, changes_of
from registry.auth.identity import Tenants, UserContext
from registry.auth.repository import DirectoryRepository
from registry.auth.values import DirectoryPrincipal
from registry.core.clock import Clock
from registry.core.json import JsonObject

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sharing:
    """The access to a resource.

    Attributes:
        entries: Unexpired entries, including the public's.
        people: Names of the principals that still exist.
        verdict: The caller's rights on the resource.
    """

    resource: Resource
    entries: tuple[Entry, ...]
    people: dict[tuple[str, str], DirectoryPrincipal]
    verdict: AccessRights

    @property
    def etag(self) -> str:
        """Return a text that differs if the entries do."""
        return fingerprint(self.entries)

    @property
    def is_public(self) -> bool:
        """Whether all users may see the resource."""
        return any(entry.principal == PUBLIC and entry.bits & VIEW_BIT for entry in self.entries)


class PermissionService:
    """Reads and changes the entries of resources of one type, each on behalf of a caller.

    Args:
        noun: What the resources are called.
    """

    def __init__(
        self,
        database: Database,
        acl: AclRepository,
        resources: Resources,
        directory: DirectoryRepository,
        audit: AuditTrail,
        changes: ResourceChanges,
        *,
        clock: Clock,
        admin_sees_private: bool,
        noun: str = "server",
    ) -> None:
        self._database = database
        self._acl = acl
        self._resources = resources
        self._directory = directory
        self._audit = audit
        self._changes = changes
        self._clock = clock
        self._admin_sees_private = admin_sees_private
        self._noun = noun

    async def get(self, resource_id: str, user: UserContext) -> Sharing:
        """Return the access to a resource.

        Raises:
            ResourceNotFoundError: The resource does not exist, or *user* may not see it.
            SharingForbiddenError: *user* may see it but not share it.
            DatabaseUnavailable: An administrator's access to a private server cannot be recorded.
        """
        resource, entries, verdict = await self._require_shareable(resource_id, user)
        if resource.scope is ServerScope.PRIVATE_USER and resource.author != user.user_id:
            event = AuditEvent(AuditAction.READ, EntityType.PERMISSION, resource_id)
            await self._audit.require(user, event)
        return await self._sharing(resource, entries, verdict)

    async def change(
        self,
        resource_id: str,
        request: ShareRequest,
        user: UserContext,
        *,
        expected_etag: str | None = None,
    ) -> Sharing:
        """Change the entries, and the scope with them, in one transaction.

        Raises:
            ResourceNotFoundError: The resource does not exist, or *user* may not see it.
            SharingForbiddenError: *user* may not share it, or not with that many.
            UnknownPrincipalError: An entry names a principal that does not exist.
            EntryExpiredError: An entry would expire in the past.
            LastOwnerError: No owner would remain.
            SharingModifiedError: *expected_etag* is not that of the entries any more.
        """
        found, present, _ = await self._require_shareable(resource_id, user)
        wanted = (*(request.principals or ()), *request.updated)
        await self._require_known(wanted, present, found.tenant_id)

        async def write(tx: Transaction) -> None:
            # Read and checked again: within the transaction no concurrent change is possible.
            resource, entries, _ = await self._require_shareable(resource_id, user, tx)
            current = fingerprint(entries)
            if expected_etag is not None and expected_etag != current:
                raise SharingModifiedError(current, expected_etag)
            now = self._clock.now()
            planned = plan(entries, request, author=resource.author, scope=resource.scope, now=now)
            _require_may_widen(user, resource, planned, self._noun)
            if not planned.put and not planned.removed and planned.scope is resource.scope:
                return
            for principal in planned.removed:
                await self._acl.remove(resource_id, principal, tx)
            await self._acl.put(
                resource_id, resource.tenant_id, planned.put, user.user_id, now, tx
            )
            await self._resources.follow_sharing(resource, planned.scope, now, tx)
            changes = changes_of(
                _recorded(entries, resource.scope), _recorded(planned.after, planned.scope)
            )
            event = AuditEvent(AuditAction.SHARE, EntityType.PERMISSION, resource_id, changes)
            await self._audit.record(user, event, tx)

        await self._database.transaction(write)
        if found.type == TOOLSET_TYPE:
            log.info("toolset_shared", toolset_id=resource_id, user_id=user.user_id)
            await self._changes.table_changed(TOOLSETS, resource_id)
        else:
            log.info("server_shared", server_id=resource_id, user_id=user.user_id)
            await self._changes.server_changed(resource_id)
        # A caller who gave up their own rights may not read it any more, but gets the result.
        resource, entries, verdict = await self._read(resource_id, user)
        return await self._sharing(resource, entries, verdict)

    async def search(
        self, text: str, kinds: Iterable[str], limit: int, user: UserContext
    ) -> list[DirectoryPrincipal]:
        """Search users, groups and roles by name; for administrators, also by email."""
        return await self._directory.search(
            text, kinds, limit, by_email=user.is_admin, tenants=user.tenants
        )

    async def _require_shareable(
        self, resource_id: str, user: UserContext, tx: Transaction | None = None
    ) -> tuple[Resource, list[Entry], AccessRights]:
        resource, entries, verdict = await self._read(resource_id, user, tx)
        if Permission.VIEW not in verdict.permissions:
            raise ResourceNotFoundError(self._noun)
        try:
            validate_owner(verdict.bits, Permission.SHARE)
        except AccessDeniedError as exc:
            raise SharingForbiddenError(
                f"You may not share this {self._noun}: {exc.rule}."
            ) from None
        return resource, entries, verdict

    async def _read(
        self, resource_id: str, user: UserContext, tx: Transaction | None = None
    ) -> tuple[Resource, list[Entry], AccessRights]:
        resource = await self._resources.shared(resource_id, tx)
        if resource is None:
            raise ResourceNotFoundError(self._noun)
        now = self._clock.now()
        stored = await self._acl.entries_of(resource_id, resource.tenant_id, tx)
        entries = list(merged(entry for entry in stored if entry.is_alive(now)).values())
        facts = ServerFacts(
            resource.author,
            resource.scope,
            Grants.of(map(_grant, entries), resource.tenant_id),
            tenant_id=resource.tenant_id,
        )
        verdict = evaluate(user, facts, admin_sees_private=self._admin_sees_private)
        return resource, entries, verdict

    async def _sharing(
        self, resource: Resource, entries: list[Entry], verdict: AccessRights
    ) -> Sharing:
        people = await self._directory.known(_named(entries), Tenants(resource.tenant_id))
        return Sharing(resource, tuple(entries), people, verdict)

    async def _require_known(
        self, wanted: tuple[Entry, ...], present: list[Entry], tenant_id: str | None
    ) -> None:
        """Check what is new; an existing entry may stay although its principal is gone."""
        now = self._clock.now()
        stays = {(entry.principal, entry.bits, entry.expires_at) for entry in present}
        entries = [
            entry
            for entry in wanted
            if (entry.principal, entry.bits, entry.expires_at) not in stays
        ]
        for entry in entries:
            if entry.expires_at is not None and entry.expires_at <= now:
                raise EntryExpiredError(str(entry.principal), entry.expires_at)
        known = await self._directory.known(_named(entries), Tenants(tenant_id))
        unknown = [
            str(entry.principal)
            for entry in entries
            if (entry.principal.type.value, entry.principal.id) not in known
        ]
        if unknown:
            raise UnknownPrincipalError(unknown)


def _require_may_widen(
    user: UserContext, resource: Resource, planned: SharePlan, noun: str
) -> None:
    scope = planned.scope
    if scope is not None and scope is not resource.scope and scope.is_shared and not user.is_admin:
        audience = "everybody" if scope is ServerScope.SHARED_APP else "others"
        raise SharingForbiddenError(
            f"Only an administrator may share this {noun} with {audience}: "
            f"it would become {scope.value}."
        )


def _named(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    return [
        (entry.principal.type.value, entry.principal.id)
        for entry in entries
        if entry.principal.id is not None and entry.principal.type is not PrincipalType.PUBLIC
    ]


def _grant(entry: Entry) -> Grant:
    return Grant(
        entry.principal.type, entry.principal.id, Permission(entry.bits), entry.expires_at
    )


def _recorded(entries: Iterable[Entry], scope: ServerScope | None) -> JsonObject:
    facts: JsonObject = {
        str(entry.principal): entry.role.value if entry.role else entry.bits for entry in entries
    }
    if scope is not None:
        facts["scope"] = scope.value
    return facts
