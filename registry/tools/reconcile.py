"""Turn what an upstream offers and what is stored into changes. Pure.

An unchanged upstream changes nothing but timestamps. A tool that is gone becomes stale, never
deleted; one that comes back is served again only if it was, and its definition is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from registry.tools.exposure import AutoExpose, Origin, first_state, is_served, reads_only
from registry.tools.values import (
    ExposureState,
    RegistrationState,
    StoredTool,
    ToolDefinition,
    ToolSnapshot,
)


@dataclass(frozen=True, slots=True)
class ToolInsert:
    """A tool seen for the first time."""

    definition: ToolDefinition
    registration_state: RegistrationState
    exposure_state: ExposureState
    position: int


@dataclass(frozen=True, slots=True)
class ToolUpdate:
    """A change of a stored tool.

    Attributes:
        serve: The definition to serve from now on, or None to go on with the stored one.
        hold: A newer definition that waits for review, or None.
    """

    name: str
    registration_state: RegistrationState
    exposure_state: ExposureState
    serve: ToolDefinition | None = None
    hold: ToolDefinition | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What to write. *seen* lists the stored tools that the upstream still offers."""

    inserts: tuple[ToolInsert, ...]
    updates: tuple[ToolUpdate, ...]
    seen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """How to treat what turns up.

    Attributes:
        accept: Serve new and changed tools at once, because somebody just reviewed them.
    """

    auto_expose: AutoExpose
    origin: Origin
    accept: bool = False


def reconcile(snapshot: ToolSnapshot, stored: Mapping[str, StoredTool], rules: Rules) -> Changes:
    """Return the changes that bring *stored* up to *snapshot*."""
    inserts: list[ToolInsert] = []
    updates: list[ToolUpdate] = []
    offered = {tool.name: tool for tool in snapshot.tools}
    for position, tool in enumerate(snapshot.tools):
        row = stored.get(tool.name)
        if row is None:
            inserts.append(_insert(tool, position, rules))
        elif (update := _update(tool, row, rules)) is not None:
            updates.append(update)
    for name, row in stored.items():
        if name not in offered and row.registration_state is not RegistrationState.STALE:
            updates.append(ToolUpdate(name, RegistrationState.STALE, row.exposure_state))
    return Changes(
        inserts=tuple(inserts),
        updates=tuple(updates),
        seen=tuple(name for name in stored if name in offered),
    )


def _insert(tool: ToolDefinition, position: int, rules: Rules) -> ToolInsert:
    origin = Origin.AT_REGISTRATION if rules.accept else rules.origin
    read_only = reads_only(tool.name, tool.annotations)
    registration, exposure = first_state(rules.auto_expose, origin, read_only=read_only)
    return ToolInsert(tool, registration, exposure, position)


def _update(tool: ToolDefinition, row: StoredTool, rules: Rules) -> ToolUpdate | None:
    changed = tool.discovery_hash != row.discovery_hash
    came_back = row.registration_state is RegistrationState.STALE
    may_serve = rules.accept or rules.origin is not Origin.LATER_ON_SHARED
    registration, exposure = row.registration_state, row.exposure_state
    if came_back:
        was_served = exposure is ExposureState.ACTIVE
        trusted = was_served and (may_serve or not changed)
        registration = RegistrationState.SELECTED if trusted else RegistrationState.UNSELECTED
        exposure = exposure if trusted else ExposureState.DRAFT
    waiting = (registration, exposure) == (RegistrationState.UNSELECTED, ExposureState.DRAFT)
    if rules.accept and waiting:
        registration, exposure = _accepted(tool, rules)
    moved = (registration, exposure) != (row.registration_state, row.exposure_state)
    if not changed:
        if moved or row.has_pending:
            return ToolUpdate(tool.name, registration, exposure)
        return None
    if may_serve or not is_served(registration, exposure):
        return ToolUpdate(tool.name, registration, exposure, serve=tool)
    if row.pending_hash == tool.discovery_hash and not moved:
        return None
    return ToolUpdate(tool.name, registration, exposure, hold=tool)


def _accepted(tool: ToolDefinition, rules: Rules) -> tuple[RegistrationState, ExposureState]:
    read_only = reads_only(tool.name, tool.annotations)
    return first_state(rules.auto_expose, Origin.AT_REGISTRATION, read_only=read_only)
