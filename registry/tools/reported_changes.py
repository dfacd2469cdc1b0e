"""What a reading changed, for the person who asked for it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice

from packages.models.states import RegistrationState
from registry.tools.differences import Compatibility, DefinitionDifference
from registry.tools.exposure import is_served
from registry.tools.reconcile import Changes, ToolRowUpdate

MAX_REPORTED = 200
MAX_REASONS = 5


class ChangeKind(StrEnum):
    """What happened to a tool."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    HELD = "held"
    """It changed, and is served as it was until somebody decides."""

    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class ReportedChange:
    """One changed tool.

    Attributes:
        compatibility: Whether calls that worked may not work as before.
        reasons: What it is, what breaks calls first.
    """

    name: str
    kind: ChangeKind
    compatibility: Compatibility
    reasons: tuple[str, ...]


def reported(changes: Changes) -> tuple[ReportedChange, ...]:
    """Return the changes of a reading, those that break calls first, and at most so many."""
    found = sorted(
        chain(_added(changes), filter(None, map(_updated, changes.updates))),
        key=lambda change: change.compatibility is not Compatibility.BREAKING,
    )
    return tuple(islice(found, MAX_REPORTED))


def _added(changes: Changes) -> Iterator[ReportedChange]:
    for insert in changes.inserts:
        reason = "tool added" if insert.is_served else "tool added, and waits for review"
        yield ReportedChange(
            insert.definition.name, ChangeKind.ADDED, Compatibility.SAFE, (reason,)
        )


def _updated(update: ToolRowUpdate) -> ReportedChange | None:
    before, now = update.tool.registration_state, update.registration_state
    was_served = is_served(before, update.tool.exposure_state)
    if now is RegistrationState.STALE and before is not RegistrationState.STALE:
        word = Compatibility.BREAKING if was_served else Compatibility.SAFE
        reason = "tool removed" if was_served else "tool removed, which was not served"
        return ReportedChange(update.name, ChangeKind.REMOVED, word, (reason,))
    is_back = before is RegistrationState.STALE and now is not RegistrationState.STALE
    difference = update.difference
    if difference is None:
        if not is_back:
            return None
        return ReportedChange(
            update.name, ChangeKind.RETURNED, Compatibility.SAFE, ("tool returned",)
        )
    kind = ChangeKind.HELD if update.hold is not None else ChangeKind.CHANGED
    if is_back:
        kind = ChangeKind.RETURNED
    return ReportedChange(update.name, kind, difference.compatibility, _reasons(difference))


def _reasons(difference: DefinitionDifference) -> tuple[str, ...]:
    ordered = sorted(difference.changes, key=lambda change: not change.breaks)
    told = dict.fromkeys(change.summary for change in ordered)
    more = len(told) - MAX_REASONS
    return (*islice(told, MAX_REASONS), *([f"and {more} more"] if more > 0 else []))
