"""Effects of a decision on the record of a tool. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packages.models.states import ExposureState, RegistrationState, VersionState
from packages.models.tools import MAX_TAGS
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, load_text
from registry.tools.exposure import WAITING
from registry.tools.governance.errors import (
    NothingPendingError,
    ToolStateError,
    ToolSupersededError,
)
from registry.tools.governance.values import ToolPatch, ToolVersionRecord
from registry.tools.intake import take
from registry.tools.lifecycle import (
    ImpossibleEventError,
    LifecycleEvent,
    State,
    after,
    after_all,
)
from registry.tools.presentation import Overrides
from registry.tools.values import StoredTool, ToolDefinition
from registry.tools.versions import VersionMove

TO_REGISTRATION = {
    RegistrationState.SELECTED: LifecycleEvent.SELECT,
    RegistrationState.UNSELECTED: LifecycleEvent.UNSELECT,
}
TO_EXPOSURE = {
    ExposureState.ACTIVE: LifecycleEvent.EXPOSE,
    ExposureState.DISABLED: LifecycleEvent.DISABLE,
    ExposureState.DELETED: LifecycleEvent.DELETE,
}


REJECTED_KEPT = 50
"""Maximum number per tool, the latest: an upstream that often changes must not grow the row."""

SAID = frozenset({"display_name", "description", "metadata", "tags", "add_tags", "remove_tags"})
"""Members of a patch that change the overrides of a tool."""


@dataclass(frozen=True, slots=True)
class ToolDecisionEffects:
    """The changes to write.

    Attributes:
        state: The tool's new states.
        serve: The definition to serve from now on; None to keep the served one.
        served_version: Its number.
        overrides: The new overrides; None to keep them.
        ends_pending: Whether nothing is pending any more.
        seen: Hash and JSON text of the upstream's definition, if it is neither served nor pending.
        rejected_hashes: The new hashes of rejected definitions; None to keep them.
        reviewed: Whether it was decided that the tool is not served; None to keep the value.
        ends_block: Whether the tool is no longer disabled by a blocked change.
        versions: New states of versions.
    """

    state: State
    serve: ToolDefinition | None = None
    served_version: int | None = None
    overrides: Overrides | None = None
    ends_pending: bool = False
    seen: tuple[str, str] | None = None
    rejected_hashes: tuple[str, ...] | None = None
    reviewed: bool | None = None
    ends_block: bool = False
    versions: tuple[VersionMove, ...] = ()


def accepted(tool: StoredTool, seen: str) -> ToolDecisionEffects:
    """Return the effects of accepting what waits for review.

    Raises:
        NothingPendingError: There is nothing to accept.
        ToolSupersededError: *seen* is not its hash.
        ToolStateError: It cannot be served.
    """
    _require_seen(tool, seen)
    change = _change(tool)
    if change is None:
        return ToolDecisionEffects(after(tool.state, LifecycleEvent.SELECT))
    state = tool.state
    if tool.is_blocked:
        state = _moved(state, LifecycleEvent.RELEASE)
    elif state == WAITING:
        state = after(state, LifecycleEvent.SELECT)
    moves = [VersionMove(tool.id, tool.served_version, VersionState.SUPERSEDED)]
    if tool.pending_version is not None:
        served = VersionState.SERVED
        moves.append(VersionMove(tool.id, tool.pending_version, served, is_decision=True))
    return ToolDecisionEffects(
        state,
        serve=_definition(change[1]),
        served_version=tool.pending_version or tool.served_version,
        ends_pending=True,
        rejected_hashes=_unrejected(tool, change[0]),
        ends_block=True,
        versions=tuple(moves),
    )


def rejected(tool: StoredTool, seen: str) -> ToolDecisionEffects:
    """Return the effects of rejecting what waits for review.

    The served definition stays; a blocked tool stays disabled, and a new one becomes disabled.

    Raises:
        NothingPendingError: There is nothing to reject.
        ToolSupersededError: *seen* is not its hash.
    """
    _require_seen(tool, seen)
    change = _change(tool)
    if change is None:
        return ToolDecisionEffects(after(tool.state, LifecycleEvent.DISABLE))
    others = [one for one in tool.rejected_hashes if one != change[0]]
    moves: tuple[VersionMove, ...] = ()
    if tool.pending_version is not None:
        state = VersionState.REJECTED
        moves = (VersionMove(tool.id, tool.pending_version, state, is_decision=True),)
    return ToolDecisionEffects(
        tool.state,
        ends_pending=True,
        seen=change,
        rejected_hashes=(*others, change[0])[-REJECTED_KEPT:],
        ends_block=True,
        versions=moves,
    )


def rolled_back(tool: StoredTool, version: ToolVersionRecord) -> ToolDecisionEffects:
    """Return the effects of serving another version.

    What waits for review stays pending, unless it is that version.

    Raises:
        ToolStateError: It is already served.
    """
    if version.version == tool.served_version:
        raise ToolStateError("That version is already served.")
    is_pending = version.version == tool.pending_version
    moves = (
        VersionMove(tool.id, tool.served_version, VersionState.SUPERSEDED),
        VersionMove(tool.id, version.version, VersionState.SERVED, is_decision=True),
    )
    offered = _offered_beside(tool)
    waits = tool.pending_hash is not None and not is_pending
    return ToolDecisionEffects(
        _moved(tool.state, LifecycleEvent.RELEASE)
        if is_pending and tool.is_blocked
        else tool.state,
        serve=_definition(version.definition),
        served_version=version.version,
        ends_pending=is_pending,
        seen=None if waits or offered[0] == version.discovery_hash else offered,
        rejected_hashes=_unrejected(tool, version.discovery_hash),
        ends_block=is_pending,
        versions=moves,
    )


def patched(tool: StoredTool, patch: ToolPatch) -> ToolDecisionEffects:
    """Return the effects of a person's changes.

    Raises:
        ToolStateError: The tool's states do not allow it.
        ValidationFailedError: It would have too many tags.
    """
    overrides = None
    if patch.given & SAID:
        before = tool.overrides
        overrides = Overrides(
            patch.display_name if "display_name" in patch.given else before.display_name,
            patch.description if "description" in patch.given else before.description,
            _merged(before.metadata, patch.metadata),
            _tagged(before.tags, patch),
        )
    events = events_to(tool.state, patch.registration_state, patch.exposure_state)
    try:
        state = after_all(tool.state, events)
    except ImpossibleEventError as exc:
        raise ToolStateError(str(exc)) from None
    return ToolDecisionEffects(
        state,
        overrides=overrides,
        reviewed=_is_reviewed(tool, state, events),
        # A change of the state decides about the tool, not about its definition.
        ends_block=bool(events) and tool.is_blocked,
    )


def events_to(
    state: State, registration: RegistrationState | None, exposure: ExposureState | None
) -> list[LifecycleEvent]:
    """Return the events that lead from a tool's states to the given ones.

    Raises:
        ToolStateError: No event of an operator does.
    """
    events: list[LifecycleEvent] = []
    if exposure is ExposureState.DRAFT and state[1] is ExposureState.DELETED:
        events.append(LifecycleEvent.RESTORE)
    if registration is RegistrationState.STALE:
        raise ToolStateError("Only the server decides whether a tool is stale.")
    if registration is not None:
        events.append(TO_REGISTRATION[registration])
    if exposure is ExposureState.DRAFT and LifecycleEvent.RESTORE not in events:
        events.append(LifecycleEvent.UNEXPOSE)
    elif exposure is not None and exposure is not ExposureState.DRAFT:
        events.append(TO_EXPOSURE[exposure])
    return events


def audit_changes(tool: StoredTool, decision: ToolDecisionEffects) -> JsonObject:
    """Return the audit details of a decision: what differs, before and after."""
    before, later = _shown(tool), dict(_shown(tool))
    later |= {
        "registration_state": decision.state[0].value,
        "exposure_state": decision.state[1].value,
    }
    if decision.served_version is not None:
        later["served_version"] = decision.served_version
    if decision.ends_pending:
        later["pending_version"] = None
    if decision.overrides is not None:
        later |= {
            "display_name": decision.overrides.display_name,
            "description": decision.overrides.description,
            "metadata": dict(decision.overrides.metadata),
            "tags": list(decision.overrides.tags),
        }
    names = [name for name in before if before[name] != later[name]]
    return {
        "tool": tool.name,
        "owner_id": tool.owner_id,
        "before": {name: before[name] for name in names},
        "after": {name: later[name] for name in names},
    }


def _shown(tool: StoredTool) -> dict[str, Any]:
    return {
        "registration_state": tool.registration_state.value,
        "exposure_state": tool.exposure_state.value,
        "served_version": tool.served_version,
        "pending_version": tool.pending_version,
        "display_name": tool.overrides.display_name,
        "description": tool.overrides.description,
        "metadata": dict(tool.overrides.metadata),
        "tags": list(tool.overrides.tags),
    }


def _unrejected(tool: StoredTool, accepted_hash: str) -> tuple[str, ...] | None:
    """Return the rejected definitions without one that a person decides on again."""
    if accepted_hash not in tool.rejected_hashes:
        return None
    return tuple(one for one in tool.rejected_hashes if one != accepted_hash)


def _offered_beside(tool: StoredTool) -> tuple[str, str]:
    """Return hash and JSON text of the upstream's last definition, if it is not pending."""
    if tool.seen_hash is not None and tool.seen_definition is not None:
        return tool.seen_hash, tool.seen_definition
    return tool.discovery_hash, tool.definition or "{}"


