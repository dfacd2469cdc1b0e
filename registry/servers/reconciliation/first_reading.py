"""Reads a server for the first time once a user has authorised the registry at it.

Above it are the flows of `registry.oauth`. Later readings are those of any server: on request, and
in jobs.
"""

import structlog

from registry.auth.identity import SYNCHRONISER, UserContext
from registry.connections.tracker import ConnectionTracker
from registry.core.background_tasks import BackgroundTasks
from registry.core.errors import RegistryError
from registry.oauth.values import OAuthServer
from registry.servers.reconciliation.read_and_store import ReadAndStore
from registry.servers.storage.repository import ServerRepository

log = structlog.get_logger()

ATTEMPTS = 3
"""How often it is read while others change its configuration."""


class FirstReadings:
    """Reads servers whose tools are not known. Implements `oauth.ports.AuthorizationListener`."""

    def __init__(
        self,
        servers: ServerRepository,
        upstreams: ReadAndStore,
        connections: ConnectionTracker,
        background: BackgroundTasks,
    ) -> None:
        self._servers = servers
        self._upstreams = upstreams
        self._connections = connections
        self._background = background
        self._reading: set[str] = set()

    def authorized(self, user: UserContext, server: OAuthServer) -> None:
        """Read a server in the background if its tools are not known; returns at once."""
        # What failed with the former token, or for want of one, says nothing about the new one.
        self._connections.forget_user(server.id, user.user_id)
        if server.id not in self._reading:
            self._reading.add(server.id)
            self._background.soon(self._read(server.id, user))

    async def _read(self, server_id: str, user: UserContext) -> None:
        try:
            for _ in range(ATTEMPTS):
                record = await self._servers.record_unchecked(server_id)
                if record is None:
                    return
                record = await self._servers.with_state(record)
                if "last_synced_at" in record.registry:
                    return
                reading = await self._upstreams.read(record, user)
                if await self._upstreams.store(record, reading, SYNCHRONISER, reader=user):
                    return
        except RegistryError as exc:
            log.warning("first_reading_failed", server_id=server_id, reason=exc.message)
        finally:
            self._reading.discard(server_id)
