"""Ports of the oauth domain: what it needs from others, and what others need of it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from registry.auth.identity import UserContext
from registry.oauth.values import (
    AccessToken,
    AuthorizationLink,
    AuthorizationState,
    OAuthServer,
    RemovedTokens,
    TokenProblem,
)
from registry.tokens.values import TokenRow
from registry.upstream.oauth.values import TokenRequest, Tokens


class OAuthServers(Protocol):
    """Reads registered servers."""

    async def usable(self, server_id: str, user: UserContext) -> OAuthServer:
        """Return a server that *user* may use.

        Raises:
            ServerNotFoundError: There is none.
            DatabaseUnavailable: It cannot be read.
        """

    async def unchecked(self, server_id: str) -> OAuthServer | None:
        """Return a server without an access check; None if there is none.

        Raises:
            DatabaseUnavailable: It cannot be read.
        """

    async def all_unchecked(self) -> Sequence[OAuthServer]:
        """Return all servers that take access tokens, without an access check.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """

    def client_secret(self, server: OAuthServer) -> str | None:
        """Return the decrypted `oauth.client_secret`; None if there is none.

        Raises:
            CredentialUnreadableError: It cannot be decrypted.
        """


class AccessTokens(Protocol):
    """Access tokens for servers. Implemented by `registry.oauth.tokens.UpstreamTokens`."""

    def cached(self, user_id: str, server_id: str) -> AccessToken | None:
        """Return a usable token from memory, if there is one. No I/O.

        One that is due for renewal is renewed in the background.
        """

    async def get(self, user: UserContext, server: OAuthServer) -> AccessToken:
        """Return a usable token; read, renew or obtain it if necessary.

        Raises:
            AuthorizationRequiredError: Only the user can help.
            AuthorizationUnavailableError: It cannot be renewed now.
            DatabaseUnavailable: It cannot be read.
        """

    async def renewed(
        self, user: UserContext, server: OAuthServer, rejected: AccessToken
    ) -> AccessToken:
        """Return another token than *rejected*, which the server answered with 401.

        Raises:
            AuthorizationRequiredError: There is none: only the user can help.
            AuthorizationUnavailableError: It cannot be renewed now.
            DatabaseUnavailable: It cannot be read.
        """

    async def arrived(self, user_id: str, server_id: str, flow_id: str, seconds: float) -> bool:
        """Wait until a user has a usable token for a server; return whether they have.

        Args:
            user_id: Whose.
            server_id: For which server.
            flow_id: The flow by which it comes; the wait ends early if that fails.
            seconds: The longest wait.
        """


class CachedTokens(AccessTokens, Protocol):
    """Access tokens in memory, which are told what changes in the database."""

    def changed(self, user_ids: Collection[str], row_ids: Collection[str]) -> None:
        """Note that stored tokens have changed: they are read again when they are needed.

        Args:
            user_ids: Whose tokens were written.
            row_ids: Tokens that were deleted.
        """

    def clear(self) -> None:
        """Note that any stored token may have changed."""

    def forget(self, server_ids: Collection[str]) -> None:
        """Note that servers have changed: their tokens may be for another place now."""


class TokenStore(Protocol):
    """Stores users' tokens for servers. Implemented by `registry.oauth.tokens.UpstreamTokens`."""

    async def store(
        self,
        user: UserContext,
        server: OAuthServer,
        request: TokenRequest,
        tokens: Tokens,
        flow_id: str,
    ) -> Sequence[TokenRow]:
        """Store what a flow obtained, in place of what there is, and complete the flow.

        One transaction; in the form jarvis-api reads.

        Args:
            user: Whose tokens they are.
            server: For which server.
            request: By which authorization server and client, for what they were obtained.
            tokens: Them.
            flow_id: The flow, whose code was being exchanged.

        Returns:
            What was replaced although it did not fit, for the caller to have revoked.

        Raises:
            DatabaseUnavailable: Nothing was stored.
        """

    async def granted(self, user: UserContext, server: OAuthServer) -> tuple[str, ...]:
        """Return the scopes of the stored access token, as far as they are known."""

    async def remove(self, user: UserContext, server: OAuthServer) -> RemovedTokens | None:
        """Remove a user's tokens for a server; return what they were, None if there were none.

        Raises:
            DatabaseUnavailable: Nothing was removed.
        """


class AuthorizationLinks(Protocol):
    """Makes links under which people can authorise the registry. Implemented by `LinkSeal`."""

    def link(
        self, user: UserContext, server: OAuthServer, scopes: tuple[str, ...] = ()
    ) -> AuthorizationLink:
        """Return a link for *user*; the same one for a while. No I/O.

        Args:
            user: Who may use it.
            server: What to authorise the registry at.
            scopes: Asked for besides those that are granted or usual.
        """


class AuthorizationStates(Protocol):
    """Reads users' authorizations."""

    async def states(
        self, user: UserContext, servers: Collection[OAuthServer]
    ) -> Mapping[str, AuthorizationState]:
        """Return the states of a user's authorizations, by server id.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """

    def problem(self, user_id: str, server_id: str) -> TokenProblem | None:
        """Return why this process could obtain no access token the last time. No I/O.

        It is past if another authorization is stored now, as `states` has it.
        """


class AuthorizationListener(Protocol):
    """Is told that a user has authorised the registry. Implemented by what reads servers."""

    def authorized(self, user: UserContext, server: OAuthServer) -> None:
        """Note it; returns at once."""


class RemovalListener(Protocol):
    """Is told that servers, or users' tokens for them, were removed.

    Implemented by `registry.oauth.unregistration`.
    """

    def removed(self, server_id: str, rows: Sequence[TokenRow]) -> None:
        """Note it; returns at once.

        Args:
            server_id: Of the server, whichever process or program removed it; or of one that
                has moved, so that tokens do not fit any more.
            rows: Users' tokens that the caller has removed, for nobody else to revoke.
        """
