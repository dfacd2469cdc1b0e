"""Ports of toolsets: what they need from other domains. Wiring supplies the implementations."""

from datetime import datetime
from typing import Protocol

from registry.access.toolsets.values import Resolution, Toolset
from registry.auth.identity import UserContext


class ToolsetServers(Protocol):
    """The servers that offer tools."""

    async def seen_owner(self, named: str, user: UserContext, now: datetime) -> str | None:
        """Return the id of the server with this id, name or path; None if *user* sees none."""


class ServedToolsets(Protocol):
    """The toolsets as the gateway serves them, and changes of them on this replica."""

    def resolved(self, toolset: Toolset, user: UserContext) -> Resolution | None:
        """Return what a toolset serves to *user* now; None where no gateway runs."""

    async def table_changed(self, collection: str, document_id: str) -> None:
        """Handle that a toolset was created, changed or removed."""
