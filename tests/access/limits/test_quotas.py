"""The rules by which quota is leased, for any order of requests."""

from hypothesis import given
from hypothesis import strategies as st

from registry.access.limits.quotas import given_back, lease, slot_ms
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


def test_a_database_clock_that_is_set_back_does_not_open_a_limit() -> None:
    slots = lease({}, 5, Period.MINUTE, 120_000, 5).slots
    assert lease(slots, 5, Period.MINUTE, 100_000, 1).count == 0
    assert lease(slots, 5, Period.MINUTE, 61_000, 1).count == 0


def test_a_rate_of_nothing_refuses_everything() -> None:
    grant = lease({}, 0, Period.SECOND, 5, 1)
    assert (grant.count, grant.wait_ms) == (0, 1000)
