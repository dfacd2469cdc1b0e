"""Values of the users domain. Pure."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PlainValidator

from packages.database.stored import (
    DocumentId,
    Projection,
    StoredText,
    StoredTexts,
    StoredTime,
    TextOrEmpty,
    text_of,
)
from registry.auth.identity import Role, tenant_of
from registry.auth.values import DirectoryPrincipal

TenantId = Annotated[str | None, PlainValidator(tenant_of), Field(alias="tenantId")]


class UserRecord(Projection):
    """A stored user.

    Attributes:
        role: As stored, `ADMIN` or `USER` where this program wrote it; None when there is none.
        provider: Who vouches for the user; `registry` where this program does.
        source_id: `idOnTheSource`: the id by which groups list the user, if there is one.
        tenant_id: The tenant that the user is of.
    """

    id: Annotated[DocumentId, Field(alias="_id")]
    name: TextOrEmpty = ""
    username: TextOrEmpty = ""
    email: TextOrEmpty = ""
    role: StoredText = None
    provider: TextOrEmpty = ""
    is_disabled: Annotated[
        bool, PlainValidator(lambda stored: stored not in (None, False)), Field(alias="disabled")
    ] = False
    source_id: Annotated[StoredText, Field(alias="idOnTheSource")] = None
    tenant_id: TenantId = None
    created_at: Annotated[StoredTime, Field(alias="createdAt")] = None
    updated_at: Annotated[StoredTime, Field(alias="updatedAt")] = None

    @property
    def effective_role(self) -> Role:
        """Return the stored role as a `Role`."""
        return Role.parse(self.role)

    @property
    def member_id(self) -> str:
        """Return the id by which groups list the user."""
        return self.source_id or self.id


class GroupRecord(Projection):
    """A stored group.

    Attributes:
        member_ids: `idOnTheSource` of each member, or the id of a user who has none.
        source: `local`, or the directory that it was imported from.
        tenant_id: The tenant that the group is of.
    """

    id: Annotated[DocumentId, Field(alias="_id")]
    name: TextOrEmpty = ""
    description: TextOrEmpty = ""
    source: Annotated[str, PlainValidator(lambda stored: text_of(stored) or "local")] = "local"
    tenant_id: TenantId = None
    member_ids: Annotated[StoredTexts, Field(alias="memberIds")] = ()
    created_at: Annotated[StoredTime, Field(alias="createdAt")] = None
    updated_at: Annotated[StoredTime, Field(alias="updatedAt")] = None


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
