"""Limits on calls of tools, kept by all processes together without a database operation per call.

Each process leases quota ahead of need and spends it from memory; `registry.access.limits.quotas`
has the rules. A call waits for the database only where nothing was leased yet; one that is over
the limit is refused from memory until a lease may succeed.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field

import structlog

from packages.database.errors import DatabaseUnavailable
from registry.access.limits.errors import QuotaContendedError
from registry.access.limits.ports import Quotas
from registry.access.limits.quotas import HOLD_SECONDS, wanted_of
from registry.access.limits.table import LimitTable
from registry.access.limits.values import (
    Limit,
    LimitedTool,
    OnDatabaseLoss,
    QuotaKey,
    Rate,
    key_of,
)
from registry.auth.identity import UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import LimitExceeded, LimitsAway
from registry.gateway.values import Route, ToolEntry

log = structlog.get_logger()

LEASE_SECONDS = 2.0
"""Longest wait of a call for a lease."""

LOST_SECONDS = 1.0
"""How long a failed lease is not tried again."""

ASK_AGAIN_SECONDS = 1.0
"""How long calls are refused from memory: others may have given quota back since."""

SWEEP_SECONDS = 1.0
ROUNDS = 3
"""How often a call waits for leases before it is refused."""

FLIGHT = "flight"
FLIGHT_WAIT_SECONDS = 1.0
HIGH = "high"

MAX_BUCKETS = 100_000
"""Maximum number of callers and tools whose quota is held; those idle longest are dropped."""

SWEPT_AT_ONCE = 200


@dataclass(slots=True, eq=False)
class _Bucket:
    """What this process has of one rate, or of the permits for calls under way, under one key.

    Attributes:
        rate: None for permits.
        units: How many calls may be made: until *valid_until*, and one until *reserve_until*. For
            permits, how many are held.
        slot: The slot in which they count.
        used: Calls made since the last lease; for permits, calls under way.
        refused_until: Until then there is no point in asking.
        room_at: When there will be room, as far as is known.
        lost_until: Until then the database is not asked.
        leasing: The lease that is being obtained.
        touched_at: When a call was last counted.
    """

    limit: Limit
    key: QuotaKey
    rate: Rate | None
    units: int = 0
    slot: int = 0
    used: int = 0
    valid_until: float = 0.0
    reserve_until: float = 0.0
    refused_until: float = 0.0
    room_at: float = 0.0
    lost_until: float = 0.0
    leasing: asyncio.Task[None] | None = field(default=None, repr=False)
    touched_at: float = 0.0
    renewed_at: float = 0.0

    def has_room(self, now: float) -> bool:
        """Whether a call can be counted without a lease."""
        if self.rate is None:
            return self.used < self.units and now < self.valid_until
        return self.units > 0 and (now < self.valid_until or now < self.reserve_until)

    def take(self, now: float) -> None:
        """Count a call."""
        self.touched_at = now
        self.used += 1
        if self.rate is not None:
            self.units -= 1

    def is_low(self, now: float) -> bool:
        """Whether it is time for another lease."""
        if self.rate is None:
            return self.used >= self.units
        return self.units * 3 <= self.used or now >= self.valid_until


class CallLimits:
    """Keeps the limits on calls.

    Args:
        table: The limits.
        quotas: Leases of quota.
        worker: Names this process.
        background_tasks: Runs leases ahead of need.
        clock: The monotonic time of leases.
        metrics: Counts refusals and lost leases.
    """

    def __init__(
        self,
        table: LimitTable,
        quotas: Quotas,
        *,
        worker: str,
        background_tasks: BackgroundTasks,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._table = table
        self._quotas = quotas
        self._worker = worker
        self._background_tasks = background_tasks
        self._clock = clock
        self._monotonic = clock.monotonic
        self._uncounted = metrics.limit_calls_uncounted
        self._leases = metrics.limit_leases
        self._buckets: dict[tuple[str, str, str], _Bucket] = {}

    @property
    def table(self) -> LimitTable:
        """The limits in memory."""
        return self._table

    def take(
        self, exchange: GatewayRequest, user: UserContext, route: Route, tool: ToolEntry
    ) -> Awaitable[None] | None:
        """Count a call; what is returned must be awaited where the database is to be asked.

        Raises:
            LimitExceeded: There is no room.
            LimitsAway: A limit cannot be read, or not kept without the database.
        """
        if self._table.is_empty:
            return None
        found = self._table.about(tool)
        if found is None:
            facts = LimitedTool(route.server_id, tool.name, tool.facets, tool.rules.cost_tier)
            found = self._table.about(tool, facts)
            assert found is not None  # noqa: S101 - known with its facts
        limited, limits = found
        if not limits:
            return None
        buckets: list[_Bucket] = []
        for limit in limits:
            if limit.subjects.names(user):
                if limit.problem is not None:
                    raise LimitsAway
                buckets += self._of(limit, user, limited)
        if not buckets:
            return None
        if self._taken(exchange, buckets, limited):
            return None
        return self._waited(exchange, buckets, limited)

    def release(self, exchange: GatewayRequest) -> None:
        """Give the permits of a call that has ended back."""
        permits, exchange.permits = exchange.permits, ()
        for bucket in permits:
            bucket.used -= 1

    async def follow(self) -> None:
        """Return quota that is not used, and renew permits, for ever."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except (DatabaseUnavailable, QuotaContendedError):
                continue
            except Exception:
                log.exception("limit_sweep_failed")

    async def sweep(self) -> None:
        """Do once what `follow` does."""
        now = self._monotonic()
        for at, bucket in [*self._buckets.items()]:
            if bucket.leasing is not None:
                continue
            if bucket.rate is None:
                await self._sweep_permits(bucket, now)
            else:
                await self._sweep_rate(bucket, now)
            is_idle = now - bucket.touched_at > _idle_seconds(bucket)
            if is_idle and not bucket.units and not (bucket.rate is None and bucket.used):
                del self._buckets[at]

    async def _sweep_rate(self, bucket: _Bucket, now: float) -> None:
        kept = 1 if now < bucket.reserve_until else 0
        if now < bucket.valid_until or bucket.units <= kept:
            if now >= bucket.reserve_until and now >= bucket.valid_until:
                bucket.units = 0
            return
        surplus, bucket.units = bucket.units - kept, kept
        assert bucket.rate is not None  # noqa: S101 - of a rate
        await self._quotas.give_back(bucket.key, bucket.rate.period, bucket.slot, surplus)

    async def _sweep_permits(self, bucket: _Bucket, now: float) -> None:
        most = bucket.limit.in_flight or 0
        has_surplus = bucket.units > bucket.used and now - bucket.touched_at > SWEEP_SECONDS
        is_due = bucket.used > 0 and now - bucket.renewed_at > HOLD_SECONDS / 3
        if has_surplus or is_due:
            await self._hold(bucket, most, bucket.used)

    def _of(self, limit: Limit, user: UserContext, tool: LimitedTool) -> Iterator[_Bucket]:
        key = key_of(limit, user, tool)
        for rate in limit.rates:
            yield self._bucket(limit, rate.period.value, key, rate)
        if limit.in_flight is not None:
            yield self._bucket(limit, FLIGHT, key, None)

    def _bucket(self, limit: Limit, part: str, key: str, rate: Rate | None) -> _Bucket:
        at = (limit.id, part, key)
        bucket = self._buckets.get(at)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._drop_idle()
            bucket = self._buckets[at] = _Bucket(limit, QuotaKey(limit.id, part, key), rate)
        elif bucket.limit is not limit:
            # What was leased still counts; what was refused may be allowed now.
            if bucket.rate != rate:
                bucket.units = min(bucket.units, 0 if rate is None else rate.count)
            bucket.limit, bucket.rate, bucket.refused_until = limit, rate, 0.0
        return bucket

    def _drop_idle(self) -> None:
        oldest = sorted(self._buckets.items(), key=lambda item: item[1].touched_at)
        for at, bucket in oldest[: MAX_BUCKETS // 10]:
            if not (bucket.rate is None and bucket.used):
                del self._buckets[at]

    def _taken(self, exchange: GatewayRequest, buckets: list[_Bucket], tool: LimitedTool) -> bool:
        """Count a call in all buckets, or in none if one of them has no room.

        Raises:
            LimitExceeded: One of them will have none for a while.
            LimitsAway: One of them cannot be asked for, and must be.
        """
        now = self._monotonic()
        counted = []
        for bucket in buckets:
            if bucket.has_room(now):
                counted.append(bucket)
            elif now < bucket.refused_until:
                raise _exceeded(bucket, now)
            elif now < bucket.lost_until:
                if _fails_closed(bucket.limit, tool):
                    raise LimitsAway
                self._uncounted.inc()
            else:
                return False
        for bucket in counted:
            bucket.take(now)
            if bucket.is_low(now) and bucket.leasing is None and now >= bucket.refused_until:
                bucket.leasing = self._background_tasks.start(self._leased(bucket))
        exchange.permits = tuple(bucket for bucket in counted if bucket.rate is None)
        return True

    async def _waited(
        self, exchange: GatewayRequest, buckets: list[_Bucket], tool: LimitedTool
    ) -> None:
        for _ in range(ROUNDS):
            now = self._monotonic()
            lacking = [
                bucket
                for bucket in buckets
                if not bucket.has_room(now)
                and now >= bucket.refused_until
                and now >= bucket.lost_until
            ]
            for bucket in lacking:
                await asyncio.shield(self._begin(bucket))
            if self._taken(exchange, buckets, tool):
                return
        # Other calls of this process took what came each time: there is not enough for all.
        now = self._monotonic()
        short = next((bucket for bucket in buckets if not bucket.has_room(now)), buckets[0])
        raise _exceeded(short, now)

    def _begin(self, bucket: _Bucket) -> asyncio.Task[None]:
        """Begin a lease, unless one is under way."""
        if bucket.leasing is None:
            bucket.leasing = self._background_tasks.start(self._leased(bucket))
        return bucket.leasing

    async def _leased(self, bucket: _Bucket) -> None:
        try:
            async with asyncio.timeout(LEASE_SECONDS):
                if bucket.rate is None:
                    await self._hold(bucket, bucket.limit.in_flight or 0, bucket.used + 1)
                else:
                    await self._lease(bucket, bucket.rate)
            self._leases.labels("ok").inc()
        except (DatabaseUnavailable, QuotaContendedError, TimeoutError) as exc:
            bucket.lost_until = self._monotonic() + LOST_SECONDS
            self._leases.labels("lost").inc()
            log.warning("limit_lease_failed", error=type(exc).__name__)
        finally:
            bucket.leasing = None

    async def _lease(self, bucket: _Bucket, rate: Rate) -> None:
        if bucket.units and self._monotonic() >= bucket.valid_until:
            units, bucket.units = bucket.units, 0
            await self._quotas.give_back(bucket.key, rate.period, bucket.slot, units)
        wanted, bucket.used = wanted_of(rate.count, bucket.used), 0
        grant = await self._quotas.lease(bucket.key, rate.count, rate.period, wanted)
        now = self._monotonic()
        if not grant.count:
            bucket.room_at = now + grant.wait_ms / 1000
            bucket.refused_until = min(bucket.room_at, now + ASK_AGAIN_SECONDS)
            return
        same_slot = grant.slot == bucket.slot and now < bucket.valid_until
        bucket.units = grant.count + (bucket.units if same_slot else 0)
        bucket.slot = grant.slot
        bucket.valid_until = now + grant.valid_ms / 1000
        bucket.reserve_until = now + grant.reserve_ms / 1000

    async def _hold(self, bucket: _Bucket, most: int, wanted: int) -> None:
        before = bucket.used
        held = await self._quotas.hold(bucket.key, self._worker, most, wanted)
        now = self._monotonic()
        bucket.units, bucket.renewed_at = held, now
        bucket.valid_until = now + HOLD_SECONDS
        if held <= before and wanted > before:
            bucket.room_at = bucket.refused_until = now + FLIGHT_WAIT_SECONDS


def _exceeded(bucket: _Bucket, now: float) -> LimitExceeded:
    wait = max(bucket.room_at - now, 0.05)
    rate = bucket.rate
    per = " and ".join(one.value.replace("_", " ") for one in bucket.limit.per)
    each = f" for each {per}" if per else ""
    if rate is None:
        what = f"{bucket.limit.in_flight} calls at a time{each}"
        return LimitExceeded(what, wait, None)
    what = f"{rate.count} calls a {rate.period.value}{each}"
    return LimitExceeded(what, wait, (rate.period.value, rate.count, rate.period.seconds))


def _fails_closed(limit: Limit, tool: LimitedTool) -> bool:
    if limit.on_database_loss is not None:
        return limit.on_database_loss is OnDatabaseLoss.CLOSED
    return tool.cost_tier == HIGH


def _idle_seconds(bucket: _Bucket) -> float:
    return HOLD_SECONDS if bucket.rate is None else 2.0 * bucket.rate.period.seconds
