"""User service: adds, changes and lists users and groups, on behalf of administrators.

In a database shared with jarvis-api, its administration does that, and they are only listed here
(`USER_DIRECTORY`). Source: docs/decisions/0034-user-directory.md.
"""

from collections.abc import Iterable

import structlog

from packages.database.client import Database, Transaction
from registry.access.rbac import validate_admin
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType, changes_of
from registry.auth.identity import Role, UserContext
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject
from registry.core.paging import Page, PageRequest
from registry.users.errors import (
    DirectoryElsewhereError,
    GroupExistsError,
    GroupNotFoundError,
    LastAdministratorError,
    TooManyMembersError,
    UnknownMembersError,
    UserExistsError,
    UserNotFoundError,
)
from registry.users.presenter import present_group, present_user
from registry.users.repository import GroupRepository, UserRepository
from registry.users.schemas import GroupCreate, UserCreate
from registry.users.values import Group, GroupChange, GroupRecord, UserChange, UserRecord

log = structlog.get_logger()

MAX_MEMBERS = 100_000
"""A document holds 16 MB, and a member takes 40 bytes."""

LISTED_MEMBERS = 200
"""Maximum number of members that an audit record names."""


class UserService:
    """Users and groups.

    Args:
        is_ours: Whether this program may change them.
    """

    def __init__(
        self,
        database: Database,
        users: UserRepository,
        groups: GroupRepository,
        audit: AuditTrail,
        *,
        clock: Clock,
        is_ours: bool,
    ) -> None:
        self._database = database
        self._users = users
        self._groups = groups
        self._audit = audit
        self._clock = clock
        self._is_ours = is_ours

    async def list_users(
        self, text: str | None, page: PageRequest, actor: UserContext
    ) -> Page[UserRecord]:
        """Return one page of the users.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
        """
        validate_admin(actor, "Listing users")
        return await self._users.list_page(text, actor.tenants, page)

    async def get_user(self, user_id: str, actor: UserContext) -> UserRecord:
        """Return a user.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
            UserNotFoundError: There is none of that id.
        """
        validate_admin(actor, "Reading a user")
        return await self._require_user(user_id, actor)

    async def add_user(self, request: UserCreate, actor: UserContext) -> UserRecord:
        """Add a user.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
            DirectoryElsewhereError: The users are another application's.
            UserExistsError: The address or the username is taken.
        """
        self._require_ours(actor)
        email = request.email
        username = request.username or email.partition("@")[0]
        now = self._clock.now()

        async def write(tx: Transaction) -> UserRecord:
            await self._require_free(email, username, actor.tenant_id, None, tx)
            user_id = await self._users.insert(
                name=request.name or username,
                username=username,
                email=email,
                role=request.role,
                tenant_id=actor.tenant_id,
                now=now,
                tx=tx,
            )
            user = await self._require_user(user_id, actor, tx)
            recorded_fields = changes_of(None, present_user(user))
            event = AuditEvent(AuditAction.CREATE, EntityType.USER, user_id, recorded_fields)
            await self._audit.record(actor, event, tx)
            return user

        user = await self._database.transaction(write)
        log.info("user_added", user_id=user.id, actor_id=actor.user_id)
        return user

    async def change_user(
        self, user_id: str, change: UserChange, actor: UserContext
    ) -> UserRecord:
        """Change the given fields of a user; without a difference nothing is written.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
            DirectoryElsewhereError: The users are another application's.
            UserNotFoundError: There is none of that id.
            UserExistsError: The username is taken.
            LastAdministratorError: No administrator would be left.
        """
        self._require_ours(actor)
        now = self._clock.now()

        async def write(tx: Transaction) -> UserRecord:
            before = await self._require_user(user_id, actor, tx)
            await self._require_free(None, change.username, before.tenant_id, user_id, tx)
            if change.is_disabled or change.role is Role.USER:
                left = await self._users.hold_administrators(before.tenant_id, now, tx)
                if left == [user_id]:
                    raise LastAdministratorError
            await self._users.update(user_id, change, now, tx)
            after = await self._require_user(user_id, actor, tx)
            recorded_fields = changes_of(
                _audited_fields(present_user(before)), _audited_fields(present_user(after))
            )
            if recorded_fields != {"before": {}, "after": {}}:
                event = AuditEvent(AuditAction.UPDATE, EntityType.USER, user_id, recorded_fields)
                await self._audit.record(actor, event, tx)
            return after

        user = await self._database.transaction(write)
        log.info("user_changed", user_id=user.id, actor_id=actor.user_id)
        return user

    async def list_groups(
        self, text: str | None, page: PageRequest, actor: UserContext
    ) -> Page[GroupRecord]:
        """Return one page of the groups.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
        """
        validate_admin(actor, "Listing groups")
        return await self._groups.list_page(text, actor.tenants, page)

    async def find_groups(self, reference: str, actor: UserContext) -> list[GroupRecord]:
        """Return the groups with that id or name.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
        """
        validate_admin(actor, "Finding groups")
        found = await self._groups.find(reference)
        return [group for group in found if actor.sees_tenant(group.tenant_id)]

    async def get_group(self, group_id: str, actor: UserContext) -> Group:
        """Return a group with its members.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
            GroupNotFoundError: There is none of that id.
        """
        validate_admin(actor, "Reading a group")
        record = await self._require_group(group_id, actor)
        members = await self._users.members(record.member_ids, record.tenant_id)
        return Group(record, tuple(members))

    async def add_group(self, request: GroupCreate, actor: UserContext) -> Group:
        """Add a group.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
            DirectoryElsewhereError: The groups are another application's.
            GroupExistsError: The name is taken.
            UnknownMembersError: A member is no user.
        """
        self._require_ours(actor)
        now, tenant_id = self._clock.now(), actor.tenant_id

        async def write(tx: Transaction) -> str:
            if await self._groups.is_named(request.name, tenant_id, None, tx):
                raise GroupExistsError(request.name)
            users = await self._require_users(request.members, tenant_id, tx)
            members = [one.member_id for one in users]
            group_id = await self._groups.insert(
                request.name, request.description, members, tenant_id, now, tx
            )
            recorded_fields = present_group(await self._require_group(group_id, actor, tx))
            recorded_fields["members"] = [*request.members[:LISTED_MEMBERS]]
            event = AuditEvent(
                AuditAction.CREATE, EntityType.GROUP, group_id, changes_of(None, recorded_fields)
            )
            await self._audit.record(actor, event, tx)
            return group_id

        group_id = await self._database.transaction(write)
        log.info("group_added", group_id=group_id, actor_id=actor.user_id)
        return await self.get_group(group_id, actor)

    async def change_group(self, group_id: str, change: GroupChange, actor: UserContext) -> Group:
        """Change the given fields of a group, and its members.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
            DirectoryElsewhereError: The groups are another application's.
            GroupNotFoundError: There is none of that id.
            GroupExistsError: The name is taken.
            UnknownMembersError: A new member is no user.
            TooManyMembersError: There would be too many.
            ValidationFailedError: A member is to be added and removed.
        """
        self._require_ours(actor)
        if change.added & change.removed:
            raise ValidationFailedError("add_members", "names a user that remove_members names")
        now = self._clock.now()

        async def write(tx: Transaction) -> None:
            before = await self._require_group(group_id, actor, tx)
            tenant_id = before.tenant_id
            if change.name is not None and await self._groups.is_named(
                change.name, tenant_id, group_id, tx
            ):
                raise GroupExistsError(change.name)
            added = await self._require_users(change.added, tenant_id, tx)
            # A removed user may still be listed by id.
            gone = {one.member_id for one in await self._users.several(change.removed, tx)}
            gone |= change.removed
            new = [one.member_id for one in added if one.member_id not in before.member_ids]
            members = [*(one for one in before.member_ids if one not in gone), *new]
            if len(members) > MAX_MEMBERS:
                raise TooManyMembersError(MAX_MEMBERS)
            await self._groups.update(group_id, change, members, now, tx)
            after = await self._require_group(group_id, actor, tx)
            recorded_fields = changes_of(
                _audited_fields(present_group(before)), _audited_fields(present_group(after))
            )
            recorded_fields["members"] = {
                "added": [*sorted(change.added)[:LISTED_MEMBERS]],
                "removed": [*sorted(change.removed)[:LISTED_MEMBERS]],
            }
            event = AuditEvent(AuditAction.UPDATE, EntityType.GROUP, group_id, recorded_fields)
            await self._audit.record(actor, event, tx)

        await self._database.transaction(write)
        log.info("group_changed", group_id=group_id, actor_id=actor.user_id)
        return await self.get_group(group_id, actor)

    def _require_ours(self, actor: UserContext) -> None:
        validate_admin(actor, "Changing users and groups")
        if not self._is_ours:
            raise DirectoryElsewhereError

    async def _require_user(
        self, user_id: str, actor: UserContext, tx: Transaction | None = None
    ) -> UserRecord:
        user = await self._users.get(user_id, tx)
        if user is None or not actor.sees_tenant(user.tenant_id):
            raise UserNotFoundError
        return user

    async def _require_group(
        self, group_id: str, actor: UserContext, tx: Transaction | None = None
    ) -> GroupRecord:
        group = await self._groups.get(group_id, tx)
        if group is None or not actor.sees_tenant(group.tenant_id):
            raise GroupNotFoundError
        return group

    async def _require_users(
        self, user_ids: Iterable[str], tenant_id: str | None, tx: Transaction
    ) -> list[UserRecord]:
        wanted = list(dict.fromkeys(user_ids))
        found = await self._users.several(wanted, tx) if wanted else []
        found = [one for one in found if one.tenant_id == tenant_id]
        unknown = sorted(set(wanted) - {one.id for one in found})
        if unknown:
            raise UnknownMembersError(unknown)
        return sorted(found, key=lambda one: wanted.index(one.id))

    async def _require_free(
        self,
        email: str | None,
        username: str | None,
        tenant_id: str | None,
        but: str | None,
        tx: Transaction,
    ) -> None:
        taken = await self._users.taken(email, username, tenant_id, but, tx)
        if taken is not None:
            raise UserExistsError(taken, str(email if taken == "email" else username))


def _audited_fields(presented: JsonObject) -> JsonObject:
    """Return the audited fields of a user or group, without times that change with each write."""
    return {name: value for name, value in presented.items() if name != "updated_at"}
