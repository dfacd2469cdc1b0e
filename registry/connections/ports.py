"""What the connections domain asks of others. Implemented above it, handed in by wiring."""

from datetime import datetime
from typing import Protocol

from registry.auth.identity import UserContext
from registry.connections.values import VisibleServer


class HealthRecords(Protocol):
    """Keeps with each server when it was connected to, and what went wrong."""

    async def connected(self, server_id: str, at: datetime) -> bool:
        """Note a connection that works; say whether anything was written.

        Nothing is when another process has just said the same.

        Raises:
            DatabaseUnavailable: Nothing is known to be written.
        """

    async def failed(
        self, server_id: str, at: datetime, message: str, *, failures: int, is_anew: bool
    ) -> bool:
        """Note *failures* more attempts that failed in a row; say whether anything was written.

        Args:
            server_id: Which server.
            at: When the last of them failed.
            message: Why; safe to show.
            failures: How many.
            is_anew: Whether they are the first since one that did not.

        Raises:
            DatabaseUnavailable: Nothing is known to be written.
        """


class ServerDirectory(Protocol):
    """Knows which servers callers may see."""

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


class OtherWorkers(Protocol):
    """The other processes that serve the same port."""

    async def connections(self, question: bytes) -> list[bytes]:
        """Ask all of them; return the replies that came within half a second."""
