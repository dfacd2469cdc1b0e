"""Access tokens that tests hand out, and links that lead nowhere."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime

from registry.auth.identity import UserContext
from registry.core.json import JsonObject
from registry.oauth.errors import AuthorizationRequiredError
from registry.oauth.values import AccessToken, AuthorizationLink, OAuthServer
from tests.fakes.clock import NOON

NEVER = datetime(2999, 1, 1, tzinfo=UTC)


def make_oauth_server(server_id: str, url: str) -> OAuthServer:
    """Return a server at which users authorise the registry."""
    config: JsonObject = {"requiresOAuth": True}
    return OAuthServer(server_id, "demo", "demo", "Demo", url, config, NOON, NOON)


def token_of(value: str) -> AccessToken:
    """Return a token that never expires."""
    return AccessToken(value, None, NEVER, NEVER)


class FakeAccessTokens:
    """Implements `ports.CachedTokens` and `ports.AuthorizationLinks`.

    Attributes:
        held: The usable tokens, by user and server.
        next: What a rejected token is replaced by, by user and server.
        rejected: The tokens that servers refused, in order.
        asked: How often a token was not answered from memory.
        changes: Users and rows that were notified of.
        cleared: How often all tokens may have changed.
        forgotten: Servers that have changed.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], AccessToken] = {}
        self.next: dict[tuple[str, str], AccessToken] = {}
        self.rejected: list[str] = []
        self.asked = 0
        self.came = asyncio.Event()
        self.changes: list[tuple[frozenset[str], frozenset[str]]] = []
        self.cleared = 0
        self.forgotten: list[str] = []

    def give(self, user_id: str, server_id: str, value: str) -> AccessToken:
        """Let a user have a token from now on."""
        token = token_of(value)
        self.held[user_id, server_id] = token
        self.came.set()
        return token

    def cached(self, user_id: str, server_id: str) -> AccessToken | None:
        """Return the token that was given."""
        return self.held.get((user_id, server_id))

    async def get(self, user: UserContext, server: OAuthServer) -> AccessToken:
        """Return the token that was given, or say that there is none."""
        self.asked += 1
        token = self.held.get((user.user_id, server.id))
        if token is None:
            raise AuthorizationRequiredError(server.name, self.link(user, server))
        return token

    async def renewed(
        self, user: UserContext, server: OAuthServer, rejected: AccessToken
    ) -> AccessToken:
        """Return the next token, or say that there is none."""
        key = user.user_id, server.id
        self.rejected.append(rejected.value)
        held = self.held.pop(key, None)
        if held is not None and held is not rejected:
            self.held[key] = held
            return held
        if key in self.next:
            token = self.held[key] = self.next.pop(key)
            return token
        raise AuthorizationRequiredError(server.name, self.link(user, server))

    async def arrived(self, user_id: str, server_id: str, flow_id: str, seconds: float) -> bool:
        """Wait for `give`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (user_id, server_id) not in self.held:
                    self.came.clear()
                    await self.came.wait()
        return (user_id, server_id) in self.held

    def changed(self, user_ids: Collection[str], row_ids: Collection[str]) -> None:
        """Note whose tokens were written, and which were deleted."""
        self.changes.append((frozenset(user_ids), frozenset(row_ids)))

    def clear(self) -> None:
        """Note that any token may have changed."""
        self.cleared += 1

    def forget(self, server_ids: Collection[str]) -> None:
        """Note which servers have changed."""
        self.forgotten += server_ids

    def link(
        self, user: UserContext, server: OAuthServer, scopes: tuple[str, ...] = ()
    ) -> AuthorizationLink:
        """Return a link that names user, server and scopes."""
        flow_id = f"flow-{user.username}-{server.slug}"
        asked = "+".join(scopes)
        return AuthorizationLink(flow_id, f"https://registry.test/start/{flow_id}?{asked}", NEVER)
