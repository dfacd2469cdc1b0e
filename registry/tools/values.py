"""Values about tools, shared by several modules."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from packages.models.states import ExposureState, RegistrationState
from registry.core.json import JsonObject
from registry.tools.presentation import NO_OVERRIDES, Overrides


class ToolEditor(NamedTuple):
    """A user, as versions name them."""

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
    """A tool with an invalid definition, and the problem."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ToolSnapshot:
    """The tools of one upstream at one moment, in its order."""

    tools: tuple[ToolDefinition, ...]
    rejected: tuple[RejectedTool, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredTool:
    """What reconciliation needs of a stored tool.

    Attributes:
        discovery_hash: Hash of the served definition.
        pending_hash: Hash of the definition that waits for review, if there is one.
        seen_hash: Hash of the definition that the upstream offered last, if it is neither: it was
            rejected, or an older one is served again.
        rejected_hashes: Hashes of the rejected definitions, the latest last.
        is_reviewed: Whether a person decided that it is not served, while it is `unselected`.
        served_version: Number of the served definition.
        pending_version: Number of the pending one.
        versions: How many versions there are.
        is_blocked: Whether it is disabled because its changed definition was blocked.
        definition: JSON text of the served definition, if the upstream offers another one.
        created_at: When it was found, in the same case.
        overrides: What people changed of it, in the same case.
        row_id: ObjectId of its document, 24 hexadecimal characters.
        facets: Its facets; None for another program's row.
        sync_error: The problem of the upstream's definition at the last sync, if there was one.
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
        """Whether the upstream offers a definition that was rejected or rolled back."""
        return self.seen_hash is not None

    @property
    def waits(self) -> bool:
        """Whether the tool, or a newer definition of it, waits for review."""
        state = self.registration_state, self.exposure_state
        is_new = state == (RegistrationState.UNSELECTED, ExposureState.DRAFT)
        return self.has_pending or (is_new and not self.is_reviewed)


@dataclass(frozen=True, slots=True)
class ToolStanding:
    """What decides whether a stored tool may be called.

    Attributes:
        facets: Its known effects, as texts `flag:value`.
    """

    state: tuple[RegistrationState, ExposureState]
    facets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ToolTraits:
    """The traits that lists filter tools by; many tools share one object.

    Attributes:
        facets: Effects, tags and what waits for a decision, as texts `flag:value`.
    """

    source_type: str
    registration_state: RegistrationState
    exposure_state: ExposureState
    facets: tuple[str, ...]


class ListedTool(NamedTuple):
    """What lists need of one tool.

    Attributes:
        row_id: ObjectId of its document, 12 bytes.
        text: The text for searches.
    """

    row_id: bytes
    owner_id: str
    traits: ToolTraits
    text: str


@dataclass(frozen=True, slots=True)
class ToolRow:
    """A tool as the gateway reads it.

    Attributes:
        definition: JSON text of the whole tool object, as sent to clients.
        is_served: Whether clients get it.
        is_behind: Whether the upstream now offers another definition.
        facets: Its known effects, as texts `flag:value`.
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
        """Return what clients get of a tool without overrides."""
        return cls(tool.name, tool.title, tool.description, tool.definition, tool.input_schema)
