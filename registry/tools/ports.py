"""Ports of the tools domain: what it needs of the servers that offer the tools."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from packages.database.batch import WriteBatch
from packages.database.client import Transaction
from registry.auth.identity import UserContext
from registry.tools.values import ListedTool, ToolDefinition


class OwnerRights(NamedTuple):
    """What a caller may do with a server, and so with its tools."""

    may_view: bool = False
    may_edit: bool = False


class OwnersSeen(NamedTuple):
    """The servers that a caller sees.

    Attributes:
        visible: Their ids.
        editable: Ids of those that the caller may change.
        is_everything: Whether the caller may see every server, and what is left of removed ones.
    """

    visible: Collection[str]
    editable: frozenset[str]
    is_everything: bool


class ToolOwners(Protocol):
    """The servers that offer tools. The servers domain, which lies above, implements it."""

    def seen(self, user: UserContext) -> OwnersSeen:
        """Return the servers that *user* sees. No database.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """

    def tools(self, owner_ids: Collection[str]) -> Sequence[ListedTool]:
        """Return the tools of some servers, oldest first. No database.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """

    async def rights(
        self, owner_id: str, user: UserContext, tx: Transaction | None = None
    ) -> OwnerRights:
        """Return what *user* may do with a server; nothing if it does not exist."""

    async def write(
        self,
        owner_id: str,
        served: Sequence[ToolDefinition] | None,
        now: datetime,
        batch: WriteBatch,
    ) -> None:
        """Add to a transaction what a server's document repeats of its tools.

        Args:
            owner_id: The server's id.
            served: The tools that clients get now; None if they are the same as before.
            now: The time of the change.
            batch: The writes of the transaction.

        Raises:
            ToolNotFoundError: The server does not exist, or a concurrent write came first.
        """

    async def changed(self, owner_id: str) -> None:
        """Announce a committed change of a server's tools, for the gateway to follow at once."""
