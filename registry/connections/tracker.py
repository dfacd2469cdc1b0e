"""What is known of connections in this process, and what is made of what happens to them.

Above it are those that have upstreams asked: the gateway, and readings of tools. Below it is what
tells the database, seldom. It knows servers by id and configurations by version, nothing else.

Whatever a call does here is synchronous and does no I/O; where a call finds nothing new to say,
which is nearly always, it costs a look-up and two comparisons.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TypeAlias, TypeVar

import structlog
from cachetools import TTLCache

from registry.connections.policy import answered, attempted, failed, failures_of, is_outdated
from registry.connections.values import (
    Connection,
    ConnectionState,
    HealthEvent,
    HealthReport,
    Version,
)
from registry.connections.writer import ConnectionWriter
from registry.core.clock import Clock
from registry.core.metrics import Metrics

log = structlog.get_logger()

QUIET_SECONDS = 1.0
"""How long calls say nothing more of a connection that works."""

MEASURE_SECONDS = 5.0
"""How often connections are counted for the metrics."""

FRESH = -1
"""The attempt of a call over a connection that is known to work."""

UserKey: TypeAlias = tuple[str, str]
"""A server's id and a user's."""

Key = TypeVar("Key", str, UserKey)


class ConnectionTracker:
    """Connections to servers, and of users to servers; bounded, and forgotten after a while.

    Every server has one that is the gateway's. Where users connect with credentials of their own,
    each has one besides, which nobody else is shown.

    Args:
        writer: Tells the database.
        remembered_seconds: How long nothing need be heard of a connection before it is forgotten.
        most_entries: How many servers, and how many users' connections, are remembered. Of more
            the ones that were used least recently are forgotten: they count as disconnected.
        failures_until_error: Attempts that fail in a row until a server's status may change.
        clock: Its wall clock is what moments are told in.
        metrics: Count connections by state.
    """

    def __init__(
        self,
        writer: ConnectionWriter,
        *,
        remembered_seconds: float,
        most_entries: int,
        failures_until_error: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._writer = writer
        self._most_entries = most_entries
        self._failures_until_error = failures_until_error
        self._clock = clock
        self._monotonic = clock.monotonic
        self._states = metrics.connection_states
        self._servers: TTLCache[str, Connection] = TTLCache(
            most_entries, remembered_seconds, timer=clock.monotonic
        )
        self._users: TTLCache[UserKey, Connection] = TTLCache(
            most_entries, remembered_seconds, timer=clock.monotonic
        )
        # By server and user: what happens to one server costs no other one its fast path.
        self._fresh: dict[str, dict[str | None, tuple[Version, float]]] = {}
        self._fresh_entries = 0

    def began(self, server_id: str, version: Version, user_id: str | None) -> int:
        """Note that a server is about to be asked; return what `failed` wants to know.

        Args:
            server_id: Which server.
            version: Of its configuration.
            user_id: Whose connection it is, where users have their own.
        """
        fresh = self._fresh.get(server_id)
        known = None if fresh is None else fresh.get(user_id)
        if known is not None and known[0] == version and self._monotonic() < known[1]:
            return FRESH
        before = self._servers.get(server_id)
        self._attempted(server_id, version, user_id)
        return failures_of(before, version)

    def answered(self, server_id: str, version: Version, user_id: str | None) -> None:
        """Note that a server began to answer."""
        before, now = self._servers.get(server_id), self._clock.now()
        if _is_old(before, version):
            return
        self._servers[server_id] = answered(before, version, now)
        if user_id is not None:
            key = (server_id, user_id)
            self._users[key] = answered(self._users.get(key), version, now)

    def completed(self, server_id: str, version: Version, user_id: str | None) -> None:
        """Note that a server answered, whatever it said."""
        fresh = self._fresh.get(server_id)
        known = None if fresh is None else fresh.get(user_id)
        if known is not None and known[0] == version and self._monotonic() < known[1]:
            return
        if self._works(server_id, version, user_id):
            self._writer.note(server_id, HealthReport(HealthEvent.CONNECTED, self._clock.now()))

    def failed(
        self, server_id: str, version: Version, user_id: str | None, attempt: int, problem: str
    ) -> None:
        """Note that a server could not be asked, or did not answer as one.

        Args:
            server_id: Which server.
            version: Of its configuration when it was tried.
            user_id: Whose connection it was, where users have their own.
            attempt: What `began` returned.
            problem: Why; safe to show and to store.
        """
        before = self._servers.get(server_id)
        if _is_old(before, version):
            return
        after = self._fails(server_id, version, user_id, max(attempt, 0), problem)
        if after.failures == failures_of(before, version):
            return
        is_last_straw = after.failures == self._failures_until_error
        self._writer.note(
            server_id,
            HealthReport(HealthEvent.FAILED, after.at, problem, 1, is_last_straw=is_last_straw),
        )

    def refused(self, server_id: str, version: Version, user_id: str | None, problem: str) -> None:
        """Note that a server refused a user's own credentials, which is nobody else's failure."""
        self.abandoned(server_id, None)
        if user_id is None:
            return
        key = (server_id, user_id)
        before = self._users.get(key)
        if _is_old(before, version):
            return
        self._forget_fresh(server_id, user_id)
        self._users[key] = _again(before, version, self._clock.now(), problem)
        if before is None or before.state is not ConnectionState.ERROR:
            log.info("user_connection_refused", server_id=server_id, user_id=user_id)

    def abandoned(self, server_id: str, user_id: str | None) -> None:
        """Note that nothing came of an attempt."""
        found = self._servers.get(server_id)
        if found is not None and found.state is ConnectionState.CONNECTING:
            self._servers.pop(server_id, None)
        if user_id is None:
            return
        own = self._users.get((server_id, user_id))
        if own is not None and own.state is ConnectionState.CONNECTING:
            self._users.pop((server_id, user_id), None)

    def dropped(self, server_id: str, user_id: str | None) -> None:
        """Note that a stream ended on which a server was listened to: no failure of a call."""
        self._forget_fresh_of(server_id)
        found = self._servers.get(server_id)
        if found is not None and found.state is ConnectionState.CONNECTED:
            self._servers.pop(server_id, None)
        if user_id is not None:
            self._users.pop((server_id, user_id), None)

    def was_read(
        self, server_id: str, version: Version, user_id: str | None, *, is_told: bool
    ) -> None:
        """Note that a server was read.

        Args:
            server_id: Which server.
            version: Of its configuration.
            user_id: Whose connection it was, where users have their own.
            is_told: Whether its document says so already.
        """
        works = self._works(server_id, version, user_id)
        if is_told:
            self._writer.was_written(server_id, HealthEvent.CONNECTED)
        elif works:
            self._writer.note(server_id, HealthReport(HealthEvent.CONNECTED, self._clock.now()))

    def was_not_read(
        self, server_id: str, version: Version, user_id: str | None, problem: str
    ) -> None:
        """Note that a server could not be read, which the database knows already."""
        attempt = failures_of(self._servers.get(server_id), version)
        self._fails(server_id, version, user_id, attempt, problem)
        self._writer.was_written(server_id, HealthEvent.FAILED)

    def outdate(self, versions: Mapping[str, Version]) -> None:
        """Forget connections that were made with former configurations.

        Args:
            versions: What is current, by server; others are left alone.
        """
        for server_id, version in versions.items():
            found = self._servers.get(server_id)
            if found is not None and is_outdated(found.version, version):
                self._servers.pop(server_id, None)
        for key, own in _entries(self._users):
            if key[0] in versions and is_outdated(own.version, versions[key[0]]):
                self._users.pop(key, None)

    def forget(self, server_ids: Collection[str]) -> None:
        """Forget servers that are gone, or not served any more, for all users."""
        gone = frozenset(server_ids)
        for server_id in gone:
            self._servers.pop(server_id, None)
            # A call under way may note it once more; that is forgotten after a while.
            self._forget_fresh_of(server_id)
            self._writer.forget(server_id)
        for key, _ in _entries(self._users):
            if key[0] in gone:
                self._users.pop(key, None)

    def forget_user(self, server_id: str, user_id: str) -> None:
        """Forget the connection of a user, whose credentials are others now."""
        self._users.pop((server_id, user_id), None)
        self._forget_fresh(server_id, user_id)

    def of_server(self, server_id: str) -> Connection | None:
        """Return the gateway's own connection to a server, if it is known."""
        return self._servers.get(server_id)

    def of_user(self, server_id: str, user_id: str) -> Connection | None:
        """Return a user's connection to a server, if it is known."""
        return self._users.get((server_id, user_id))

    def measure(self) -> None:
        """Count what is remembered, for the metrics."""
        counts = {
            "server": Counter(each.state for _, each in _entries(self._servers)),
            "user": Counter(each.state for _, each in _entries(self._users)),
        }
        for level, found in counts.items():
            for state in ConnectionState:
                if state is not ConnectionState.DISCONNECTED:
                    self._states.labels(level, state).set(found[state])

    async def follow(self) -> None:
        """Count now and again, for ever."""
        while True:
            self.measure()
            await self._clock.sleep(MEASURE_SECONDS)

    def _attempted(self, server_id: str, version: Version, user_id: str | None) -> None:
        before, now = self._servers.get(server_id), self._clock.now()
        if _is_old(before, version):
            return
        after = attempted(before, version, now)
        if after is not before:
            self._servers[server_id] = after
        if user_id is not None:
            key = (server_id, user_id)
            own = self._users.get(key)
            after = attempted(own, version, now)
            if after is not own:
                self._users[key] = after

    def _works(self, server_id: str, version: Version, user_id: str | None) -> bool:
        """Note a connection that works; False when a newer configuration is known."""
        before = self._servers.get(server_id)
        if _is_old(before, version):
            return False
        works = Connection(ConnectionState.CONNECTED, version, self._clock.now())
        self._servers[server_id] = works
        if user_id is not None:
            self._users[server_id, user_id] = works
        self._remember_fresh(server_id, user_id, version)
        if before is not None and before.failures:
            log.info("connection_restored", server_id=server_id, failures=before.failures)
        return True

    def _remember_fresh(self, server_id: str, user_id: str | None, version: Version) -> None:
        if self._fresh_entries >= self._most_entries:
            self._forget_fresh_of(next(iter(self._fresh)))
        fresh = self._fresh.setdefault(server_id, {})
        self._fresh_entries += user_id not in fresh
        fresh[user_id] = (version, self._monotonic() + QUIET_SECONDS)

    def _forget_fresh(self, server_id: str, user_id: str) -> None:
        fresh = self._fresh.get(server_id, {})
        if fresh.pop(user_id, None) is not None:
            self._fresh_entries -= 1
        if not fresh:
            self._fresh.pop(server_id, None)

    def _forget_fresh_of(self, server_id: str) -> None:
        self._fresh_entries -= len(self._fresh.pop(server_id, {}))

    def _fails(
        self, server_id: str, version: Version, user_id: str | None, attempt: int, problem: str
    ) -> Connection:
        # Failures in a row are those of all its users, so whoever succeeds next must say so.
        self._forget_fresh_of(server_id)
        now = self._clock.now()
        after = failed(self._servers.get(server_id), version, now, attempt, problem)
        self._servers[server_id] = after
        if user_id is not None:
            key = (server_id, user_id)
            self._users[key] = _again(self._users.get(key), version, now, problem)
        if after.failures == 1:
            log.warning("connection_failed", server_id=server_id, reason=problem)
        return after


def _is_old(before: Connection | None, version: Version) -> bool:
    """Whether something newer is known than what comes of a former configuration."""
    return before is not None and is_outdated(version, before.version)


def _again(before: Connection | None, version: Version, now: datetime, problem: str) -> Connection:
    return failed(before, version, now, failures_of(before, version), problem)


def _entries(cache: TTLCache[Key, Connection]) -> list[tuple[Key, Connection]]:
    """Return what is remembered still."""
    cache.expire()
    return list(cache.items())
