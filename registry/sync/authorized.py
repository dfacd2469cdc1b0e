"""Reads servers that users have just authorised the registry at."""

import structlog

from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import SYNCHRONISER, UserContext
from registry.connections.tracker import ConnectionTracker
from registry.core.background_tasks import BackgroundTasks
from registry.core.errors import RegistryError
from registry.oauth.errors import AuthorizationRequiredError
from registry.oauth.values import OAuthServer
from registry.servers.reconciliation.read_and_store import ReadAndStore
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import ServerStatus
from registry.sync.connector import UpstreamConnector

log = structlog.get_logger()

ATTEMPTS = 5
"""How often a server is read again that is changed meanwhile."""


class AuthorizedServers:
    """Reads servers after an authorization. Implements `oauth.ports.AuthorizationListener`.

    The tools of a server are read with the token of the first user who authorises the registry,
    whoever that is; later authorizations change nothing that others see.
    """

    def __init__(
        self,
        servers: ServerRepository,
        upstreams: ReadAndStore,
        connector: UpstreamConnector,
        connections: ConnectionTracker,
        background: BackgroundTasks,
    ) -> None:
        self._servers = servers
        self._upstreams = upstreams
        self._connector = connector
        self._connections = connections
        self._background = background

    def authorized(self, user: UserContext, server: OAuthServer) -> None:
        """Connect in the background, and read what the server offers if that is unknown."""
        # It may have failed with the former token.
        self._connections.forget_user(server.id, user.user_id)
        self._background.soon(self.connect(user, server.id))

    async def connect(self, user: UserContext, server_id: str) -> None:
        """Do the same, and wait for it. A failure is logged."""
        try:
            for _ in range(ATTEMPTS):
                if await self._connected(user, server_id):
                    return
        except (RegistryError, DatabaseUnavailable) as exc:
            error = exc.message if isinstance(exc, RegistryError) else "database unavailable"
            log.info("authorized_server_unreadable", server_id=server_id, error=error)

    async def _connected(self, user: UserContext, server_id: str) -> bool:
        """Return False if it has to be tried again: the server was changed meanwhile."""
        server = await self._servers.get_unchecked(server_id)
        if server is None or server.effective_status is ServerStatus.INACTIVE:
            return True
        if "last_synced_at" in server.registry:
            try:
                await self._connector.connect_as(server, user)
            except AuthorizationRequiredError:
                # The stored metadata may name another authorization server than there is now.
                pass
            else:
                return True
        reading = await self._upstreams.read(server, user)
        if reading.needs_oauth:
            if reading.oauth_metadata == server.config.get("oauthMetadata"):
                return True
            await self._upstreams.store(server, reading, SYNCHRONISER, reader=user)
            return False
        if "last_synced_at" in server.registry:
            self._upstreams.report(server, reading, user, is_recorded=False)
            return True
        # Who authorises need not be one who may change the server.
        return await self._upstreams.store(server, reading, SYNCHRONISER, reader=user) is not None
