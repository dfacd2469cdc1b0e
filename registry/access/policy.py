"""Access policy: the one decision function for what a caller may do with a server.

Pure: facts in, decision out, with the rules behind it. Lists, the gateway and single requests all
call it, with what they have in memory or just read.

Scope and ACL entries express the same: `private_user` is for the author alone, with `shared_app`
all users may see the server, `shared_user` is for those whom the entries name. A server of the
other application has no scope, and its entries alone decide.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntFlag, StrEnum

from registry.auth.identity import UserContext


class Permission(IntFlag):
    """Permission bits of `aclentries.permBits`, shared with jarvis-api."""

    VIEW = 1
    EDIT = 2
    DELETE = 4
    SHARE = 8


OWNER = Permission.VIEW | Permission.EDIT | Permission.DELETE | Permission.SHARE

NO_BITS = 0
VIEW_BIT = int(Permission.VIEW)
ALL_BITS = int(OWNER)
"""Integers, because arithmetic with flags takes ten times as long."""


class ServerScope(StrEnum):
    """The users that a server is for."""

    SHARED_APP = "shared_app"
    SHARED_USER = "shared_user"
    PRIVATE_USER = "private_user"

    @property
    def is_shared(self) -> bool:
        """Whether only administrators may create servers of this scope or change to it."""
        return self is not ServerScope.PRIVATE_USER


class PrincipalType(StrEnum):
    """Kinds of principals that an ACL entry may name."""

    USER = "user"
    GROUP = "group"
    ROLE = "role"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry of `aclentries` for a server.

    Attributes:
        principal_id: None for the public.
        expires_at: When the entry expires; long-lived holders must drop it then.
        entry_id: Id of its document.
        tenant_id: The tenant in the entry; None without one.
    """

    principal_type: str
    principal_id: str | None
    permissions: Permission
    expires_at: datetime | None = None
    entry_id: str | None = field(default=None, compare=False)
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True)
class Grants:
    """Unexpired entries for one server, by principal, with their bits combined.

    Attributes:
        next_expiry: When the first of them expires.
    """

    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    roles: Mapping[str, int] = field(default_factory=dict)
    public: int = NO_BITS
    next_expiry: datetime | None = None

    @property
    def are_none(self) -> bool:
        """Whether no entry names a principal: a document that was written without any."""
        return not (self.users or self.groups or self.roles or self.public)

    @classmethod
    def of(cls, entries: Iterable[Grant], tenant_id: str | None) -> "Grants":
        """Combine *entries* for a server of a tenant.

        Entries with unknown kinds of principals, or of another tenant, are ignored.
        """
        users: dict[str, int] = {}
        groups: dict[str, int] = {}
        roles: dict[str, int] = {}
        public = NO_BITS
        expiries: list[datetime] = []
        for entry in entries:
            if entry.tenant_id is not None and entry.tenant_id != tenant_id:
                continue
            name = entry.principal_id or ""
            match entry.principal_type:
                case PrincipalType.USER:
                    users[name] = users.get(name, NO_BITS) | int(entry.permissions)
                case PrincipalType.GROUP:
                    groups[name] = groups.get(name, NO_BITS) | int(entry.permissions)
                case PrincipalType.ROLE:
                    roles[name] = roles.get(name, NO_BITS) | int(entry.permissions)
                case PrincipalType.PUBLIC:
                    public |= int(entry.permissions)
                case _:
                    continue
            if entry.expires_at is not None:
                expiries.append(entry.expires_at)
        return cls(users, groups, roles, public & VIEW_BIT, min(expiries, default=None))


NO_GRANTS = Grants()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The facts about a server behind a decision.

    Attributes:
        author: ObjectId of the user who registered it, 24 hexadecimal characters.
        scope: None if the stored document has none (written by the other application).
        tenant_id: Its tenant; None is a tenant of its own. See `UserContext`.
    """

    author: str
    scope: ServerScope | None
    grants: Grants = NO_GRANTS
    tenant_id: str | None = None

    @property
    def is_shared(self) -> bool:
        """Whether an administrator made it for others."""
        return self.scope is not None and self.scope.is_shared


class AccessRule(StrEnum):
    """The rules, as refusals and traces show them."""

    ADMINISTRATOR = "administrator"
    AUTHOR = "author"
    EVERYONE = "shared with everyone"
    USER = "an ACL entry names the user"
    GROUP = "an ACL entry names a group of the user"
    ROLE = "an ACL entry names the role of the user"
    PUBLIC = "an ACL entry names the public"
    PRIVATE = "another user's private server"
    TENANT = "a server of another tenant"
    NO_GRANT = "no ACL entry grants it"


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that applied, and the bits it granted. Rules that refuse grant none."""

    rule: AccessRule
    bits: int


@dataclass(frozen=True, slots=True)
class AccessRights:
    """All that a caller may do with a server, and why.

    Attributes:
        bits: See `Permission`.
        trace: The rules that applied, in order.
    """

    bits: int
    trace: tuple[Step, ...]

    @property
    def permissions(self) -> Permission:
        """Return the bits by name."""
        return Permission(self.bits)


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """The decision, and the rule behind it."""

    allowed: bool
    rule: AccessRule
    verdict: AccessRights


