"""Values about users and groups. Pure."""

from dataclasses import dataclass
from datetime import datetime

from registry.auth.identity import Role
from registry.auth.values import DirectoryPrincipal


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A stored user.

    Attributes:
        role: As stored, `ADMIN` or `USER` where this program wrote it; None when there is none.
        provider: Who vouches for the user; `registry` where this program does.
        source_id: `idOnTheSource`: what groups list the user by, where there is one.
        tenant_id: The tenant that the user is of.
    """

    id: str
    name: str
    username: str
    email: str
    role: str | None
    provider: str
    is_disabled: bool
    source_id: str | None
    tenant_id: str | None
    created_at: datetime | None
    updated_at: datetime | None

    @property
    def effective_role(self) -> Role:
        """Return what the stored role comes to."""
        return Role.parse(self.role)

    @property
    def member_id(self) -> str:
        """Return what groups list the user by."""
        return self.source_id or self.id


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A stored group.

    Attributes:
        member_ids: `idOnTheSource` of each member, or the id of a user who has none.
        source: `local`, or the directory that it was taken over from.
        tenant_id: The tenant that the group is of.
    """

    id: str
    name: str
    description: str
    source: str
    member_ids: tuple[str, ...]
    tenant_id: str | None
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Group:
    """A group, and its members as far as they are users."""

    record: GroupRecord
    members: tuple[DirectoryPrincipal, ...]


@dataclass(frozen=True, slots=True)
class UserChange:
    """What is changed of a user; None keeps what there is."""

    name: str | None = None
    username: str | None = None
    role: Role | None = None
    is_disabled: bool | None = None


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What is changed of a group; None keeps what there is. Members are ids of users."""

    name: str | None = None
    description: str | None = None
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
