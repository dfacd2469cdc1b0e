"""Bodies of the permissions API: camelCase, with jarvis-api's names."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from registry.access.policy import PrincipalType
from registry.access.ports import SERVER_TYPE, TOOLSET_TYPE
from registry.access.sharing import AccessRole, Entry, Principal, ShareRequest

MAX_ENTRIES = 1_000
"""Maximum number of entries in one request; jarvis-api reads them all for each decision."""

LATEST_YEAR = 9999
ROLE_NAMES = {
    f"{kind}_{role.value}": role for kind in (SERVER_TYPE, TOOLSET_TYPE) for role in AccessRole
}
RoleName = Literal[
    "mcpServer_viewer",
    "mcpServer_editor",
    "mcpServer_owner",
    "toolset_viewer",
    "toolset_editor",
    "toolset_owner",
]


class AccessBody(BaseModel):
    """Base of all bodies: accepts camelCase and snake_case, refuses unknown members."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class PrincipalBody(AccessBody):
    """Whom an entry is about."""

    type: Literal["user", "group", "role"]
    id: Annotated[str, Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _id_fits(self) -> Self:
        hexadecimal = set("0123456789abcdefABCDEF")
        if self.type != "role" and (len(self.id) != 24 or set(self.id) - hexadecimal):  # noqa: PLR2004 - an ObjectId
            msg = "id must be 24 hexadecimal characters"
            raise ValueError(msg)
        if "\x00" in self.id:
            msg = "id must not contain a NUL character"
            raise ValueError(msg)
        return self

    def principal(self) -> Principal:
        """Return the value."""
        key = self.id if self.type == "role" else self.id.lower()
        return Principal(PrincipalType(self.type), key)


class EntryBody(PrincipalBody):
    """An entry. *accessRoleId* is jarvis-api's name of the role; either one may be given."""

    role: AccessRole | None = None
    access_role_id: RoleName | None = None
    expires_at: AwareDatetime | None = Field(
        default=None, description="When the entry ends; never when absent."
    )
    name: str | None = Field(default=None, exclude=True, description="As answered; not read.")
    email: str | None = Field(default=None, exclude=True, description="As answered; not read.")
    perm_bits: int | None = Field(default=None, exclude=True, description="Not read.")
    granted_by: str | None = Field(default=None, exclude=True, description="Not read.")
    granted_at: datetime | None = Field(default=None, exclude=True, description="Not read.")

    @field_validator("expires_at")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        try:
            return None if value is None else value.astimezone(UTC)
        except OverflowError:
            msg = "is out of range"
            raise ValueError(msg) from None

    @model_validator(mode="after")
    def _one_role(self) -> Self:
        named = None if self.access_role_id is None else ROLE_NAMES[self.access_role_id]
        if self.role is None and named is None:
            msg = "role is required: viewer, editor or owner"
            raise ValueError(msg)
        if self.role is not None and named is not None and self.role is not named:
            msg = "role and accessRoleId differ"
            raise ValueError(msg)
        return self

    def entry(self) -> Entry:
        """Return the value."""
        role = self.role or ROLE_NAMES[str(self.access_role_id)]
        return Entry(self.principal(), role.bits, self.expires_at)


class PermissionsUpdate(AccessBody):
    """What shall change: all entries at once, or some of them, and whether all may see it."""

    principals: Annotated[list[EntryBody] | None, Field(max_length=MAX_ENTRIES)] = Field(
        default=None, description="All entries there shall be, besides the public's."
    )
    updated: Annotated[list[EntryBody], Field(max_length=MAX_ENTRIES)] = Field(
        default_factory=list, description="Entries to add or replace."
    )
    removed: Annotated[list[PrincipalBody], Field(max_length=MAX_ENTRIES)] = Field(
        default_factory=list, description="Principals whose entries go."
    )
    public: bool | None = Field(default=None, description="Whether everybody may see it.")
    public_access_role_id: Literal["mcpServer_viewer", "toolset_viewer"] | None = Field(
        default=None, description="The public can be given no more than this."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.principals is not None and (self.updated or self.removed):
            msg = "principals says all there shall be; it cannot go with updated or removed"
            raise ValueError(msg)
        named = [
            *(entry.principal() for entry in self.principals or self.updated),
            *(item.principal() for item in self.removed),
        ]
        if len(named) != len(set(named)):
            msg = "a principal is named twice"
            raise ValueError(msg)
        if self.principals is None and not named and self.public is None:
            msg = "nothing is to be changed: give principals, updated, removed or public"
            raise ValueError(msg)
        return self

    def request(self) -> ShareRequest:
        """Return the value."""
        return ShareRequest(
            principals=(
                None
                if self.principals is None
                else tuple(entry.entry() for entry in self.principals)
            ),
            updated=tuple(entry.entry() for entry in self.updated),
            removed=tuple(item.principal() for item in self.removed),
            public=self.public,
        )


class PermissionFlags(BaseModel):
    """What the caller may do."""

    VIEW: bool
    EDIT: bool
    DELETE: bool
    SHARE: bool


class EntryAnswer(AccessBody):
    """An entry as answered. *role* is null where the bits are those of none."""

    type: Literal["user", "group", "role"]
    id: str
    name: str | None
    email: str | None = None
    role: AccessRole | None
    access_role_id: str | None
    perm_bits: int
    expires_at: str | None
    granted_by: str | None
    granted_at: str | None


class PermissionsAnswer(AccessBody):
    """Who has access to a resource."""

    resource_type: str
    resource_id: str
    server_name: str | None = Field(description="Null for a toolset.")
    name: str
    scope: str | None = Field(description="Null where the other application made the server.")
    principals: list[EntryAnswer]
    public: bool
    public_access_role_id: str | None
    permissions: PermissionFlags


class PrincipalAnswer(AccessBody):
    """A principal that access can be given to."""

    type: Literal["user", "group", "role"]
    id: str
    name: str
    username: str | None = None
    email: str | None = Field(default=None, description="For administrators.")


class PrincipalsAnswer(AccessBody):
    """What a search found."""

    query: str
    limit: int
    count: int
    results: list[PrincipalAnswer]
