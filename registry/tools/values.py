"""Values about tools that travel between modules."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from registry.core.json import JsonObject
from registry.tools.presentation import NO_OVERRIDES, Overrides


class RegistrationState(StrEnum):
    """Whether a person chose the tool, and whether the upstream still offers it."""

    SELECTED = "selected"
    UNSELECTED = "unselected"
    STALE = "stale"


class ExposureState(StrEnum):
    """Whether the tool may be served."""

    DRAFT = "draft"
    ACTIVE = "active"
    DISABLED = "disabled"
    DELETED = "deleted"


class ToolEditor(NamedTuple):
    """Who did something, as versions name them."""

    user_id: str
    username: str


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """One tool as an upstream describes it.

    Attributes:
        definition: JSON text of the whole tool object, unknown members included, keys in the
            upstream's order. Kept as text: JSON Schema keys may hold `$` and `.`.
        input_schema: JSON text of `inputSchema`.
        output_schema: JSON text of `outputSchema`, when there is one.
        discovery_hash: SHA-256 (hexadecimal) of the canonical JSON of the tool object.
    """

    name: str
    title: str | None
    description: str | None
    definition: str
    input_schema: str
    output_schema: str | None
    annotations: JsonObject | None
    discovery_hash: str


@dataclass(frozen=True, slots=True)
class RejectedTool:
    """A tool that an upstream offers but that cannot be stored, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ToolSnapshot:
    """The tools of one upstream at one moment, in its order."""

    tools: tuple[ToolDefinition, ...]
    rejected: tuple[RejectedTool, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredTool:
    """What reconciling needs to know of a stored tool.

    Attributes:
        discovery_hash: Of the definition that is served.
        pending_hash: Of the definition that waits for review, when there is one.
        seen_hash: Of the definition that the upstream offered last, where that is neither: it was
            rejected, or an older one is served again.
        rejected_hashes: Of the definitions that people rejected, the latest last.
        is_reviewed: Whether a person decided that it is not served, while it is `unselected`.
        served_version: Number of the definition that is served.
        pending_version: Number of the one that waits.
        versions: How many there are.
        is_blocked: Whether it is disabled because its changed definition was blocked.
        definition: JSON text of the served definition, where the upstream offers another one.
        created_at: When it was found, likewise.
        overrides: What people changed of it, likewise.
        row_id: ObjectId of its document, 24 hexadecimal characters.
        facets: What it is found by; None for what another program stored.
        sync_error: Why its upstream's definition could not be taken the last time, if so.
    """

    name: str
    registration_state: RegistrationState
    exposure_state: ExposureState
    discovery_hash: str
    pending_hash: str | None = None
    seen_hash: str | None = None
    rejected_hashes: tuple[str, ...] = ()
    is_reviewed: bool = False
    served_version: int = 1
    pending_version: int | None = None
    versions: int = 1
    is_blocked: bool = False
    definition: str | None = None
    created_at: datetime | None = None
    overrides: Overrides = NO_OVERRIDES
    row_id: str = ""
    facets: tuple[str, ...] | None = None
    sync_error: str | None = None

    @property
    def offered_hash(self) -> str:
        """Return the hash of the definition that the upstream offered last."""
        return self.seen_hash or self.pending_hash or self.discovery_hash

    @property
    def has_pending(self) -> bool:
        """Whether a newer definition waits for review."""
        return self.pending_hash is not None

    @property
    def has_drifted(self) -> bool:
        """Whether the upstream offers a definition that was decided against."""
        return self.seen_hash is not None

    @property
    def waits(self) -> bool:
        """Whether the tool, or a newer definition of it, waits for review."""
        state = self.registration_state, self.exposure_state
        is_new = state == (RegistrationState.UNSELECTED, ExposureState.DRAFT)
        return self.has_pending or (is_new and not self.is_reviewed)


@dataclass(frozen=True, slots=True)
class ToolStanding:
    """What decides about the use of a stored tool.

    Attributes:
        facets: What is known of its effects, as texts `flag:value`.
    """

    state: tuple[RegistrationState, ExposureState]
    facets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ToolTraits:
    """What lists narrow tools by; few differ, so that many tools share one of these.

    Attributes:
        facets: Effects, tags and what waits for a decision, as texts `flag:value`.
    """

    source_type: str
    registration_state: RegistrationState
    exposure_state: ExposureState
    facets: tuple[str, ...]


class ListedTool(NamedTuple):
    """What lists need to know of one tool.

    Attributes:
        row_id: ObjectId of its document, 12 bytes.
        text: What it is searched by.
    """

    row_id: bytes
    owner_id: str
    traits: ToolTraits
    text: str


@dataclass(frozen=True, slots=True)
class ToolRow:
    """A tool as the gateway reads it.

    Attributes:
        definition: JSON text of the whole tool object, as clients get it.
        is_served: Whether they do.
        is_behind: Whether the upstream offers another definition by now.
        facets: What is known of its effects, as texts `flag:value`.
    """

    listed: ListedTool
    name: str
    definition: str
    is_served: bool
    is_behind: bool = False
    facets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedTool:
    """A tool as clients get it.

    Attributes:
        definition: JSON text of the whole tool object.
    """

    name: str
    title: str | None
    description: str | None
    definition: str
    input_schema: str

    @classmethod
    def as_found(cls, tool: ToolDefinition) -> "ServedTool":
        """Return what clients get of a tool that nobody has said anything of."""
        return cls(tool.name, tool.title, tool.description, tool.definition, tool.input_schema)
