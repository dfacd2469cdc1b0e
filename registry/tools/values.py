"""Values about tools, shared by several modules."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from packages.models.states import ExposureState, RegistrationState
from registry.core.definitions import Rejection
from registry.core.json import JsonObject
from registry.tools.lifecycle import State
from registry.tools.metadata import effects_of
from registry.tools.presentation import NO_OVERRIDES, Overrides


class ToolEditor(NamedTuple):
    """A user, as versions name them."""

    user_id: str
    username: str


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """One tool as an upstream describes it, or as clients get it.

    Attributes:
        definition: JSON text of the whole tool object, unknown members included, keys in the
            upstream's order. Kept as text: JSON Schema keys may hold `$` and `.`.
        input_schema: JSON text of `inputSchema`.
        output_schema: JSON text of `outputSchema`, when there is one and it was read.
        annotations: Its annotations, when there are any and they were read.
        discovery_hash: SHA-256 (hexadecimal) of the canonical JSON of the upstream's tool object.
        external_id: What the upstream calls it, where that is not its name.
    """

    name: str
    title: str | None
    description: str | None
    definition: str
    input_schema: str
    output_schema: str | None
    annotations: JsonObject | None
    discovery_hash: str
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolSnapshot:
    """The tools of one upstream at one moment, in its order."""

    tools: tuple[ToolDefinition, ...]
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredTool:
    """A row of `mcp_tools`, as far as it was read: absent members have their defaults.

    Attributes:
        id: ObjectId of its document, 24 hexadecimal characters.
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
        definition: JSON text of the served definition.
        presented: JSON text for clients, if it is not the definition.
        pending_definition: JSON text of the definition that waits for review.
        seen_definition: JSON text of the definition of *seen_hash*.
        overrides: What people changed of it.
        metadata: The metadata that counts.
        facets: Its facets; None for another program's row.
        sync_error: The problem of the upstream's definition at the last sync, if there was one.
        owner_name: Its server's name; None if the server was not read, or is gone.
        owner_slug: The last part of its server's gateway path; None in the same cases.
        owner_call_rules: Its server's defaults for call rules.
        is_owner_shared: Whether its server is used by others than its author.
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
    presented: str | None = None
    pending_definition: str | None = None
    seen_definition: str | None = None
    title: str | None = None
    description: str | None = None
    input_schema: str = "{}"
    output_schema: str | None = None
    annotations: str | None = None
    overrides: Overrides = NO_OVERRIDES
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metadata_sources: Mapping[str, str] = field(default_factory=dict)
    facets: tuple[str, ...] | None = None
    sync_error: str | None = None
    id: str = ""
    source_type: str = "mcp"
    external_id: str | None = None
    owner_id: str = ""
    owner_name: str | None = None
    owner_slug: str | None = None
    owner_call_rules: Mapping[str, Any] = field(default_factory=dict)
    is_owner_shared: bool = False
    last_discovered_at: datetime | None = None
    last_synced_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def state(self) -> State:
        """Return its two states."""
        return self.registration_state, self.exposure_state

    @property
    def effects(self) -> tuple[str, ...]:
        """Return its known effects, as texts `flag:value`."""
        return effects_of(self.facets, self.name, self.definition or "")

    @property
    def etag(self) -> str:
        """Return a text that differs after every change by people or a sync."""
        moment = self.updated_at
        return "0" if moment is None else str(round(moment.timestamp() * 1000))

    @property
    def offered_hash(self) -> str:
        """Return the hash of the definition that the upstream offered last."""
        return self.seen_hash or self.pending_hash or self.discovery_hash

    @property
    def offered_definition(self) -> str | None:
        """Return the JSON text of the upstream's definition, if it is not the served one."""
        return self.pending_definition or self.seen_definition

    @property
    def decision_hash(self) -> str:
        """Return the hash of what a review decides on: the newer definition, or the only one."""
        waits = None if self.pending_definition is None else self.pending_hash
        return waits or self.discovery_hash

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
        is_new = self.state == (RegistrationState.UNSELECTED, ExposureState.DRAFT)
        return self.has_pending or (is_new and not self.is_reviewed)

    def as_viewed(self) -> "StoredTool":
        """Return the tool for callers who may not decide about it."""
        return replace(
            self,
            pending_hash=None,
            pending_version=None,
            pending_definition=None,
            seen_hash=None,
            seen_definition=None,
            rejected_hashes=(),
        )


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
        said: What people stated that its call rules are made from.
        version: Number of the served version.
        tags: Its tags.
    """

    listed: ListedTool
    name: str
    definition: str
    is_served: bool
    is_behind: bool = False
    facets: tuple[str, ...] = ()
    said: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    tags: tuple[str, ...] = ()
