"""Limits without a database: the same rules, in memory, for any number of processes."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

from typing_extensions import override

from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable
from packages.database.server_time import ServerTime
from registry.access.limits.ports import Quotas
from registry.access.limits.quotas import HOLD_SECONDS, Grant, given_back, lease
from registry.access.limits.table import LimitTable
from registry.access.limits.values import Limit, Period, QuotaKey
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.gateway.edge.limits import CallLimits


class FakeLimits:
    """Limits that a test sets."""

    def __init__(self, *limits: Limit) -> None:
        self.limits = limits

    async def every(self) -> Mapping[str, Limit]:
        """Return them."""
        return {limit.id: limit for limit in self.limits}


class FakeQuotas:
    """Quota in memory, shared by all that are given the same object.

    Attributes:
        is_away: Whether every request fails.
        hangs: Whether no request is answered.
        requests: How many there were.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slots: dict[str, Mapping[int, int]] = {}
        self._holders: dict[str, dict[str, tuple[int, float]]] = {}
        self.is_away = False
        self.hangs = False
        self.requests = 0

    async def lease(self, key: QuotaKey, rate: int, period: Period, wanted: int) -> Grant:
        """Take up to *wanted* calls of a rate."""
        await self._ask()
        now_ms = int(self._clock.monotonic() * 1000)
        grant = lease(self._slots.get(key.document_id, {}), rate, period, now_ms, wanted)
        self._slots[key.document_id] = grant.slots
        return grant

    async def give_back(self, key: QuotaKey, period: Period, slot: int, count: int) -> None:  # noqa: ARG002 - slots have numbers of their own
        """Return calls that were not made."""
        await self._ask()
        slots = self._slots.get(key.document_id, {})
        self._slots[key.document_id] = given_back(slots, slot, count)

    async def hold(self, key: QuotaKey, worker: str, most: int, wanted: int) -> int:
        """Hold permits."""
        await self._ask()
        now = self._clock.monotonic()
        holders = self._holders.setdefault(key.document_id, {})
        taken = sum(
            count for name, (count, until) in holders.items() if name != worker and until > now
        )
        held = max(0, min(wanted, most - taken))
        holders[worker] = (held, now + HOLD_SECONDS)
        return held

    async def wait_ms(self, key: QuotaKey, rate: int, period: Period) -> int | None:
        """Return how long a call of a rate has to wait."""
        await self._ask()
        now_ms = int(self._clock.monotonic() * 1000)
        grant = lease(self._slots.get(key.document_id, {}), rate, period, now_ms, 1)
        return None if grant.count else grant.wait_ms

    async def held_by_others(self, key: QuotaKey, worker: str) -> int:
        """Return the permits of other processes."""
        await self._ask()
        now = self._clock.monotonic()
        holders = self._holders.get(key.document_id, {})
        return sum(
            count for name, (count, until) in holders.items() if name != worker and until > now
        )

    async def _ask(self) -> None:
        self.requests += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.is_away:
            raise DatabaseUnavailable


def call_limits(
    table: LimitTable,
    quotas: Quotas,
    clock: Clock,
    worker: str = "worker",
    metrics: Metrics | None = None,
    *,
    lease_seconds: float = 0.5,
) -> CallLimits:
    """Return what one process keeps limits with.

    Give a real database long to answer: what takes longer counts as its absence.
    """
    return CallLimits(
        table,
        quotas,
        worker=worker,
        background_tasks=BackgroundTasks(),
        clock=clock,
        metrics=metrics or Metrics(),
        lease_seconds=lease_seconds,
    )


class FakeServerTime(ServerTime):
    """The time of a database whose clock a test sets.

    Attributes:
        ahead: Of the test's clock.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, now=clock.now, monotonic=clock.monotonic)
        self._clock = clock
        self.ahead = timedelta()

    @override
    async def now(self) -> datetime:
        """Return the time."""
        return self._clock.now() + self.ahead
