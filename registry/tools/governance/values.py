"""Values about decisions on tools, shared by several modules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from packages.models.states import ExposureState, RegistrationState
from registry.core.json import JsonObject


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
