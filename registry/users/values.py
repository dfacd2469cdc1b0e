"""Values of the users domain. Pure."""

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
        source_id: `idOnTheSource`: the id by which groups list the user, if there is one.
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
        """Return the stored role as a `Role`."""
        return Role.parse(self.role)

    @property
    def member_id(self) -> str:
        """Return the id by which groups list the user."""
        return self.source_id or self.id


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A stored group.

    Attributes:
        member_ids: `idOnTheSource` of each member, or the id of a user who has none.
        source: `local`, or the directory that it was imported from.
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
    """A group, and its members that exist as users."""

    record: GroupRecord
    members: tuple[DirectoryPrincipal, ...]


@dataclass(frozen=True, slots=True)
class UserChange:
    """Changes of a user; None leaves a field unchanged."""

    name: str | None = None
    username: str | None = None
    role: Role | None = None
    is_disabled: bool | None = None


@dataclass(frozen=True, slots=True)
class GroupChange:
    """Changes of a group; None leaves a field unchanged. Members are ids of users."""

    name: str | None = None
    description: str | None = None
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
