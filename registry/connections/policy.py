"""Rules of connection state: staleness, merging, transitions. Pure: the time is passed in."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import takewhile

from registry.connections.values import (
    UNCONNECTED,
    Attempt,
    Connection,
    ConnectionState,
    ConnectionView,
    Version,
    VisibleServer,
)
from registry.oauth.policy import is_unattended
from registry.oauth.values import AuthorizationState

RECENTLY = timedelta(minutes=5)
"""A server that was connected to within this time is recently active."""


def is_outdated(version: Version, current: Version) -> bool:
    """Whether a connection of *version* was made with a former configuration.

    Versions are compared, not times: clocks of replicas differ, and health writes do not change
    the version.
    """
    if current is None:
        return False
    return version is None or version < current


def is_stale(connection: Connection, current: Version, now: datetime, idle: timedelta) -> bool:
    """Whether a connection no longer counts.

    Args:
        connection: What is known of it.
        current: The version of the server's configuration now.
        now: The time, UTC.
        idle: How long a working connection may be unused. A failed one is never idle: it is an
            error until an attempt succeeds, or until it is forgotten.
    """
    if is_outdated(connection.version, current):
        return True
    return connection.state is ConnectionState.CONNECTED and now - connection.at > idle


def merged(found: Iterable[Connection]) -> Connection | None:
    """Return the connection that counts of those that several workers know: the latest result.

    A call's attempt counts only if there is no result yet.
    """
    known = sorted(found, key=lambda each: (each.state is not ConnectionState.CONNECTING, each.at))
    if not known:
        return None
    return replace(known[-1], is_reconnecting=any(each.is_reconnecting for each in known))


def view_of(
    server: VisibleServer,
    connection: Connection | None,
    now: datetime,
    idle: timedelta,
    authorization: AuthorizationState | None = None,
) -> ConnectionView:
    """Return the state of a caller's connection to a server.

    The known connection takes precedence, unless the authorization that it was made with is gone.
    Without one, the stored authorization decides: being renewed, then usable, then a flow that
    failed, then one that is under way. A usable one counts as connected: the server is not
    contacted to find out. Nothing is stored where the registry obtains tokens by itself: such a
    server is connected once that has worked.
    """
    if server.is_off:
        return ConnectionView(ConnectionState.DISCONNECTED, authorization=authorization)
    needs_nobody = server.oauth is not None and is_unattended(server.oauth.config)
    if connection is not None and not is_stale(connection, server.version, now, idle):
        if authorization is not None and needs_nobody and connection.lacks_token:
            authorization = replace(authorization, is_authorized=False)
        if connection.is_reconnecting:
            return ConnectionView(ConnectionState.CONNECTING, authorization=authorization)
        is_error = connection.state is ConnectionState.ERROR
        if is_error or authorization is None or _is_usable(authorization):
            problem = connection.problem if is_error else None
            is_working = connection.state is ConnectionState.CONNECTED
            connected_at = connection.at if is_working else None
            return ConnectionView(connection.state, problem, authorization, connected_at)
    if authorization is None:
        return UNCONNECTED
    if needs_nobody:
        return ConnectionView(ConnectionState.DISCONNECTED, authorization=authorization)
    return ConnectionView(_authorized(authorization), authorization=authorization)


def _is_usable(authorization: AuthorizationState) -> bool:
    return authorization.is_authorized or authorization.is_renewing


def _authorized(authorization: AuthorizationState) -> ConnectionState:
    if authorization.is_renewing:
        return ConnectionState.CONNECTING
    if authorization.is_authorized:
        return ConnectionState.CONNECTED
    if authorization.has_failed:
        return ConnectionState.ERROR
    is_under_way = authorization.is_under_way
    return ConnectionState.CONNECTING if is_under_way else ConnectionState.DISCONNECTED


def is_recently_active(last_connected: datetime | None, now: datetime) -> bool:
    """Whether a server was connected to within the last five minutes."""
    return last_connected is not None and now - last_connected < RECENTLY


def attempted(before: Connection | None, version: Version, now: datetime) -> Connection:
    """Return a connection that is being made, given the state *before*.

    A failed connection stays an error during further attempts, or it would flicker at every call.
    """
    if before is not None and not is_outdated(before.version, version):
        return before
    return Connection(ConnectionState.CONNECTING, version, now)


def failures_of(before: Connection | None, version: Version) -> int:
    """Return how many attempts with a configuration have failed in a row."""
    return 0 if before is None or is_outdated(before.version, version) else before.failures


def failed(
    before: Connection | None, version: Version, now: datetime, attempt: int, problem: str
) -> Connection:
    """Return a connection whose attempt failed.

    Args:
        before: What was known.
        version: Of the configuration that was tried.
        now: The time, UTC.
        attempt: How many had failed when this one began. Sixty calls that hang when a server
            dies are one failure, not sixty in a row.
        problem: Why; safe to show.
    """
    failures = failures_of(before, version)
    if attempt >= failures:
        failures += 1
    return Connection(ConnectionState.ERROR, version, now, failures, problem)


def answered(before: Connection | None, version: Version, now: datetime) -> Connection:
    """Return a connection over which an answer has begun; the answer may still break off."""
    if before is None or is_outdated(before.version, version):
        return Connection(ConnectionState.CONNECTED, version, now)
    return replace(before, state=ConnectionState.CONNECTED, version=version, at=now)


CYCLES, CYCLE_SECONDS, CYCLE_PAUSE_SECONDS = 7, 45.0, 15.0
"""Connections made within a time, after which there is a pause. As in jarvis-api."""

FAILURES, FAILURE_SECONDS = 3, 120.0
"""Failed connections within a time, after which there is a growing pause. As in jarvis-api."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 30.0, 300.0

RECONNECTION_SECONDS = 180.0
"""How long a failed connection is tried again without a call. As in jarvis-api."""

JITTER = 0.2
"""Part of a pause by which it varies, so that processes do not connect at once."""


def pause_before(attempts: Sequence[Attempt], now: float) -> float:
    """Return for how many seconds a connection must not be made on request.

    Args:
        attempts: Those before, oldest first, with monotonic times.
        now: The current time.
    """
    if not attempts:
        return 0.0
    last = attempts[-1].at
    pause = 0.0
    if sum(now - each.at < CYCLE_SECONDS for each in attempts) >= CYCLES:
        pause = last + CYCLE_PAUSE_SECONDS - now
    failures = list(takewhile(lambda each: not each.succeeded, reversed(attempts)))
    recent = [each for each in failures if last - each.at < FAILURE_SECONDS]
    if len(recent) >= FAILURES:
        pause = max(pause, last + backoff_seconds(len(failures) - FAILURES) - now)
    return max(pause, 0.0)


def backoff_seconds(failures: int, chance: float = 0.5) -> float:
    """Return the pause after so many failures.

    Args:
        failures: How many came before the last one.
        chance: Between 0 and 1: where the pause is within its jitter.
    """
    pause = min(MIN_PAUSE_SECONDS * 2 ** min(failures, 16), MAX_PAUSE_SECONDS)
    return float(pause * (1 + JITTER * (2 * chance - 1)))