ADMINISTRATOR = AccessRights(ALL_BITS, (Step(AccessRule.ADMINISTRATOR, ALL_BITS),))
AUTHOR = AccessRights(ALL_BITS, (Step(AccessRule.AUTHOR, ALL_BITS),))
PRIVATE_TO_OTHERS = AccessRights(NO_BITS, (Step(AccessRule.PRIVATE, NO_BITS),))
OTHER_TENANT = AccessRights(NO_BITS, (Step(AccessRule.TENANT, NO_BITS),))
NOT_GRANTED = AccessRights(NO_BITS, (Step(AccessRule.NO_GRANT, NO_BITS),))
ALL_TO_ADMINISTRATOR = AccessDecision(True, AccessRule.ADMINISTRATOR, ADMINISTRATOR)
ALL_TO_AUTHOR = AccessDecision(True, AccessRule.AUTHOR, AUTHOR)
SEEN_BY_AUTHOR = Step(AccessRule.AUTHOR, VIEW_BIT)
SEEN_BY_ALL = Step(AccessRule.EVERYONE, VIEW_BIT)


def decide(
    user: UserContext,
    needed: Permission,
    server: ServerFacts,
    *,
    admin_sees_private: bool = True,
) -> AccessDecision:
    """Decide whether *user* has *needed* on *server*. What no rule allows is denied."""
    verdict = evaluate(user, server, admin_sees_private=admin_sees_private)
    if verdict is ADMINISTRATOR:
        return ALL_TO_ADMINISTRATOR
    return _decision(verdict, int(needed))


def decide_use(
    user: UserContext, server: ServerFacts, *, admin_uses_private: bool = False
) -> AccessDecision:
    """Decide whether *user* may use *server* through the gateway: list, call and subscribe.

    Seeing is not using: a call carries the credentials that the owner stored. No user may use a
    server of another tenant, even if they see it. Administrators use shared servers like all
    users; private servers of others, and servers of the other application whose entries do not
    name them, only with *admin_uses_private*, and such use is recorded.
    """
    if user.tenant_id != server.tenant_id and not user.is_of_all_tenants:
        return _decision(OTHER_TENANT, VIEW_BIT)
    if not user.is_admin:
        return _decision(_of_user(user, server), VIEW_BIT)
    if server.is_shared:
        return ALL_TO_ADMINISTRATOR
    decision = _decision(_of_user(user, server), VIEW_BIT)
    return ALL_TO_ADMINISTRATOR if admin_uses_private and not decision.allowed else decision


def _decision(verdict: AccessRights, wanted: int) -> AccessDecision:
    if verdict is AUTHOR:
        return ALL_TO_AUTHOR
    if verdict.bits & wanted == wanted:
        rule = next(
            (step.rule for step in verdict.trace if step.bits & wanted), AccessRule.NO_GRANT
        )
        return AccessDecision(True, rule, verdict)
    if verdict is OTHER_TENANT:
        return AccessDecision(False, AccessRule.TENANT, verdict)
    refused = AccessRule.PRIVATE if verdict is PRIVATE_TO_OTHERS else AccessRule.NO_GRANT
    return AccessDecision(False, refused, verdict)


def evaluate(
    user: UserContext, server: ServerFacts, *, admin_sees_private: bool = True
) -> AccessRights:
    """Return all that *user* may do with *server*: the rights of all rules combined."""
    if user.tenant_id != server.tenant_id and not user.sees_all_tenants:
        return OTHER_TENANT
    if user.is_admin and (
        admin_sees_private
        or server.author == user.user_id
        or server.scope is not ServerScope.PRIVATE_USER
    ):
        return ADMINISTRATOR
    return _of_user(user, server)


def _of_user(user: UserContext, server: ServerFacts) -> AccessRights:
    """Return what *user* may do with *server*, ignoring the administrator role."""
    is_author = server.author == user.user_id
    scope = server.scope
    if scope is ServerScope.PRIVATE_USER:
        return AUTHOR if is_author else PRIVATE_TO_OTHERS
    # Entries define who has access; a document without any still belongs to its author.
    is_author = is_author and server.grants.are_none
    if is_author and scope is None:
        return AUTHOR
    steps = _granted(user, server.grants, with_public=scope is not ServerScope.SHARED_USER)
    if is_author:
        steps.insert(0, SEEN_BY_AUTHOR)
    if scope is ServerScope.SHARED_APP:
        steps.insert(0, SEEN_BY_ALL)
    if not steps:
        return NOT_GRANTED
    bits = NO_BITS
    for step in steps:
        bits |= step.bits
    return AccessRights(bits, tuple(steps))


def _granted(user: UserContext, grants: Grants, *, with_public: bool) -> list[Step]:
    steps: list[Step] = []
    bits = grants.users.get(user.user_id)
    if bits:
        steps.append(Step(AccessRule.USER, bits))
    if grants.groups and user.groups:
        bits = NO_BITS
        for group in grants.groups.keys() & user.groups:
            bits |= grants.groups[group]
        if bits:
            steps.append(Step(AccessRule.GROUP, bits))
    if grants.roles:
        bits = grants.roles.get(user.role_principal)
        if bits:
            steps.append(Step(AccessRule.ROLE, bits))
    if with_public and grants.public:
        steps.append(Step(AccessRule.PUBLIC, grants.public))
    return steps


def sees_everything(user: UserContext, *, admin_sees_private: bool = True) -> bool:
    """Whether *user* may list jobs and policies of all servers, existing or deleted."""
    return user.is_admin and admin_sees_private and user.sees_all_tenants
