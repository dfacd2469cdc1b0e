"""Deletes clients at authorization servers when the last server that used them is removed.

A client is for all servers and users of a tenant at an authorization server, so it stays while
anything that was obtained with it is stored.
"""

import asyncio
from datetime import timedelta

import structlog

from packages.database.errors import DatabaseUnavailable
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.oauth.authorization_servers import AuthorizationServers, oauth_of
from registry.oauth.policy import grant_of
from registry.oauth.repository import OAuthFlowRepository
from registry.oauth.values import OAuthServer
from registry.tokens.repository import TokenRepository

log = structlog.get_logger()

SECONDS = 10
"""How long the deletion may take; nobody waits for it."""

LONGEST_EXCHANGE = timedelta(seconds=30)
"""Longer than the exchange of a code and the revocation of what it gave."""

PAUSE_SECONDS = 1.0


class Unregistration:
    """Deletes clients. Implements `oauth.ports.RemovalListener`."""

    def __init__(
        self,
        authorization_servers: AuthorizationServers,
        flows: OAuthFlowRepository,
        tokens: TokenRepository,
        background: BackgroundTasks,
        clock: Clock,
    ) -> None:
        self._authorization_servers = authorization_servers
        self._flows = flows
        self._tokens = tokens
        self._background = background
        self._clock = clock

    def removed(self, server: OAuthServer) -> None:
        """Delete what only this server used, in the background."""
        if grant_of(server.config) is not None and not oauth_of(server.config).get("client_id"):
            self._background.soon(self._unregister(server))

    async def _unregister(self, server: OAuthServer) -> None:
        try:
            await self._until_exchanges_end(server)
            async with asyncio.timeout(SECONDS):
                found = await self._authorization_servers.registered(server)
                for place, client in found.items():
                    if await self._is_used(client.client_id):
                        continue
                    deleted = await self._authorization_servers.unregister(server, place, client)
                    log.info("oauth_client_removed", server_id=server.id, confirmed=deleted)
        except (RegistryError, DatabaseUnavailable, TimeoutError) as exc:
            reason = exc.message if isinstance(exc, RegistryError) else type(exc).__name__
            log.info("oauth_client_not_removed", server_id=server.id, reason=reason)

    async def _until_exchanges_end(self, server: OAuthServer) -> None:
        """Wait for what is obtained for a removed server, and revoked with the client at once."""
        while True:
            since = self._clock.now() - LONGEST_EXCHANGE
            clients = (await self._authorization_servers.registered(server)).values()
            if not any([await self._flows.may_exchange(one.client_id, since) for one in clients]):
                return
            await self._clock.sleep(PAUSE_SECONDS)

    async def _is_used(self, client_id: str) -> bool:
        return await self._tokens.has_of_client(client_id) or await self._flows.has_of_client(
            client_id, self._clock.now()
        )
