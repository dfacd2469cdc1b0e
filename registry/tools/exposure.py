"""Exposure: the first state of a tool, and which tools are served. Pure."""

from enum import StrEnum

from packages.models.states import ExposureState, RegistrationState
from registry.core.json import JsonObject
from registry.tools.lifecycle import EXPOSED, State
from registry.tools.metadata import READ_ONLY, known


class AutoExpose(StrEnum):
    """Which tools are served without review."""

    ALL = "all"
    READ_ONLY = "read_only"
    NONE = "none"


class ToolOrigin(StrEnum):
    """When a tool was found."""

    AT_REGISTRATION = "at_registration"
    LATER_ON_PRIVATE = "later_on_private"
    LATER_ON_SHARED = "later_on_shared"


SERVED: State = EXPOSED
WAITING: State = (RegistrationState.UNSELECTED, ExposureState.DRAFT)


def first_state(policy: AutoExpose, origin: ToolOrigin, *, read_only: bool) -> State:
    """Return the state of a newly found tool.

    On shared servers, tools that are found after the registration are served only after a review.
    """
    if origin is ToolOrigin.LATER_ON_SHARED:
        return WAITING
    match policy:
        case AutoExpose.ALL:
            return SERVED
        case AutoExpose.READ_ONLY:
            return SERVED if read_only else WAITING
        case AutoExpose.NONE:
            return WAITING


REVIEWS = ("new", "change")
"""What waits for a decision."""

DRIFT = "drift"


def review_of(
    state: State, *, has_pending: bool, is_reviewed: bool = False, has_drifted: bool = False
) -> str | None:
    """Return the reason why a tool is in the review queue, or None.

    `change` and `new` wait for a decision: a changed definition, or the tool itself. With `drift`
    nothing waits: the served definition is not the upstream's because a person decided so, by a
    rejection or a rollback. Deleted tools are in the queue only after they are restored.

    Args:
        state: The tool's state.
        has_pending: Whether a newer definition waits.
        is_reviewed: Whether a person decided that the tool is not served.
        has_drifted: Whether the upstream offers a definition that was rejected or rolled back.
    """
    if state[1] is ExposureState.DELETED:
        return None
    if has_pending:
        return "change"
    if state == WAITING and not is_reviewed:
        return "new"
    return DRIFT if has_drifted and state == SERVED else None


def is_served(registration: RegistrationState, exposure: ExposureState) -> bool:
    """Whether a tool in these states is served, if its server is active."""
    return (registration, exposure) == SERVED


def reads_only(name: str, annotations: JsonObject | None) -> bool:
    """Whether a tool is read-only: by its annotation, or else by its name."""
    return known(name, annotations, {}).values.get(READ_ONLY) is True
