"""Ports of limits: what keeps them, in memory and in the database."""

from collections.abc import Mapping
from typing import Protocol

from registry.access.limits.quotas import Grant
from registry.access.limits.values import Limit, Period, QuotaKey


class StoredLimits(Protocol):
    """Reads limits. Implemented by `registry.access.limits.repository`."""

    async def every(self) -> Mapping[str, Limit]:
        """Return all limits by their ids.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """


class Quotas(Protocol):
    """Leases quota. Implemented by `registry.access.limits.quota_repository`."""

    async def lease(self, key: QuotaKey, rate: int, period: Period, wanted: int) -> Grant:
        """Take up to *wanted* calls of a rate.

        Raises:
            DatabaseUnavailable: It is unknown whether any were taken.
            QuotaContendedError: Others keep changing it.
        """

    async def give_back(self, key: QuotaKey, period: Period, slot: int, count: int) -> None:
        """Return calls that were leased and not made."""

    async def hold(self, key: QuotaKey, worker: str, most: int, wanted: int) -> int:
        """Hold up to *wanted* permits in place of those that *worker* held; return how many.

        Raises:
            DatabaseUnavailable: It is unknown whether they are held.
            QuotaContendedError: Others keep changing it.
        """
