"""Documents of `limits` and `limit_quotas`, which are ours alone."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import ASCENDING, IndexModel

from packages.models.policies import MAX_POLICY_NAME, NotEmpty
from packages.models.states import SourceType

Period = Literal["second", "minute", "hour", "day"]
Dimension = Literal["user", "role", "token", "server", "tool", "cost_tier"]


class LimitDocument(Document):
    """One limit on calls of tools; callers and tools are named as in `access_policies`.

    Attributes:
        owner_id: The server whose tools it is about; absent for all.
        per: What calls are counted apart by.
        rates: `count` and `per` of each.
        in_flight: Maximum number of calls under way; absent for any.
        on_database_loss: What happens to calls that cannot be counted; absent for the usual.
        revision: Number of its changes.
    """

    name: Annotated[str, Field(min_length=1, max_length=MAX_POLICY_NAME)]
    description: str | None = None
    is_enabled: bool
    source_type: SourceType | None = None
    owner_id: PydanticObjectId | None = None
    tools: list[NotEmpty] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    users: list[PydanticObjectId] = Field(default_factory=list)
    groups: list[PydanticObjectId] = Field(default_factory=list)
    roles: list[Literal["admin", "user"]] = Field(default_factory=list)
    scopes: list[NotEmpty] = Field(default_factory=list)
    everyone: bool = False
    per: list[Dimension] = Field(default_factory=list)
    rates: list[dict[str, Any]] = Field(default_factory=list)
    in_flight: Annotated[int, Field(ge=0)] | None = None
    on_database_loss: Literal["open", "closed"] | None = None
    revision: Annotated[int, Field(ge=1)]
    created_at: datetime
    created_by: dict[str, str] | None = None
    updated_at: datetime
    updated_by: dict[str, str] | None = None

    class Settings:
        """Where it is stored."""

        name = "limits"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("owner_id", ASCENDING), ("name", ASCENDING)], unique=True),
        ]


class LimitQuota(Document):
    """What is counted of one rate of a limit, under one key; or who holds its permits.

    Attributes:
        limit_id: The limit that it is part of.
        slots: How many calls were leased, by the number of the slot as text.
        holders: For calls under way: `count` and `until` of each process, by its name.
        revision: Number of changes: each is made to the state that it was computed from.
        expires_at: When nothing of it counts any more, and the database removes it.
    """

    id: Annotated[str, Field(min_length=1)]  # type: ignore[assignment]  # a digest of the key
    limit_id: str
    slots: dict[str, Any] = Field(default_factory=dict)
    holders: dict[str, Any] = Field(default_factory=dict)
    revision: int
    expires_at: datetime

    class Settings:
        """Where it is stored."""

        name = "limit_quotas"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]
