"""Era probe: detects again which protocol eras a server speaks, after unexpected answers."""

import structlog

from registry.audit.values import AuditAction
from registry.auth.identity import OPERATOR
from registry.connections.tracker import ConnectionTracker
from registry.oauth.policy import grant_of
from registry.servers.changes import FieldChanges
from registry.servers.credentials import is_user_level
from registry.servers.errors import CredentialsRefusedError, DiscoveryFailedError
from registry.servers.reconciliation.reader import ServerReader
from registry.servers.reconciliation.store import ServerStore
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import ConnectionSpec, ServerRecord, ServerStatus, Transport
from registry.sync.discovery import DiscoveryService, Eras

log = structlog.get_logger()


class EraProber:
    """Probes servers and stores changed eras. Gateways learn of it through the change stream."""

    def __init__(
        self,
        servers: ServerRepository,
        store: ServerStore,
        reader: ServerReader,
        discovery: DiscoveryService,
        connections: ConnectionTracker,
    ) -> None:
        self._servers = servers
        self._store = store
        self._connections = connections
        self._reader = reader
        self._discovery = discovery

    async def probe(self, server_id: str) -> None:
        """Perform the handshake of both eras with one server, using its stored credentials.

        Raises:
            UserKeyMissingError: The server needs a user's key, and a probe has no user.
            CredentialUnreadableError: A stored secret cannot be decrypted.
            UnsafeUrlError: The URL may not be contacted.
            DiscoveryFailedError: The upstream cannot be reached or answered badly.
            DatabaseUnavailable: The result is not stored.
        """
        server = await self._servers.get_unchecked(server_id)
        if server is None or server.effective_status is ServerStatus.INACTIVE:
            return
        if grant_of(server.config) is not None:
            # A probe has no user, and so no access token.
            return
        connection = self._reader.connection(server.id, server.config, {})
        if connection.transport is Transport.SSE:
            # The old transport knows the handshake only.
            return
        found = await self._read_eras(server, connection)
        eras = sorted(era.value for era in found.eras)
        version = found.protocol_version
        before = server.registry.get("eras"), server.registry.get("protocol_version")
        if before == (eras, version):
            return
        changes = {"registry.eras": eras, "registry.protocol_version": version}
        # Nothing is written if the server was changed during the probe; the next unexpected
        # answer triggers another probe.
        written = await self._store.write(
            server,
            None,
            FieldChanges(dict(changes)),
            OPERATOR,
            accept=False,
            action=AuditAction.REFRESH,
        )
        if written is not None:
            log.info("server_eras_changed", server_id=server_id, eras=eras, version=version)

    async def _read_eras(self, server: ServerRecord, connection: ConnectionSpec) -> Eras:
        about = (server.id, server.updated_at, None)
        attempt = self._connections.began(*about)
        try:
            found = await self._discovery.eras(connection)
        except DiscoveryFailedError as exc:
            if isinstance(exc, CredentialsRefusedError) and is_user_level(server.config):
                # The probe uses no user's credentials.
                self._connections.refused(*about, exc.message)
            else:
                self._connections.failed(*about, attempt, exc.message)
            raise
        except BaseException:
            self._connections.abandoned(server.id, None)
            raise
        self._connections.completed(*about)
        return found
