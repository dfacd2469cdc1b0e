"""Values of the auth domain."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One user according to `users` and `groups`.

    Attributes:
        role: As stored, for example `ADMIN`; None when there is none.
        groups: ObjectIds of the person's groups, 24 hexadecimal characters each.
        is_disabled: Whether all of the person's tokens are refused.
        tenant_id: The tenant that the person is of.
    """

    role: str | None
    username: str
    groups: frozenset[str]
    is_disabled: bool = False
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True)
class DirectoryPrincipal:
    """A user, group or role that access can be granted to.

    Attributes:
        kind: `user`, `group` or `role`.
        id: ObjectId as 24 hexadecimal characters, or a role's name.
        name: For people to read.
        username: Of a user.
        email: Of a user or a group.
    """

    kind: str
    id: str
    name: str
    username: str | None = None
    email: str | None = None
