"""Rules of connection state: staleness, merging, transitions. Pure: the time is passed in."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from registry.connections.values import (
    NOT_ASKED,
    UNCONNECTED,
    Authorisation,
    Connection,
    ConnectionState,
    ConnectionView,
    Version,
    VisibleServer,
)

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

    An attempt under way counts only if there is no result yet.
    """
    known = sorted(found, key=lambda each: (each.state is not ConnectionState.CONNECTING, each.at))
    return known[-1] if known else None


def view_of(
    server: VisibleServer,
    connection: Connection | None,
    now: datetime,
    idle: timedelta,
    authorisation: Authorisation = NOT_ASKED,
) -> ConnectionView:
    """Return the state of a caller's connection to a server.

    The known connection takes precedence. Without one, the authorisation decides: being renewed,
    then failed, then under way.
    """
    if server.is_off:
        return UNCONNECTED
    if connection is not None and not is_stale(connection, server.version, now, idle):
        is_error = connection.state is ConnectionState.ERROR
        return ConnectionView(connection.state, connection.problem if is_error else None)
    return ConnectionView(_authorised(authorisation)) if server.requires_oauth else UNCONNECTED


def _authorised(authorisation: Authorisation) -> ConnectionState:
    if authorisation.is_renewing:
        return ConnectionState.CONNECTING
    if authorisation.has_failed:
        return ConnectionState.ERROR
    is_under_way = authorisation.is_under_way
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
