"""`access_policies`: who may use which single tools through the gateway.

The collection is this program's own.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, IndexModel

from packages.models.states import Effect, SourceType

MAX_POLICY_NAME = 128
NAME_INDEX = "owner_id_1_name_1"
FORMER_NAME_INDEX = "name_1"
"""Made a name unique over all servers, so that one owner could see names that another had used."""


NotEmpty: TypeAlias = Annotated[str, Field(min_length=1)]


def _some(name: str) -> dict[str, object]:
    return {"required": [name], "properties": {name: {"bsonType": "array", "minItems": 1}}}


class AccessPolicy(Document):
    """One policy.

    Attributes:
        name: Unique among those about the same server, and among those about all.
        effect: Its effect on the callers that it names.
        is_enabled: Whether it applies.
        source_type: Kind of the tools that it is about; absent for both.
        owner_id: The server that offers them; absent for all.
        tools: Their names, in which `*` matches any text; empty for all.
        metadata: Flags that they must have, with their values.
        scopes: Scopes of tokens; one of them is sufficient.
        everyone: Whether it names all callers.
        revision: Number of its changes.
        created_by: The user who created it: `{user_id, username}`.
        updated_by: The user who changed it last.
    """

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1, max_length=MAX_POLICY_NAME)]
    description: str | None = None
    effect: Effect
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
    revision: Annotated[int, Field(ge=1)]
    created_at: datetime
    created_by: dict[str, str] | None = None
    updated_at: datetime
    updated_by: dict[str, str] | None = None

    class Settings:
        """The collection, and its indexes."""

        name = "access_policies"
        keep_nulls = False
        # It names callers, or it would have no effect.
        rules: ClassVar[dict[str, Any]] = {
            "anyOf": [
                {"required": ["everyone"], "properties": {"everyone": {"enum": [True]}}},
                *(_some(name) for name in ("users", "groups", "roles", "scopes")),
            ]
        }
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [("owner_id", ASCENDING), ("name", ASCENDING)], name=NAME_INDEX, unique=True
            ),
            IndexModel([("owner_id", ASCENDING), ("_id", ASCENDING)]),
            IndexModel([("name", ASCENDING), ("_id", ASCENDING)]),
        ]
