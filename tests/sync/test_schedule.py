"""When an owner is read again."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packages.models.states import JobState, RunOutcome
from registry.sync.schedule import RetryPolicy, failed, next_round, retry_seconds

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENCE = RetryPolicy(max_attempts=5, first_seconds=30, max_seconds=600)
chances = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(seconds=st.integers(60, 30 * 86_400), chance=chances)
def test_a_round_comes_an_interval_later_a_tenth_more_or_less(seconds: int, chance: float) -> None:
    due_in = (next_round(NOON, seconds, chance) - NOON) / timedelta(seconds=1)

    assert 0.9 * seconds - 0.001 <= due_in <= 1.1 * seconds + 0.001


@pytest.mark.requirement("R-156")
@given(attempts=st.integers(1, 10_000), chance=chances)
def test_waits_grow_to_their_bound_and_are_spread(attempts: int, chance: float) -> None:
    whole = min(30 * 2.0 ** min(attempts - 1, 32), 600)

    assert whole / 2 <= retry_seconds(attempts, PATIENCE, chance) <= whole


@pytest.mark.requirement("R-156")
@pytest.mark.parametrize(
    ("attempts", "state"),
    [(1, JobState.RETRYING), (4, JobState.RETRYING), (5, JobState.DEAD), (6, JobState.DEAD)],
)
def test_a_job_is_given_up_after_so_many_attempts(attempts: int, state: JobState) -> None:
    ending = failed("It is away.", attempts, PATIENCE, 0.5)

    assert (ending.state, ending.outcome, ending.error) == (
        state,
        RunOutcome.FAILURE,
        "It is away.",
    )
    assert (ending.retry_seconds is None) == (state is JobState.DEAD)


def test_what_time_does_not_help_is_given_up_at_once() -> None:
    assert failed("No such place.", 1, PATIENCE, 0.5, is_final=True).state is JobState.DEAD
