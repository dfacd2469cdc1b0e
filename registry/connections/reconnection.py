"""Makes connections again: on request, after failures, and at start.

Above it are the API and wiring; below it is the connector, which contacts servers and reports the
results to the tracker. Calls do not pass here: each call connects by itself.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from cachetools import TTLCache

from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import UserContext
from registry.connections.errors import ReconnectingError, ReconnectionLimitError
from registry.connections.policy import (
    CYCLES,
    MAX_PAUSE_SECONDS,
    RECONNECTION_SECONDS,
    backoff_seconds,
    pause_before,
)
from registry.connections.ports import Connector
from registry.connections.tracker import ConnectionTracker
from registry.connections.values import Attempt, Reconnected, VisibleServer
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.errors import ErrorKind, RegistryError
from registry.oauth.errors import AuthorizationRequiredError

log = structlog.get_logger()

AT_ONCE = 8
"""Connections made in the background side by side."""

SPREAD_SECONDS = 1.0
"""Connections made at start begin within this time."""

LOOK_SECONDS = 5.0
"""Pause between two looks for connections that failed."""

MAX_REMEMBERED = 10_000

MAX_OF_USERS = 200
"""Users' own connections that are tried again side by side: one server that is down may have
failed for thousands of users, whose next calls find out by themselves."""


@dataclass(slots=True)
class _Retries:
    """Attempts to restore a connection, in monotonic seconds."""

    until: float
    due_at: float
    failures: int = 0


class Reconnection:
    """Makes connections again.

    Args:
        connector: Contacts servers.
        tracker: The connections of this process.
        at_start: How many servers, and users' own connections, are checked at start.
        chance: Returns numbers from 0 to 1, for jitter.
    """

    def __init__(
        self,
        connector: Connector,
        tracker: ConnectionTracker,
        *,
        at_start: int,
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._connector = connector
        self._tracker = tracker
        self._at_start = at_start
        self._clock = clock
        self._chance = chance
        self._under_way: set[tuple[str, str | None]] = set()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._background = BackgroundTasks()
        self._retries: dict[tuple[str, str | None], _Retries] = {}
        self._attempts: TTLCache[tuple[str, str | None], deque[Attempt]] = TTLCache(
            MAX_REMEMBERED, 2 * MAX_PAUSE_SECONDS, timer=clock.monotonic
        )

    async def reinitialize(self, server: VisibleServer, user: UserContext) -> Reconnected:
        """Make the connection of *user* to a server anew.

        Raises:
            ServerNotFoundError: *user* may not use the server.
            ServerTurnedOffError: It is turned off.
            ReconnectingError: It is being made already.
            ReconnectionLimitError: It was made too often, or failed too often, a moment ago.
            DatabaseUnavailable: The server cannot be read.
        """
        user_id = user.user_id if server.is_user_level else None
        key = (server.id, user_id)
        if key in self._under_way:
            raise ReconnectingError
        attempts = self._attempts.get(key, deque(maxlen=CYCLES))
        pause = pause_before(attempts, self._clock.monotonic())
        if pause > 0:
            raise ReconnectionLimitError(pause)
        if user_id is not None:
            self._tracker.forget_user(server.id, user_id)
        result = await self._made(key, user)
        attempts.append(Attempt(self._clock.monotonic(), result.problem is None))
        self._attempts[key] = attempts
        return result

    async def start(self) -> None:
        """Make the connections that were made last, in the background.

        So that after a restart a server that answers is shown as connected, to users with access
        tokens of their own too, and one that does not is shown as failed. Nothing is stored.
        """
        if not self._at_start:
            return
        try:
            server_ids = await self._connector.recently_connected(self._at_start)
            of_users = await self._connector.recently_authorized(self._at_start)
        except DatabaseUnavailable:
            return
        for key in (*((server_id, None) for server_id in server_ids), *of_users):
            self._background.soon(self._check(*key, self._chance() * SPREAD_SECONDS))

    async def follow(self) -> None:
        """Connect at start, and make failed connections again, until cancelled."""
        try:
            await self.start()
            while True:
                await self._clock.sleep(LOOK_SECONDS)
                self.retry_due()
        finally:
            await self._background.close()

    def retry_due(self) -> None:
        """Begin the attempts that are due to restore failed connections.

        The gateway's own and those of users; each is tried for a while, with growing pauses.
        """
        now = self._clock.monotonic()
        failing: dict[tuple[str, str | None], None] = {
            **dict.fromkeys((server_id, None) for server_id in self._tracker.failing()),
            **dict.fromkeys(self._tracker.failing_of_users()),
        }
        self._retries = {
            key: retries
            for key, retries in self._retries.items()
            if key in failing and now < retries.until + MAX_PAUSE_SECONDS
        }
        places = MAX_OF_USERS - sum(
            user_id is not None and now < retries.until
            for (_, user_id), retries in self._retries.items()
        )
        for key in failing:
            retries = self._retries.get(key)
            if retries is None and (key[1] is None or places > 0):
                places -= key[1] is not None
                due_at = now + backoff_seconds(0, self._chance())
                self._retries[key] = _Retries(now + RECONNECTION_SECONDS, due_at)
            elif retries is not None and retries.due_at <= now < retries.until:
                retries.failures += 1
                retries.due_at = now + backoff_seconds(retries.failures, self._chance())
                self._background.soon(self._check(*key, 0.0))

    async def _made(self, key: tuple[str, str | None], user: UserContext) -> Reconnected:
        self._under_way.add(key)
        try:
            with self._tracker.reconnecting(*key):
                await self._connector.connect(key[0], user)
        except AuthorizationRequiredError as exc:
            return Reconnected(link=exc.link)
        except RegistryError as exc:
            if exc.kind in {ErrorKind.NOT_FOUND, ErrorKind.CONFLICT}:
                raise
            return Reconnected(problem=exc.message)
        finally:
            self._under_way.discard(key)
        return Reconnected()

    async def _check(self, server_id: str, user_id: str | None, after_seconds: float) -> None:
        await self._clock.sleep(after_seconds)
        key = (server_id, user_id)
        async with self._places:
            if key in self._under_way:
                return
            self._under_way.add(key)
            try:
                with self._tracker.reconnecting(*key):
                    if user_id is None:
                        await self._connector.check(server_id)
                    elif not await self._connector.check_of_user(server_id, user_id):
                        self._give_up(key)
            except (RegistryError, DatabaseUnavailable) as exc:
                log.debug("connection_check_failed", server_id=server_id, error=str(exc))
            finally:
                self._under_way.discard(key)

    def _give_up(self, key: tuple[str, str | None]) -> None:
        """Do not try a connection again while it is known as failed."""
        now = self._clock.monotonic()
        self._retries.setdefault(key, _Retries(now, now)).until = now
