"""Repository of `limit_quotas`. The only module that writes them.

A lease is computed from what is stored and written only if that is still stored, so the rules of
`quotas` hold for all processes; times are the database's, so their own clocks do not matter.
"""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc
from packages.database.errors import translates_driver_errors
from packages.database.server_time import ServerTime
from packages.database.stored import whole_of
from packages.models.limits import LimitQuota
from registry.access.limits.errors import QuotaContendedError
from registry.access.limits.quotas import (
    HOLD_SECONDS,
    Grant,
    Jump,
    after_jumps,
    given_back,
    lease,
)
from registry.access.limits.values import Period, QuotaKey
from registry.core.clock import Clock
from registry.core.json import members

log = structlog.get_logger()

ATTEMPTS = 50
"""How often a lease is tried while other processes take some of the same quota."""

TIME_SECONDS = 0.2
"""How long the database's time is extrapolated: for so long may two processes differ about it
after it jumped."""

JUMP_MS = 2_000
"""From here on the database's clock has jumped; below, an answer may have been slow."""

MAX_JUMPS = 10

KEPT_SECONDS = 86_400
"""How long a document is kept after nothing of it counts any more: a clock that jumps ahead must
not have the database remove what still counts."""

FAR = datetime(1970, 1, 1, tzinfo=UTC)


@translates_driver_errors
class QuotaRepository:
    """Leases quota of limits to this process.

    Args:
        database: Holds the quota.
        time: Its time, not older than `TIME_SECONDS`.
        clock: Tells how much time passed, and pauses between attempts.
    """

    def __init__(self, database: Database, time: ServerTime, clock: Clock) -> None:
        self._rows = database.document(LimitQuota).get_pymongo_collection()
        self._time = time
        self._clock = clock
        self._read: tuple[int, float] | None = None
        self._jumps: tuple[Jump, ...] = ()

    async def lease(self, key: QuotaKey, rate: int, period: Period, wanted: int) -> Grant:
        """Take up to *wanted* calls of a rate.

        Raises:
            QuotaContendedError: Others keep changing it.
        """
        for attempt in range(ATTEMPTS):
            row = await self._row(key)
            now_ms = await self._now_ms()
            slots = after_jumps(_slots(row), period, self._jumps)
            grant = lease(slots, rate, period, now_ms, wanted)
            if grant.count == 0 and not grant.is_moved:
                return grant
            if await self._store(
                key, row, {"slots": _stored(grant.slots)}, now_ms, period.seconds
            ):
                return grant
            await self._pause(attempt)
        raise QuotaContendedError

    async def give_back(self, key: QuotaKey, period: Period, slot: int, count: int) -> None:
        """Return calls that were leased and not made."""
        for attempt in range(ATTEMPTS):
            row = await self._row(key)
            slots = _slots(row)
            if slot not in slots:
                return
            slots = given_back(slots, slot, count)
            now_ms = await self._now_ms()
            if await self._store(key, row, {"slots": _stored(slots)}, now_ms, period.seconds):
                return
            await self._pause(attempt)

    async def hold(self, key: QuotaKey, worker: str, most: int, wanted: int) -> int:
        """Hold up to *wanted* permits in place of those that this process held; return how many.

        Raises:
            QuotaContendedError: Others keep changing it.
        """
        for attempt in range(ATTEMPTS):
            row = await self._row(key)
            now_ms = await self._now_ms()
            others = _live_holders(row, now_ms, self._jumps)
            others.pop(worker, None)
            taken = sum(one["count"] for one in others.values())
            held = max(0, min(wanted, most - taken))
            if held:
                others[worker] = {"count": held, "until": now_ms + int(HOLD_SECONDS * 1000)}
            if await self._store(key, row, {"holders": others}, now_ms, int(HOLD_SECONDS)):
                return held
            await self._pause(attempt)
        raise QuotaContendedError

    async def wait_ms(self, key: QuotaKey, rate: int, period: Period) -> int | None:
        """Return how long it takes until a call may be leased; None if one may be now."""
        row = await self._row(key)
        now_ms = await self._now_ms()
        grant = lease(after_jumps(_slots(row), period, self._jumps), rate, period, now_ms, 1)
        return None if grant.count else grant.wait_ms

    async def held_by_others(self, key: QuotaKey, worker: str) -> int:
        """Return how many permits other processes than *worker* hold."""
        row = await self._row(key)
        others = _live_holders(row, await self._now_ms(), self._jumps)
        others.pop(worker, None)
        return sum(one["count"] for one in others.values())

    async def _row(self, key: QuotaKey) -> Doc:
        return await self._rows.find_one({"_id": key.document_id}) or {}

    async def _now_ms(self) -> int:
        """Return the database's time in milliseconds since 1970, and note when it jumps ahead."""
        now_ms = int((await self._time.now()).timestamp() * 1000)
        now = self._clock.monotonic()
        if self._read is not None:
            before_ms, before = self._read
            by_ms = now_ms - before_ms - int((now - before) * 1000)
            if abs(by_ms) > JUMP_MS:
                log.warning("database_clock_jumped", seconds=by_ms / 1000)
            if by_ms > JUMP_MS:
                self._jumps = (*self._jumps[1 - MAX_JUMPS :], Jump(now_ms, by_ms))
        self._read = now_ms, now
        return now_ms

    async def _pause(self, attempt: int) -> None:
        await self._clock.sleep(secrets.randbelow(1 + min(attempt, 10)) / 1000)

    async def _store(
        self, key: QuotaKey, row: Doc, changes: Doc, now_ms: int, seconds: int
    ) -> bool:
        """Write changes to what *row* was read from; return False if it has changed."""
        until = timedelta(milliseconds=now_ms, seconds=2 * seconds + KEPT_SECONDS)
        changes["expires_at"] = FAR + until
        if not row:
            new = {
                "_id": key.document_id,
                "limit_id": key.limit_id,
                "slots": {},
                "holders": {},
                **changes,
                "revision": 1,
            }
            try:
                await self._rows.insert_one(new)
            except DuplicateKeyError:
                return False
            return True
        revision = whole_of(row.get("revision")) or 0
        result = await self._rows.update_one(
            {"_id": key.document_id, "revision": row.get("revision")},
            {"$set": {**changes, "revision": revision + 1}},
        )
        return result.matched_count == 1


def _slots(row: Mapping[str, Any]) -> dict[int, int]:
    found = {}
    for at, count in members(row.get("slots")).items():
        number = whole_of(count)
        if at.isdecimal() and number is not None and number > 0:
            found[int(at)] = number
    return found


def _stored(slots: Mapping[int, int]) -> Doc:
    return {str(at): count for at, count in slots.items() if count}


def _live_holders(
    row: Mapping[str, Any], now_ms: int, jumps: tuple[Jump, ...]
) -> dict[str, dict[str, int]]:
    """Return the holders whose permits count, whichever way the database's clock jumped."""
    hold_ms = int(HOLD_SECONDS * 1000)
    found = {}
    for name, holder in members(row.get("holders")).items():
        stored = members(holder)
        count, until = whole_of(stored.get("count")) or 0, whole_of(stored.get("until")) or 0
        for jump in jumps:
            if until - hold_ms <= jump.at_ms - jump.by_ms:
                until += jump.by_ms
        if count > 0 and until > now_ms:
            found[name] = {"count": count, "until": min(until, now_ms + hold_ms)}
    return found
