"""The database's time, which replicas agree on whatever their own clocks say."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from packages.database.client import Database

TIME_SECONDS = 60.0
"""How long the measured difference between the clocks is used."""

PROMPT_SECONDS = 1.0
"""An answer within this time is taken as of the moment of the request."""


class ServerTime:
    """The database's time, read periodically and extrapolated in between.

    Args:
        database: Whose.
        now: The local time, for servers that do not tell theirs.
        monotonic: Seconds that pass.
        seconds: How long the measured difference between the clocks is used.
    """

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        seconds: float = TIME_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._command = database.db.command
        self._now = now
        self._monotonic = monotonic
        self._time = now()
        self._asked_at = -math.inf

    async def now(self) -> datetime:
        """Return the time; asks the database where the last answer is too old.

        It is ahead by at most the latency of the request and never behind, so that nothing that is
        due is missed. After a slow answer it may be behind.
        """
        since = self._monotonic() - self._asked_at
        if since > self._seconds:
            asked_at = self._monotonic()
            answer = await self._command("hello")
            since = self._monotonic() - asked_at
            if since > PROMPT_SECONDS:
                asked_at, since = asked_at + since, 0.0
            self._asked_at = asked_at
            local_time = answer.get("localTime")
            self._time = self._now()
            if isinstance(local_time, datetime):
                # Answers to commands may come without a time zone; BSON has only UTC.
                self._time = local_time.replace(tzinfo=UTC)
        return self._time + timedelta(seconds=since)