def _is_reviewed(tool: StoredTool, state: State, events: Sequence[LifecycleEvent]) -> bool | None:
    """Return the new value of `reviewed`; None to keep it."""
    reviewed = bool(events) and LifecycleEvent.RESTORE not in events
    if state != WAITING or not events or reviewed is tool.is_reviewed:
        return None
    return reviewed


def _require_seen(tool: StoredTool, seen: str) -> None:
    if _change(tool) is None and tool.state != WAITING:
        raise NothingPendingError
    if seen != tool.decision_hash:
        raise ToolSupersededError(tool.decision_hash)


def _change(tool: StoredTool) -> tuple[str, str] | None:
    """Return hash and text of the pending definition; None if it is incomplete."""
    digest, text = tool.pending_hash, tool.pending_definition
    return None if digest is None or text is None else (digest, text)


def _moved(state: State, event: LifecycleEvent) -> State:
    try:
        return after(state, event)
    except ImpossibleEventError:
        # A later change of its state was a decision too.
        return state


def _merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**before, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _tagged(before: Sequence[str], patch: ToolPatch) -> tuple[str, ...]:
    """Return the new tags of a tool, each once."""
    kept = patch.tags if "tags" in patch.given else before
    wanted = dict.fromkeys((*kept, *patch.add_tags))
    tags = tuple(tag for tag in wanted if tag not in patch.remove_tags)
    if len(tags) > MAX_TAGS and len(tags) > len(before):
        raise ValidationFailedError("add_tags", f"would leave more than {MAX_TAGS} tags")
    return tags


def _definition(text: str) -> ToolDefinition:
    """Return a stored definition, validated like an upstream's."""
    try:
        taken = take([load_text(text)])
    except (ValueError, RecursionError):
        raise ToolStateError("The definition cannot be served: it is not a JSON object.") from None
    if not taken.tools:
        raise ToolStateError(f"That definition cannot be served: it {taken.rejected[0].reason}.")
    return taken.tools[0]
