"""Adapters: what policies need to know of the servers that offer tools."""

from collections.abc import Mapping, Sequence

from packages.database.client import Transaction
from registry.access.policies.ports import PolicyServer, ServerPath
from registry.auth.identity import Tenants, UserContext
from registry.connections.values import VisibleServer
from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.servers.errors import ServerNotFoundError
from registry.servers.naming import slug_of
from registry.servers.storage.inventory import seen
from registry.servers.storage.repository import ServerRepository
from registry.servers.storage.visible import VisibleServers
from registry.servers.values import ServerRecord


class PolicyServerReader:
    """Implements `policies.ports.Owners`."""

    def __init__(self, servers: ServerRepository, visible: VisibleServers) -> None:
        self._servers = servers
        self._visible = visible

    async def policy_owner(self, owner_id: str) -> PolicyServer | None:
        """Return the facts of a server for policies. No access check."""
        server = await self._servers.record_unchecked(owner_id)
        return None if server is None else _owner(server)

    async def policy_owner_at(self, path: str, tenant_id: str | None) -> PolicyServer | None:
        """Return the facts of the server at a gateway path of a tenant. No access check."""
        server = await self._servers.at_path(path, Tenants(tenant_id))
        return None if server is None else _owner(server)

    async def held_policy_owner(self, owner_id: str, tx: Transaction) -> PolicyServer | None:
        """Return the facts of a server, locked against concurrent changes until *tx* ends."""
        server = await self._servers.touch(owner_id, tx)
        return None if server is None else _owner(server)

    def sees_everything(self, user: UserContext) -> bool:
        """Whether *user* may see every server, and what is left of removed ones."""
        return self._visible.sees_everything(user)

    def rights(self, user: UserContext) -> Mapping[str, int]:
        """Return what *user* may do with each server that they see."""
        return self._visible.rights(user)

    def visible(self, user: UserContext) -> Sequence[ServerPath]:
        """Return the servers that *user* sees."""
        return self._visible.listed(user)

    async def tool_functions(self, server_id: str) -> JsonObject:
        """Return the tools of a server as the other application describes them."""
        return await self._servers.tool_functions(server_id)


def _owner(server: ServerRecord) -> PolicyServer:
    config = server.config
    is_usable = (
        slug_of(server.effective_path) is not None
        and config.get("type") in {"streamable-http", "http", "sse", None}
        and isinstance(config.get("url"), str)
    )
    return PolicyServer(
        id=server.id,
        name=server.server_name,
        path=server.effective_path,
        author=server.author,
        scope=server.scope,
        status=server.effective_status.value,
        is_usable=is_usable,
        is_described_elsewhere=server.is_described_elsewhere,
        tenant_id=server.tenant_id,
    )


class VisibleServerDirectory:
    """Implements `connections.ports.ServerDirectory`."""

    def __init__(self, servers: VisibleServers, clock: Clock) -> None:
        self._servers = servers
        self._clock = clock

    async def visible(self, user: UserContext) -> list[VisibleServer]:
        """Return all servers that *user* may see.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        return [server.seen for server in self._servers.listed(user)]

    async def one(self, server_id: str, user: UserContext) -> VisibleServer:
        """Return one server.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
        """
        server = await self._servers.seen(server_id, user, self._clock.now())
        if server is None:
            raise ServerNotFoundError
        return seen(server)
