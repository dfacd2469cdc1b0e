"""How fast the feed of changes is read."""

import pytest

from registry.gateway.view.snapshot import GAP_SECONDS, MAX_TOGETHER, ROUND_SECONDS, FeedPacer
from tests.fakes.clock import FakeClock

QUIET = 10 * ROUND_SECONDS


async def heard(
    pace: FeedPacer, clock: FakeClock, *, after: float = 0.0, together: int = 1
) -> float:
    """Hear an answer with some changes, and return how long they had the reader rest."""
    clock.move(after)
    began_at = clock.monotonic()
    for _ in range(together):
        await pace.keep()
    return clock.monotonic() - began_at


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def pace(clock: FakeClock) -> FeedPacer:
    return FeedPacer(clock)


async def test_single_changes_are_read_at_once(pace: FeedPacer, clock: FakeClock) -> None:
    for _ in range(3):
        assert await heard(pace, clock, after=QUIET, together=25) == 0


async def test_what_soon_follows_a_change_waits_for_the_end_of_its_round(
    pace: FeedPacer, clock: FakeClock
) -> None:
    await heard(pace, clock, after=QUIET)

    rested = await heard(pace, clock, after=0.1)

    assert rested == pytest.approx(ROUND_SECONDS - 0.1)


async def test_a_stream_without_an_end_is_read_once_a_round(
    pace: FeedPacer, clock: FakeClock
) -> None:
    began_at = clock.monotonic()
    for _ in range(20):
        await heard(pace, clock, after=2 * GAP_SECONDS, together=MAX_TOGETHER)

    assert clock.monotonic() - began_at == pytest.approx(19 * ROUND_SECONDS, rel=0.1)


async def test_full_answers_are_read_without_a_rest(pace: FeedPacer, clock: FakeClock) -> None:
    rested = [
        await heard(pace, clock, after=2 * GAP_SECONDS, together=MAX_TOGETHER + 1)
        for _ in range(100)
    ]

    assert sum(rested) == 0


async def test_what_follows_the_last_full_answer_waits_again(
    pace: FeedPacer, clock: FakeClock
) -> None:
    await heard(pace, clock, after=QUIET, together=MAX_TOGETHER + 1)
    assert await heard(pace, clock, after=2 * GAP_SECONDS) == 0

    assert await heard(pace, clock, after=2 * GAP_SECONDS) > ROUND_SECONDS / 2
