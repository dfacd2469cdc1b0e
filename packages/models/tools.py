"""`mcp_tools`: the canonical table of registered tools, of MCP servers and of REST APIs.

The collection is this program's own. JSON Schemas are kept as JSON text: their keys may hold `$`
and `.`, and numbers beyond 64 bits must come back as they were.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, TypeAlias

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, IndexModel

from packages.models.states import (
    ExposureState,
    RegistrationState,
    SourceType,
    VersionOrigin,
    VersionState,
)

MAX_TAGS = 20
MAX_TAG_CHARACTERS = 64
EXPOSURES: Mapping[RegistrationState, tuple[ExposureState, ...]] = {
    RegistrationState.SELECTED: (
        ExposureState.DRAFT,
        ExposureState.ACTIVE,
        ExposureState.DISABLED,
    ),
    RegistrationState.UNSELECTED: (
        ExposureState.DRAFT,
        ExposureState.DISABLED,
        ExposureState.DELETED,
    ),
    RegistrationState.STALE: tuple(ExposureState),
}
"""Possible combinations: a tool is active only if selected, and deleted only if not selected."""

JSON_OBJECT = "application/json"
JsonText: TypeAlias = Annotated[str, JSON_OBJECT]
"""A JSON object as text."""

Tag: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARACTERS)]


class RegisteredTool(Document):
    """One tool as a governed record.

    Attributes:
        owner_id: The server (`mcpservers`) or API (`raw_apis`) that offers it.
        display_name: A name given by people, shown instead of its `title`.
        description_override: A description given by people, instead of its `description`.
        definition: The whole tool object that was approved, as the upstream sent it.
        presented: What clients get instead, if people changed something of it.
        pending_definition: A newer definition that waits for review.
        pending_hash: Its discovery_hash.
        pending_version: Its number in `tool_versions`.
        discovery_hash: SHA-256 of the canonical JSON of *definition*.
        seen_hash: Hash of what the upstream offered last, if that is neither of the two: it was
            rejected, or an older version is served again.
        seen_definition: That definition.
        rejected_hashes: Hashes of the definitions that people rejected, the latest last.
        reviewed: Whether a person decided that it is not served, while it is `unselected`.
        position: Its place in the upstream's list when it was first seen; lists keep that order.
        served_version: Number of *definition*.
        versions: Number of versions.
        blocked: Whether it is disabled because its changed definition was blocked.
        tool_metadata: What people stated about its effects, unknown members included.
        tags: Labels given by people; absent if there are none.
        metadata: The effects that apply, from all sources.
        metadata_sources: The source of each of these: `manual`, `upstream` or `inferred`.
        facets: The same as texts `flag:value`, each tag as `tag:text`, and the queue as
            `review:change` or `review:new`, for one index over all of them.
        review: Why it is in the review queue: a `change` or the tool itself, which is `new`,
            waits for a decision, or what is served is in `drift` from what is offered.
        sync_events: What syncs changed of it, the latest last: `_id`, `at`, `types`, `by`,
            `version`. Decisions of people are in `audit_logs`.
        sync_error: Why the last sync could not take the upstream's definition, if it could not.
    """

    model_config = ConfigDict(extra="allow")

    source_type: SourceType
    owner_id: PydanticObjectId
    name: Annotated[str, Field(min_length=1)]
    external_id: str | None = None
    display_name: str | None = None
    title: str | None = None
    description: str | None = None
    description_override: str | None = None
    definition: JsonText
    presented: JsonText | None = None
    input_schema: JsonText
    output_schema: JsonText | None = None
    annotations: JsonText | None = None
    pending_definition: JsonText | None = None
    pending_hash: str | None = None
    pending_version: int | None = None
    seen_hash: str | None = None
    seen_definition: JsonText | None = None
    rejected_hashes: list[str] | None = None
    reviewed: bool | None = None
    blocked: bool | None = None
    tool_metadata: dict[str, Any] = Field(default_factory=dict)
    tags: Annotated[list[Tag] | None, Field(min_length=1, max_length=MAX_TAGS)] = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    metadata_sources: dict[str, str] = Field(default_factory=dict)
    facets: list[str] = Field(default_factory=list)
    review: str | None = None
    registration_state: RegistrationState
    exposure_state: ExposureState
    discovery_hash: str
    served_version: Annotated[int, Field(ge=1)] = 1
    versions: Annotated[int, Field(ge=1)] = 1
    position: int = 0
    last_discovered_at: datetime | None = None
    last_synced_at: datetime | None = None
    sync_events: list[dict[str, Any]] | None = None
    sync_error: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    class Settings:
        """The collection, and its indexes."""

        name = "mcp_tools"
        keep_nulls = False
        rules: ClassVar[dict[str, Any]] = {
            "anyOf": [
                {
                    "properties": {
                        "registration_state": {"enum": [registration.value]},
                        "exposure_state": {"enum": [exposure.value for exposure in exposures]},
                    }
                }
                for registration, exposures in EXPOSURES.items()
            ],
            "allOf": [{"properties": {"tags": {"uniqueItems": True}}}],
        }
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


class ToolVersion(Document):
    """One definition of a tool, served or offered.

    A tool that never changed has none: its row contains everything. With the first change, the
    definition before it becomes version 1.

    Attributes:
        version: Number, from 1 for each tool.
        definition: The whole tool object.
        weight: Weight of the gravest change; absent for the first version.
        compatibility: `breaking` or `safe`, of all changes together; absent like *weight*.
        changes: Differences from the version that was served before: `weight`, `path` (JSON
            Pointer), `summary`, and the values `before` and `after` as JSON text, shortened.
        compared_with: Number of that version.
        created_by: The user who started the sync, `{user_id, username}`; absent if there is none.
        decided_by: The user who accepted or rejected it, or rolled back to it.
    """

    model_config = ConfigDict(extra="allow")

    tool_id: PydanticObjectId
    owner_id: PydanticObjectId
    name: Annotated[str, Field(min_length=1)]
    version: Annotated[int, Field(ge=1)]
    definition: JsonText
    discovery_hash: str
    state: VersionState
    origin: VersionOrigin
    weight: str | None = None
    compatibility: str | None = None
    changes: list[dict[str, Any]] = Field(default_factory=list)
    compared_with: int | None = None
    created_at: datetime
    created_by: dict[str, str] | None = None
    decided_at: datetime | None = None
    decided_by: dict[str, str] | None = None

    class Settings:
        """The collection, and its indexes."""

        name = "tool_versions"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("tool_id", ASCENDING), ("version", ASCENDING)], unique=True),
            IndexModel([("owner_id", ASCENDING)]),
        ]
