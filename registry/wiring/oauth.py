"""Builds users' access to servers by OAuth."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from registry.auth.jwt import TokenIssuer
from registry.auth.repository import DirectoryRepository
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.core.seal import Seal
from registry.core.settings import Settings
from registry.oauth.authorization_servers import AuthorizationServers
from registry.oauth.links import (
    CALLBACK_PATH,
    METADATA_PATH,
    SIGNING_METADATA_PATH,
    LinkSeal,
)
from registry.oauth.ports import AuthorizationListener
from registry.oauth.renewal import Renewal
from registry.oauth.repository import OAuthClientRepository, OAuthFlowRepository
from registry.oauth.service import AuthorizationService
from registry.oauth.stored_tokens import OAuthTokenRepository
from registry.oauth.tokens import UpstreamTokens
from registry.oauth.unregistration import Unregistration
from registry.servers.adapters import OAuthServerReader
from registry.servers.credentials import CredentialVault
from registry.upstream.guard import UrlGuard
from registry.upstream.oauth.http import oauth_http
from registry.upstream.oauth.metadata import OAuthDiscovery
from registry.upstream.oauth.registration import ClientRegistrar, client_metadata_document
from registry.upstream.oauth.token_endpoint import TokenEndpoint
from registry.upstream.oauth.values import ClientKeys
from registry.wiring.storage import Storage


@dataclass(frozen=True, slots=True)
class Authorizations:
    """The parts of users' access to servers.

    Attributes:
        tokens: Supplies and renews access tokens.
        links: Makes links under which users authorise the registry.
        unregistration: Revokes tokens of removed servers, and deletes clients that nothing uses.
    """

    tokens: UpstreamTokens
    links: LinkSeal
    unregistration: Unregistration
    _servers: OAuthServerReader
    _flows: OAuthFlowRepository
    _authorization_servers: AuthorizationServers
    _endpoint: TokenEndpoint
    _state_seal: Seal
    _metadata: Mapping[str, JsonObject]

    def service(
        self,
        settings: Settings,
        storage: Storage,
        directory: DirectoryRepository,
        listener: AuthorizationListener,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> AuthorizationService:
        """Return the service of flows, which notifies *listener* of completed ones."""
        return AuthorizationService(
            self._flows,
            self._servers,
            directory,
            self._authorization_servers,
            self._endpoint,
            self.tokens,
            links=self.links,
            state_seal=self._state_seal,
            listener=listener,
            removals=self.unregistration,
            audit=storage.audit,
            base_url=settings.base_url,
            metadata=self._metadata,
            clock=clock,
            metrics=metrics,
        )


async def build_oauth(
    stack: AsyncExitStack,
    settings: Settings,
    storage: Storage,
    guard: UrlGuard,
    vault: CredentialVault,
    issuer: TokenIssuer,
    background: BackgroundTasks,
    *,
    clock: Clock,
    metrics: Metrics,
) -> Authorizations:
    """Return the parts of users' access to servers; *stack* closes their connections."""
    cipher, database = storage.cipher, storage.database
    http = await stack.enter_async_context(
        oauth_http(
            guard,
            connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
            total_timeout_seconds=settings.discovery_timeout_seconds,
        )
    )
    base_url = settings.base_url
    redirect_uri = f"{base_url}{CALLBACK_PATH}"
    metadata_url = f"{base_url}{METADATA_PATH}" if base_url.startswith("https://") else None
    keys = ClientKeys({"keys": [{**issuer.jwk}]})
    metadata: dict[str, JsonObject] = {}
    if metadata_url is not None:
        signing_url = f"{base_url}{SIGNING_METADATA_PATH}"
        keys = ClientKeys(keys.jwks, f"{base_url}/.well-known/jwks.json", signing_url)
        metadata = {
            METADATA_PATH: client_metadata_document(
                metadata_url, redirect_uri, client_uri=base_url
            ),
            SIGNING_METADATA_PATH: client_metadata_document(
                signing_url, redirect_uri, client_uri=base_url, keys=keys
            ),
        }
    servers = OAuthServerReader(
        storage.repositories.servers,
        storage.repositories.acl,
        vault,
        clock,
        admin_uses_private=settings.admin_uses_private,
    )
    flows = OAuthFlowRepository(database, cipher)
    authorization_servers = AuthorizationServers(
        servers,
        OAuthDiscovery(http, guard),
        ClientRegistrar(http, keys=keys),
        OAuthClientRepository(database, cipher, clock),
        redirect_uri=redirect_uri,
        metadata_url=metadata_url,
    )
    endpoint = TokenEndpoint(http, clock, issuer.sign)
    links = LinkSeal([*cipher.derive_keys("oauth-link").values()], base_url, clock)
    stored = OAuthTokenRepository(database, storage.repositories.tokens, flows, cipher, clock)
    renewal = Renewal(
        stored,
        endpoint,
        authorization_servers,
        background,
        storage.audit,
        clock=clock,
        metrics=metrics,
    )
    tokens = UpstreamTokens(
        stored,
        flows,
        renewal,
        authorization_servers,
        endpoint,
        links,
        background,
        clock=clock,
        sign=issuer.sign,
        issuer=base_url,
    )
    return Authorizations(
        tokens,
        links,
        Unregistration(
            authorization_servers,
            flows,
            storage.repositories.tokens,
            stored,
            endpoint,
            background,
            clock,
        ),
        servers,
        flows,
        authorization_servers,
        endpoint,
        Seal([*cipher.derive_keys("oauth-state").values()], "oauth-state/1"),
        metadata,
    )
