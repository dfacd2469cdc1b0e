"""The rules by which quota is leased, for any order of requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.access.limits.quotas import given_back, kept_permits, lease, slot_ms, wanted_of
from registry.access.limits.values import Period

PERIODS = st.sampled_from(list(Period))


@given(
    PERIODS,
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(0, 90_000_000), st.integers(1, 30)), max_size=30),
)
def test_the_leases_of_no_period_exceed_the_rate(
    period: Period, rate: int, requests: list[tuple[int, int]]
) -> None:
    slots: dict[int, int] = {}
    leased: list[tuple[int, int]] = []
    for now_ms, wanted in sorted(requests):
        grant = lease(slots, rate, period, now_ms, wanted)
        slots = dict(grant.slots)
        if grant.count:
            leased.append((now_ms, grant.valid_ms))
            leased[-1] = (now_ms + grant.valid_ms, grant.count)
        assert 0 <= grant.count <= wanted
        assert grant.valid_ms <= slot_ms(period)
    length = period.seconds * 1000
    for last, _ in leased:
        # The latest moments at which the calls of each lease may be made.
        assert sum(count for at, count in leased if last - length < at <= last) <= rate


@given(PERIODS, st.integers(1, 20), st.integers(0, 90_000_000))
def test_whoever_waits_as_long_as_told_gets_a_call(period: Period, rate: int, now_ms: int) -> None:
    slots = lease({}, rate, period, now_ms, rate).slots
    refused = lease(slots, rate, period, now_ms, 1)
    assert refused.count == 0
    assert refused.wait_ms > 0
    assert lease(slots, rate, period, now_ms + refused.wait_ms, 1).count == 1


def test_what_is_given_back_can_be_leased_again() -> None:
    grant = lease({}, 10, Period.MINUTE, 0, 10)
    assert lease(grant.slots, 10, Period.MINUTE, 1_000, 5).count == 0
    slots = given_back(grant.slots, grant.slot, 4)
    assert lease(slots, 10, Period.MINUTE, 1_000, 5).count == 4
    assert given_back({}, 7, 3) == {}


@given(
    PERIODS,
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 90_000_000), st.integers(1, 30)), max_size=30),
)
def test_a_clock_that_is_set_back_does_not_open_a_limit(
    period: Period, rate: int, requests: list[tuple[int, int]]
) -> None:
    slots: dict[int, int] = {}
    leased = 0
    for now_ms, wanted in sorted(requests, reverse=True):
        grant = lease(slots, rate, period, now_ms, wanted)
        slots, leased = dict(grant.slots), leased + grant.count
    assert leased <= rate


def test_what_a_clock_that_was_set_back_had_counted_lapses_after_a_period() -> None:
    day = 86_400_000
    slots = lease({}, 5, Period.MINUTE, day, 5).slots
    refused = lease(slots, 5, Period.MINUTE, 0, 1)
    assert refused.count == 0
    assert refused.wait_ms == 63_000
    assert lease(refused.slots, 5, Period.MINUTE, 63_000, 9).count == 5


def test_a_process_a_little_behind_counts_in_the_slot_of_the_others() -> None:
    slots = lease({}, 10, Period.SECOND, 1_000, 4).slots
    grant = lease(slots, 10, Period.SECOND, 999, 9)
    assert (grant.count, grant.slot, grant.slots, grant.valid_ms) == (6, 10, {10: 10}, 101)


@pytest.mark.parametrize(
    ("rate", "used", "seconds", "wanted"),
    [
        (100, 0, 0, 1),
        (100, 4, 1, 8),
        (100, 90, 1, 25),
        (100, 20, 60, 3),
        (10_000, 1, 3_600, 100),
        (3, 3, 1, 1),
    ],
)
def test_as_much_is_leased_as_will_soon_be_used(
    rate: int, used: int, seconds: float, wanted: int
) -> None:
    assert wanted_of(rate, used, seconds) == wanted


@pytest.mark.parametrize(
    ("most", "used", "peak", "kept"),
    [
        (1, 0, 1, 0),
        (1, 1, 1, 1),
        (30, 0, 0, 0),
        (3, 0, 1, 1),
        (30, 0, 4, 5),
        (30, 0, 29, 10),
        (30, 20, 29, 20),
    ],
)
def test_permits_are_kept_for_the_next_calls_up_to_a_third(
    most: int, used: int, peak: int, kept: int
) -> None:
    assert kept_permits(most, used, peak) == kept


def test_a_rate_of_nothing_refuses_everything() -> None:
    grant = lease({}, 0, Period.SECOND, 5, 1)
    assert (grant.count, grant.wait_ms) == (0, 1000)
