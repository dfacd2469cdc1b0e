"""Document `mcp_features`: prompts, resources and resource templates of MCP servers.

Only ours, so written by hand. Definitions are JSON text, as for tools.
"""

from datetime import datetime
from typing import ClassVar

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict
from pymongo import ASCENDING, IndexModel

FEATURE_KINDS = ("prompt", "resource", "resource_template")


class ServerFeature(Document):
    """One of them, as its upstream listed it.

    Attributes:
        owner_id: The server (`mcpservers`) that offers it.
        key: The prompt's name, the resource's uri or the template's uriTemplate.
        definition: JSON text of the whole object.
        position: Its place in the upstream's list.
        last_synced_at: When it was last written; an unchanged upstream writes nothing.
    """

    model_config = ConfigDict(extra="allow")

    owner_id: PydanticObjectId
    kind: str
    key: str
    definition: str
    position: int = 0
    last_synced_at: datetime

    class Settings:
        """Where Beanie keeps it."""

        name = "mcp_features"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [("owner_id", ASCENDING), ("kind", ASCENDING), ("key", ASCENDING)], unique=True
            ),
        ]


MCP_FEATURES_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["owner_id", "kind", "key", "definition", "position", "last_synced_at"],
        "properties": {
            "owner_id": {"bsonType": "objectId"},
            "kind": {"enum": list(FEATURE_KINDS)},
            "key": {"bsonType": "string", "minLength": 1},
            "definition": {"bsonType": "string"},
            "position": {"bsonType": ["int", "long"]},
            "last_synced_at": {"bsonType": "date"},
        },
    }
}
"""Enforced by MongoDB itself, so that a raw write of a bad kind fails too."""
