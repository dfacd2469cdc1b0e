"""States that have counted: what a person agreed to once is not done twice.

A state is sealed, so every replica accepts it. The first that does writes its nonce; the database
lets only one of them. Only calls that people confirmed cost this write.
"""

from collections import OrderedDict
from datetime import datetime, timedelta

from packages.database.client import Database
from packages.database.errors import translates_driver_errors
from packages.models.sessions import SpentState
from registry.core.clock import Clock

MAX_REMEMBERED = 10_000
"""Nonces in memory, where there is no database: 0.1 kB each, the oldest are dropped first."""


@translates_driver_errors
class SpentStateRepository:
    """Writes `spent_states`."""

    def __init__(self, database: Database) -> None:
        self._spent = database.document(SpentState)

    async def insert(self, nonce: str, expires_at: datetime) -> bool:
        """Store a nonce; return whether it was not stored before."""
        written = await self._spent.get_pymongo_collection().update_one(
            {"_id": nonce}, {"$setOnInsert": {"expires_at": expires_at}}, upsert=True
        )
        return written.upserted_id is not None


class SpentStates:
    """Lets each state count once.

    Args:
        repository: Shared by all replicas; None if this process is all there is.
    """

    def __init__(self, repository: SpentStateRepository | None, clock: Clock) -> None:
        self._repository = repository
        self._clock = clock
        self._spent: OrderedDict[str, None] = OrderedDict()

    async def spend(self, nonce: str, lifetime: timedelta) -> bool:
        """Whether a state has not counted before; it has from now on.

        Raises:
            DatabaseUnavailable: That cannot be known now. It may have counted.
        """
        if self._repository is not None:
            return await self._repository.insert(nonce, self._clock.now() + lifetime)
        if nonce in self._spent:
            return False
        self._spent[nonce] = None
        if len(self._spent) > MAX_REMEMBERED:
            self._spent.popitem(last=False)
        return True
