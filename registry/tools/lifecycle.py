"""Lifecycle of a tool: its states and transitions. Pure.

The table is complete: any other transition is refused. `docs/tool-lifecycle.md` is generated from
it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from packages.models.states import ExposureState, RegistrationState

SELECTED, UNSELECTED, STALE = (
    RegistrationState.SELECTED,
    RegistrationState.UNSELECTED,
    RegistrationState.STALE,
)
DRAFT, ACTIVE, DISABLED, DELETED = (
    ExposureState.DRAFT,
    ExposureState.ACTIVE,
    ExposureState.DISABLED,
    ExposureState.DELETED,
)

State = tuple[RegistrationState, ExposureState]


class LifecycleEvent(StrEnum):
    """What can happen to a tool."""

    SELECT = "select"
    UNSELECT = "unselect"
    EXPOSE = "expose"
    UNEXPOSE = "unexpose"
    DISABLE = "disable"
    DELETE = "delete"
    RESTORE = "restore"
    BLOCK = "block"
    RELEASE = "release"
    VANISH = "vanish"
    RETURN = "return"
    RETURN_CHANGED = "return_changed"


class Actor(StrEnum):
    """Who brings an event about."""

    OPERATOR = "operator"
    POLICY = "policy"
    SYNC = "sync"


MEANINGS: Mapping[LifecycleEvent, tuple[Actor, str]] = {
    LifecycleEvent.SELECT: (Actor.OPERATOR, "choose it; a draft is exposed with that"),
    LifecycleEvent.UNSELECT: (Actor.OPERATOR, "choose it no longer"),
    LifecycleEvent.EXPOSE: (Actor.OPERATOR, "serve it"),
    LifecycleEvent.UNEXPOSE: (Actor.OPERATOR, "serve it no longer, and keep it chosen"),
    LifecycleEvent.DISABLE: (Actor.OPERATOR, "switch it off, whatever becomes of it"),
    LifecycleEvent.DELETE: (Actor.OPERATOR, "remove it from sight; its history stays"),
    LifecycleEvent.RESTORE: (Actor.OPERATOR, "bring a deleted one back, for review"),
    LifecycleEvent.BLOCK: (
        Actor.POLICY,
        "its definition changed, and the owner's policy is `block`",
    ),
    LifecycleEvent.RELEASE: (Actor.POLICY, "that change was decided on"),
    LifecycleEvent.VANISH: (Actor.SYNC, "the upstream offers it no longer"),
    LifecycleEvent.RETURN: (
        Actor.SYNC,
        "the upstream offers it again, and may be trusted with it",
    ),
    LifecycleEvent.RETURN_CHANGED: (
        Actor.SYNC,
        "the upstream offers it again, with another definition that was not reviewed",
    ),
}


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table."""

    before: State
    event: LifecycleEvent
    after: State


def _rows(event: LifecycleEvent, *pairs: tuple[State, State]) -> list[Transition]:
    return [Transition(before, event, after) for before, after in pairs]


def _unchanged(event: LifecycleEvent, *states: State) -> list[Transition]:
    return [Transition(state, event, state) for state in states]


