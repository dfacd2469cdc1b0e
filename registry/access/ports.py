"""What sharing asks of the domains whose resources are shared. Implemented above."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from packages.database.client import Transaction
from registry.access.policy import ServerScope

RESOURCE_TYPE = "mcpServer"
"""jarvis-api's name of the one type of resource that is shared so far."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that entries are about.

    Attributes:
        author: ObjectId of the user who made it, 24 hexadecimal characters.
        scope: None where the other application made it.
        tenant_id: The tenant that it is of.
    """

    id: str
    name: str
    author: str
    scope: ServerScope | None
    tenant_id: str | None


class Resources(Protocol):
    """Resources of one type."""

    async def shared(self, resource_id: str, tx: Transaction | None = None) -> Resource | None:
        """Return a resource whoever asks, or None."""

    async def follow_sharing(
        self, resource: Resource, scope: ServerScope | None, now: datetime, tx: Transaction
    ) -> None:
        """Write the scope that follows from the entries, and touch the resource in any case.

        So of two who change its entries at once the database lets one through.
        """


class ResourceChanges(Protocol):
    """Hears of committed changes, so that the gateway follows at once on this replica."""

    async def server_changed(self, server_id: str) -> None:
        """Take note that the grants of a server changed."""
