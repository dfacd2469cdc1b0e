"""Ports of sharing: what it needs from the domains whose resources are shared."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from packages.database.client import Transaction
from registry.access.policy import ServerScope

RESOURCE_TYPE = "mcpServer"
"""jarvis-api's name of the one type of resource that can be shared so far."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource with ACL entries.

    Attributes:
        author: ObjectId of the user who made it, 24 hexadecimal characters.
        scope: None if the other application created it.
        tenant_id: Its tenant.
    """

    id: str
    name: str
    author: str
    scope: ServerScope | None
    tenant_id: str | None


class Resources(Protocol):
    """Resources of one type."""

    async def shared(self, resource_id: str, tx: Transaction | None = None) -> Resource | None:
        """Return a resource, or None. No access check."""

    async def follow_sharing(
        self, resource: Resource, scope: ServerScope | None, now: datetime, tx: Transaction
    ) -> None:
        """Write the scope that follows from the entries, and touch the resource in any case.

        So the database serializes two concurrent changes of its entries.
        """


class ResourceChanges(Protocol):
    """Notified of committed changes, so that the gateway follows at once on this replica."""

    async def server_changed(self, server_id: str) -> None:
        """Handle a change of a server's grants."""
