"""Gives back to authorization servers what was obtained for servers that are removed or move.

Users' tokens are revoked (RFC 7009), and a client is deleted (RFC 7592) that no server can use any
more. A client is for all servers and users of a tenant at an authorization server, so it stays
while anything that was obtained with it is stored.

Several processes may be told of one removal: tokens are revoked by the one that removed their
rows, and a client is deleted by the one that removed its document.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta

import structlog

from packages.database.errors import DatabaseUnavailable
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.oauth.authorization_servers import AuthorizationServers
from registry.oauth.repository import OAuthFlowRepository
from registry.oauth.stored_tokens import OAuthTokenRepository
from registry.oauth.values import RemovedTokens, StoredClient
from registry.tokens.repository import TokenRepository
from registry.tokens.values import TokenRow
from registry.upstream.errors import UpstreamError
from registry.upstream.oauth.token_endpoint import TokenEndpoint
from registry.upstream.oauth.values import TokenRequest

log = structlog.get_logger()

SECONDS = 60
"""How long revocations and deletions may take; only a command waits for them."""

REVOCATION_SECONDS = 10
"""How long an authorization server may take to revoke tokens; someone may wait for it."""

AT_ONCE = 8
"""Users whose tokens are revoked at the same time."""

LONGEST_EXCHANGE = timedelta(seconds=30)
"""Longer than the exchange of a code and the revocation of what it gave."""

PAUSE_SECONDS = 1.0


class Unregistration:
    """Revokes tokens and deletes clients. Implements `oauth.ports.RemovalListener`."""

    def __init__(
        self,
        authorization_servers: AuthorizationServers,
        flows: OAuthFlowRepository,
        tokens: TokenRepository,
        stored: OAuthTokenRepository,
        endpoint: TokenEndpoint,
        background: BackgroundTasks,
        clock: Clock,
    ) -> None:
        self._authorization_servers = authorization_servers
        self._flows = flows
        self._tokens = tokens
        self._stored = stored
        self._endpoint = endpoint
        self._background = background
        self._clock = clock

    def removed(self, server_id: str, rows: Sequence[TokenRow]) -> None:
        """Do what `give_back` does, in the background."""
        self._background.soon(self.give_back(server_id, rows))

    async def give_back(self, server_id: str, rows: Sequence[TokenRow]) -> None:
        """Revoke tokens that were removed, and delete the clients that nothing uses.

        Args:
            server_id: For the log.
            rows: What was removed with the server, or because it has moved.
        """
        try:
            async with asyncio.timeout(SECONDS):
                await self._revoke(server_id, self._stored.revocable(rows))
                for client in await self._authorization_servers.unused():
                    await self._unregister(server_id, client)
        except (DatabaseUnavailable, TimeoutError) as exc:
            log.info("oauth_client_not_removed", server_id=server_id, reason=type(exc).__name__)

    async def _revoke(self, server_id: str, found: Iterable[RemovedTokens]) -> None:
        """Revoke tokens of users who have no others of the same client.

        Some authorization servers have one grant for a user and a client: a revocation ends the
        tokens for other servers, too.
        """
        by_client: dict[tuple[str, str], list[tuple[TokenRequest, RemovedTokens]]] = {}
        for one in found:
            if one.request is not None:
                key = one.request.client.client_id, one.request.server.token_endpoint
                by_client.setdefault(key, []).append((one.request, one))
        limit = asyncio.Semaphore(AT_ONCE)

        async def revoke(request: TokenRequest, removed: RemovedTokens) -> bool:
            async with limit:
                return await revoke_both(self._endpoint, request, removed)

        for key, all_removed in by_client.items():
            others = await self._tokens.users_of_client(*key)
            sent = [revoke(*one) for one in all_removed if one[1].user_id not in others]
            confirmed = await asyncio.gather(*sent)
            log.info(
                "oauth_tokens_revoked",
                server_id=server_id,
                users=len(all_removed),
                sent=len(sent),
                confirmed=sum(confirmed),
            )

    async def _unregister(self, server_id: str, client: StoredClient) -> None:
        """Delete a client unless something uses it.

        Another process may be revoking its last tokens at this moment, and is then refused: the
        deletion ends them as well (RFC 7592, section 2.3).
        """
        client_id = client.identity.client_id
        try:
            await self._until_exchanges_end(client_id)
            if await self._is_used(client_id):
                return
            is_deleted = await self._authorization_servers.unregister(client)
        except RegistryError as exc:
            log.info("oauth_client_not_removed", server_id=server_id, reason=exc.message)
        else:
            if is_deleted is not None:
                log.info("oauth_client_removed", server_id=server_id, confirmed=is_deleted)

    async def _until_exchanges_end(self, client_id: str) -> None:
        """Wait for what is obtained for a removed server, and revoked with the client at once."""
        while await self._flows.may_exchange(client_id, self._clock.now() - LONGEST_EXCHANGE):
            await self._clock.sleep(PAUSE_SECONDS)

    async def _is_used(self, client_id: str) -> bool:
        return bool(await self._tokens.users_of_client(client_id)) or (
            await self._flows.has_of_client(client_id, self._clock.now())
        )


async def revoke_both(
    endpoint: TokenEndpoint, request: TokenRequest, removed: RemovedTokens
) -> bool:
    """Revoke a user's tokens at their authorization server; return whether it confirmed each."""
    given = ((removed.refresh_token, "refresh_token"), (removed.access_token, "access_token"))
    sent = [
        _is_revoked(endpoint, request, token, hint) for token, hint in given if token is not None
    ]
    return bool(sent) and all(await asyncio.gather(*sent))


async def _is_revoked(
    endpoint: TokenEndpoint, request: TokenRequest, token: str, hint: str
) -> bool:
    try:
        async with asyncio.timeout(REVOCATION_SECONDS):
            return await endpoint.revoke(request.server, request.client, token, hint)
    except UpstreamError as exc:
        log.info("oauth_revocation_failed", reason=exc.message)
    except TimeoutError:
        log.info("oauth_revocation_failed", reason="The authorization server did not answer.")
    return False