TABLE: tuple[Transition, ...] = (
    *_rows(
        LifecycleEvent.SELECT,
        ((UNSELECTED, DRAFT), (SELECTED, ACTIVE)),
        ((UNSELECTED, DISABLED), (SELECTED, DISABLED)),
    ),
    *_unchanged(
        LifecycleEvent.SELECT, (SELECTED, DRAFT), (SELECTED, ACTIVE), (SELECTED, DISABLED)
    ),
    *_rows(
        LifecycleEvent.UNSELECT,
        ((SELECTED, DRAFT), (UNSELECTED, DRAFT)),
        ((SELECTED, ACTIVE), (UNSELECTED, DRAFT)),
        ((SELECTED, DISABLED), (UNSELECTED, DISABLED)),
        ((STALE, ACTIVE), (STALE, DRAFT)),
    ),
    *_unchanged(
        LifecycleEvent.UNSELECT,
        (UNSELECTED, DRAFT),
        (UNSELECTED, DISABLED),
        (STALE, DRAFT),
        (STALE, DISABLED),
    ),
    *_rows(
        LifecycleEvent.EXPOSE,
        ((SELECTED, DRAFT), (SELECTED, ACTIVE)),
        ((SELECTED, DISABLED), (SELECTED, ACTIVE)),
    ),
    *_unchanged(LifecycleEvent.EXPOSE, (SELECTED, ACTIVE)),
    *_rows(
        LifecycleEvent.UNEXPOSE,
        ((SELECTED, ACTIVE), (SELECTED, DRAFT)),
        ((SELECTED, DISABLED), (SELECTED, DRAFT)),
        ((UNSELECTED, DISABLED), (UNSELECTED, DRAFT)),
        ((STALE, ACTIVE), (STALE, DRAFT)),
        ((STALE, DISABLED), (STALE, DRAFT)),
    ),
    *_unchanged(LifecycleEvent.UNEXPOSE, (SELECTED, DRAFT), (UNSELECTED, DRAFT), (STALE, DRAFT)),
    *_rows(
        LifecycleEvent.DISABLE,
        ((SELECTED, DRAFT), (SELECTED, DISABLED)),
        ((SELECTED, ACTIVE), (SELECTED, DISABLED)),
        ((UNSELECTED, DRAFT), (UNSELECTED, DISABLED)),
        ((STALE, DRAFT), (STALE, DISABLED)),
        ((STALE, ACTIVE), (STALE, DISABLED)),
    ),
    *_unchanged(
        LifecycleEvent.DISABLE, (SELECTED, DISABLED), (UNSELECTED, DISABLED), (STALE, DISABLED)
    ),
    *_rows(
        LifecycleEvent.DELETE,
        ((SELECTED, DRAFT), (UNSELECTED, DELETED)),
        ((SELECTED, ACTIVE), (UNSELECTED, DELETED)),
        ((SELECTED, DISABLED), (UNSELECTED, DELETED)),
        ((UNSELECTED, DRAFT), (UNSELECTED, DELETED)),
        ((UNSELECTED, DISABLED), (UNSELECTED, DELETED)),
        ((STALE, DRAFT), (STALE, DELETED)),
        ((STALE, ACTIVE), (STALE, DELETED)),
        ((STALE, DISABLED), (STALE, DELETED)),
    ),
    *_unchanged(LifecycleEvent.DELETE, (UNSELECTED, DELETED), (STALE, DELETED)),
    *_rows(
        LifecycleEvent.RESTORE,
        ((UNSELECTED, DELETED), (UNSELECTED, DRAFT)),
        ((STALE, DELETED), (STALE, DRAFT)),
    ),
    *_rows(LifecycleEvent.BLOCK, ((SELECTED, ACTIVE), (SELECTED, DISABLED))),
    *_rows(LifecycleEvent.RELEASE, ((SELECTED, DISABLED), (SELECTED, ACTIVE))),
    *_rows(
        LifecycleEvent.VANISH,
        ((SELECTED, DRAFT), (STALE, DRAFT)),
        ((SELECTED, ACTIVE), (STALE, ACTIVE)),
        ((SELECTED, DISABLED), (STALE, DISABLED)),
        ((UNSELECTED, DRAFT), (STALE, DRAFT)),
        ((UNSELECTED, DISABLED), (STALE, DISABLED)),
        ((UNSELECTED, DELETED), (STALE, DELETED)),
    ),
    *_rows(
        LifecycleEvent.RETURN,
        ((STALE, ACTIVE), (SELECTED, ACTIVE)),
        ((STALE, DRAFT), (UNSELECTED, DRAFT)),
        ((STALE, DISABLED), (UNSELECTED, DISABLED)),
        ((STALE, DELETED), (UNSELECTED, DRAFT)),
    ),
    *_rows(
        LifecycleEvent.RETURN_CHANGED,
        ((STALE, ACTIVE), (UNSELECTED, DRAFT)),
        ((STALE, DRAFT), (UNSELECTED, DRAFT)),
        ((STALE, DISABLED), (UNSELECTED, DISABLED)),
        ((STALE, DELETED), (UNSELECTED, DRAFT)),
    ),
)

STATES: tuple[State, ...] = (
    (UNSELECTED, DRAFT),
    (UNSELECTED, DISABLED),
    (UNSELECTED, DELETED),
    (SELECTED, DRAFT),
    (SELECTED, ACTIVE),
    (SELECTED, DISABLED),
    (STALE, DRAFT),
    (STALE, ACTIVE),
    (STALE, DISABLED),
    (STALE, DELETED),
)
"""All possible states. An unselected tool is never active, and a selected one never deleted; a
stale tool remembers whether it was served."""

FIRST: frozenset[State] = frozenset({(SELECTED, ACTIVE), (UNSELECTED, DRAFT)})
"""The possible states of a newly found tool."""

EXPOSED: State = (SELECTED, ACTIVE)

_AFTER: Mapping[tuple[State, LifecycleEvent], State] = {
    (row.before, row.event): row.after for row in TABLE
}


class ImpossibleEventError(Exception):
    """The event is impossible in the tool's state. The message says why."""


def after(state: State, event: LifecycleEvent) -> State:
    """Return the state after *event* in *state*.

    Raises:
        ImpossibleEventError: The table has no such row.
    """
    found = _AFTER.get((state, event))
    if found is None:
        raise ImpossibleEventError(_why_not(state, event))
    return found


def after_all(state: State, events: Iterable[LifecycleEvent]) -> State:
    """Return the state after several events, one after the other.

    Raises:
        ImpossibleEventError: One of them cannot happen.
    """
    for event in events:
        state = after(state, event)
    return state


def _why_not(state: State, event: LifecycleEvent) -> str:
    registration, exposure = state
    if exposure is DELETED:
        return "The tool is deleted; restore it first."
    if registration is STALE and event in {LifecycleEvent.SELECT, LifecycleEvent.EXPOSE}:
        return "The server does not offer the tool any more."
    if event is LifecycleEvent.EXPOSE:
        return "The tool is not selected; select it first."
    if event is LifecycleEvent.RESTORE:
        return "The tool is not deleted."
    return f"A tool that is {registration.value} and {exposure.value} cannot {event.value}."
