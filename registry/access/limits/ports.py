"""Ports of limits: what keeps them, in memory and in the database."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from registry.access.limits.quotas import Grant
from registry.access.limits.values import Limit, LimitedTool, Period, QuotaKey, SpentLimit
from registry.auth.identity import UserContext


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

    async def wait_ms(self, key: QuotaKey, rate: int, period: Period) -> int | None:
        """Return how long it takes until a call may be leased; None if one may be now.

        Raises:
            DatabaseUnavailable: It cannot be read.
        """

    async def held_by_others(self, key: QuotaKey, worker: str) -> int:
        """Return how many permits other processes than *worker* hold.

        Raises:
            DatabaseUnavailable: It cannot be read.
        """

    async def hold(self, key: QuotaKey, worker: str, most: int, wanted: int) -> int:
        """Hold up to *wanted* permits in place of those that *worker* held; return how many.

        Raises:
            DatabaseUnavailable: It is unknown whether they are held.
            QuotaContendedError: Others keep changing it.
        """


class LimitUse(Protocol):
    """Knows what is left of limits. Implemented by `registry.gateway.edge.limits`."""

    async def spent(
        self, user: UserContext, tool: LimitedTool, limits: Sequence[Limit]
    ) -> SpentLimit | None:
        """Return the one of these limits that keeps a call waiting longest; None if none does.

        Nothing is counted. What other processes have leased and not used counts as used.

        Raises:
            DatabaseUnavailable: It cannot be read.
        """
