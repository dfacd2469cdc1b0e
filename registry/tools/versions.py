"""New versions of a tool, and the states of the earlier ones, after a change. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from packages.models.states import VersionOrigin, VersionState
from registry.tools.differences import DefinitionDifference
from registry.tools.reconcile import ToolRowUpdate
from registry.tools.values import StoredTool


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to store."""

    tool_id: str
    name: str
    version: int
    definition: str
    discovery_hash: str
    state: VersionState
    origin: VersionOrigin
    created_at: datetime
    difference: DefinitionDifference | None = None
    compared_with: int | None = None


@dataclass(frozen=True, slots=True)
class VersionMove:
    """A new state of a stored version.

    Attributes:
        is_decision: Whether a person decided it.
    """

    tool_id: str
    version: int
    state: VersionState
    is_decision: bool = False


def versions_of(update: ToolRowUpdate, now: datetime) -> Iterator[NewVersion | VersionMove]:
    """Yield the new versions, and new states, of an update by a sync."""
    tool, offered = update.tool, update.serve or update.hold
    is_served = update.serve is not None
    was_pending = offered is not None and offered.discovery_hash == tool.pending_hash
    if tool.pending_version is not None and not update.keeps_pending and not was_pending:
        yield VersionMove(tool.id, tool.pending_version, VersionState.SUPERSEDED)
    if offered is None:
        return
    before = VersionState.SUPERSEDED if is_served else VersionState.SERVED
    if tool.versions == 1:
        yield first_version(tool, before, now)
    elif is_served:
        yield VersionMove(tool.id, tool.served_version, before)
    if was_pending and tool.pending_version is not None:
        yield VersionMove(tool.id, tool.pending_version, VersionState.SERVED, is_decision=True)
        return
    yield NewVersion(
        tool.id,
        tool.name,
        tool.versions + 1,
        offered.definition,
        offered.discovery_hash,
        VersionState.SERVED if is_served else VersionState.PENDING,
        VersionOrigin.SYNC,
        now,
        update.difference,
        tool.served_version,
    )


def first_version(tool: StoredTool, state: VersionState, now: datetime) -> NewVersion:
    """Return version 1 of a tool that has none because it never changed."""
    if tool.definition is None:
        raise ValueError("the definition of a changed tool must be known")
    return NewVersion(
        tool.id,
        tool.name,
        1,
        tool.definition,
        tool.discovery_hash,
        state,
        VersionOrigin.DISCOVERY,
        tool.created_at or now,
    )
