"""Cache of the headers that are made from users' own keys and access tokens.

Above is the gateway's view, which knows the current configuration of a server and when it changed;
below are the stored keys and the cipher. A key is read after an `await`, during which its server
may move to another origin or the key may be replaced: nothing read before such a change is cached
after it, and no key is paired with an address that it was not stored for.

Headers with an access token are used for as long as `AccessTokens.cached` returns that token, so
that a token which was renewed, expired or revoked is not sent any more.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol, TypeAlias

from cachetools import TTLCache

from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.gateway.values import Credentials, Route
from registry.http.client.exchange import header_lines
from registry.oauth.ports import AccessTokens
from registry.oauth.values import AccessToken
from registry.servers.credentials import CredentialVault, caller_values, needs_user_key
from registry.servers.errors import ServerMovedError, UserKeyMissingError
from registry.servers.values import ServerRecord
from registry.upstream.headers import upstream_headers

USER_KEYS = 10_000
USER_KEY_SECONDS = 300
"""How many users' own keys are cached, and for how long; a changed key drops the
whole cache."""

CacheKey: TypeAlias = tuple[tuple[str, str, str | None], str, str, datetime | None]
"""What headers depend on: a user, a server's id, its URL and the version of its configuration."""

Generation: TypeAlias = tuple[int, int]
"""How often the whole cache was cleared, and the part of one server since then."""


class StoredKeys(Protocol):
    """Reads users' own values."""

    async def values(
        self, user_id: str, server_name: str, since: datetime | None
    ) -> dict[str, str]:
        """Return a user's values for a server by name, except those stored before *since*."""


class StoredUrls(Protocol):
    """Reads the URLs of servers."""

    async def url_unchecked(self, server_id: str) -> object:
        """Return `config.url` of a server as stored; None if there is none."""


class UserHeaders:
    """The cache of headers with users' own keys and access tokens.

    Args:
        keys: Reads the keys.
        urls: Reads the servers' URLs.
        vault: Makes headers from them.
        tokens: Supplies access tokens.
        clock: For the expiry of entries.
    """

    def __init__(
        self,
        keys: StoredKeys,
        urls: StoredUrls,
        vault: CredentialVault,
        tokens: AccessTokens,
        clock: Clock,
    ) -> None:
        self._keys = keys
        self._urls = urls
        self._vault = vault
        self._tokens = tokens
        self._cleared = 0
        self._forgotten: dict[str, int] = {}
        self._remembered: TTLCache[CacheKey, tuple[Generation, Credentials]] = TTLCache(
            USER_KEYS, USER_KEY_SECONDS, timer=clock.monotonic
        )

    def clear(self) -> None:
        """Drop all headers, including those that are being made now."""
        self._cleared += 1
        self._forgotten.clear()
        self._remembered.clear()

    def forget(self, server_ids: Iterable[str]) -> None:
        """Drop the headers for a few servers, including those that are being made now."""
        for server_id in server_ids:
            self._forgotten[server_id] = self._forgotten.get(server_id, 0) + 1

    def cached(self, user: UserContext, route: Route) -> Credentials | None:
        """Return the cached headers for a call over *route*, if there are any."""
        found = self._remembered.get(_key(user, route))
        if found is None or found[0] != self._generation(route.server_id):
            return None
        token = found[1].token
        if token is not None and token is not self._tokens.cached(user.user_id, route.server_id):
            return None
        return found[1]

    async def read(
        self, user: UserContext, route: Route, server: ServerRecord | None
    ) -> Credentials:
        """Read the headers for a call over *route*; cache them unless something changed since.

        Args:
            user: Whose key to read.
            route: Where the call goes.
            server: Its server's current configuration; None if it is not served any more.

        Raises:
            ServerMovedError: The server's URL is no longer the route's.
            UserKeyMissingError: The user has stored no key.
            AuthorizationRequiredError: The user has not authorised the registry at the server.
            AuthorizationUnavailableError: The user's access token cannot be renewed now.
            CredentialUnreadableError: It cannot be decrypted.
            DatabaseUnavailable: It cannot be read.
        """
        token = None if route.oauth is None else await self._tokens.get(user, route.oauth)
        return await self._made(user, route, server, token)

    async def renewed(
        self, user: UserContext, route: Route, server: ServerRecord | None, rejected: AccessToken
    ) -> Credentials:
        """Do the same with another access token than *rejected*, which the server refused."""
        assert route.oauth is not None  # noqa: S101 - there is a token
        token = await self._tokens.renewed(user, route.oauth, rejected)
        return await self._made(user, route, server, token)

    async def _made(
        self,
        user: UserContext,
        route: Route,
        server: ServerRecord | None,
        token: AccessToken | None,
    ) -> Credentials:
        if server is None:
            raise UserKeyMissingError
        generation = self._generation(route.server_id)
        own: dict[str, str] = {}
        if needs_user_key(server.config):
            own = await self._keys.values(user.user_id, server.server_name, server.created_at)
        # Read after the key: keys are deleted when their server moves, and keys that are stored
        # after that are for the new address, which the view may not know yet.
        if await self._urls.url_unchecked(server.id) != route.url:
            raise ServerMovedError(route.server_name)
        headers = self._vault.request_headers(
            server.id, server.config, {**caller_values(user), **own}
        )
        if token is not None:
            headers = {
                name: value for name, value in headers.items() if name.lower() != "authorization"
            }
            headers["Authorization"] = f"Bearer {token.value}"
        sent = upstream_headers(headers, route.headers.get("Via"))
        credentials = Credentials(header_lines(sent), token)
        if generation == self._generation(route.server_id):
            self._remembered[_key(user, route)] = (generation, credentials)
        return credentials

    def _generation(self, server_id: str) -> Generation:
        return self._cleared, self._forgotten.get(server_id, 0)


def _key(user: UserContext, route: Route) -> CacheKey:
    values = (user.user_id, user.username, user.role_name)
    return (values, route.server_id, route.url, route.modified_at)
