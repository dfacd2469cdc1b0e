"""Protocols that the connections domain depends on. Implemented above it, passed in by wiring."""

from datetime import datetime
from typing import Protocol

from registry.auth.identity import UserContext
from registry.connections.values import VisibleServer


class HealthRecords(Protocol):
    """Stores with each server its last connection and its failures."""

    async def connected(self, server_id: str, at: datetime) -> bool:
        """Store that a connection works; return whether anything was written.

        Nothing is written if another process has just written the same.

        Raises:
            DatabaseUnavailable: The write may not have happened.
        """

    async def failed(
        self, server_id: str, at: datetime, message: str, *, failures: int, is_after_success: bool
    ) -> bool:
        """Store *failures* more failed attempts in a row; return whether anything was written.

        Args:
            server_id: Which server.
            at: When the last of them failed.
            message: Why; safe to show.
            failures: How many.
            is_after_success: Whether they are the first failures after a success.

        Raises:
            DatabaseUnavailable: The write may not have happened.
        """


class ServerDirectory(Protocol):
    """Reads the servers that callers may see."""

    async def visible(self, user: UserContext) -> list[VisibleServer]:
        """Return all servers that *user* may see.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """

    async def one(self, server_id: str, user: UserContext) -> VisibleServer:
        """Return one server.

        Raises:
            ServerNotFoundError: There is none that *user* may see.
            DatabaseUnavailable: It cannot be read.
        """


class Connector(Protocol):
    """Connects to servers without reading what they offer, and reports the result to the tracker.

    Implemented by `registry.sync.connector.UpstreamConnector`.
    """

    async def connect(self, server_id: str, user: UserContext) -> None:
        """Connect with the credentials of *user*.

        Raises:
            ServerNotFoundError: There is no server that *user* may use.
            AuthorizationRequiredError: *user* must authorise the registry at the server first.
            RegistryError: The connection failed; says why.
            DatabaseUnavailable: The server cannot be read.
        """

    async def check(self, server_id: str) -> None:
        """Connect with the registry's own credentials, if the server takes any; store nothing.

        Raises:
            RegistryError: The connection failed; says why.
            DatabaseUnavailable: The server cannot be read.
        """

    async def check_of_user(self, server_id: str, user_id: str) -> bool:
        """Connect with a user's own credentials, if they may still use the server; store nothing.

        Returns:
            Whether it was done; if not, another attempt helps only after somebody's change: the
            user may not use the server any more, has to authorise the registry, or was refused.

        Raises:
            RegistryError: The connection failed; says why.
            DatabaseUnavailable: The server or the user cannot be read.
        """

    async def recently_connected(self, limit: int) -> list[str]:
        """Return the servers that were connected to last, the latest first.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """

    async def recently_authorized(self, limit: int) -> list[tuple[str, str]]:
        """Return the servers and users whose access tokens are the newest, the latest first.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """


class OtherWorkers(Protocol):
    """The other processes that serve the same port."""

    async def connections(self, question: bytes) -> list[bytes]:
        """Ask all of them; return the replies that came within half a second."""
