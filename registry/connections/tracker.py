"""In-memory state of this process's connections, updated by calls and readings.

Above it are the gateway and discovery, which contact upstreams. Below it is the writer, which
records health events in the database. It knows servers by id and configurations by version only.

Everything that a call does here is synchronous and without I/O. A call that changes nothing, the
usual case, costs a lookup and two comparisons.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
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

FRESH_SECONDS = 1.0
"""How long calls over a working connection record nothing more."""

MEASURE_SECONDS = 5.0
"""How often connections are counted for the metrics."""

FRESH = -1
"""The attempt number of a call over a connection that is known to work."""

UserKey: TypeAlias = tuple[str, str]
"""A server's id and a user's."""

Key = TypeVar("Key", str, UserKey)


class ConnectionTracker:
    """Connections to servers, and of users to servers; bounded, and forgotten after a while.

    Every server has one connection of the gateway. Where users connect with credentials of their
    own, each user also has one, which only that user sees.

    Args:
        writer: Records health events in the database.
        remembered_seconds: How long an unchanged connection is remembered.
        max_entries: How many servers, and how many users' connections, are remembered. Beyond
            that the least recently used are forgotten: they count as disconnected.
        failures_until_error: Attempts that fail in a row until a server's status may change.
        clock: The time source; recorded times are of its wall clock.
        metrics: Count connections by state.
    """

    def __init__(
        self,
        writer: ConnectionWriter,
        *,
        remembered_seconds: float,
        max_entries: int,
        failures_until_error: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._writer = writer
        self._max_entries = max_entries
        self._failures_until_error = failures_until_error
        self._clock = clock
        self._monotonic = clock.monotonic
        self._states = metrics.connection_states
        self._servers: TTLCache[str, Connection] = TTLCache(
            max_entries, remembered_seconds, timer=clock.monotonic
        )
        self._users: TTLCache[UserKey, Connection] = TTLCache(
            max_entries, remembered_seconds, timer=clock.monotonic
        )
        # By server and user: an event of one server must not end the fast path of another.
        self._fresh: dict[str, dict[str | None, tuple[Version, float]]] = {}
        self._fresh_entries = 0
        self._reconnecting: set[tuple[str, str | None]] = set()

    def began(self, server_id: str, version: Version, user_id: str | None) -> int:
        """Note that a request to a server begins; return the attempt number for `failed`.

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
        """Note that a server answered completely, with a result or an error."""
        fresh = self._fresh.get(server_id)
        known = None if fresh is None else fresh.get(user_id)
        if known is not None and known[0] == version and self._monotonic() < known[1]:
            return
        if self._works(server_id, version, user_id):
            self._writer.note(server_id, HealthReport(HealthEvent.CONNECTED, self._clock.now()))

    def failed(
        self, server_id: str, version: Version, user_id: str | None, attempt: int, problem: str
    ) -> None:
        """Note that a server could not be reached, or did not answer as an MCP server.

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
        is_at_threshold = after.failures == self._failures_until_error
        self._writer.note(
            server_id,
            HealthReport(
                HealthEvent.FAILED, after.at, problem, 1, is_at_threshold=is_at_threshold
            ),
        )

    def refused(self, server_id: str, version: Version, user_id: str | None, problem: str) -> None:
        """Note that a server refused a user's own credentials: a failure of that user only."""
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
            log.info("user_credentials_rejected", server_id=server_id, user_id=user_id)

    def abandoned(self, server_id: str, user_id: str | None) -> None:
        """Note that an attempt ended without a result."""
        found = self._servers.get(server_id)
        if found is not None and found.state is ConnectionState.CONNECTING:
            self._servers.pop(server_id, None)
        if user_id is None:
            return
        own = self._users.get((server_id, user_id))
        if own is not None and own.state is ConnectionState.CONNECTING:
            self._users.pop((server_id, user_id), None)

    def dropped(self, server_id: str, user_id: str | None) -> None:
        """Note that a notification stream of a server ended: not a failed call."""
        self._forget_fresh_of(server_id)
        found = self._servers.get(server_id)
        if found is not None and found.state is ConnectionState.CONNECTED:
            self._servers.pop(server_id, None)
        if user_id is not None:
            self._users.pop((server_id, user_id), None)

    def checked(
        self, server_id: str, version: Version, problem: str | None, user_id: str | None = None
    ) -> None:
        """Note the result of a check of a connection. Nothing is stored.

        Args:
            server_id: Which server.
            version: Of its configuration.
            problem: Why the connection does not work; None if it does.
            user_id: Whose connection it is; None for the gateway's own.
        """
        if user_id is not None:
            self._checked_of_user(server_id, version, problem, user_id)
            return
        before = self._servers.get(server_id)
        if _is_old(before, version):
            return
        now = self._clock.now()
        if problem is not None:
            attempt = failures_of(before, version)
            self._servers[server_id] = failed(before, version, now, attempt, problem)
        elif failures_of(before, version):
            # A recovery is news, which the database has to know.
            self.completed(server_id, version, None)
        else:
            self._servers[server_id] = Connection(ConnectionState.CONNECTED, version, now)

    def _checked_of_user(
        self, server_id: str, version: Version, problem: str | None, user_id: str
    ) -> None:
        key = (server_id, user_id)
        before, now = self._users.get(key), self._clock.now()
        if _is_old(before, version):
            return
        if problem is None and (failures_of(before, version) or self._has_failed(server_id)):
            # A recovery is news, which the database has to know.
            self.completed(server_id, version, user_id)
        elif problem is None:
            self._users[key] = answered(before, version, now)
        else:
            attempt = failures_of(before, version)
            self._users[key] = failed(before, version, now, attempt, problem)

    def failing(self) -> list[str]:
        """Return the servers to which the gateway's own connection has failed."""
        return _failed(self._servers)

    def failing_of_users(self) -> list[UserKey]:
        """Return the users' own connections that have failed, by server and user."""
        return _failed(self._users)

    @contextmanager
    def reconnecting(self, server_id: str, user_id: str | None) -> Iterator[None]:
        """Show a connection as being made, whatever is known of it."""
        key = (server_id, user_id)
        self._reconnecting.add(key)
        try:
            yield
        finally:
            self._reconnecting.discard(key)

    def read_succeeded(
        self, server_id: str, version: Version, user_id: str | None, *, is_recorded: bool
    ) -> None:
        """Note that discovery read a server.

        Args:
            server_id: Which server.
            version: Of its configuration.
            user_id: Whose connection it was, where users have their own.
            is_recorded: Whether its document already says so.
        """
        works = self._works(server_id, version, user_id)
        if is_recorded:
            self._writer.was_written(server_id, HealthEvent.CONNECTED)
        elif works:
            self._writer.note(server_id, HealthReport(HealthEvent.CONNECTED, self._clock.now()))

    def read_failed(
        self, server_id: str, version: Version, user_id: str | None, problem: str
    ) -> None:
        """Note that discovery failed to read a server; the database already says so."""
        attempt = failures_of(self._servers.get(server_id), version)
        self._fails(server_id, version, user_id, attempt, problem)
        self._writer.was_written(server_id, HealthEvent.FAILED)

    def outdate(self, versions: Mapping[str, Version]) -> None:
        """Forget connections made with former configurations.

        Args:
            versions: The current version, by server; other servers are left alone.
        """
        for server_id, version in versions.items():
            found = self._servers.get(server_id)
            if found is not None and is_outdated(found.version, version):
                self._servers.pop(server_id, None)
        for key, own in _entries(self._users):
            if key[0] in versions and is_outdated(own.version, versions[key[0]]):
                self._users.pop(key, None)

    def forget(self, server_ids: Collection[str]) -> None:
        """Forget servers that were removed or are no longer served, for all users."""
        gone = frozenset(server_ids)
        for server_id in gone:
            self._servers.pop(server_id, None)
            # A call under way may add it again; that entry expires.
            self._forget_fresh_of(server_id)
            self._writer.forget(server_id)
        for key, _ in _entries(self._users):
            if key[0] in gone:
                self._users.pop(key, None)

    def forget_user(self, server_id: str, user_id: str) -> None:
        """Forget the connection of a user whose credentials have changed."""
        self._users.pop((server_id, user_id), None)
        self._forget_fresh(server_id, user_id)

    def of_server(self, server_id: str) -> Connection | None:
        """Return the gateway's own connection to a server, if it is known."""
        return self._shown(self._servers.get(server_id), (server_id, None))

    def of_user(self, server_id: str, user_id: str) -> Connection | None:
        """Return a user's connection to a server, if it is known."""
        return self._shown(self._users.get((server_id, user_id)), (server_id, user_id))

    def measure(self) -> None:
        """Count connections by state, for the metrics."""
        counts = {
            "server": Counter(each.state for _, each in _entries(self._servers)),
            "user": Counter(each.state for _, each in _entries(self._users)),
        }
        for level, found in counts.items():
            for state in ConnectionState:
                if state is not ConnectionState.DISCONNECTED:
                    self._states.labels(level, state).set(found[state])

    async def follow(self) -> None:
        """Update the metrics periodically, forever."""
        while True:
            self.measure()
            await self._clock.sleep(MEASURE_SECONDS)

    def _shown(self, known: Connection | None, key: tuple[str, str | None]) -> Connection | None:
        if known is None or key not in self._reconnecting:
            return known
        return replace(known, is_reconnecting=True)

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

    def _has_failed(self, server_id: str) -> bool:
        known = self._servers.get(server_id)
        return known is not None and known.state is ConnectionState.ERROR

    def _works(self, server_id: str, version: Version, user_id: str | None) -> bool:
        """Note a working connection; return False if a newer configuration is known."""
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
        if self._fresh_entries >= self._max_entries:
            self._forget_fresh_of(next(iter(self._fresh)))
        fresh = self._fresh.setdefault(server_id, {})
        self._fresh_entries += user_id not in fresh
        fresh[user_id] = (version, self._monotonic() + FRESH_SECONDS)

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
        # Failures in a row count over all users, so the next success of any user must be recorded.
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
    """Whether the known state is of a newer configuration than *version*."""
    return before is not None and is_outdated(version, before.version)


def _again(before: Connection | None, version: Version, now: datetime, problem: str) -> Connection:
    return failed(before, version, now, failures_of(before, version), problem)


def _failed(cache: TTLCache[Key, Connection]) -> list[Key]:
    return [key for key, each in _entries(cache) if each.state is ConnectionState.ERROR]


def _entries(cache: TTLCache[Key, Connection]) -> list[tuple[Key, Connection]]:
    """Return the entries that have not expired."""
    cache.expire()
    return list(cache.items())
