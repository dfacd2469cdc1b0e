"""Schedule and retry policy of sync jobs. Pure: randomness is passed in, from 0 up to 1."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from packages.models.states import JobState, RunOutcome
from registry.sync.values import Ending

JITTER = 0.1
"""Share of an interval by which it varies, so that servers are not all read at once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When failed jobs are retried: exponential backoff with jitter.

    Attributes:
        max_attempts: Attempts after which a job is dead.
        first_seconds: Delay after the first failure; it doubles with each further one.
        max_seconds: Maximum delay.
    """

    max_attempts: int
    first_seconds: float
    max_seconds: float


def next_round(now: datetime, interval_seconds: float, chance: float) -> datetime:
    """Return when a server is due again: *now* plus an interval, 10 % more or less."""
    spread = 1 + JITTER * (2 * chance - 1)
    return now + timedelta(seconds=interval_seconds * spread)


def retry_seconds(attempts: int, retry_policy: RetryPolicy, chance: float) -> float:
    """Return the delay after that many failures: between half and all of the backoff."""
    doublings = min(attempts - 1, 32)
    wait = min(retry_policy.first_seconds * 2.0**doublings, retry_policy.max_seconds)
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
    """Return the ending of a failed attempt.

    Args:
        error: Why, for people.
        attempts: Number of attempts, including this one.
        retry_policy: When failed jobs are retried.
        chance: From 0 up to 1.
        is_final: Whether a retry cannot help.
        upstream_ms: How long reading the upstream took.
    """
    if is_final or attempts >= retry_policy.max_attempts:
        return Ending(JobState.DEAD, RunOutcome.FAILURE, error, upstream_ms=upstream_ms)
    return Ending(
        JobState.RETRYING,
        RunOutcome.FAILURE,
        error,
        retry_seconds=retry_seconds(attempts, retry_policy, chance),
        upstream_ms=upstream_ms,
    )
