"""Values about tools that travel between modules."""

from dataclasses import dataclass
from enum import StrEnum

from registry.core.json import JsonObject


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
