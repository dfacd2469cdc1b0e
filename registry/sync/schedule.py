"""When an owner is read again. Pure: chance comes in as a number from 0 up to 1."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from registry.sync.values import Ending, JobState, RunOutcome

JITTER = 0.1
"""Share of an interval by which two rounds may differ, so that owners do not come all at once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failures are treated.

    Attributes:
        most_attempts: Attempts after which a job is given up.
        first_seconds: Wait after the first failure; it doubles with each further one.
        most_seconds: Longest wait.
    """

    most_attempts: int
    first_seconds: float
    most_seconds: float


def next_round(now: datetime, interval_seconds: float, chance: float) -> datetime:
    """Return when an owner is due again: an interval from *now*, a tenth more or less."""
    spread = 1 + JITTER * (2 * chance - 1)
    return now + timedelta(seconds=interval_seconds * spread)


def retry_seconds(attempts: int, retry_policy: RetryPolicy, chance: float) -> float:
    """Return how long to wait after that many failures: from half of the wait up to all of it."""
    doublings = min(attempts - 1, 32)
    wait = min(retry_policy.first_seconds * 2.0**doublings, retry_policy.most_seconds)
    return wait * (0.5 + chance / 2)


def failed(
    error: str,
    attempts: int,
    retry_policy: RetryPolicy,
    chance: float,
    *,
    is_final: bool = False,
    upstream_ms: int | None = None,
) -> Ending:
    """Return what becomes of a job whose attempt failed.

    Args:
        error: Why, for people.
        attempts: How many there were, this one included.
        retry_policy: How failures are treated.
        chance: From 0 up to 1.
        is_final: Whether trying again cannot help.
        upstream_ms: How long reading the upstream took.
    """
    if is_final or attempts >= retry_policy.most_attempts:
        return Ending(JobState.DEAD, RunOutcome.FAILURE, error, upstream_ms=upstream_ms)
    return Ending(
        JobState.RETRYING,
        RunOutcome.FAILURE,
        error,
        retry_seconds=retry_seconds(attempts, retry_policy, chance),
        upstream_ms=upstream_ms,
    )
