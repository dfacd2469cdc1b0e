"""Which servers a caller may see, as far as connections to them are concerned."""

from registry.auth.identity import UserContext
from registry.connections.values import SeenServer
from registry.core.clock import Clock
from registry.servers.errors import ServerNotFoundError
from registry.servers.inventory import seen
from registry.servers.visible import VisibleServers


class ServerDirectory:
    """Implements `connections.ports.ServerDirectory`."""

    def __init__(self, servers: VisibleServers, clock: Clock) -> None:
        self._servers = servers
        self._clock = clock

    async def visible(self, user: UserContext) -> list[SeenServer]:
        """Return all servers that *user* may see.

        Raises:
            ListsOutdatedError: Nobody heard of the database for a while.
        """
        return [server.seen for server in self._servers.listed(user)]

    async def one(self, server_id: str, user: UserContext) -> SeenServer:
        """Return one server.

        Raises:
            ServerNotFoundError: There is none that *user* may see.
        """
        server = await self._servers.seen(server_id, user, self._clock.now())
        if server is None:
            raise ServerNotFoundError
        return seen(server)
