"""Ports of sharing: what it needs from the domains whose resources are shared."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from packages.database.client import Transaction
from registry.access.policy import ServerScope

SERVER_TYPE = "mcpServer"
"""jarvis-api's name of the type of servers."""

TOOLSET_TYPE = "toolset"
"""The type of toolsets. jarvis-api does not know it: each of its queries names a type."""

TOOLSETS = "toolsets"
"""The collection of toolsets."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource with ACL entries.

    Attributes:
        author: ObjectId of the user who made it, 24 hexadecimal characters.
        scope: None if the other application created it.
        tenant_id: Its tenant.
        type: `SERVER_TYPE` or `TOOLSET_TYPE`.
    """

    id: str
    name: str
    author: str
    scope: ServerScope | None
    tenant_id: str | None
    type: str = SERVER_TYPE


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

    async def table_changed(self, collection: str, document_id: str) -> None:
        """Handle a change of the grants of what a table of the view holds: of a toolset."""


class TableChanges(Protocol):
    """Notified of committed changes, so that the gateway follows at once on this replica."""

    async def table_changed(self, collection: str, document_id: str) -> None:
        """Handle that a document of a small collection was written or removed."""
