"""Metrics of tokens: counted operations, and gauges of stored tokens."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import Counter

from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.tokens.repository import TokenRepository

log = structlog.get_logger()

COUNTED_EVERY_SECONDS = 15.0
COUNT_SECONDS = 2.0
"""Longest wait for the database; the other metrics matter most when it is slow."""


@contextmanager
def counted(operations: Counter, operation: str) -> Iterator[None]:
    """Count an operation as `success`, or as `failure` if it raises."""
    try:
        yield
    except BaseException:
        operations.labels(operation, "failure").inc()
        raise
    operations.labels(operation, "success").inc()


class TokenGauges:
    """Gauges of stored tokens, which are counted when metrics are read, at a limited rate."""

    def __init__(self, repository: TokenRepository, *, clock: Clock, metrics: Metrics) -> None:
        self._repository = repository
        self._clock = clock
        self._active = metrics.tokens_active
        self._users = metrics.tokens_active_users
        self._expired = metrics.tokens_expired
        self._counted_at = float("-inf")

    async def refresh(self) -> None:
        """Count again unless done recently. Without the database the gauges stay unchanged."""
        now = self._clock.monotonic()
        if now - self._counted_at < COUNTED_EVERY_SECONDS:
            return
        # Set before the wait, so that concurrent readers do not count as well.
        self._counted_at = now
        try:
            async with asyncio.timeout(COUNT_SECONDS):
                counts = await self._repository.counts(self._clock.now())
        except (TimeoutError, DatabaseUnavailable):
            log.warning("token_count_failed")
            return
        for kind, count in counts.active_by_type.items():
            self._active.labels(kind.value).set(count)
        self._users.set(counts.active_users)
        self._expired.set(counts.expired)
