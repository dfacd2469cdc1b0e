"""What becomes of a tool, in the words of its history. Pure.

`docs/tool-lifecycle.md` has the table of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from registry.tools.lifecycle import SELECTED, STALE, UNSELECTED, Actor
from registry.tools.reconcile import ToolUpdate


class Happening(StrEnum):
    """What happened."""

    DISCOVERED = "discovered"
    SELECTED = "selected"
    UNSELECTED = "unselected"
    EXPOSED = "exposed"
    WITHDRAWN = "withdrawn"
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
    TAKEN_BACK = "taken_back"
    RELEASED = "released"


MEANINGS: Mapping[Happening, tuple[Actor, str]] = {
    Happening.DISCOVERED: (Actor.SYNC, "its server offered it for the first time"),
    Happening.SELECTED: (Actor.OPERATOR, "it was chosen"),
    Happening.UNSELECTED: (Actor.OPERATOR, "it is chosen no longer"),
    Happening.EXPOSED: (Actor.OPERATOR, "it is served from then on"),
    Happening.WITHDRAWN: (Actor.OPERATOR, "it is a draft again"),
    Happening.DISABLED: (Actor.OPERATOR, "it was switched off"),
    Happening.DELETED: (Actor.OPERATOR, "it was removed from sight"),
    Happening.RESTORED: (Actor.OPERATOR, "it was brought back, for review"),
    Happening.EDITED: (Actor.OPERATOR, "name, description, tags or metadata were changed"),
    Happening.ACCEPTED: (Actor.OPERATOR, "what waited is served from then on"),
    Happening.REJECTED: (Actor.OPERATOR, "what waited is not served"),
    Happening.ROLLED_BACK: (Actor.OPERATOR, "another version is served from then on"),
    Happening.VANISHED: (Actor.SYNC, "its server offered it no longer"),
    Happening.RETURNED: (Actor.SYNC, "its server offered it again"),
    Happening.HELD: (Actor.SYNC, "another definition was offered, which waits for review"),
    Happening.BLOCKED: (Actor.SYNC, "likewise, and it was switched off until then"),
    Happening.CHANGED: (Actor.SYNC, "another definition was offered, and served at once"),
    Happening.TAKEN_BACK: (Actor.SYNC, "what waited for review is offered no longer"),
    Happening.RELEASED: (Actor.SYNC, "it is switched off no longer for a change that waits"),
}
"""Who brings it about, as a rule, and what it says. A refresh by somebody who reviewed the server
selects tools too."""


@dataclass(frozen=True, slots=True)
class ToolEvent:
    """One moment in the life of a tool.

    Attributes:
        id: 24 hexadecimal characters; of two at the same moment the greater is the later.
        what: What happened, all of it at once.
        actor: Who brought it about: an operator, or a reading of the upstream.
        by: Who decided, or had the upstream read; None for nobody or where it is not known.
        version: The number of the definition concerned, if there is one.
        before: What else was before, by name; what was not recorded is left out.
        after: Likewise.
    """

    id: str
    at: datetime
    what: tuple[str, ...]
    actor: str
    by: Mapping[str, str] | None = None
    version: int | None = None
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None


def happened(update: ToolUpdate) -> Iterator[Happening]:
    """Yield what a reading of the upstream did to a tool."""
    tool = update.tool
    was_stale = tool.registration_state is STALE
    is_stale = update.registration_state is STALE
    if is_stale and not was_stale:
        yield Happening.VANISHED
    if was_stale and not is_stale:
        yield Happening.RETURNED
    elif (tool.registration_state, update.registration_state) == (UNSELECTED, SELECTED):
        yield Happening.SELECTED
    if update.serve is not None:
        yield Happening.CHANGED
    elif update.hold is not None:
        yield Happening.HELD
    elif tool.has_pending and not update.keeps_pending:
        yield Happening.TAKEN_BACK
    if update.withheld and not tool.is_withheld:
        yield Happening.BLOCKED
    if tool.is_withheld and not update.withheld:
        yield Happening.RELEASED
