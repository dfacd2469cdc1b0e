"""Repository of `limit_quotas`. The only module that writes them.

A lease is computed from what is stored and written only if that is still stored, so the rules of
`quotas` hold for all processes; times are the database's.
"""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc
from packages.database.errors import translates_driver_errors
from packages.database.server_time import ServerTime
from packages.database.stored import whole_of
from packages.models.limits import LimitQuota
from registry.access.limits.errors import QuotaContendedError
from registry.access.limits.quotas import HOLD_SECONDS, Grant, given_back, lease
from registry.access.limits.values import Period, QuotaKey
from registry.core.clock import Clock
from registry.core.json import members

ATTEMPTS = 50
"""How often a lease is tried while other processes take some of the same quota."""

FAR = datetime(1970, 1, 1, tzinfo=UTC)


@translates_driver_errors
class QuotaRepository:
    """Leases quota of limits to this process."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._rows = database.document(LimitQuota).get_pymongo_collection()
        self._clock = clock
        self._time = ServerTime(database, now=clock.now, monotonic=clock.monotonic)

    async def now_ms(self) -> int:
        """Return the database's time in milliseconds since 1970."""
        return int((await self._time.now()).timestamp() * 1000)

    async def lease(self, key: QuotaKey, rate: int, period: Period, wanted: int) -> Grant:
        """Take up to *wanted* calls of a rate.

        Raises:
            QuotaContendedError: Others keep changing it.
        """
        for attempt in range(ATTEMPTS):
            row = await self._rows.find_one({"_id": key.document_id}) or {}
            now_ms = await self.now_ms()
            grant = lease(_slots(row), rate, period, now_ms, wanted)
            if grant.count == 0:
                return grant
            if await self._store(key, row, {"slots": _stored(grant.slots)}, period.seconds * 2):
                return grant
            await self._pause(attempt)
        raise QuotaContendedError

    async def give_back(self, key: QuotaKey, period: Period, slot: int, count: int) -> None:
        """Return calls that were leased and not made."""
        for attempt in range(ATTEMPTS):
            row = await self._rows.find_one({"_id": key.document_id})
            if row is None:
                return
            slots = given_back(_slots(row), slot, count)
            if await self._store(key, row, {"slots": _stored(slots)}, period.seconds * 2):
                return
            await self._pause(attempt)

    async def hold(self, key: QuotaKey, worker: str, most: int, wanted: int) -> int:
        """Hold up to *wanted* permits in place of those that this process held; return how many.

        Raises:
            QuotaContendedError: Others keep changing it.
        """
        for attempt in range(ATTEMPTS):
            row = await self._rows.find_one({"_id": key.document_id}) or {}
            now_ms = await self.now_ms()
            others = _live_holders(row, now_ms)
            others.pop(worker, None)
            taken = sum(whole_of(one.get("count")) or 0 for one in others.values())
            held = max(0, min(wanted, most - taken))
            if held:
                until = now_ms + int(HOLD_SECONDS * 1000)
                others[worker] = {"count": held, "until": until}
            if await self._store(key, row, {"holders": others}, int(HOLD_SECONDS * 2)):
                return held
            await self._pause(attempt)
        raise QuotaContendedError

    async def _pause(self, attempt: int) -> None:
        await self._clock.sleep(secrets.randbelow(1 + min(attempt, 10)) / 1000)

    async def _store(self, key: QuotaKey, row: Doc, changes: Doc, seconds: int) -> bool:
        """Write changes to what *row* was read from; return False if it has changed."""
        now_ms = await self.now_ms()
        changes["expires_at"] = FAR + timedelta(milliseconds=now_ms, seconds=seconds)
        revision = whole_of(row.get("revision"))
        if revision is None:
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
        result = await self._rows.update_one(
            {"_id": key.document_id, "revision": revision},
            {"$set": {**changes, "revision": revision + 1}},
        )
        return result.matched_count == 1


def _slots(row: Mapping[str, Any]) -> dict[int, int]:
    found = {}
    for at, count in members(row.get("slots")).items():
        number = whole_of(count)
        if at.isdecimal() and number is not None:
            found[int(at)] = number
    return found


def _stored(slots: Mapping[int, int]) -> Doc:
    return {str(at): count for at, count in slots.items() if count}


def _live_holders(row: Mapping[str, Any], now_ms: int) -> dict[str, dict[str, Any]]:
    holders = {name: members(one) for name, one in members(row.get("holders")).items()}
    return {
        name: dict(one)
        for name, one in holders.items()
        if (whole_of(one.get("until")) or 0) > now_ms
    }
