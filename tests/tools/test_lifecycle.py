"""The table of a tool's life, and what holds in all of it."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from packages.models.states import ExposureState, RegistrationState
from registry.tools.exposure import is_served
from registry.tools.lifecycle import (
    EXPOSED,
    FIRST,
    MEANINGS,
    STATES,
    TABLE,
    Actor,
    ImpossibleEventError,
    LifecycleEvent,
    State,
    after,
    after_all,
)

SYNC = {event for event, (actor, _) in MEANINGS.items() if actor is Actor.SYNC}


@pytest.mark.requirement("R-062")
def test_the_table_leads_from_states_to_states_and_is_no_riddle() -> None:
    assert len({(row.before, row.event) for row in TABLE}) == len(TABLE)
    assert {row.before for row in TABLE} | {row.after for row in TABLE} | FIRST == set(STATES)
    assert set(MEANINGS) == set(LifecycleEvent) == {row.event for row in TABLE}


@pytest.mark.requirement("R-069")
@pytest.mark.requirement("R-065")
@pytest.mark.requirement("R-066")
def test_in_no_state_is_something_exposed_that_must_not_be() -> None:
    exposed = [state for state in STATES if is_served(*state)]

    assert exposed == [EXPOSED]
    assert (RegistrationState.UNSELECTED, ExposureState.ACTIVE) not in STATES
    assert (RegistrationState.SELECTED, ExposureState.DELETED) not in STATES


@pytest.mark.requirement("R-161")
def test_what_is_offered_no_longer_is_stale_and_never_deleted_for_that() -> None:
    for row in TABLE:
        if row.event is LifecycleEvent.VANISH:
            assert row.after == (RegistrationState.STALE, row.before[1])
        if row.event in SYNC:
            assert row.after[1] is not ExposureState.DELETED or row.before[1] is row.after[1]


@pytest.mark.requirement("R-070")
def test_a_deleted_tool_comes_back_unexposed() -> None:
    for event in (LifecycleEvent.RETURN, LifecycleEvent.RETURN_CHANGED):
        gone = (RegistrationState.STALE, ExposureState.DELETED)
        assert after(gone, event) == (RegistrationState.UNSELECTED, ExposureState.DRAFT)


@pytest.mark.parametrize(
    ("state", "event", "why"),
    [
        ((RegistrationState.UNSELECTED, ExposureState.DELETED), LifecycleEvent.SELECT, "deleted"),
        (
            (RegistrationState.UNSELECTED, ExposureState.DRAFT),
            LifecycleEvent.EXPOSE,
            "not selected",
        ),
        ((RegistrationState.STALE, ExposureState.ACTIVE), LifecycleEvent.SELECT, "does not offer"),
        (
            (RegistrationState.SELECTED, ExposureState.ACTIVE),
            LifecycleEvent.RESTORE,
            "not deleted",
        ),
        (
            (RegistrationState.SELECTED, ExposureState.ACTIVE),
            LifecycleEvent.RETURN,
            "cannot return",
        ),
    ],
)
def test_what_the_table_does_not_name_is_refused_with_a_reason(
    state: State, event: LifecycleEvent, why: str
) -> None:
    with pytest.raises(ImpossibleEventError, match=why):
        after(state, event)


def test_selecting_and_unexposing_makes_a_chosen_draft() -> None:
    draft = (RegistrationState.UNSELECTED, ExposureState.DRAFT)

    assert after(draft, LifecycleEvent.SELECT) == EXPOSED
    assert after_all(draft, [LifecycleEvent.SELECT, LifecycleEvent.UNEXPOSE]) == (
        RegistrationState.SELECTED,
        ExposureState.DRAFT,
    )


class Life(RuleBasedStateMachine):
    """Everything that may happen to a tool, in any order."""

    @initialize(first=st.sampled_from(sorted(FIRST)))
    def begin(self, first: State) -> None:
        """Find the tool."""
        self.state = first
        self.is_offered = True
        self.was_deleted = False

    @rule(event=st.sampled_from(sorted(set(LifecycleEvent) - SYNC)))
    def operate(self, event: LifecycleEvent) -> None:
        """Do what an operator, or a policy, may try."""
        try:
            self.state = after(self.state, event)
        except ImpossibleEventError:
            return
        self.was_deleted = self.state[1] is ExposureState.DELETED

    @rule(is_changed=st.booleans())
    def sync(self, is_changed: bool) -> None:  # noqa: FBT001 - drawn by name
        """Read the upstream, which offers the tool or no longer."""
        if self.is_offered:
            self.state = after(self.state, LifecycleEvent.VANISH)
        else:
            self.state = after(
                self.state, LifecycleEvent.RETURN_CHANGED if is_changed else LifecycleEvent.RETURN
            )
            self.was_deleted = False
        self.is_offered = not self.is_offered

    @invariant()
    def holds(self) -> None:
        """Check what must hold always."""
        if not hasattr(self, "state"):
            return
        registration, exposure = self.state
        assert self.state in STATES
        assert (registration is RegistrationState.STALE) is not self.is_offered
        assert (exposure is ExposureState.DELETED) is self.was_deleted
        if is_served(*self.state):
            assert registration is RegistrationState.SELECTED
            assert self.is_offered
            assert not self.was_deleted


Life.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase
