"""When a server that fails is left alone, and when it is asked again."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from registry.gateway.transport.circuit_breaker import (
    BreakerState,
    CircuitBreaker,
    CircuitBreakerRules,
)

RULES = CircuitBreakerRules(failures=3, window_seconds=30.0, cool_down_seconds=10.0)
ROUNDING = 1e-6


def opened(at: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker(RULES)
    for _ in range(RULES.failures):
        breaker.failed(breaker.epoch, at)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = CircuitBreaker(RULES)

    states = []
    for second in range(3):
        breaker.failed(breaker.epoch, float(second))
        states.append(breaker.state)

    assert states == [BreakerState.CLOSED, BreakerState.CLOSED, BreakerState.OPEN]
    assert breaker.admit(3.0) == 9.0


def test_an_answer_between_failures_starts_the_row_anew() -> None:
    breaker = CircuitBreaker(RULES)
    breaker.failed(breaker.epoch, 0.0)
    breaker.failed(breaker.epoch, 0.0)

    breaker.completed()
    breaker.failed(breaker.epoch, 0.0)
    breaker.failed(breaker.epoch, 0.0)

    assert breaker.state is BreakerState.CLOSED


def test_failures_far_apart_do_not_open_it() -> None:
    breaker = CircuitBreaker(RULES)

    for second in (0.0, 20.0, 40.0, 60.0):
        breaker.failed(breaker.epoch, second)

    assert breaker.state is BreakerState.CLOSED


def test_one_call_goes_through_after_the_cool_down() -> None:
    breaker = opened()

    admitted = [breaker.admit(now) for now in (9.9, 10.0, 10.0, 15.0)]

    assert admitted == [pytest.approx(0.1), 0.0, 10.0, 5.0]
    assert breaker.state is BreakerState.HALF_OPEN


def test_an_answer_to_the_probe_closes_it() -> None:
    breaker = opened()
    breaker.admit(10.0)

    breaker.answered()

    assert breaker.state is BreakerState.CLOSED


def test_a_failed_probe_opens_it_for_another_cool_down() -> None:
    breaker = opened()
    breaker.admit(10.0)

    breaker.failed(breaker.epoch, 12.0)

    assert (breaker.state, breaker.admit(12.0)) == (BreakerState.OPEN, 10.0)


def test_a_probe_that_takes_long_does_not_keep_the_next_from_being_sent() -> None:
    breaker = opened()
    breaker.admit(10.0)

    assert breaker.admit(20.0) == 0.0


def test_a_probe_that_tells_nothing_is_followed_by_another_at_once() -> None:
    breaker = opened()
    breaker.admit(10.0)

    breaker.abandoned(breaker.epoch, 11.0)

    assert breaker.admit(11.0) == 0.0


def test_calls_from_before_neither_fail_the_probe_nor_open_it_anew() -> None:
    breaker = CircuitBreaker(RULES)
    before = breaker.epoch
    for _ in range(RULES.failures):
        breaker.failed(before, 0.0)
    breaker.admit(10.0)

    breaker.failed(before, 11.0)
    probing = breaker.state
    breaker.answered()
    for _ in range(RULES.failures):
        breaker.failed(before, 12.0)

    assert (probing, breaker.state) == (BreakerState.HALF_OPEN, BreakerState.CLOSED)


def test_it_can_be_turned_off() -> None:
    breaker = CircuitBreaker(CircuitBreakerRules(0, 30.0, 10.0))

    for _ in range(100):
        breaker.failed(breaker.epoch, 0.0)

    assert breaker.state is BreakerState.CLOSED


@given(st.lists(st.floats(0, 5), min_size=3, max_size=40))
def test_a_server_that_never_answers_is_asked_at_most_once_in_a_cool_down(
    pauses: list[float],
) -> None:
    breaker, now, asked = opened(), 0.0, []

    for pause in pauses:
        now += pause
        if not breaker.admit(now):
            asked.append(now)

    assert all(later - earlier >= 10.0 for earlier, later in pairwise(asked))


class AnyCourse(RuleBasedStateMachine):
    """Calls that begin and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(RULES)
        self.now = 0.0
        self.under_way: list[int] = []
        self.in_a_row = 0

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule()
    def begin(self) -> None:
        """Begin a call."""
        was = self.breaker.state
        pause = self.breaker.admit(self.now)
        assert 0.0 <= pause <= RULES.cool_down_seconds + ROUNDING
        assert was is not BreakerState.CLOSED or pause == 0.0
        if not pause:
            self.under_way.append(self.breaker.epoch)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Answer one of the calls."""
        self.under_way.remove(data.draw(st.sampled_from(self.under_way)))
        self.breaker.answered()
        self.breaker.completed()
        self.in_a_row = 0
        assert self.breaker.state is BreakerState.CLOSED

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """Let one of the calls fail."""
        epoch = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(epoch)
        was = self.breaker.state
        self.breaker.failed(epoch, self.now)
        self.in_a_row += 1
        if was is BreakerState.CLOSED and self.breaker.state is BreakerState.OPEN:
            assert self.in_a_row >= RULES.failures

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """Let the client of one of the calls go."""
        epoch = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(epoch)
        was = self.breaker.state
        self.breaker.abandoned(epoch, self.now)
        assert self.breaker.state is was

    @invariant()
    def it_is_never_shut_for_good(self) -> None:
        """After a cool-down something always goes through."""
        waiting = self.breaker.state is not BreakerState.CLOSED
        pause = self.breaker._retry_at - self.now if waiting else 0.0
        assert pause <= RULES.cool_down_seconds + ROUNDING


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=50)


def test_slow_calls_count_only_if_nothing_else_was_answered_meanwhile() -> None:
    breaker = CircuitBreaker(RULES)
    began = breaker.works
    breaker.completed()

    for _ in range(2 * RULES.failures):
        breaker.failed(breaker.epoch, 1.0, silent_since=began)
    stays = breaker.state
    for _ in range(RULES.failures):
        breaker.failed(breaker.epoch, 1.0, silent_since=breaker.works)

    assert (stays, breaker.state) == (BreakerState.CLOSED, BreakerState.OPEN)
