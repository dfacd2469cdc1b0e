"""Values about governed tools, shared by several modules."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from packages.models.states import ExposureState, RegistrationState
from registry.core.json import JsonObject
from registry.tools.lifecycle import State
from registry.tools.values import StoredTool


@dataclass(frozen=True, slots=True)
class GovernedTool:
    """One tool with all that is known of it.

    Attributes:
        owner_name: Its server's name; None if the server was not read, or is gone.
        owner_slug: The last part of its server's gateway path; None in the same cases.
        stored: What a change of it needs, its definition included.
        presented: JSON text for clients, if it is not the definition.
        pending_definition: JSON text of the definition that waits for review.
        seen_definition: JSON text of the upstream's definition, if that was rejected or rolled
            back.
        tool_metadata: The metadata that people set, unchanged.
        metadata: The metadata that counts.
    """

    id: str
    source_type: str
    owner_id: str
    owner_name: str | None
    owner_slug: str | None
    stored: StoredTool
    presented: str | None
    title: str | None
    description: str | None
    input_schema: str
    output_schema: str | None
    annotations: str | None
    pending_definition: str | None
    seen_definition: str | None
    tool_metadata: Mapping[str, Any]
    metadata: Mapping[str, Any]
    metadata_sources: Mapping[str, str]
    sync_error: str | None
    last_discovered_at: datetime | None
    last_synced_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None

    @property
    def state(self) -> State:
        """Return its two states."""
        return self.stored.registration_state, self.stored.exposure_state

    @property
    def etag(self) -> str:
        """Return a text that differs after every change by people or a sync."""
        moment = self.updated_at
        return "0" if moment is None else str(round(moment.timestamp() * 1000))

    def as_viewed(self) -> "GovernedTool":
        """Return the tool for callers who may not decide about it."""
        stored = replace(
            self.stored,
            pending_hash=None,
            pending_version=None,
            seen_hash=None,
            rejected_hashes=(),
        )
        return replace(self, stored=stored, pending_definition=None, seen_definition=None)

    @property
    def offered_definition(self) -> str | None:
        """Return the JSON text of the upstream's definition, if it is not the served one."""
        return self.pending_definition or self.seen_definition

    @property
    def decision_hash(self) -> str:
        """Return the hash of what a review decides on: the newer definition, or the only one."""
        waits = None if self.pending_definition is None else self.stored.pending_hash
        return waits or self.stored.discovery_hash


@dataclass(frozen=True, slots=True)
class ToolVersionRecord:
    """One version.

    Attributes:
        changes: The differences from the version *compared_with*, the greatest weight first.
    """

    version: int
    state: str
    origin: str
    discovery_hash: str
    definition: str
    weight: str | None
    changes: tuple[JsonObject, ...]
    compared_with: int | None
    created_at: datetime
    created_by: Mapping[str, str] | None
    decided_at: datetime | None
    decided_by: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class ToolFilter:
    """Filter of a list of tools.

    Attributes:
        reviews: Only tools in the review queue for one of these reasons, see `review_of`; empty
            for all.
        flags: Flags of `metadata` and their values.
        tags: The tool has all of them.
        text: Searched in names, titles, descriptions and tags.
        with_stale: Also tools that their server no longer offers.
        with_disabled: Also disabled or deleted tools.
    """

    owner_id: str | None = None
    source_type: str | None = None
    registration_state: RegistrationState | None = None
    exposure_state: ExposureState | None = None
    reviews: tuple[str, ...] = ()
    flags: Mapping[str, bool | str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    text: str | None = None
    with_stale: bool = False
    with_disabled: bool = False


@dataclass(frozen=True, slots=True)
class ToolPatch:
    """Changes to a tool by a person.

    Attributes:
        given: Names of the given members; all others are ignored.
        metadata: Members to set; a value of None removes one.
        tags: Replaces all tags.
        add_tags: Tags to add.
        remove_tags: Tags to remove.
    """

    given: frozenset[str]
    display_name: str | None = None
    description: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    registration_state: RegistrationState | None = None
    exposure_state: ExposureState | None = None
