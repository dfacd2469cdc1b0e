"""Protocols by which audit and usage ask what callers see of servers. Passed in by wiring."""

from collections.abc import Mapping
from typing import Protocol

from registry.auth.identity import UserContext


class SeenServers(Protocol):
    """Visibility of servers to callers."""

    def sees_everything(self, user: UserContext) -> bool:
        """Whether *user* sees all servers, and the records of removed ones."""

    def sees_private(self, user: UserContext) -> bool:
        """Whether *user* sees other users' private servers of the tenants that *user* sees."""

    def rights(self, user: UserContext) -> Mapping[str, int]:
        """Return the access rights of *user* by server, for all servers that they see."""
