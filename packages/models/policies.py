"""`access_policies`: who may use which single tools through the gateway.

Ours alone, so written by hand.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, IndexModel

from packages.models.tools import SOURCE_TYPES

POLICY_EFFECTS = ("allow", "deny")
POLICY_ROLES = ("admin", "user")
MAX_POLICY_NAME = 128
NAME_INDEX = "owner_id_1_name_1"
FORMER_NAME_INDEX = "name_1"
"""Made a name unique over all servers, so that one owner could tell what another had named."""


class AccessPolicy(Document):
    """One policy.

    Attributes:
        name: Unique among those about the same server, and among those about all.
        effect: What it does for the callers whom it names: `allow` or `deny`.
        is_enabled: Whether it counts.
        source_type: Of the tools that it is about.
        owner_id: The server that offers them; absent for all.
        tools: Their names, in which `*` stands for any text; none for all.
        metadata: Flags that they must have, and their values.
        users: ObjectIds of users that it names.
        groups: ObjectIds of groups.
        roles: `admin` or `user`.
        scopes: Scopes of tokens; one of them is enough.
        everyone: Whether it names all callers.
        revision: Counts the changes.
        created_by: Who made it, `{user_id, username}`.
        updated_by: Who changed it last, likewise.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    description: str | None = None
    effect: str
    is_enabled: bool
    source_type: str
    owner_id: PydanticObjectId | None = None
    tools: list[str] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    users: list[PydanticObjectId] = Field(default_factory=list)
    groups: list[PydanticObjectId] = Field(default_factory=list)
    roles: list[str] = Field(default_factory=list)
    scopes: list[str] = Field(default_factory=list)
    everyone: bool = False
    revision: int = 1
    created_at: datetime
    created_by: dict[str, str]
    updated_at: datetime
    updated_by: dict[str, str]

    class Settings:
        """Where Beanie keeps it."""

        name = "access_policies"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [("owner_id", ASCENDING), ("name", ASCENDING)], name=NAME_INDEX, unique=True
            ),
            IndexModel([("owner_id", ASCENDING), ("_id", ASCENDING)]),
            IndexModel([("name", ASCENDING), ("_id", ASCENDING)]),
        ]


def _some(name: str) -> dict[str, object]:
    return {"required": [name], "properties": {name: {"bsonType": "array", "minItems": 1}}}


ACCESS_POLICIES_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": [
            "name",
            "effect",
            "is_enabled",
            "source_type",
            "revision",
            "created_at",
            "updated_at",
        ],
        "properties": {
            "name": {"bsonType": "string", "minLength": 1, "maxLength": MAX_POLICY_NAME},
            "description": {"bsonType": "string"},
            "effect": {"enum": list(POLICY_EFFECTS)},
            "is_enabled": {"bsonType": "bool"},
            "source_type": {"enum": list(SOURCE_TYPES)},
            "owner_id": {"bsonType": "objectId"},
            "tools": {"bsonType": "array", "items": {"bsonType": "string", "minLength": 1}},
            "metadata": {"bsonType": "object"},
            "users": {"bsonType": "array", "items": {"bsonType": "objectId"}},
            "groups": {"bsonType": "array", "items": {"bsonType": "objectId"}},
            "roles": {"bsonType": "array", "items": {"enum": list(POLICY_ROLES)}},
            "scopes": {"bsonType": "array", "items": {"bsonType": "string", "minLength": 1}},
            "everyone": {"bsonType": "bool"},
            "revision": {"bsonType": ["int", "long"], "minimum": 1},
            "created_at": {"bsonType": "date"},
            "updated_at": {"bsonType": "date"},
        },
        # It names somebody, or it would say nothing.
        "anyOf": [
            {"required": ["everyone"], "properties": {"everyone": {"enum": [True]}}},
            *(_some(name) for name in ("users", "groups", "roles", "scopes")),
        ],
    }
}
"""Enforced by MongoDB itself, so that a raw write of a bad policy fails too."""
