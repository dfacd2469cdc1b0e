"""Wire schemas of the users and groups APIs, in snake_case."""

from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from registry.auth.identity import SCOPE_NAME, Role
from registry.core.text import EMAIL, USERNAME, ObjectIdText
from registry.web.pages import Pagination

ONE_LINE = r"^[^\x00-\x1f\x7f]*$"
MAX_MEMBERS_AT_ONCE = 1000
MAX_HOURS = 24 * 365


def _lowered(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _is_no_id(value: str) -> str:
    if len(value) == 24 and all(character in "0123456789abcdef" for character in value):  # noqa: PLR2004 - an ObjectId
        raise ValueError("must not have the form of an id")
    return value


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, pattern=ONE_LINE, min_length=1, max_length=128),
]
Username = Annotated[
    str,
    BeforeValidator(_lowered),
    StringConstraints(pattern=USERNAME, min_length=2, max_length=80),
    AfterValidator(_is_no_id),
]
Email = Annotated[str, BeforeValidator(_lowered), StringConstraints(pattern=EMAIL, max_length=254)]
Description = Annotated[str, StringConstraints(pattern=ONE_LINE, max_length=2000)]
UserIds = Annotated[
    list[ObjectIdText],
    Field(max_length=MAX_MEMBERS_AT_ONCE),
]
ScopeName = Annotated[str, StringConstraints(pattern=SCOPE_NAME)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="after")
    def _no_null(self) -> Self:
        for name in self.model_fields_set:
            if getattr(self, name) is None:
                raise ValueError(f"{name}: may not be null; leave it out")
        return self


class UserCreate(_Body):
    """A user to add."""

    email: Email
    name: Name | None = Field(default=None, description="The username when not given.")
    username: Username | None = Field(
        default=None, description="What is before the @ of the address when not given."
    )
    role: Role = Role.USER


class UserUpdate(_Body):
    """Changes of a user; omitted fields stay unchanged."""

    name: Name | None = None
    username: Username | None = None
    role: Role | None = None
    disabled: bool | None = Field(
        default=None, description="Whether the user's tokens are refused."
    )


class UserAnswer(BaseModel):
    """One user."""

    id: str
    name: str
    username: str
    email: str
    role: Role = Field(description="What counts.")
    stored_role: str | None = Field(description="As it stands in the shared collection.")
    provider: str
    disabled: bool
    created_at: str | None
    updated_at: str | None


class UserList(BaseModel):
    """One page."""

    users: list[UserAnswer]
    pagination: Pagination


class GroupCreate(_Body):
    """A group to add."""

    name: Name
    description: Description = ""
    members: UserIds = Field(default_factory=list, description="Ids of users.")


class GroupUpdate(_Body):
    """Changes of a group; omitted fields stay unchanged."""

    name: Name | None = None
    description: Description | None = None
    add_members: UserIds = Field(default_factory=list, description="Ids of users.")
    remove_members: UserIds = Field(default_factory=list, description="Ids of users.")


class GroupSummary(BaseModel):
    """One group."""

    id: str
    name: str
    description: str
    source: str = Field(description="`local`, or where the other application took it from.")
    member_count: int
    created_at: str | None
    updated_at: str | None


class Member(BaseModel):
    """One member of a group."""

    id: str
    name: str
    username: str | None
    email: str | None


class GroupAnswer(GroupSummary):
    """One group with its members that exist as users."""

    members: list[Member]


class GroupList(BaseModel):
    """One page."""

    groups: list[GroupSummary]
    pagination: Pagination
