"""Values of the connections domain."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from registry.oauth.values import AuthorizationLink, AuthorizationState, OAuthServer


class ConnectionState(StrEnum):
    """State of a connection. Never stored; a server's `status` is something else."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    ERROR = "error"


Version: TypeAlias = datetime | None
"""The `updatedAt` of the configuration that a connection was made with."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The known state of one connection.

    Attributes:
        version: Of the server's configuration.
        at: When this was learnt, UTC.
        failures: Attempts that failed since the last success. An attempt counts only if it began
            after the one before had failed.
        problem: Why the last one failed; safe to show.
        is_reconnecting: Whether it is being made again, without a call.
        lacks_token: Whether it failed because no access token could be obtained.
    """

    state: ConnectionState
    version: Version
    at: datetime
    failures: int = 0
    problem: str | None = None
    is_reconnecting: bool = False
    lacks_token: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """A connection that was made on request.

    Attributes:
        at: When, in monotonic seconds.
    """

    at: float
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Reconnected:
    """Result of a connection that was asked for.

    Attributes:
        problem: Why it does not work; None if it does, or a link says what is missing.
        link: Where the caller has to authorise the registry first.
    """

    problem: str | None = None
    link: AuthorizationLink | None = None


@dataclass(frozen=True, slots=True)
class VisibleServer:
    """The facts about a visible server that this domain needs.

    Attributes:
        version: Its `updatedAt`.
        is_off: Whether it is turned off.
        is_user_level: Whether each user connects with credentials of their own.
        oauth: What access tokens for it are obtained with; None if it takes none.
    """

    id: str
    name: str
    version: Version
    is_off: bool
    is_user_level: bool
    oauth: OAuthServer | None = None


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """A connection as a caller sees it.

    Attributes:
        problem: Why it does not work; None if it does.
        authorization: The caller's; None if the server takes no access tokens, or it is unknown.
        connected_at: When it last worked, as far as that is known, UTC.
    """

    state: ConnectionState
    problem: str | None = None
    authorization: AuthorizationState | None = None
    connected_at: datetime | None = None


UNCONNECTED = ConnectionView(ConnectionState.DISCONNECTED)


class HealthEvent(StrEnum):
    """What is recorded of a server in the database."""

    CONNECTED = "connected"
    FAILED = "failed"


class HealthTrigger(StrEnum):
    """Why an event is recorded. Each has at most one write per server and interval."""

    REPEAT = "repeat"
    """The same event as the last time."""
    RECOVERY = "recovery"
    """The server works again."""
    FAILURE = "failure"
    """The server stopped working."""
    THRESHOLD = "threshold"
    """The number of failures reached the threshold at which its status may change."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """A health event of one server that waits to be written.

    Attributes:
        at: When it happened, UTC.
        message: Why it failed; None when it did not.
        failures: Attempts that failed in a row and are not yet counted in the database.
        is_after_success: Whether a success that is not in the database preceded them.
        is_at_threshold: Whether one of them reached the number that makes an error.
    """

    event: HealthEvent
    at: datetime
    message: str | None = None
    failures: int = 0
    is_after_success: bool = False
    is_at_threshold: bool = False
