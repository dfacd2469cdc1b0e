"""Which servers a caller may see, as far as connections to them are concerned."""

from registry.auth.identity import UserContext
from registry.connections.values import SeenServer
from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.servers.credentials import needs_user_key
from registry.servers.errors import ServerNotFoundError
from registry.servers.values import ServerRecord, ServerStatus
from registry.servers.visible import VisibleServers


class ServerDirectory:
    """Implements `connections.ports.ServerDirectory`."""

    def __init__(self, servers: VisibleServers, clock: Clock) -> None:
        self._servers = servers
        self._clock = clock

    async def visible(self, user: UserContext) -> list[SeenServer]:
        """Return all servers that *user* may see."""
        return [seen(server) for server in await self._servers.visible(user, self._clock.now())]

    async def one(self, server_id: str, user: UserContext) -> SeenServer:
        """Return one server.

        Raises:
            ServerNotFoundError: There is none that *user* may see.
        """
        server = await self._servers.seen(server_id, user, self._clock.now())
        if server is None:
            raise ServerNotFoundError
        return seen(server)


def seen(server: ServerRecord) -> SeenServer:
    """Return what connections need to know of a server."""
    return SeenServer(
        id=server.id,
        name=server.server_name,
        version=server.updated_at,
        is_off=server.effective_status is ServerStatus.INACTIVE,
        requires_oauth=server.config.get("requiresOAuth") is True,
        is_user_level=is_user_level(server.config),
    )


def is_user_level(config: JsonObject) -> bool:
    """Whether each user connects with credentials of their own."""
    return config.get("requiresOAuth") is True or needs_user_key(config)
