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
MOST_TAGS = 20
MOST_TAG_CHARACTERS = 64
POSSIBLE_STATES = {
    "selected": ("draft", "active", "disabled"),
    "unselected": ("draft", "disabled", "deleted"),
    "stale": EXPOSURE_STATES,
}
"""Which goes with which: what is not selected is never active, what is selected never deleted."""


class RegisteredTool(Document):
    """One tool as a governed record.

    Attributes:
        owner_id: The server (`mcpservers`) or API (`raw_apis`) that offers it.
        display_name: What people call it instead of its `title`.
        description_override: What people say of it instead of its `description`.
        definition: JSON text of the whole tool object that was approved, as the upstream sent it.
        presented: JSON text that clients get instead, where people changed something of it.
        pending_definition: JSON text of a newer definition that waits for review.
        pending_hash: Its discovery_hash.
        pending_version: Its number in `tool_versions`.
        discovery_hash: SHA-256 of the canonical JSON of *definition*.
        seen_hash: That of what the upstream offered last, where it is neither of the two: it was
            rejected, or an older one is served again.
        seen_definition: JSON text of that.
        rejected_hashes: Of the definitions that people rejected, the latest last.
        reviewed: Whether a person decided that it is not served, while it is `unselected`.
        position: Where the upstream listed it when it was first seen; lists keep that order.
        served_version: Number of *definition*.
        versions: How many versions there are.
        blocked: Whether it is disabled because its changed definition was blocked.
        tool_metadata: What people said of its effects, unknown members included.
        tags: What people file it under; absent for nothing.
        metadata: What counts, from all sources.
        metadata_sources: Who says each of these: `manual`, `upstream` or `inferred`.
        facets: The same as texts `flag:value`, each tag as `tag:text`, and the queue as
            `review:change` or `review:new`: one index finds them all.
        review: Why it is in the review queue: a `change` or the tool itself, which is `new`,
            waits for a decision, or what is served is in `drift` from what is offered.
        sync_events: What readings of its upstream did to it, the latest last: `_id`, `at`,
            `types`, `by`, `version`. What people decide is in `audit_logs`.
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
    description_override: str | None = None
    definition: str
    presented: str | None = None
    input_schema: str
    output_schema: str | None = None
    annotations: str | None = None
    pending_definition: str | None = None
    pending_hash: str | None = None
    pending_version: int | None = None
    seen_hash: str | None = None
    seen_definition: str | None = None
    rejected_hashes: list[str] | None = None
    reviewed: bool | None = None
    blocked: bool | None = None
    tool_metadata: dict[str, Any] = Field(default_factory=dict)
    tags: list[str] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    metadata_sources: dict[str, str] = Field(default_factory=dict)
    facets: list[str] = Field(default_factory=list)
    review: str | None = None
    registration_state: str
    exposure_state: str
    discovery_hash: str
    served_version: int = 1
    versions: int = 1
    position: int = 0
    last_discovered_at: datetime
    last_synced_at: datetime
    sync_events: list[dict[str, Any]] | None = None
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
            IndexModel([("facets", ASCENDING), ("_id", ASCENDING)]),
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
            "served_version": {"bsonType": ["int", "long"], "minimum": 1},
            "versions": {"bsonType": ["int", "long"], "minimum": 1},
            "sync_events": {"bsonType": "array"},
            "tags": {
                "bsonType": "array",
                "minItems": 1,
                "maxItems": MOST_TAGS,
                "uniqueItems": True,
                "items": {
                    "bsonType": "string",
                    "minLength": 1,
                    "maxLength": MOST_TAG_CHARACTERS,
                },
            },
        },
        "anyOf": [
            {
                "properties": {
                    "registration_state": {"enum": [registration]},
                    "exposure_state": {"enum": list(exposures)},
                }
            }
            for registration, exposures in POSSIBLE_STATES.items()
        ],
    }
}
"""Enforced by MongoDB itself, so that a raw write of a bad state fails too."""


VERSION_STATES = ("served", "pending", "rejected", "superseded")
VERSION_ORIGINS = ("discovery", "sync")


class ToolVersion(Document):
    """One definition that a tool had, or was offered with.

    A tool that never changed has none: its row says it all. With the first change the definition
    before it becomes version 1.

    Attributes:
        version: Counts from 1 for each tool.
        definition: JSON text of the whole tool object.
        state: Whether it is served, waits for review, was rejected, or was followed by another.
        origin: When the upstream offered it: when the tool was found, or at a later sync.
        weight: Of the gravest change; absent for the first version.
        changes: What differs from the version that was served when it came: `weight`, `path`
            (JSON Pointer), `told`, and the values `before` and `after` as JSON text, cut.
        compared_with: That version.
        created_by: Who had the server read, `{user_id, username}`; absent for nobody.
        decided_by: Who accepted or rejected it, or had it served again; absent for nobody.
    """

    model_config = ConfigDict(extra="allow")

    tool_id: PydanticObjectId
    owner_id: PydanticObjectId
    name: str
    version: int
    definition: str
    discovery_hash: str
    state: str
    origin: str
    weight: str | None = None
    changes: list[dict[str, Any]] = Field(default_factory=list)
    compared_with: int | None = None
    created_at: datetime
    created_by: dict[str, str] | None = None
    decided_at: datetime | None = None
    decided_by: dict[str, str] | None = None

    class Settings:
        """Where Beanie keeps it."""

        name = "tool_versions"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("tool_id", ASCENDING), ("version", ASCENDING)], unique=True),
            IndexModel([("owner_id", ASCENDING)]),
        ]


TOOL_VERSIONS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": [
            "tool_id",
            "owner_id",
            "name",
            "version",
            "definition",
            "discovery_hash",
            "state",
            "origin",
            "created_at",
        ],
        "properties": {
            "tool_id": {"bsonType": "objectId"},
            "owner_id": {"bsonType": "objectId"},
            "name": {"bsonType": "string", "minLength": 1},
            "version": {"bsonType": ["int", "long"], "minimum": 1},
            "definition": {"bsonType": "string"},
            "discovery_hash": {"bsonType": "string"},
            "state": {"enum": list(VERSION_STATES)},
            "origin": {"enum": list(VERSION_ORIGINS)},
        },
    }
}
