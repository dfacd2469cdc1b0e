"""Query, bodies and answers of the versions API: camelCase, like the servers they belong to."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from registry.web.pages import Pagination

MAX_VERSION = 2**31 - 1
API_VERSION_CHARACTERS = 16


class VersionRollback(BaseModel):
    """What the caller knows of the server. The body may be left out."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    updated_at: AwareDatetime | None = Field(
        default=None, description="The `updatedAt` that was read; 409 when it moved on since."
    )


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Author(_Answer):
    """Who made a version."""

    user_id: str | None
    username: str | None


class ServerVersionAnswer(_Answer):
    """One version of how a server is reached."""

    version: int
    api_version: Annotated[str, StringConstraints(max_length=API_VERSION_CHARACTERS)]
    api_type: str = Field(description="`mcp`.")
    state: str = Field(description="`active` or `former`.")
    active: bool
    origin: str = Field(
        description=(
            "`registration`, `update`, `rollback`, or `found`: it was there when versions began "
            "to be kept, or another application wrote it."
        )
    )
    restored_from: int | None = Field(description="What a rollback brought back.")
    transport_config: dict[str, Any] = Field(
        description="Members that say how the server is reached; secrets are `***`."
    )
    fingerprint: str = Field(description="SHA-256 of all of it but the secrets.")
    unreadable: list[str] = Field(description="Secrets that the current keys do not open.")
    created_at: datetime | None = Field(description="When it was recorded.")
    created_by: Author | None


class ServerVersions(_Answer):
    """Versions of one server, newest first."""

    id: str = Field(description="Of the server.")
    server_name: str
    active_version: int
    changed_elsewhere: bool = Field(
        description="Whether another application changed since how the server is reached."
    )
    versions: list[ServerVersionAnswer]
    pagination: Pagination


class ServerVersionDetail(ServerVersionAnswer):
    """One version and its server."""

    id: str = Field(description="Of the server.")
    server_name: str


class DifferenceAnswer(_Answer):
    """One member that differs."""

    field: str
    change: str = Field(
        description=(
            "`added`, `removed`, `changed`, or `unknown` for a secret that the current keys do "
            "not open in one of the two."
        )
    )
    before: Any = Field(description="As in `against`; `***` for a secret.")
    after: Any = Field(description="As in `version`; likewise.")


class VersionDifferences(_Answer):
    """What is otherwise in `version` than in `against`: what a rollback to it would change."""

    id: str = Field(description="Of the server.")
    server_name: str
    version: int
    against: int
    changes: list[DifferenceAnswer]
