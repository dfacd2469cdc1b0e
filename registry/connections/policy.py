"""What follows from what is known of connections. Pure: the time is passed in."""

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
    """Whether a connection of *version* was made with a configuration that is no more.

    Versions are compared, never times: clocks of replicas differ, and what is written about a
    connection leaves the version as it is.
    """
    if current is None:
        return False
    return version is None or version < current


def is_stale(connection: Connection, current: Version, now: datetime, idle: timedelta) -> bool:
    """Whether a connection does not count any more.

    Args:
        connection: What is known of it.
        current: The version of the server's configuration now.
        now: The time, UTC.
        idle: How long nothing need have gone over one that works. One that does not is not idle:
            it is an error until something better is known, or until it is forgotten.
    """
    if is_outdated(connection.version, current):
        return True
    return connection.state is ConnectionState.CONNECTED and now - connection.at > idle


def merged(found: Iterable[Connection]) -> Connection | None:
    """Return what counts of what several workers know: the latest that came of an attempt.

    An attempt under way counts where nothing came of any yet.
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
    """Return how a caller's connection to a server stands.

    What is known of the connection goes first; for one that is not there, what is known of its
    authorisation: being renewed, then failed, then under way.
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
    """Return a connection that is being made, after what was known *before*.

    What failed stays an error while it is tried again, or it would flicker at every call.
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
        attempt: How many had failed when it was begun. Sixty calls that hang when a server dies
            are one failure, not sixty in a row.
        problem: Why; safe to show.
    """
    failures = failures_of(before, version)
    if attempt >= failures:
        failures += 1
    return Connection(ConnectionState.ERROR, version, now, failures, problem)


def answered(before: Connection | None, version: Version, now: datetime) -> Connection:
    """Return a connection over which an answer has begun: whole it may still not come."""
    if before is None or is_outdated(before.version, version):
        return Connection(ConnectionState.CONNECTED, version, now)
    return replace(before, state=ConnectionState.CONNECTED, version=version, at=now)
