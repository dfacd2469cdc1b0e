"""Finds the authorization server of a registered server, and the registry's client there.

Above it are flows and the renewal of tokens; below it are the OAuth client, which speaks to
authorization servers, and the stored clients.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, cast

from registry.core.json import JsonObject, members
from registry.oauth.ports import OAuthServers
from registry.oauth.values import OAuthServer, StoredClient
from registry.upstream.oauth.http import origin_of
from registry.upstream.oauth.metadata import (
    MAX_TRIED_ISSUERS,
    Discovered,
    OAuthDiscovery,
    configured_authentication,
)
from registry.upstream.oauth.registration import ClientRegistrar, registered_scopes
from registry.upstream.oauth.values import (
    AuthorizationServer,
    ClientKind,
    ConfiguredClient,
    OAuthClientIdentity,
)


class RegisteredClients(Protocol):
    """Stores clients that authorization servers registered, once for all users of a tenant."""

    async def find(
        self, issuer: str, redirect_uri: str, tenant_id: str | None
    ) -> OAuthClientIdentity | None:
        """Return the client at *issuer*, if there is one."""

    async def store(
        self, issuer: str, redirect_uri: str, tenant_id: str | None, client: OAuthClientIdentity
    ) -> OAuthClientIdentity:
        """Store a new client; return the one that is stored, which another process may have."""

    async def remove(
        self, issuer: str, redirect_uri: str, tenant_id: str | None, client_id: str
    ) -> bool:
        """Remove a client that is of no use any more; return whether nobody else has."""

    async def all(self) -> Sequence[StoredClient]:
        """Return all of them, at any authorization server."""


class AuthorizationServers:
    """Finds authorization servers and clients.

    Args:
        redirect_uri: Where authorization responses come to.
        metadata_url: URL of our client metadata document; None if it is not public.
    """

    def __init__(
        self,
        servers: OAuthServers,
        discovery: OAuthDiscovery,
        registrar: ClientRegistrar,
        clients: RegisteredClients,
        *,
        redirect_uri: str,
        metadata_url: str | None,
    ) -> None:
        self._servers = servers
        self._discovery = discovery
        self._registrar = registrar
        self._clients = clients
        self.redirect_uri = redirect_uri
        self._metadata_url = metadata_url

    async def discover(
        self, server: OAuthServer, issuer: str | None = None, *, without: Collection[str] = ()
    ) -> Discovered:
        """Return the authorization server of a server: *issuer*, if that is still one of several.

        Args:
            server: Which.
            issuer: Where a flow began.
            without: Issuers with which no flow can begin.

        Raises:
            UnsafeAddressError: A URL may not be contacted.
            OAuthError: There is none that can be used, or not now.
        """
        known = members(server.config.get("oauthMetadata"))
        return await self._discovery.of_server(
            server.url, oauth_of(server.config), known, issuer, without=without
        )

    async def check_response(self, server: AuthorizationServer, issuer: str | None) -> None:
        """Check the `iss` of an authorization response.

        Raises:
            OAuthError: It comes from another server, or that cannot be said now.
        """
        await self._discovery.check_response(server, issuer)

    async def client(
        self, server: OAuthServer, found: Discovered, scopes: tuple[str, ...] | None
    ) -> OAuthClientIdentity:
        """Return the client to use, which is registered first if necessary.

        Raises:
            OAuthError: There is none, or not now.
            CredentialUnreadableError: The configured secret cannot be decrypted.
            DatabaseUnavailable: It cannot be read, or not be stored.
        """
        configured = self._configured(server)
        issuer = place_of(found.server)
        is_registered = configured is None and not (
            self._metadata_url is not None and found.server.accepts_metadata_documents
        )
        known = None
        if is_registered:
            known = await self._clients.find(issuer, self.redirect_uri, server.tenant_id)
            if known is not None:
                registered = registered_scopes(known)
                if set(scopes or ()) <= set(registered):
                    return known
                # Some servers refuse scopes that a client was not registered with. Tokens are
                # stored with the client that obtained them, which is used for them all the same.
                scopes = tuple(dict.fromkeys((*registered, *(scopes or ()))))
        client = await self._registrar.client(
            found.server,
            configured,
            redirect_uri=self.redirect_uri,
            metadata_url=self._metadata_url,
            scopes=scopes,
        )
        if client.kind is not ClientKind.REGISTERED:
            return client
        if known is not None:
            await self.forget(server, found.server, known.client_id)
        return await self._clients.store(issuer, self.redirect_uri, server.tenant_id, client)

    async def forget(
        self, server: OAuthServer, authorization_server: AuthorizationServer, client_id: str
    ) -> None:
        """Register a new client from now on: this one is not known there any more."""
        await self._clients.remove(
            place_of(authorization_server), self.redirect_uri, server.tenant_id, client_id
        )

    async def unused(self) -> list[StoredClient]:
        """Return the registered clients of which no server can make use. Contacts nobody."""
        clients = await self._clients.all()
        if not clients:
            return []
        used = {
            (place, server.tenant_id)
            for server in await self._servers.all_unchecked()
            if not oauth_of(server.config).get("client_id")
            for place in _places(server)
        }
        return [one for one in clients if (one.issuer, one.tenant_id) not in used]

    async def unregister(self, client: StoredClient) -> bool | None:
        """Forget a client that nothing uses, and delete it at its authorization server.

        Returns:
            Whether the authorization server deleted it; None if another process sees to that.

        Raises:
            UpstreamError: It cannot be asked now; here the client is forgotten.
            DatabaseUnavailable: Nothing was done.
        """
        key = client.issuer, client.redirect_uri, client.tenant_id
        if not await self._clients.remove(*key, client.identity.client_id):
            return None
        return await self._registrar.unregister(client.identity)

    def _configured(self, server: OAuthServer) -> ConfiguredClient | None:
        oauth = oauth_of(server.config)
        client_id = oauth.get("client_id")
        if not isinstance(client_id, str) or not client_id:
            return None
        return ConfiguredClient(
            client_id, self._servers.client_secret(server), configured_authentication(oauth)
        )


def oauth_of(config: Mapping[str, object]) -> JsonObject:
    """Return `config.oauth`; empty if there is none."""
    return members(cast("JsonObject", config).get("oauth"))


def place_of(server: AuthorizationServer) -> str:
    """Return what identifies an authorization server: its issuer, else its token endpoint."""
    return server.issuer or server.token_endpoint


def _places(server: OAuthServer) -> list[str]:
    """Return what may identify the authorization servers of a server; see `place_of`."""
    named = members(server.config.get("oauthMetadata")).get("authorization_servers")
    issuers = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    if not issuers:
        issuers = [origin_of(server.url)]
    bare = [one.rstrip("/") for one in issuers[:MAX_TRIED_ISSUERS]]
    ends = ("", "/") if named else ("", "/", "/token")
    return [f"{one}{end}" for one in bare for end in ends]


def configuration_digest(server: OAuthServer) -> str:
    """Return a digest of all that a server's configuration says about OAuth."""
    said = [server.url, server.config.get("requiresOAuth"), server.config.get("oauth")]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def asked_scopes(
    found: Discovered, configured: Mapping[str, object], more: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Return the scopes to ask for; None to name none.

    Those of the configuration, else those of the server's challenge or metadata, and *more*. A
    refresh token is asked for where that needs a scope.
    """
    scope = configured.get("scope")
    chosen = tuple(scope.split()) if isinstance(scope, str) else found.resource.scopes
    if chosen is None and not more:
        return None
    offered = found.server.scopes_supported or ()
    offline = ("offline_access",) if "offline_access" in offered else ()
    return tuple(dict.fromkeys((*(chosen or ()), *more, *offline))) or None
