"""Decide whether a server that keeps failing is asked at all. Pure: the time is passed in.

closed      every call goes through; enough failures in a row, close together, open it
open        no call goes through until the cool-down is over
half-open   one call in each cool-down goes through as a probe; the first answer closes it again

What counts as a failure is the caller's to say; see `registry.gateway.transport.bulkhead`.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class CircuitBreakerRules:
    """When a breaker opens, and for how long. Times in seconds.

    Attributes:
        failures: How many in a row open it; 0 for never.
        window_seconds: The last of them must come within this time of the first.
        cool_down_seconds: How long nothing is asked after that, and between two probes.
    """

    failures: int
    window_seconds: float
    cool_down_seconds: float


class CircuitBreaker:
    """The state of one server.

    Every admitted call belongs to an epoch, which ends whenever the state changes. Failures of an
    earlier epoch say nothing about the present one: sixty calls that hang when the breaker opens
    fail one after the other, and must neither fail the probe nor open it again after it closed. An
    answer, however, shows at any time that the server is back.

    A call that got no answer in time may have asked for what takes long. It counts only if no
    other call got its answer during that time: a slow tool must not keep callers from a server
    that works.

    Attributes:
        state: Read it before anything else: while it is closed, calls need not be admitted.
        epoch: Of the calls that are admitted now.
        works: Grows with each call that got its answer.
    """

    __slots__ = ("_failed_at", "_retry_at", "_rules", "epoch", "state", "works")

    def __init__(self, rules: CircuitBreakerRules) -> None:
        self._rules = rules
        self._failed_at: deque[float] = deque(maxlen=rules.failures or 1)
        self._retry_at = 0.0
        self.state = BreakerState.CLOSED
        self.epoch = 0
        self.works = 0

    def admit(self, now: float) -> float:
        """Let a call through, or say how many seconds none will be; 0.0 lets it through."""
        if self.state is BreakerState.CLOSED:
            return 0.0
        if now < self._retry_at:
            return self._retry_at - now
        # A probe that takes longer than the cool-down does not keep the next one from being sent.
        self._enter(BreakerState.HALF_OPEN)
        self._retry_at = now + self._rules.cool_down_seconds
        return 0.0

    def answered(self) -> None:
        """Note that the server began to answer a call."""
        if self.state is not BreakerState.CLOSED:
            self._failed_at.clear()
            self._enter(BreakerState.CLOSED)

    def completed(self) -> None:
        """Note that a call got the whole of its answer."""
        self.works += 1
        if self._failed_at:
            self._failed_at.clear()

    def failed(self, epoch: int, now: float, *, silent_since: int | None = None) -> None:
        """Note that a call admitted in *epoch* failed.

        Args:
            epoch: When it was admitted.
            now: The time.
            silent_since: What `works` was when it began, of a call that got no answer in time.
        """
        if epoch != self.epoch or self.state is BreakerState.OPEN or not self._rules.failures:
            return
        if silent_since is not None and silent_since != self.works:
            return
        failed_at = self._failed_at
        failed_at.append(now)
        if self.state is BreakerState.HALF_OPEN or (
            len(failed_at) == self._rules.failures
            and now - failed_at[0] <= self._rules.window_seconds
        ):
            self._open(now)

    def abandoned(self, epoch: int, now: float) -> None:
        """Note that a call admitted in *epoch* ended without telling anything of the server."""
        if epoch == self.epoch and self.state is BreakerState.HALF_OPEN:
            # The next call may be the probe at once.
            self._retry_at = now

    def _open(self, now: float) -> None:
        self._retry_at = now + self._rules.cool_down_seconds
        self._failed_at.clear()
        self._enter(BreakerState.OPEN)

    def _enter(self, state: BreakerState) -> None:
        self.state = state
        self.epoch += 1
