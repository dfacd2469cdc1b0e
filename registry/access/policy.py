"""The one decision function: may this caller see, change or call this server?

Pure: facts in, decision out. Lists use the same rules as a query (`repository.visible_filter`);
a test holds the two together.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Flag, StrEnum

from registry.auth.identity import UserContext


class Permission(Flag):
    """Permission bits of `aclentries.permBits`, shared with jarvis-api."""

    VIEW = 1
    EDIT = 2
    DELETE = 4
    SHARE = 8


NO_PERMISSION = Permission(0)
OWNER = Permission.VIEW | Permission.EDIT | Permission.DELETE | Permission.SHARE


class ServerScope(StrEnum):
    """Who a server is for."""

    SHARED_APP = "shared_app"
    SHARED_USER = "shared_user"
    PRIVATE_USER = "private_user"

    @property
    def is_shared(self) -> bool:
        """Whether only administrators may create or change servers of this scope."""
        return self is not ServerScope.PRIVATE_USER


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry of `aclentries` about a server.

    Attributes:
        principal_id: None for the public.
        expires_at: When the entry ends; whoever holds entries for long must drop it then.
    """

    principal_type: str
    principal_id: str | None
    permissions: Permission
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a decision about a server needs to know.

    Attributes:
        author: ObjectId of the user who registered it, 24 hexadecimal characters.
        scope: None when the stored document has none (written by the other application), which
            leaves the author and the ACL entries to decide.
        grants: Unexpired ACL entries.
    """

    author: str
    scope: ServerScope | None
    grants: tuple[Grant, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and the rule that gave it."""

    allowed: bool
    rule: str


ALLOWED_ADMINISTRATOR = Decision(allowed=True, rule="administrator")
ALLOWED_AUTHOR = Decision(allowed=True, rule="author")
ALLOWED_EVERYONE = Decision(allowed=True, rule="shared with everyone")
ALLOWED_GRANT = Decision(allowed=True, rule="granted by an ACL entry")
DENIED_PRIVATE = Decision(allowed=False, rule="another user's private server")
DENIED_SHARED = Decision(allowed=False, rule="only administrators change shared servers")
DENIED_NO_GRANT = Decision(allowed=False, rule="no ACL entry grants it")


def decide(
    user: UserContext,
    needed: Permission,
    server: ServerFacts,
    *,
    admin_sees_private: bool = True,
) -> Decision:
    """Decide whether *user* has *needed* on *server*. What no rule allows is denied."""
    is_author = server.author == user.user_id
    is_private = server.scope is ServerScope.PRIVATE_USER
    if user.is_admin and (admin_sees_private or is_author or not is_private):
        return ALLOWED_ADMINISTRATOR
    if is_private:
        return ALLOWED_AUTHOR if is_author else DENIED_PRIVATE
    if needed is not Permission.VIEW:
        return ALLOWED_AUTHOR if is_author and server.scope is None else DENIED_SHARED
    if server.scope is ServerScope.SHARED_APP:
        return ALLOWED_EVERYONE
    if is_author:
        return ALLOWED_AUTHOR
    return ALLOWED_GRANT if Permission.VIEW in granted(user, server.grants) else DENIED_NO_GRANT


def granted(user: UserContext, grants: tuple[Grant, ...]) -> Permission:
    """Return the bits of all entries that name *user*, their groups, role or the public."""
    bits = NO_PERMISSION
    for grant in grants:
        if _names(grant, user):
            bits |= grant.permissions
    return bits


def _names(grant: Grant, user: UserContext) -> bool:
    match grant.principal_type:
        case "public":
            return True
        case "user":
            return grant.principal_id == user.user_id
        case "group":
            return grant.principal_id in user.groups
        case "role":
            return (grant.principal_id or "").lower() == user.role
        case _:
            return False
