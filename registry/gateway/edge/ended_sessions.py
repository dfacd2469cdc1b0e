"""Ended client sessions, reported to all workers and, through the database, to all replicas.

A session id is sealed, so that every replica serves it and none stores it: without a report, a
replica would serve an ended session until it expires. The documents hold all that other replicas
need, so that the change stream suffices. Requests never look here: each worker's seal knows the
ended sessions (`registry.gateway.edge.session_seal`).
"""

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import TypeAlias

import orjson
import structlog

from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable, translates_driver_errors
from packages.models.sessions import EndedSession
from registry.core.clock import Clock
from registry.gateway.edge.session_seal import MAX_ENDED, is_session_name
from registry.gateway.ports import Peers

log = structlog.get_logger()

WRITE_SECONDS = 2.0
"""How long the end of a session waits for the database."""

NAMES_AT_ONCE = 1_000
"""Names that are processed before other tasks get a turn."""

SessionEnded: TypeAlias = Callable[[str, str | None], None]
"""Receives the name of an ended session, and its nonce if the gateway is its server."""


@translates_driver_errors
class EndedSessionRepository:
    """Writes and reads `ended_sessions`."""

    def __init__(self, database: Database) -> None:
        self._ended = database.document(EndedSession)

    async def write(self, key: str, ended_at: datetime, expires_at: datetime) -> None:
        """Store that a session has ended."""
        times = {"ended_at": ended_at, "expires_at": expires_at}
        await self._ended.find_one({"_id": key}).update({"$setOnInsert": times}, upsert=True)

    async def latest(self, now: datetime, limit: int) -> list[str]:
        """Return the latest ended sessions that would not have expired."""
        # Through the driver, because there may be 50,000, of which only the ids are needed.
        rows = self._ended.get_pymongo_collection().find(
            {"expires_at": {"$gt": now}}, {"_id": 1}, sort=[("expires_at", -1)], limit=limit
        )
        return [str(row["_id"]) async for row in rows]


class EndedSessions:
    """Reports sessions that clients have ended, and receives the reports of others.

    Args:
        peers: The other workers.
        repository: Reaches the other replicas; None if there are none.
        lifetime: Maximum lifetime of a session.
    """

    def __init__(
        self,
        peers: Peers,
        repository: EndedSessionRepository | None,
        *,
        lifetime: timedelta,
        clock: Clock,
    ) -> None:
        self._peers = peers
        self._repository = repository
        self._lifetime = lifetime
        self._clock = clock
        self._listeners: list[SessionEnded] = []

    def listen(self, listener: SessionEnded) -> None:
        """Call *listener* with each session that has ended in another replica."""
        self._listeners.append(listener)

    async def report(self, name: str, nonce: str | None = None) -> None:
        """Report a session that has ended here to all workers and replicas.

        Without the database, other replicas serve it until it expires; that is logged.
        """
        message = {"kind": "ended", "session": nonce, "name": name}
        await self._peers.broadcast(orjson.dumps(message))
        if self._repository is None:
            return
        now = self._clock.now()
        key = name if nonce is None else f"{name}:{nonce}"
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._repository.write(key, now, now + self._lifetime)
        except (DatabaseUnavailable, TimeoutError) as exc:
            log.warning("session_end_write_failed", error=type(exc).__name__)

    async def apply(self, keys: Collection[str]) -> None:
        """Apply stored ends; an empty key stands for an unknown one.

        Raises:
            DatabaseUnavailable: The stored ends cannot be read.
        """
        for key in keys:
            if key:
                self._take(key)
        if "" not in keys or self._repository is None:
            return
        latest = await self._repository.latest(self._clock.now(), MAX_ENDED)
        # The latest last, because the seal drops the oldest first.
        for number, key in enumerate(reversed(latest)):
            self._take(key)
            if number % NAMES_AT_ONCE == 0:
                await self._clock.sleep(0)

    def _take(self, key: str) -> None:
        name, _, nonce = key.partition(":")
        if not is_session_name(name):
            log.warning("ended_session_unreadable", session=key[:64])
            return
        for listener in self._listeners:
            listener(name, nonce or None)
