"""Toolsets: who sees, makes and changes them, each on behalf of a caller.

A toolset only narrows, so anybody may make one. Who else may use or change it is said by the same
access entries as of servers.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import structlog

from packages.database.client import Database, Transaction
from registry.access.policies.values import PolicyEditor
from registry.access.policy import Grants, Permission, ServerFacts, ServerScope, evaluate
from registry.access.ports import TOOLSET_TYPE, TOOLSETS, Resource
from registry.access.repository import AclRepository
from registry.access.toolsets.errors import (
    DefaultTakenError,
    ToolsetForbiddenError,
    ToolsetModifiedError,
    ToolsetNotFoundError,
    TooManyToolsetsError,
)
from registry.access.toolsets.ports import ServedToolsets, ToolsetServers
from registry.access.toolsets.presenter import recorded
from registry.access.toolsets.presets import preset_problem
from registry.access.toolsets.repository import ToolsetRepository, new_toolset_id
from registry.access.toolsets.resolution import presets_of
from registry.access.toolsets.values import (
    DefaultFor,
    Resolution,
    Toolset,
    ToolsetChange,
    ToolsetEntry,
    ToolsetRecord,
    ToolsetSeen,
)
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType, changes_of
from registry.auth.errors import InsufficientScopeError
from registry.auth.identity import Scope, Tenants, UserContext, claimed_toolset
from registry.auth.repository import USER, DirectoryRepository
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError
from registry.core.paging import Page, PageRequest
from registry.tools.repository import ToolRepository

log = structlog.get_logger()

MAX_PER_USER = 200
"""Maximum number of toolsets of one user: each replica holds them in memory."""


class ToolsetService:
    """Reads and writes toolsets.

    Args:
        servers: What entries name.
        served: Tells what the gateway serves, and follows changes.
    """

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        database: Database,
        toolsets: ToolsetRepository,
        acl: AclRepository,
        servers: ToolsetServers,
        tools: ToolRepository,
        directory: DirectoryRepository,
        audit: AuditTrail,
        served: ServedToolsets,
        *,
        clock: Clock,
        admin_sees_private: bool,
    ) -> None:
        self._database = database
        self._toolsets = toolsets
        self._acl = acl
        self._servers = servers
        self._tools = tools
        self._directory = directory
        self._audit = audit
        self._served = served
        self._clock = clock
        self._admin_sees_private = admin_sees_private

    async def page(
        self, user: UserContext, text: str | None, page: PageRequest
    ) -> Page[ToolsetSeen]:
        """Return one page of the toolsets that *user* may see, by name."""
        records = await self._toolsets.within(user.tenants)
        grants = await self._acl.grants_of([one.toolset.id for one in records], self._clock.now())
        found = []
        for record in records:
            toolset = record.toolset
            facts = _facts(toolset, Grants.of(grants.get(toolset.id, ()), toolset.tenant_id))
            seen = self._seen(record, facts, user)
            if seen.bits & Permission.VIEW and _contains(toolset, text):
                found.append(seen)
        items = tuple(found[page.offset : page.offset + page.per_page])
        return Page(items, len(found), page)

    async def get(self, toolset_id: str, user: UserContext) -> ToolsetSeen:
        """Return one toolset.

        Raises:
            ToolsetNotFoundError: It does not exist, or *user* may not see it.
        """
        return await self._require(toolset_id, user)

    async def named(self, name: str, user: UserContext) -> ToolsetSeen:
        """Return the toolset that a name means to *user*: their own, or the oldest they see.

        Raises:
            ToolsetNotFoundError: It does not exist, or *user* may not see it.
        """
        found = await self._toolsets.named(name, user.tenant_id)
        for record in sorted(found, key=lambda one: one.toolset.author != user.user_id):
            with suppress(ToolsetNotFoundError):
                return await self._require(record.toolset.id, user)
        raise ToolsetNotFoundError

    def resolved(self, seen: ToolsetSeen, user: UserContext) -> Resolution | None:
        """Return what a toolset serves to *user* now; None where no gateway runs."""
        return self._served.resolved(seen.record.toolset, user)

    async def drafted(
        self, change: ToolsetChange | None, toolset_id: str | None, user: UserContext
    ) -> tuple[Toolset | None, Toolset | None]:
        """Return a toolset as it is, and as it would be; nothing is written.

        Args:
            change: What would be written; None for the removal.
            toolset_id: The stored toolset; None for a new one.
            user: Who would write it.

        Raises:
            ToolsetNotFoundError: It does not exist, or *user* may not see it.
            ToolsetForbiddenError: They may not change it, or not make it these callers' default.
            InsufficientScopeError: It is another's, and the token lacks `write:access`.
            ValidationFailedError: An entry names an unknown server, or presets what cannot match.
        """
        former = None
        _require_unlimited(user)
        if toolset_id is not None:
            needed = Permission.DELETE if change is None else Permission.EDIT
            former = (await self._require(toolset_id, user, needed)).record.toolset
        if change is None:
            return former, None
        before = former or Toolset(
            new_toolset_id(),
            change.name,
            user.tenant_id,
            user.user_id,
            ServerScope.PRIVATE_USER,
            (),
            revision=0,
        )
        entries = await self._entries(change, before.entries, user)
        await self._require_may_default(change.default_for, before.default_for, user)
        return former, _changed(before, change, entries)

    async def create(self, change: ToolsetChange, user: UserContext) -> ToolsetSeen:
        """Create a private toolset of *user*.

        Raises:
            ValidationFailedError: An entry names an unknown server, or presets what cannot match.
            ToolsetForbiddenError: They may not make it the default of these callers.
            ToolsetExistsError: Its author has another of that name.
            DefaultTakenError: A caller has another default.
            TooManyToolsetsError: They have the maximum number.
        """
        now = self._clock.now()
        person = PolicyEditor(user.user_id, user.username)
        _, toolset = await self.drafted(change, None, user)
        assert toolset is not None  # noqa: S101 - there is a change
        record = ToolsetRecord(toolset, now, person, now, person)

        async def write(tx: Transaction) -> None:
            if await self._toolsets.count_of(user.user_id, tx) >= MAX_PER_USER:
                raise TooManyToolsetsError(MAX_PER_USER)
            await self._require_free(toolset, tx)
            await self._toolsets.insert(record, tx)
            await self._acl.follow_scope(
                toolset.id,
                user.user_id,
                ServerScope.PRIVATE_USER,
                tenant_id=toolset.tenant_id,
                granted_by=user.user_id,
                now=now,
                tx=tx,
                is_new=True,
            )
            changes = changes_of(None, recorded(toolset))
            event = AuditEvent(AuditAction.CREATE, EntityType.TOOLSET, toolset.id, changes)
            await self._audit.record(user, event, tx)

        await self._database.transaction(write)
        await self._written(toolset.id, AuditAction.CREATE, user)
        return self._seen(record, _facts(toolset, Grants()), user)

    async def update(
        self,
        toolset_id: str,
        change: ToolsetChange,
        user: UserContext,
        *,
        expected_etag: str | None = None,
    ) -> ToolsetSeen:
        """Change the given members only; a change without effect writes nothing.

        Raises:
            ToolsetNotFoundError: It does not exist, or *user* may not see it.
            ToolsetForbiddenError: They may not change it, or not make it these callers' default.
            InsufficientScopeError: It is another's, and the token lacks `write:access`.
            ToolsetModifiedError: *expected_etag* is not its any more.
            ValidationFailedError: An entry names an unknown server, or presets what cannot match.
            ToolsetExistsError: Its author has another of that name.
            DefaultTakenError: A caller has another default.
        """
        known = await self._require(toolset_id, user, Permission.EDIT)
        former = known.record.toolset
        entries = former.entries
        if "entries" in change.members:
            entries = await self._entries(change, former.entries, user)
        if "default_for" in change.members:
            await self._require_may_default(change.default_for, former.default_for, user)

        async def write(tx: Transaction) -> tuple[ToolsetSeen, bool]:
            seen = await self._require(toolset_id, user, Permission.EDIT, tx)
            before = seen.record
            _require_etag(before, expected_etag)
            toolset = _changed(before.toolset, change, entries)
            if replace(toolset, revision=before.toolset.revision) == before.toolset:
                return seen, False
            await self._require_free(toolset, tx)
            person = PolicyEditor(user.user_id, user.username)
            after = replace(
                before, toolset=toolset, updated_at=self._clock.now(), updated_by=person
            )
            if not await self._toolsets.update(after, tx):
                raise ToolsetModifiedError(before.etag, expected_etag)
            changes = changes_of(recorded(before.toolset), recorded(toolset))
            event = AuditEvent(AuditAction.UPDATE, EntityType.TOOLSET, toolset_id, changes)
            await self._audit.record(user, event, tx)
            return replace(seen, record=after), True

        seen, is_changed = await self._database.transaction(write)
        if is_changed:
            await self._written(toolset_id, AuditAction.UPDATE, user)
        return seen

    async def delete(
        self, toolset_id: str, user: UserContext, *, expected_etag: str | None = None
    ) -> None:
        """Remove a toolset, with its access entries.

        Raises:
            ToolsetNotFoundError: It does not exist, or *user* may not see it.
            ToolsetForbiddenError: They may not remove it.
            InsufficientScopeError: It is another's, and the token lacks `write:access`.
            ToolsetModifiedError: *expected_etag* is not its any more.
        """

        async def write(tx: Transaction) -> None:
            seen = await self._require(toolset_id, user, Permission.DELETE, tx)
            _require_etag(seen.record, expected_etag)
            if not await self._toolsets.delete(toolset_id, tx):
                raise ToolsetNotFoundError
            await self._acl.delete_of(toolset_id, tx)
            changes = changes_of(recorded(seen.record.toolset), None)
            event = AuditEvent(AuditAction.DELETE, EntityType.TOOLSET, toolset_id, changes)
            await self._audit.record(user, event, tx)

        await self._database.transaction(write)
        await self._written(toolset_id, AuditAction.DELETE, user)

    async def _require(
        self,
        toolset_id: str,
        user: UserContext,
        needed: Permission = Permission.VIEW,
        tx: Transaction | None = None,
    ) -> ToolsetSeen:
        record = await self._toolsets.get(toolset_id, tx)
        if record is None:
            raise ToolsetNotFoundError
        toolset = record.toolset
        grants = await self._acl.grants_of([toolset_id], self._clock.now(), tx)
        facts = _facts(toolset, Grants.of(grants.get(toolset_id, ()), toolset.tenant_id))
        seen = self._seen(record, facts, user)
        if not seen.bits & Permission.VIEW:
            raise ToolsetNotFoundError
        if needed is not Permission.VIEW:
            _require_unlimited(user)
        if not seen.bits & needed:
            raise ToolsetForbiddenError(f"You may not {_VERBS[needed]} this toolset.")
        is_others = needed is not Permission.VIEW and toolset.author != user.user_id
        if is_others and user.lacks(Scope.WRITE_ACCESS):
            raise InsufficientScopeError((Scope.WRITE_ACCESS,))
        return seen

    def _seen(self, record: ToolsetRecord, facts: ServerFacts, user: UserContext) -> ToolsetSeen:
        rights = evaluate(user, facts, admin_sees_private=self._admin_sees_private)
        return ToolsetSeen(record, facts, rights.bits)

    async def _entries(
        self, change: ToolsetChange, before: tuple[ToolsetEntry, ...], user: UserContext
    ) -> tuple[ToolsetEntry, ...]:
        """Return the entries with their servers: those that *user* sees, and former ones."""
        former = {entry.server_id for entry in before}
        now = self._clock.now()
        known: dict[str, str] = {}
        found = []
        for number, (given, named) in enumerate(zip(change.entries, change.servers, strict=True)):
            if named is None:
                found.append(given)
                continue
            if named not in known:
                if named.lower() in former:
                    known[named] = named.lower()
                else:
                    server_id = await self._servers.seen_owner(named, user, now)
                    if server_id is None:
                        raise ValidationFailedError(
                            f"entries.{number}.server", f"unknown server {named}"
                        )
                    known[named] = server_id
            entry = replace(given, server_id=known[named])
            if entry not in before:
                await self._require_presets(number, entry)
            found.append(entry)
        return tuple(found)

    async def _require_presets(self, number: int, entry: ToolsetEntry) -> None:
        """Check preset arguments against the definition of a tool, if there is one now."""
        if not entry.arguments or not entry.is_exact or entry.server_id is None:
            return
        stored = await self._tools.get(entry.server_id, entry.tool or "")
        definition = None if stored is None else _definition(stored.definition)
        if definition is None:
            return
        problem = preset_problem(definition, presets_of(entry))
        if problem is not None:
            member, _, message = problem.partition(": ")
            raise ValidationFailedError(f"entries.{number}.{member}", message)

    async def _require_may_default(
        self, callers: DefaultFor, before: DefaultFor, user: UserContext
    ) -> None:
        """Check who is narrowed by default: others only by administrators, who must know them."""
        new = set(callers.keys) - set(before.keys)
        own = {f"user:{user.user_id}", f"token:{user.token_id}"}
        if not new:
            return
        if not new <= own:
            if not user.is_admin:
                raise ToolsetForbiddenError(
                    "Only an administrator may set a default toolset of others."
                )
            if user.lacks(Scope.WRITE_ACCESS):
                raise InsufficientScopeError((Scope.WRITE_ACCESS,))
        users = [(USER, one) for one in callers.users if f"user:{one}" in new]
        known = await self._directory.known(users, Tenants(user.tenant_id))
        for kind, one in users:
            if (kind, one) not in known and one != user.user_id:
                raise ValidationFailedError("default_for.users", f"unknown user {one}")

    async def _require_free(self, toolset: Toolset, tx: Transaction) -> None:
        held = await self._toolsets.default_for(toolset.default_for.keys, toolset, tx)
        if held is not None:
            raise DefaultTakenError(*held)

    async def _written(self, toolset_id: str, action: AuditAction, user: UserContext) -> None:
        log.info(
            "toolset_changed", toolset_id=toolset_id, action=action.value, user_id=user.user_id
        )
        await self._served.table_changed(TOOLSETS, toolset_id)


class SharedToolsets:
    """Toolsets as resources with access entries. Implements `access.ports.Resources`."""

    def __init__(self, toolsets: ToolsetRepository) -> None:
        self._toolsets = toolsets

    async def shared(self, resource_id: str, tx: Transaction | None = None) -> Resource | None:
        """Return a toolset, or None. No access check."""
        record = await self._toolsets.get(resource_id, tx)
        if record is None:
            return None
        toolset = record.toolset
        return Resource(
            toolset.id,
            toolset.name,
            toolset.author,
            toolset.scope,
            toolset.tenant_id,
            TOOLSET_TYPE,
        )

    async def follow_sharing(
        self, resource: Resource, scope: ServerScope | None, now: Any, tx: Transaction
    ) -> None:
        """Write the scope that follows from the entries, and touch the toolset in any case."""
        await self._toolsets.follow_sharing(
            resource.id, scope or ServerScope.PRIVATE_USER, now, tx
        )


def _require_unlimited(user: UserContext) -> None:
    """Check that the token is limited to no toolset: it could widen what it is limited to."""
    if user.toolset is not None:
        name, _ = claimed_toolset(user.toolset)
        raise ToolsetForbiddenError(
            f"Your token is limited to the toolset {name}, so it may not write toolsets."
        )


_VERBS = {Permission.EDIT: "change", Permission.DELETE: "remove"}


def _facts(toolset: Toolset, grants: Grants) -> ServerFacts:
    return ServerFacts(toolset.author, toolset.scope, grants, tenant_id=toolset.tenant_id)


def _contains(toolset: Toolset, text: str | None) -> bool:
    if text is None:
        return True
    wanted = text.casefold()
    parts = (toolset.name, toolset.title, toolset.description)
    return any(part is not None and wanted in part.casefold() for part in parts)


def _changed(
    toolset: Toolset, change: ToolsetChange, entries: tuple[ToolsetEntry, ...]
) -> Toolset:
    given = change.members
    return replace(
        toolset,
        name=change.name if "name" in given else toolset.name,
        title=change.title if "title" in given else toolset.title,
        description=change.description if "description" in given else toolset.description,
        entries=entries,
        default_for=change.default_for if "default_for" in given else toolset.default_for,
        revision=toolset.revision + 1,
    )


def _definition(text: str | None) -> dict[str, Any] | None:
    try:
        found = orjson.loads(text or "")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _require_etag(record: ToolsetRecord, expected_etag: str | None) -> None:
    if expected_etag is not None and expected_etag != record.etag:
        raise ToolsetModifiedError(record.etag, expected_etag)
