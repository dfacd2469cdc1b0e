"""What a row of an earlier release lacks of what rows have today. Pure.

All of it follows from what the row holds: the definition that is served, what people said of the
tool, and what waits. Which definition is served, and the tool's states, are never touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from registry.core.json import JsonObject, load_text, members
from registry.tools.differences import difference
from registry.tools.exposure import review_of
from registry.tools.lifecycle import STATES, State
from registry.tools.metadata import HINTS, known, metadata_fields, said_in
from registry.tools.presentation import overrides_in, presented
from registry.tools.values import ExposureState, RegistrationState
from registry.tools.versions import NewVersion, VersionOrigin, VersionState

PRESENTED_OTHERWISE = (
    "clients get another definition than follows from the one that was approved; "
    "change what people say of it, or refresh its server"
)


class UnreadableRowError(Exception):
    """The row is not one that this program can have written. The message says why."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What is to be written of a row.

    Attributes:
        fields: To set.
        gone: To remove.
        versions: To store.
        left: What is wrong with the row and was not touched.
    """

    fields: Mapping[str, object] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    versions: tuple[NewVersion, ...] = ()
    left: str | None = None

    @property
    def is_change(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.fields or self.gone or self.versions)

    @property
    def operations(self) -> dict[str, Any]:
        """Return the update of the row; empty for none."""
        operations: dict[str, Any] = {}
        if self.fields:
            operations["$set"] = dict(self.fields)
        if self.gone:
            operations["$unset"] = dict.fromkeys(self.gone, "")
        return operations


def completed(row: Mapping[str, Any], now: datetime) -> Completion:
    """Return what a stored row lacks.

    Args:
        row: As it is stored.
        now: When a version is taken to have come, of which the row does not say it.

    Raises:
        UnreadableRowError: What the row holds makes no sense.
    """
    state = _state(row)
    definition = _definition(row, "definition")
    name = row.get("name")
    if definition.get("name") != name or not isinstance(name, str):
        raise UnreadableRowError("has a definition of another name")
    overrides = overrides_in(row)
    has_pending = row.get("pending_hash") is not None
    annotations = definition.get("annotations")
    offered = row.get("pending_definition") or row.get("seen_definition")
    counts = known(
        name,
        annotations if isinstance(annotations, dict) else None,
        overrides.metadata,
        None if offered is None else said_in(offered),
    )
    review = review_of(
        state,
        has_pending=has_pending,
        is_reviewed=row.get("reviewed") is True,
        has_drifted=row.get("seen_definition") is not None,
    )
    wanted: dict[str, object] = {
        **metadata_fields(counts, overrides.tags, review),
        **_numbers(row),
    }
    if review is not None:
        wanted["review"] = review
    shown, is_shown = presented(row["definition"], overrides, offered), row.get("presented")
    left = None
    if shown is not None and (is_shown is None or _differs_in_effects(is_shown, shown)):
        wanted["presented"] = shown
    elif is_shown != shown:
        left = PRESENTED_OTHERWISE
    versions: tuple[NewVersion, ...] = ()
    if has_pending and row.get("pending_version") is None:
        total, served = int(wanted["versions"]), int(wanted["served_version"])  # type: ignore[call-overload]  # whole numbers, see below
        versions = _versions(row, definition, total, served, now)
        wanted["versions"] = wanted["pending_version"] = total + 1
    return Completion(
        {name: value for name, value in wanted.items() if row.get(name) != value},
        ("review",) if review is None and "review" in row else (),
        versions,
        left,
    )


def _state(row: Mapping[str, Any]) -> State:
    registration, exposure = row.get("registration_state"), row.get("exposure_state")
    try:
        state = RegistrationState(str(registration)), ExposureState(str(exposure))
    except ValueError:
        state = None
    if state not in STATES:
        raise UnreadableRowError(f"is {registration} and {exposure}, which do not go together")
    return state


def _definition(row: Mapping[str, Any], member: str) -> JsonObject:
    text = row.get(member)
    try:
        return load_text(text if isinstance(text, str) else "")
    except (ValueError, RecursionError):
        raise UnreadableRowError(f"has a {member} that is no JSON object") from None


def _differs_in_effects(is_shown: object, shown: str) -> bool:
    """Whether what is stored for clients says something else of the tool's effects alone.

    Before it was settled that a person's `destructive` makes `readOnlyHint` false, it was stored
    beside a `readOnlyHint` that is true.
    """
    try:
        stored = load_text(is_shown if isinstance(is_shown, str) else "")
    except (ValueError, RecursionError):
        return False
    ours = load_text(shown)
    return stored != ours and _without_effects(stored) == _without_effects(ours)


def _without_effects(tool: JsonObject) -> JsonObject:
    said = members(tool.get("annotations"))
    others: JsonObject = {
        name: value for name, value in said.items() if name not in HINTS.values()
    }
    return {**tool, "annotations": others}


def _numbers(row: Mapping[str, Any]) -> dict[str, object]:
    """Return the number of the definition that is served, and how many versions there are.

    The first release counted what was served, and kept none of it.
    """
    versions, served = row.get("versions"), row.get("served_version")
    if versions is None or versions == 1:
        return {"versions": 1, "served_version": 1}
    is_told = isinstance(versions, int) and isinstance(served, int) and 1 <= served <= versions
    if not is_told:
        raise UnreadableRowError(f"serves version {served} of {versions}")
    return {"versions": versions, "served_version": served}


def _versions(
    row: Mapping[str, Any], definition: JsonObject, total: int, served: int, now: datetime
) -> tuple[NewVersion, ...]:
    """Return the version that waits, and the one before if it is the tool's first change."""
    tool_id, name = str(row["_id"]), str(row["name"])
    pending = _definition(row, "pending_definition")
    waiting = NewVersion(
        tool_id,
        name,
        total + 1,
        row["pending_definition"],
        str(row["pending_hash"]),
        VersionState.PENDING,
        VersionOrigin.SYNC,
        _moment(row.get("updated_at"), now),
        difference(definition, pending),
        served,
    )
    if total > 1:
        return (waiting,)
    first = NewVersion(
        tool_id,
        name,
        1,
        row["definition"],
        str(row.get("discovery_hash")),
        VersionState.SERVED,
        VersionOrigin.DISCOVERY,
        _moment(row.get("created_at"), now),
    )
    return (first, waiting)


def _moment(stored: object, now: datetime) -> datetime:
    return stored if isinstance(stored, datetime) else now
