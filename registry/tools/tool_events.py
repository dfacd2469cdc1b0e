"""What becomes of a tool, in the words of its history. Pure.

`docs/tool-lifecycle.md` has the table of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from registry.tools.lifecycle import SELECTED, STALE, UNSELECTED, Actor
from registry.tools.reconcile import ToolRowUpdate


class ToolEventType(StrEnum):
    """What happened."""

    DISCOVERED = "discovered"
    SELECTED = "selected"
    UNSELECTED = "unselected"
    EXPOSED = "exposed"
    UNEXPOSED = "unexposed"
    DISABLED = "disabled"
    DELETED = "deleted"
    RESTORED = "restored"
    EDITED = "edited"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    VANISHED = "vanished"
    RETURNED = "returned"
    HELD = "held"
    BLOCKED = "blocked"
    CHANGED = "changed"
    WITHDRAWN = "withdrawn"
    RELEASED = "released"


MEANINGS: Mapping[ToolEventType, tuple[Actor, str]] = {
    ToolEventType.DISCOVERED: (Actor.SYNC, "its server offered it for the first time"),
    ToolEventType.SELECTED: (Actor.OPERATOR, "it was chosen"),
    ToolEventType.UNSELECTED: (Actor.OPERATOR, "it is chosen no longer"),
    ToolEventType.EXPOSED: (Actor.OPERATOR, "it is served from then on"),
    ToolEventType.UNEXPOSED: (Actor.OPERATOR, "it is a draft again"),
    ToolEventType.DISABLED: (Actor.OPERATOR, "it was switched off"),
    ToolEventType.DELETED: (Actor.OPERATOR, "it was removed from sight"),
    ToolEventType.RESTORED: (Actor.OPERATOR, "it was brought back, for review"),
    ToolEventType.EDITED: (Actor.OPERATOR, "name, description, tags or metadata were changed"),
    ToolEventType.ACCEPTED: (Actor.OPERATOR, "what waited is served from then on"),
    ToolEventType.REJECTED: (Actor.OPERATOR, "what waited is not served"),
    ToolEventType.ROLLED_BACK: (Actor.OPERATOR, "another version is served from then on"),
    ToolEventType.VANISHED: (Actor.SYNC, "its server offered it no longer"),
    ToolEventType.RETURNED: (Actor.SYNC, "its server offered it again"),
    ToolEventType.HELD: (Actor.SYNC, "another definition was offered, which waits for review"),
    ToolEventType.BLOCKED: (
        Actor.SYNC,
        "another definition was offered, and the tool is disabled until it is reviewed",
    ),
    ToolEventType.CHANGED: (Actor.SYNC, "another definition was offered, and served at once"),
    ToolEventType.WITHDRAWN: (
        Actor.SYNC,
        "the definition that waited for review is offered no longer",
    ),
    ToolEventType.RELEASED: (Actor.SYNC, "it is switched off no longer for a change that waits"),
}
"""Who brings it about, as a rule, and what it says. A refresh by somebody who reviewed the server
selects tools too."""


@dataclass(frozen=True, slots=True)
class ToolEvent:
    """One event in the history of a tool.

    Attributes:
        id: 24 hexadecimal characters; of two events at the same time, the greater is the later.
        what: All that happened at once.
        actor: An operator, or a sync.
        by: The user who decided, or started the sync; None if unknown.
        version: The number of the definition, if there is one.
        before: The other changed members, by name, with their former values if recorded.
        after: The same members with their new values.
    """

    id: str
    at: datetime
    types: tuple[str, ...]
    actor: str
    by: Mapping[str, str] | None = None
    version: int | None = None
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None


def happened(update: ToolRowUpdate) -> Iterator[ToolEventType]:
    """Yield what a sync changed of a tool."""
    tool = update.tool
    was_stale = tool.registration_state is STALE
    is_stale = update.registration_state is STALE
    if is_stale and not was_stale:
        yield ToolEventType.VANISHED
    if was_stale and not is_stale:
        yield ToolEventType.RETURNED
    elif (tool.registration_state, update.registration_state) == (UNSELECTED, SELECTED):
        yield ToolEventType.SELECTED
    if update.serve is not None:
        yield ToolEventType.CHANGED
    elif update.hold is not None:
        yield ToolEventType.HELD
    elif tool.has_pending and not update.keeps_pending:
        yield ToolEventType.WITHDRAWN
    if update.blocked and not tool.is_blocked:
        yield ToolEventType.BLOCKED
    if tool.is_blocked and not update.blocked:
        yield ToolEventType.RELEASED
