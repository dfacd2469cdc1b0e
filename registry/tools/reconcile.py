"""Reconciliation: from what an upstream offers and what is stored to changes. Pure.

An unchanged upstream changes nothing. A missing tool becomes stale, and is never deleted; one that
is offered with an invalid definition stays served as it was. A tool that comes back is served
again only if it was before, and its definition is the same or may be trusted. A rejected
definition stays rejected, whatever the policy is and however often it is offered again, until a
person accepts it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from packages.models.states import ExposureState, RegistrationState
from registry.core.definitions import Rejection
from registry.core.json import load_text
from registry.tools.differences import DefinitionDifference, Weight, difference
from registry.tools.exposure import (
    WAITING,
    AutoExpose,
    ToolOrigin,
    first_state,
    is_served,
    reads_only,
)
from registry.tools.lifecycle import LifecycleEvent, State, after
from registry.tools.values import StoredTool, ToolDefinition, ToolSnapshot


@dataclass(frozen=True, slots=True)
class ToolInsert:
    """A tool seen for the first time."""

    definition: ToolDefinition
    registration_state: RegistrationState
    exposure_state: ExposureState
    position: int

    @property
    def is_served(self) -> bool:
        """Whether clients get it."""
        return is_served(self.registration_state, self.exposure_state)


class OnChange(StrEnum):
    """What happens to a changed definition of a served tool."""

    ACCEPT = "accept"
    HOLD = "hold"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class ToolRowUpdate:
    """A change of a stored tool.

    Attributes:
        tool: The tool before the change.
        serve: The definition to serve from now on; None to keep the stored one.
        hold: A newer definition that waits for review, or None.
        drift: A definition that was rejected and is offered again, or None.
        keeps_pending: Whether a pending definition stays pending.
        blocked: Whether the tool is disabled until the change is reviewed.
        difference: From the served definition to the newer one, if there is one.
    """

    tool: StoredTool
    registration_state: RegistrationState
    exposure_state: ExposureState
    serve: ToolDefinition | None = None
    hold: ToolDefinition | None = None
    drift: ToolDefinition | None = None
    keeps_pending: bool = False
    blocked: bool = False
    difference: DefinitionDifference | None = None

    @property
    def name(self) -> str:
        """Return the tool's name."""
        return self.tool.name

    @property
    def offered(self) -> ToolDefinition | None:
        """Return the newly offered definition that was not served before."""
        return self.serve or self.hold or self.drift


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes to write.

    Attributes:
        mended: Names of tools that are valid again after an invalid definition.
        broken: Stored tools that the upstream now offers with an invalid definition.
    """

    inserts: tuple[ToolInsert, ...]
    updates: tuple[ToolRowUpdate, ...]
    mended: tuple[str, ...] = ()
    broken: tuple[Rejection, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether the upstream offers the same as before."""
        return not (self.inserts or self.updates or self.mended or self.broken)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules for changes.

    Attributes:
        on_change: What happens to changed definitions.
        accept: Serve new and changed tools at once, because a person has reviewed them.
    """

    auto_expose: AutoExpose
    origin: ToolOrigin
    on_change: OnChange = OnChange.HOLD
    accept: bool = False


def default_on_change(*, is_shared: bool) -> OnChange:
    """Return the policy of a server without one: stricter for shared servers."""
    return OnChange.HOLD if is_shared else OnChange.ACCEPT


def changed_names(snapshot: ToolSnapshot, stored: Mapping[str, StoredTool]) -> list[str]:
    """Return the stored tools for which the upstream's definition is or was not the served one.

    `reconcile` and the writing of its result need their definitions.
    """
    return [
        tool.name
        for tool in snapshot.tools
        if (row := stored.get(tool.name)) is not None
        and (row.discovery_hash != tool.discovery_hash or row.offered_hash != row.discovery_hash)
    ]


def reconcile(snapshot: ToolSnapshot, stored: Mapping[str, StoredTool], rules: Rules) -> Changes:
    """Return the changes that bring *stored* up to *snapshot*."""
    inserts: list[ToolInsert] = []
    updates: list[ToolRowUpdate] = []
    offered = {tool.name: tool for tool in snapshot.tools}
    for position, tool in enumerate(snapshot.tools):
        row = stored.get(tool.name)
        if row is None:
            inserts.append(_insert(tool, position, rules))
        elif (update := _update(tool, row, rules)) is not None:
            updates.append(update)
    # Not removed, only invalid: the approved definition stays served.
    broken = {tool.name: tool for tool in snapshot.rejected if tool.name not in offered}
    for name, row in stored.items():
        if (
            name not in {*offered, *broken}
            and row.registration_state is not RegistrationState.STALE
        ):
            state = after((row.registration_state, row.exposure_state), LifecycleEvent.VANISH)
            updates.append(ToolRowUpdate(row, *state, keeps_pending=True, blocked=row.is_blocked))
    return Changes(
        inserts=tuple(inserts),
        updates=tuple(updates),
        mended=tuple(
            name for name, row in stored.items() if name in offered and row.sync_error is not None
        ),
        broken=tuple(
            tool
            for name, tool in broken.items()
            if name in stored and stored[name].sync_error != tool.reason
        ),
    )


def _insert(tool: ToolDefinition, position: int, rules: Rules) -> ToolInsert:
    origin = ToolOrigin.AT_REGISTRATION if rules.accept else rules.origin
    read_only = _vouched(tool, rules)
    registration, exposure = first_state(rules.auto_expose, origin, read_only=read_only)
    return ToolInsert(tool, registration, exposure, position)


def _update(tool: ToolDefinition, row: StoredTool, rules: Rules) -> ToolRowUpdate | None:
    before = (row.registration_state, row.exposure_state)
    is_other = tool.discovery_hash != row.discovery_hash
    # A pending definition is served if the policy has changed to serve it.
    is_trusted_now = rules.on_change is OnChange.ACCEPT and tool.discovery_hash == row.pending_hash
    is_news = tool.discovery_hash != row.offered_hash or is_trusted_now
    difference = _difference(row, tool) if is_other else None
    is_rejected = tool.discovery_hash in row.rejected_hashes and not rules.accept
    trusts = _trusts(rules, difference) and not is_rejected
    state = before
    if row.registration_state is RegistrationState.STALE:
        is_trusted = not is_other or (is_news and trusts) or rules.accept
        state = after(
            before, LifecycleEvent.RETURN if is_trusted else LifecycleEvent.RETURN_CHANGED
        )
    if rules.accept and state == WAITING:
        state = _accepted(tool, rules)
    if not is_other:
        return _as_served(row, before, state)
    if is_rejected and is_news:
        return ToolRowUpdate(row, *state, drift=tool)
    if rules.accept or (is_news and (trusts or not is_served(*state))):
        if row.is_blocked and state == _BLOCKED:
            state = after(state, LifecycleEvent.RELEASE)
        return ToolRowUpdate(row, *state, serve=tool, difference=difference)
    if not is_news:
        if state == before:
            return None
        return ToolRowUpdate(row, *state, keeps_pending=True, blocked=row.is_blocked)
    blocks = rules.on_change is OnChange.BLOCK and is_served(*state)
    if blocks:
        state = after(state, LifecycleEvent.BLOCK)
    blocked = blocks or (row.is_blocked and state == _BLOCKED)
    return ToolRowUpdate(row, *state, hold=tool, blocked=blocked, difference=difference)


def _as_served(row: StoredTool, before: State, state: State) -> ToolRowUpdate | None:
    """Return the update of a tool that is offered as it is served."""
    if row.is_blocked and state == _BLOCKED:
        # The blocked definition is not offered any more.
        state = after(state, LifecycleEvent.RELEASE)
    if state == before and not row.has_pending and row.seen_hash is None:
        return None
    return ToolRowUpdate(row, *state)


def _difference(row: StoredTool, tool: ToolDefinition) -> DefinitionDifference:
    if row.definition is None:
        raise ValueError("the definition of a changed tool must be known")
    return difference(load_text(row.definition), load_text(tool.definition))


def _trusts(rules: Rules, difference: DefinitionDifference | None) -> bool:
    """Whether a changed definition is served without a review."""
    if rules.accept or rules.on_change is OnChange.ACCEPT or difference is None:
        return True
    return difference.weight is Weight.COSMETIC


def _accepted(tool: ToolDefinition, rules: Rules) -> State:
    read_only = _vouched(tool, rules)
    return first_state(rules.auto_expose, ToolOrigin.AT_REGISTRATION, read_only=read_only)


def _vouched(tool: ToolDefinition, rules: Rules) -> bool:
    """Whether a tool is read-only, if that matters: to find out costs time for every new tool."""
    return rules.auto_expose is AutoExpose.READ_ONLY and reads_only(tool.name, tool.annotations)


_BLOCKED: State = (RegistrationState.SELECTED, ExposureState.DISABLED)
