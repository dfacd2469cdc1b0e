"""`mcp_tools`: the canonical table of registered tools, of MCP servers and of REST APIs alike.

Ours alone, so written by hand. JSON Schemas are kept as JSON text: their keys may hold `$` and
`.`, and numbers beyond 64 bits must come back as they were.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, IndexModel

REGISTRATION_STATES = ("selected", "unselected", "stale")
EXPOSURE_STATES = ("draft", "active", "disabled", "deleted")
SOURCE_TYPES = ("mcp", "openapi")


class RegisteredTool(Document):
    """One tool as a governed record.

    Attributes:
        owner_id: The server (`mcpservers`) or API (`raw_apis`) that offers it.
        definition: JSON text of the whole tool object that is served.
        pending_definition: JSON text of a newer definition that waits for review.
        pending_hash: Its discovery_hash.
        position: Where the upstream listed it when it was first seen; lists keep that order.
        served_version: Counts up when the served definition changes.
        sync_error: Why the last sync could not take the upstream's definition, if so.
    """

    model_config = ConfigDict(extra="allow")

    source_type: str
    owner_id: PydanticObjectId
    name: str
    external_id: str
    display_name: str | None = None
    title: str | None = None
    description: str | None = None
    definition: str
    input_schema: str
    output_schema: str | None = None
    annotations: str | None = None
    pending_definition: str | None = None
    pending_hash: str | None = None
    tool_metadata: dict[str, Any] = Field(default_factory=dict)
    registration_state: str
    exposure_state: str
    discovery_hash: str
    served_version: int = 1
    position: int = 0
    last_discovered_at: datetime
    last_synced_at: datetime
    sync_error: str | None = None
    created_at: datetime
    updated_at: datetime

    class Settings:
        """Where Beanie keeps it."""

        name = "mcp_tools"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [("source_type", ASCENDING), ("owner_id", ASCENDING), ("name", ASCENDING)],
                unique=True,
            ),
            IndexModel(
                [
                    ("owner_id", ASCENDING),
                    ("registration_state", ASCENDING),
                    ("exposure_state", ASCENDING),
                ]
            ),
            IndexModel([("exposure_state", ASCENDING), ("registration_state", ASCENDING)]),
        ]


MCP_TOOLS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": [
            "source_type",
            "owner_id",
            "name",
            "definition",
            "input_schema",
            "registration_state",
            "exposure_state",
            "discovery_hash",
        ],
        "properties": {
            "source_type": {"enum": list(SOURCE_TYPES)},
            "owner_id": {"bsonType": "objectId"},
            "name": {"bsonType": "string", "minLength": 1},
            "definition": {"bsonType": "string"},
            "input_schema": {"bsonType": "string"},
            "registration_state": {"enum": list(REGISTRATION_STATES)},
            "exposure_state": {"enum": list(EXPOSURE_STATES)},
        },
    }
}
"""Enforced by MongoDB itself, so that a raw write of a bad state fails too."""
