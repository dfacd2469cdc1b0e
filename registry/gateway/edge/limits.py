"""Limits on calls of tools, kept by all processes together without a database operation per call.

Each process leases quota ahead of need and spends it from memory; `registry.access.limits.quotas`
has the rules. A call waits for the database only where nothing was leased yet; one that is over
the limit is refused from memory until a lease may succeed.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

import structlog

from packages.database.errors import DatabaseUnavailable
from registry.access.limits.decisions import ToolLimits
from registry.access.limits.errors import QuotaContendedError
from registry.access.limits.ports import Quotas
from registry.access.limits.quotas import AHEAD_SECONDS, HOLD_SECONDS, kept_permits, wanted_of
from registry.access.limits.table import LimitTable
from registry.access.limits.values import (
    Limit,
    LimitedTool,
    OnDatabaseLoss,
    QuotaKey,
    Rate,
    SpentLimit,
    key_of,
    words_of,
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

ROUNDS = 10
"""How often a call waits for leases before it is refused."""

FLIGHT = "flight"

FLIGHT_WAIT_SECONDS = 1.0
"""When a call that found no permit is told to try again; when others end is unknown."""

SHORTEST_WAIT_SECONDS = 0.05
HIGH = "high"

MAX_BUCKETS = 100_000
"""Maximum number of callers and tools whose quota is held; those idle longest are dropped."""

SWEPT_AT_ONCE = 500
"""How many of them are looked at before other work may go on."""

RETURNED_AT_ONCE = 20

MAX_COUNTED = 20_000
"""Of how many callers and tools it is kept what their calls are counted in."""

_Address = tuple[str, str, str]
"""Limit, period or `FLIGHT`, and key."""


@dataclass(slots=True, eq=False)
class _Bucket:
    """What this process has of one rate, or of the permits for calls under way, under one key.

    Attributes:
        rate: None for permits.
        units: How many calls may be made: until *valid_until*, and one until *reserve_until*. For
            permits, how many are held.
        lapsed: Calls that were leased and may not be made any more.
        slot: The slot in which they count.
        used: Calls made since the last lease; for permits, calls under way.
        peak: For permits, the most calls under way since the last sweep.
        waiting: Calls that wait for a lease.
        refused_until: Until then there is no point in asking.
        room_at: When there will be room, as far as is known.
        lost_until: Until then it is not leased again, because others kept changing it.
        leased_at: When the last lease, or renewal, was asked for.
        leasing: The lease that is being obtained.
        touched_at: When a call was last counted.
    """

    limit: Limit
    key: QuotaKey
    rate: Rate | None
    touched_at: float
    units: int = 0
    lapsed: int = 0
    slot: int = 0
    used: int = 0
    peak: int = 0
    waiting: int = 0
    valid_until: float = 0.0
    reserve_until: float = 0.0
    refused_until: float = 0.0
    room_at: float = 0.0
    lost_until: float = 0.0
    leased_at: float = 0.0
    leasing: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def most(self) -> int:
        """How many calls may be made in its period, or be under way."""
        return (self.limit.in_flight or 0) if self.rate is None else self.rate.count

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost with it."""
        return not self.units and not self.waiting and not (self.rate is None and self.used)

    def has_room(self, now: float) -> bool:
        """Whether a call can be counted without a lease."""
        if self.rate is None:
            return self.used < self.units and now < self.valid_until
        return self.units > 0 and (now < self.valid_until or now < self.reserve_until)

    def take(self, now: float) -> bool:
        """Count a call; return whether it is time for another lease."""
        self.touched_at = now
        self.used = used = self.used + 1
        if self.rate is None:
            if used > self.peak:  # noqa: PLR1730 - `max` takes longer than all the rest
                self.peak = used
            return used >= self.units and self.units < self.most
        if now < self.valid_until:
            self.units = units = self.units - 1
            return units * 3 <= used
        # The reserve is one call, whatever else was left when the slot ended.
        self.lapsed += self.units - 1
        self.units = 0
        return True

    def surplus(self, now: float) -> int:
        """Take back what is leased and not used: after its slot, or while no calls are made."""
        is_idle = now - self.touched_at > AHEAD_SECONDS
        if now >= self.valid_until or is_idle:
            kept = min(self.units, 1 if now < self.reserve_until else 0)
            self.lapsed += self.units - kept
            self.units = kept
        surplus, self.lapsed = self.lapsed, 0
        return surplus

    def follow(self, limit: Limit, rate: Rate | None) -> None:
        """Go on with a limit that was changed: what was leased counts, and all may be asked."""
        self.limit, self.rate, self.refused_until = limit, rate, 0.0
        self.units = min(self.units, self.most)


