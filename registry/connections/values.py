"""Values of the connections domain."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias


class ConnectionState(StrEnum):
    """How a connection stands. Never stored; a server's `status` is another thing."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    ERROR = "error"


Version: TypeAlias = datetime | None
"""The `updatedAt` of the configuration that a connection was made with."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What is known of one connection.

    Attributes:
        version: Of the server's configuration.
        at: When this was learnt, UTC.
        failures: Attempts that failed since the last one that did not; an attempt counts that was
            begun after the one before had failed.
        problem: Why the last one failed; safe to show.
    """

    state: ConnectionState
    version: Version
    at: datetime
    failures: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Authorisation:
    """How the authorisation of one user at a server of OAuth stands.

    Attributes:
        is_renewing: Stored tokens are being tried or exchanged.
        has_failed: The last flow did not end well.
        is_under_way: The user was sent to the server to agree.
    """

    is_renewing: bool = False
    has_failed: bool = False
    is_under_way: bool = False


NOT_ASKED = Authorisation()


@dataclass(frozen=True, slots=True)
class VisibleServer:
    """What this domain needs to know of a server that a caller may see.

    Attributes:
        version: Its `updatedAt`.
        is_off: Whether somebody turned it off.
        is_user_level: Whether each user connects with credentials of their own.
    """

    id: str
    name: str
    version: Version
    is_off: bool
    requires_oauth: bool
    is_user_level: bool


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """A connection as a caller sees it.

    Attributes:
        problem: Why it does not work, where it does not.
    """

    state: ConnectionState
    problem: str | None = None


UNCONNECTED = ConnectionView(ConnectionState.DISCONNECTED)


class HealthEvent(StrEnum):
    """What is to be said of a server in the database."""

    CONNECTED = "connected"
    FAILED = "failed"


class HealthTrigger(StrEnum):
    """Why it is said. Of each there is at most one write for each server and interval."""

    REPEAT = "repeat"
    """The same as the last time."""
    RECOVERY = "recovery"
    """It works again."""
    FAILURE = "failure"
    """It works no more."""
    LAST_STRAW = "last_straw"
    """It failed so often that its status may have to say so."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What waits to be said of one server.

    Attributes:
        at: When it happened, UTC.
        message: Why it failed; None when it did not.
        failures: Attempts that failed in a row and are not counted in the database yet.
        is_anew: Whether an attempt succeeded before them that the database was not told of.
        is_last_straw: Whether one of them completed the number that makes an error.
    """

    word: HealthEvent
    at: datetime
    message: str | None = None
    failures: int = 0
    is_anew: bool = False
    is_last_straw: bool = False
