"""What policies ask of the domains above. Implemented there, handed in by wiring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from packages.database.client import Transaction
from registry.access.policy import ServerScope
from registry.auth.identity import UserContext
from registry.core.json import JsonObject


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """A server, as far as policies about its tools are concerned.

    Attributes:
        author: ObjectId of the user who registered it, 24 hexadecimal characters.
        scope: None where the other application made it.
        status: `active`, `inactive` or `error`.
        is_usable: Whether the gateway can make a route of what is stored.
        is_described_elsewhere: Whether the other application alone has described its tools.
        tenant_id: The tenant that it is of.
    """

    id: str
    name: str
    path: str
    author: str
    scope: ServerScope | None
    status: str
    is_usable: bool
    is_described_elsewhere: bool
    tenant_id: str | None


class ServerPath(Protocol):
    """A server, as far as its gateway path is concerned."""

    @property
    def id(self) -> str:
        """Return its ObjectId."""

    @property
    def effective_path(self) -> str:
        """Return the path."""


class PolicyServers(Protocol):
    """The servers that offer tools."""

    async def policy_owner(self, owner_id: str) -> PolicyServer | None:
        """Return a server, whoever asks."""

    async def policy_owner_at(self, path: str, tenant_id: str | None) -> PolicyServer | None:
        """Return the server at a gateway path of a tenant, whoever asks."""

    async def held_policy_owner(self, owner_id: str, tx: Transaction) -> PolicyServer | None:
        """Return a server as it is in a transaction that no other change of it may overlap."""

    def sees_everything(self, user: UserContext) -> bool:
        """Whether no server is hidden from *user*, nor what is left of a removed one."""

    def rights(self, user: UserContext) -> Mapping[str, int]:
        """Return what *user* may do with each server that they see."""

    def visible(self, user: UserContext) -> Sequence[ServerPath]:
        """Return the servers that *user* sees."""

    async def tool_functions(self, server_id: str) -> JsonObject:
        """Return the tools of a server as the other application describes them."""


class PolicyChanges(Protocol):
    """Hears of committed changes, so that the gateway follows at once on this replica."""

    async def policy_changed(self, policy_id: str) -> None:
        """Take note that a policy was made, changed or removed."""
