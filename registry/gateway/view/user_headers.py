"""Headers made of users' own keys, remembered for the calls that need them.

Above it is the gateway's view, which says what the current configuration of a server is and when
that changed; below it are the stored keys and the cipher. A key is read after an `await`, during
which its server may move to another origin or the key may be replaced: nothing read before such a
change is remembered after it, and no key is paired with an address that it was not stored for.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol, TypeAlias

from cachetools import TTLCache

from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.gateway.values import Route
from registry.servers.credentials import CredentialVault, caller_values
from registry.servers.errors import ServerMovedError, UserKeyMissingError
from registry.servers.values import ServerRecord

USER_KEYS = 10_000
USER_KEY_SECONDS = 300
"""How many users' own keys are remembered, and for how long; a changed key drops them
all at once."""

CacheKey: TypeAlias = tuple[tuple[str, str, str | None], str, str, datetime | None]
"""What headers may tell of a user, a server's id, its URL and the version of its configuration."""

Generation: TypeAlias = tuple[int, int]
"""How often all headers were forgotten, and those for one server since then."""


class StoredKeys(Protocol):
    """Reads users' own values."""

    async def values(
        self, user_id: str, server_name: str, since: datetime | None
    ) -> dict[str, str]:
        """Return a user's values for a server by name, without those stored before *since*."""


class StoredUrls(Protocol):
    """Reads where servers are."""

    async def url_unchecked(self, server_id: str) -> object:
        """Return `config.url` of a server as stored; None when there is none."""


class UserHeaders:
    """The cache of headers with users' own keys.

    Args:
        keys: Where the keys are.
        urls: Where the servers' addresses are.
        vault: Makes headers of them.
        clock: Ends what is remembered.
    """

    def __init__(
        self, keys: StoredKeys, urls: StoredUrls, vault: CredentialVault, clock: Clock
    ) -> None:
        self._keys = keys
        self._urls = urls
        self._vault = vault
        self._cleared = 0
        self._forgotten: dict[str, int] = {}
        self._remembered: TTLCache[CacheKey, tuple[Generation, Mapping[str, str]]] = TTLCache(
            USER_KEYS, USER_KEY_SECONDS, timer=clock.monotonic
        )

    def clear(self) -> None:
        """Forget all headers, those that are being made now included."""
        self._cleared += 1
        self._forgotten.clear()
        self._remembered.clear()

    def forget(self, server_ids: Iterable[str]) -> None:
        """Forget the headers for a few servers, those that are being made now included."""
        for server_id in server_ids:
            self._forgotten[server_id] = self._forgotten.get(server_id, 0) + 1

    def cached(self, user: UserContext, route: Route) -> Mapping[str, str] | None:
        """Return the headers for a call over *route*, if they are remembered."""
        found = self._remembered.get(_key(user, route))
        if found is None or found[0] != self._generation(route.server_id):
            return None
        return found[1]

    async def read(
        self, user: UserContext, route: Route, server: ServerRecord | None
    ) -> Mapping[str, str]:
        """Read the headers for a call over *route*; remember them if nothing changed meanwhile.

        Args:
            user: Whose key.
            route: Where the call goes.
            server: Its server's current configuration; None when it is not served any more.

        Raises:
            ServerMovedError: The server is at another address than the route's by now.
            UserKeyMissingError: The user has stored none.
            CredentialUnreadableError: It cannot be decrypted.
            DatabaseUnavailable: It cannot be read.
        """
        if server is None:
            raise UserKeyMissingError
        generation = self._generation(route.server_id)
        own = await self._keys.values(user.user_id, server.server_name, server.created_at)
        # Asked after the key was read: keys go when their server moves, and those that are stored
        # after that are for the new address, which the view may not know yet.
        if await self._urls.url_unchecked(server.id) != route.url:
            raise ServerMovedError(route.server_name)
        headers = self._vault.request_headers(
            server.id, server.config, {**caller_values(user), **own}
        )
        if generation == self._generation(route.server_id):
            self._remembered[_key(user, route)] = (generation, headers)
        return headers

    def _generation(self, server_id: str) -> Generation:
        return self._cleared, self._forgotten.get(server_id, 0)


def _key(user: UserContext, route: Route) -> CacheKey:
    told = (user.user_id, user.username, user.role_name)
    return (told, route.server_id, route.url, route.modified_at)
