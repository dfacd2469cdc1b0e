"""Connects to servers without reading what they offer, and reports how that went."""

from collections.abc import Awaitable

from registry.auth.identity import SYNCHRONISER, Role, UserContext
from registry.auth.repository import DirectoryRepository
from registry.connections.tracker import ConnectionTracker
from registry.core.clock import Clock
from registry.oauth.errors import AuthorizationRequiredError
from registry.oauth.ports import OAuthServers
from registry.servers.credentials import is_user_level
from registry.servers.errors import (
    CredentialsRefusedError,
    DiscoveryFailedError,
    ServerNotFoundError,
    ServerTurnedOffError,
)
from registry.servers.reconciliation.reader import ServerReader
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import ServerRecord, ServerStatus
from registry.sync.discovery import DiscoveryService, Eras
from registry.tokens.repository import TokenRepository


class UpstreamConnector:
    """Performs handshakes with servers. Implements `connections.ports.Connector`.

    Args:
        usable: Decides which servers a caller may use.
        reader: Knows the credentials.
        directory: Reads users.
        tokens: Says for whom there are access tokens.
    """

    def __init__(
        self,
        servers: ServerRepository,
        usable: OAuthServers,
        reader: ServerReader,
        discovery: DiscoveryService,
        connections: ConnectionTracker,
        directory: DirectoryRepository,
        tokens: TokenRepository,
        clock: Clock,
    ) -> None:
        self._servers = servers
        self._usable = usable
        self._reader = reader
        self._discovery = discovery
        self._connections = connections
        self._directory = directory
        self._tokens = tokens
        self._clock = clock

    async def connect(self, server_id: str, user: UserContext) -> None:
        """Connect with the credentials of *user*.

        Raises:
            ServerNotFoundError: There is no server that *user* may use.
            AuthorizationRequiredError: *user* must authorise the registry at the server first.
            RegistryError: The connection failed; says why.
            DatabaseUnavailable: The server cannot be read.
        """
        await self._usable.usable(server_id, user)
        server = await self._servers.get_unchecked(server_id)
        if server is None:
            raise ServerNotFoundError
        if server.effective_status is ServerStatus.INACTIVE:
            raise ServerTurnedOffError
        await self.connect_as(server, user)

    async def connect_as(self, server: ServerRecord, user: UserContext) -> None:
        """Do the same without an access check."""
        user_id = user.user_id if is_user_level(server.config) else None
        asked = self._reader.asked(server, user, self._discovery.eras)
        await self._reported(server, user_id, asked)

    async def check(self, server_id: str) -> None:
        """Connect with the registry's own credentials, if the server takes any; store nothing.

        Raises:
            RegistryError: The connection failed; says why.
            DatabaseUnavailable: The server cannot be read.
        """
        server = await self._servers.get_unchecked(server_id)
        if server is None or server.effective_status is ServerStatus.INACTIVE:
            return
        if is_user_level(server.config):
            return
        try:
            await self._reader.asked(server, SYNCHRONISER, self._discovery.eras)
        except DiscoveryFailedError as exc:
            self._connections.checked(server_id, server.updated_at, exc.message)
            raise
        self._connections.checked(server_id, server.updated_at, None)

    async def check_of_user(self, server_id: str, user_id: str) -> bool:
        """Connect with a user's own credentials, if they may still use the server; store nothing.

        Returns:
            Whether it was done; if not, another attempt helps only after somebody's change: the
            user may not use the server any more, has to authorise the registry, or was refused.

        Raises:
            RegistryError: The connection failed; says why.
            DatabaseUnavailable: The server or the user cannot be read.
        """
        entry = await self._directory.get(user_id)
        if entry is None or entry.is_disabled:
            return False
        user = UserContext(
            user_id,
            entry.username or "",
            Role.parse(entry.role),
            frozenset(),
            groups=entry.groups,
            tenant_id=entry.tenant_id,
        )
        try:
            await self._usable.usable(server_id, user)
        except ServerNotFoundError:
            return False
        server = await self._servers.get_unchecked(server_id)
        is_off = server is None or server.effective_status is ServerStatus.INACTIVE
        if server is None or is_off or not is_user_level(server.config):
            return False
        about = server_id, server.updated_at
        try:
            await self._reader.asked(server, user, self._discovery.eras)
        except AuthorizationRequiredError:
            return False
        except DiscoveryFailedError as exc:
            self._connections.checked(*about, exc.message, user_id)
            if isinstance(exc, CredentialsRefusedError):
                return False
            raise
        self._connections.checked(*about, None, user_id)
        return True

    async def recently_authorized(self, limit: int) -> list[tuple[str, str]]:
        """Return the servers and users whose access tokens are the newest, the latest first.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """
        return await self._tokens.latest_authorizations(self._clock.now(), limit)

    async def recently_connected(self, limit: int) -> list[str]:
        """Return the servers that were connected to last, the latest first.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """
        return await self._servers.recently_connected_unchecked(limit)

    async def _reported(
        self, server: ServerRecord, user_id: str | None, asked: Awaitable[Eras]
    ) -> None:
        about = (server.id, server.updated_at, user_id)
        attempt = self._connections.began(*about)
        try:
            await asked
        except DiscoveryFailedError as exc:
            if user_id is not None and isinstance(exc, CredentialsRefusedError):
                self._connections.refused(*about, exc.message)
            else:
                self._connections.failed(*about, attempt, exc.message)
            raise
        except BaseException:
            self._connections.abandoned(server.id, user_id)
            raise
        self._connections.completed(*about)