@dataclass(frozen=True, slots=True)
class _Counted:
    """What the calls of a tool by a caller are counted in.

    Attributes:
        buckets: While none was dropped.
        dropped: How many buckets had been dropped by then.
    """

    user: UserContext
    limits: ToolLimits
    buckets: tuple[_Bucket, ...]
    dropped: int


class CallLimits:
    """Keeps the limits on calls.

    Args:
        table: The limits.
        quotas: Leases of quota.
        worker: Names this process.
        background_tasks: Runs leases ahead of need.
        clock: The monotonic time of leases.
        metrics: Counts leases, and calls that could not be counted.
        lease_seconds: Longest wait of a call for a lease.
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
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._table = table
        self._quotas = quotas
        self._worker = worker
        self._background_tasks = background_tasks
        self._clock = clock
        self._monotonic = clock.monotonic
        self._uncounted = metrics.limit_calls_uncounted
        self._leases = metrics.limit_leases
        self._buckets: dict[_Address, _Bucket] = {}
        self._counted: dict[tuple[int, int], _Counted] = {}
        self._dropped = 0
        self._is_lost = False
        self._lost_until = 0.0

    @property
    def table(self) -> LimitTable:
        """The limits in memory."""
        return self._table

    @property
    def keys_held(self) -> int:
        """Return for how many callers and tools quota is held."""
        return len(self._buckets)

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
        limits = self._table.known(route.server_id, tool.name, tool)
        if limits is None:
            facts = LimitedTool(
                route.server_id,
                tool.name,
                tool.facets,
                tool.rules.cost_tier,
                route.source_type,
            )
            limits = self._table.find(facts, tool)
        if limits.is_empty:
            return None
        counted = self._counted.get((id(user), id(limits)))
        if (
            counted is None
            or counted.user is not user
            or counted.limits is not limits
            or counted.dropped != self._dropped
        ):
            counted = self._count(user, limits)
        buckets = counted.buckets
        if not buckets or self._taken(exchange, buckets, limits.tool):
            return None
        return self._waited(exchange, buckets, limits.tool)

    async def spent(
        self, user: UserContext, tool: LimitedTool, limits: Sequence[Limit]
    ) -> SpentLimit | None:
        """Return the one of these limits that keeps a call waiting longest; None if none does.

        Nothing is counted. What other processes have leased and not used counts as used.

        Raises:
            DatabaseUnavailable: It cannot be read.
        """
        longest: SpentLimit | None = None
        for limit in limits:
            for at, _, rate in _counted_in(limit, user, tool):
                what = words_of(limit, rate)
                if not (limit.in_flight if rate is None else rate.count):
                    return SpentLimit(what, None)
                wait = await self._wait_seconds(at, limit, rate)
                if wait is not None and (longest is None or wait > (longest.wait_seconds or 0)):
                    longest = SpentLimit(what, wait)
        return longest

    async def _wait_seconds(self, at: _Address, limit: Limit, rate: Rate | None) -> float | None:
        """Return how long a call has to wait; None if it has not."""
        bucket, key = self._buckets.get(at), QuotaKey(*at)
        if bucket is not None and bucket.has_room(self._monotonic()):
            return None
        if rate is not None:
            wait_ms = await self._quotas.wait_ms(key, rate.count, rate.period)
            return None if wait_ms is None else max(wait_ms / 1000, SHORTEST_WAIT_SECONDS)
        used = await self._quotas.held_by_others(key, self._worker)
        used += 0 if bucket is None else bucket.used
        return FLIGHT_WAIT_SECONDS if used >= (limit.in_flight or 0) else None

    def release(self, exchange: GatewayRequest) -> None:
        """Give the permits of a call that has ended back."""
        permits, exchange.permits = exchange.permits, ()
        for bucket, _ in permits:
            if bucket.rate is None:
                bucket.used -= 1

    def uncount(self, exchange: GatewayRequest) -> None:
        """Take a call back that its client has to repeat: the repetition counts."""
        now = self._monotonic()
        for bucket, slot in exchange.permits:
            if bucket.rate is not None and bucket.slot == slot and now < bucket.valid_until:
                bucket.units += 1
                bucket.used = max(0, bucket.used - 1)

    async def follow(self) -> None:
        """Return quota that is not used, and renew permits, for ever."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            await self.sweep()

    async def sweep(self) -> None:
        """Do once what `follow` does."""
        due: list[_Bucket] = []
        for number, (at, bucket) in enumerate([*self._buckets.items()]):
            if number % SWEPT_AT_ONCE == SWEPT_AT_ONCE - 1:
                await self._clock.sleep(0)
            if bucket.leasing is not None:
                continue
            now = self._monotonic()
            if bucket.rate is None:
                if self._is_due(bucket, now):
                    due.append(bucket)
            elif bucket.lapsed or (
                bucket.units
                and (now >= bucket.valid_until or now - bucket.touched_at > AHEAD_SECONDS)
            ):
                due.append(bucket)
            idle_seconds = HOLD_SECONDS if bucket.rate is None else bucket.rate.period.seconds
            if bucket.is_idle and now - bucket.touched_at > idle_seconds:
                self._drop(at)
        for first in range(0, len(due), RETURNED_AT_ONCE):
            await asyncio.gather(*map(self._swept, due[first : first + RETURNED_AT_ONCE]))

    def _is_due(self, bucket: _Bucket, now: float) -> bool:
        """Whether permits are to be renewed, or some of them to be given back."""
        kept = kept_permits(bucket.most, bucket.used, bucket.peak)
        bucket.peak = bucket.used
        if bucket.units > kept:
            # No call may take them while they are given back.
            bucket.units = kept
            return True
        return bucket.used > 0 and now - bucket.leased_at > HOLD_SECONDS / 3

    async def _swept(self, bucket: _Bucket) -> None:
        if bucket.leasing is not None:
            return
        if bucket.rate is None:
            await self._begin(bucket, max(bucket.units, bucket.used))
            return
        surplus = bucket.surplus(self._monotonic())
        if not surplus or self._is_lost:
            return
        try:
            async with asyncio.timeout(self._lease_seconds):
                await self._quotas.give_back(bucket.key, bucket.rate.period, bucket.slot, surplus)
        except (DatabaseUnavailable, QuotaContendedError, TimeoutError):
            # It lapses when its slot does.
            log.debug("limit_quota_not_returned")

    def _count(self, user: UserContext, limits: ToolLimits) -> _Counted:
        """Find what the calls of a tool by a caller are counted in, and keep it.

        Raises:
            LimitsAway: A limit cannot be read.
        """
        found: list[tuple[_Address, Limit, Rate | None]] = []
        dropped = self._dropped
        for limit in limits.applying(user):
            if limit.problem is not None:
                raise LimitsAway
            found += _counted_in(limit, user, limits.tool)
        if len(self._counted) >= MAX_COUNTED:
            self._counted.clear()
        # Holds both, so that no other objects get their ids.
        buckets = tuple([self._bucket(*one) for one in found])
        counted = self._counted[id(user), id(limits)] = _Counted(user, limits, buckets, dropped)
        return counted

    def _bucket(self, at: _Address, limit: Limit, rate: Rate | None) -> _Bucket:
        bucket = self._buckets.get(at)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._drop_idle()
            bucket = self._buckets[at] = _Bucket(limit, QuotaKey(*at), rate, self._monotonic())
        elif bucket.limit is not limit:
            bucket.follow(limit, rate)
        return bucket

    def _drop_idle(self) -> None:
        oldest = sorted(self._buckets.items(), key=lambda item: item[1].touched_at)
        for at, bucket in oldest[: MAX_BUCKETS // 10]:
            if not bucket.waiting and not (bucket.rate is None and bucket.used):
                self._drop(at)

    def _drop(self, at: _Address) -> None:
        # A sweep pauses, so it may have been dropped already.
        if self._buckets.pop(at, None) is not None:
            self._dropped += 1

    def _taken(
        self, exchange: GatewayRequest, buckets: Sequence[_Bucket], tool: LimitedTool
    ) -> bool:
        """Count a call in all buckets, or in none if one of them has no room.

        Raises:
            LimitExceeded: One of them will have none for a while.
            LimitsAway: One of them cannot be asked for, and must be.
        """
        now = self._monotonic()
        counted, uncounted = [], 0
        for bucket in buckets:
            if bucket.has_room(now):
                counted.append(bucket)
            elif now < bucket.refused_until or not bucket.most:
                raise _exceeded(bucket, now)
            elif now < bucket.lost_until or now < self._lost_until:
                if _fails_closed(bucket.limit, tool):
                    raise LimitsAway
                uncounted += 1
            else:
                return False
        if uncounted:
            self._uncounted.inc()
        for bucket in counted:
            if (
                bucket.take(now)
                and bucket.leasing is None
                and now >= bucket.refused_until
                and now >= self._lost_until
            ):
                bucket.leasing = self._lease_soon(bucket)
        exchange.permits = tuple([(bucket, bucket.slot) for bucket in counted])
        return True

    async def _waited(
        self, exchange: GatewayRequest, buckets: Sequence[_Bucket], tool: LimitedTool
    ) -> None:
        for bucket in buckets:
            bucket.waiting += 1
        try:
            for _ in range(ROUNDS):
                now = self._monotonic()
                lacking = [
                    self._lease_soon(bucket)
                    for bucket in buckets
                    if not bucket.has_room(now)
                    and now >= bucket.refused_until
                    and now >= bucket.lost_until
                ]
                if self._is_lost:
                    # One call finds out whether the database is back; others do not wait for it.
                    self._lost_until = now + self._lease_seconds + LOST_SECONDS
                for lease in lacking:
                    await asyncio.shield(lease)
                if self._taken(exchange, buckets, tool):
                    return
        finally:
            for bucket in buckets:
                bucket.waiting -= 1
        # Other calls of this process took what came each time: there is not enough for all.
        now = self._monotonic()
        short = next((bucket for bucket in buckets if not bucket.has_room(now)), buckets[0])
        raise _exceeded(short, now)

    def _lease_soon(self, bucket: _Bucket) -> asyncio.Task[None]:
        """Begin a lease of what is needed soon, unless one is under way."""
        if bucket.leasing is not None:
            return bucket.leasing
        return self._begin(bucket, bucket.used + max(1, bucket.waiting))

    def _begin(self, bucket: _Bucket, permits: int) -> asyncio.Task[None]:
        lease = bucket.leasing = self._background_tasks.start(self._leased(bucket, permits))
        return lease

    async def _leased(self, bucket: _Bucket, permits: int) -> None:
        try:
            async with asyncio.timeout(self._lease_seconds):
                if bucket.rate is None:
                    await self._hold(bucket, permits)
                else:
                    await self._lease(bucket, bucket.rate)
        except QuotaContendedError:
            bucket.lost_until = self._monotonic() + LOST_SECONDS
            self._leases.labels("lost").inc()
            log.warning("limit_quota_contended", limit_id=bucket.limit.id)
        except (DatabaseUnavailable, TimeoutError) as exc:
            self._lose(type(exc).__name__)
        except Exception as exc:
            log.exception("limit_lease_failed")
            self._lose(type(exc).__name__)
        else:
            self._leases.labels("ok").inc()
            if self._is_lost:
                self._is_lost, self._lost_until = False, 0.0
                log.info("limits_kept_again")
        finally:
            bucket.leasing = None

    def _lose(self, error: str) -> None:
        self._leases.labels("lost").inc()
        self._lost_until = self._monotonic() + LOST_SECONDS
        if not self._is_lost:
            self._is_lost = True
            log.warning("limits_lost", error=error)

    async def _lease(self, bucket: _Bucket, rate: Rate) -> None:
        asked_at = self._monotonic()
        if asked_at >= bucket.valid_until:
            bucket.lapsed, bucket.units = bucket.lapsed + bucket.units, 0
        if bucket.lapsed:
            lapsed, bucket.lapsed = bucket.lapsed, 0
            await self._quotas.give_back(bucket.key, rate.period, bucket.slot, lapsed)
        expected = wanted_of(rate.count, bucket.used, asked_at - bucket.leased_at)
        wanted = max(expected, bucket.waiting - bucket.units)
        bucket.used, bucket.leased_at = 0, asked_at
        asked_at = self._monotonic()
        grant = await self._quotas.lease(bucket.key, rate.count, rate.period, wanted)
        if not grant.count:
            bucket.room_at = self._monotonic() + grant.wait_ms / 1000
            bucket.refused_until = min(bucket.room_at, self._monotonic() + ASK_AGAIN_SECONDS)
            return
        if grant.slot != bucket.slot or asked_at >= bucket.valid_until:
            bucket.lapsed, bucket.units = bucket.lapsed + bucket.units, 0
        lapsed, slot = bucket.lapsed, bucket.slot
        bucket.lapsed = 0
        bucket.units += grant.count
        bucket.slot = grant.slot
        bucket.valid_until = asked_at + grant.valid_ms / 1000
        bucket.reserve_until = asked_at + grant.reserve_ms / 1000
        if lapsed:
            await self._quotas.give_back(bucket.key, rate.period, slot, lapsed)

    async def _hold(self, bucket: _Bucket, wanted: int) -> None:
        bucket.leased_at = asked_at = self._monotonic()
        used = bucket.used
        held = await self._quotas.hold(bucket.key, self._worker, bucket.most, wanted)
        bucket.units, bucket.valid_until = held, asked_at + HOLD_SECONDS
        if held < wanted and held <= used:
            bucket.room_at = bucket.refused_until = self._monotonic() + FLIGHT_WAIT_SECONDS


def _counted_in(
    limit: Limit, user: UserContext, tool: LimitedTool
) -> list[tuple[_Address, Limit, Rate | None]]:
    """Return where calls of a tool by a caller are counted for a limit."""
    key = key_of(limit, user, tool)
    found: list[tuple[_Address, Limit, Rate | None]] = [
        ((limit.id, rate.period.value, key), limit, rate) for rate in limit.rates
    ]
    if limit.in_flight is not None:
        found.append(((limit.id, FLIGHT, key), limit, None))
    return found


def _exceeded(bucket: _Bucket, now: float) -> LimitExceeded:
    # Of nothing there is no more later on.
    wait = max(bucket.room_at - now, SHORTEST_WAIT_SECONDS) if bucket.most else None
    rate, what = bucket.rate, words_of(bucket.limit, bucket.rate)
    if rate is None:
        return LimitExceeded(what, wait, None)
    return LimitExceeded(what, wait, (rate.period.value, rate.count, rate.period.seconds))


def _fails_closed(limit: Limit, tool: LimitedTool) -> bool:
    if limit.on_database_loss is not None:
        return limit.on_database_loss is OnDatabaseLoss.CLOSED
    return tool.cost_tier == HIGH
