"""What records about servers ask of the domain that keeps servers. Handed in by wiring."""

from collections.abc import Mapping
from typing import Protocol

from registry.auth.identity import UserContext


class SeenServers(Protocol):
    """The servers that callers see."""

    def sees_everything(self, user: UserContext) -> bool:
        """Whether no server is hidden from *user*, nor what is left of a removed one."""

    def sees_private(self, user: UserContext) -> bool:
        """Whether others' private servers of the tenants that *user* sees are shown to them."""

    def rights(self, user: UserContext) -> Mapping[str, int]:
        """Return what *user* may do with each server that they see."""
