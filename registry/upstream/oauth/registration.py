"""Clients at authorization servers: registered by hand, by metadata document, or dynamically."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from registry.core.json import JsonObject
from registry.upstream.oauth.errors import AuthorizationServerUnavailableError, OAuthError
from registry.upstream.oauth.http import OAuthHttp, origin_of
from registry.upstream.oauth.token_endpoint import error_of, is_credential, is_sendable, seconds_of
from registry.upstream.oauth.values import (
    AuthorizationServer,
    ClientAuthentication,
    ClientKeys,
    ClientKind,
    ConfiguredClient,
    OAuthClientIdentity,
)

CLIENT_NAME = "MCP Gateway Registry"
SOFTWARE_ID = "mcp-gateway-registry"
GRANT_TYPES = ("authorization_code", "refresh_token")
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
BASIC, NONE = ClientAuthentication.CLIENT_SECRET_BASIC, ClientAuthentication.NONE
SIGNED = ClientAuthentication.PRIVATE_KEY_JWT
PREFERRED = (BASIC, ClientAuthentication.CLIENT_SECRET_POST, NONE)
SIGNING_ALGORITHM = "RS256"
CREATED = frozenset({200, 201})
DELETED = frozenset({200, 204})
LAST_SECOND = 253_402_300_799
"""Of the year 9999: what is later, in milliseconds perhaps, never comes."""
REGISTERED_MEMBERS = (
    *("client_id", "client_secret", "client_id_issued_at", "client_secret_expires_at"),
    *("client_name", "redirect_uris", "grant_types", "response_types", "scope"),
    *("token_endpoint_auth_method", "registration_access_token", "registration_client_uri"),
)
"""What is kept of a registration (RFC 7591, 3.2.1; RFC 7592, 3)."""


MANAGEMENT_MEMBERS = ("registration_client_uri", "registration_access_token")
"""Where a registration is managed, and with what (RFC 7592, 3)."""


class ClientRegistrar:
    """Finds the client to use at an authorization server.

    Args:
        http: Sends registrations.
        keys: With which `private_key_jwt` is possible; None if it is not.
    """

    def __init__(self, http: OAuthHttp, *, keys: ClientKeys | None) -> None:
        self._http = http
        self._keys = keys

    async def client(
        self,
        server: AuthorizationServer,
        configured: ConfiguredClient | None,
        *,
        redirect_uri: str,
        metadata_url: str | None,
        scopes: Sequence[str] | None,
    ) -> OAuthClientIdentity:
        """Return the client: the configured one, else a metadata document, else a new one.

        Args:
            server: Where.
            configured: The one that was registered by hand.
            redirect_uri: Of a new one.
            metadata_url: URL of our metadata document; None if it is not public.
            scopes: That a new one may ask for.

        Raises:
            OAuthError: There is no way to get one, or the registration was refused.
            AuthorizationServerUnavailableError: It failed for now.
        """
        if configured is not None:
            return self.configured(server, configured)
        if metadata_url is not None and server.accepts_metadata_documents:
            # Each document says how its client authenticates.
            authentication = self._keyless(server)
            if authentication is SIGNED and self._keys is not None:
                metadata_url = self._keys.metadata_url or metadata_url
            return OAuthClientIdentity(
                metadata_url,
                ClientKind.METADATA_DOCUMENT,
                authentication,
                document={"client_id": metadata_url, "redirect_uris": [redirect_uri]},
            )
        if server.registration_endpoint is None:
            raise OAuthError(
                "The authorization server does not register clients by itself: register the "
                "registry there, and set oauth.client_id."
            )
        return await self._register(server, server.registration_endpoint, redirect_uri, scopes)

    def configured(
        self, server: AuthorizationServer, configured: ConfiguredClient
    ) -> OAuthClientIdentity:
        """Return the client that was registered by hand."""
        authentication = configured.authentication
        if authentication is None or configured.client_secret is None:
            authentication = (
                self._keyless(server)
                if configured.client_secret is None
                else _with_secret(server.token_authentications)
            )
        return OAuthClientIdentity(
            configured.client_id,
            ClientKind.PREREGISTERED,
            authentication,
            configured.client_secret,
            document={"client_id": configured.client_id},
        )

    def _keyless(self, server: AuthorizationServer) -> ClientAuthentication:
        """Return how a client without a secret authenticates."""
        offered = server.token_authentications or ()
        is_signed = self._keys is not None and SIGNED in offered and NONE not in offered
        return SIGNED if is_signed else NONE

    async def _register(
        self,
        server: AuthorizationServer,
        endpoint: str,
        redirect_uri: str,
        scopes: Sequence[str] | None,
    ) -> OAuthClientIdentity:
        offered = server.token_authentications
        possible = PREFERRED if self._keys is None else (*PREFERRED, SIGNED)
        wanted = next((one for one in possible if offered is None or one in offered), BASIC)
        document: JsonObject = {
            "client_name": CLIENT_NAME,
            "software_id": SOFTWARE_ID,
            "redirect_uris": [redirect_uri],
            "grant_types": [*_grant_types(server)],
            "response_types": ["code"],
            "token_endpoint_auth_method": wanted.value,
            "application_type": application_type(redirect_uri),
        }
        if self._keys is not None and wanted is SIGNED:
            document |= key_members(self._keys)
        if scopes:
            document["scope"] = " ".join(scopes)
        answer = await self._http.post_json(endpoint, document)
        if answer.is_unavailable:
            raise AuthorizationServerUnavailableError(
                f"{origin_of(endpoint)} could not register the client "
                f"(HTTP {answer.status}); try again."
            )
        found = answer.document()
        if answer.status not in CREATED or found is None:
            failed = error_of(answer, ())
            raise OAuthError(f"The registration was refused: {failed.message}", failed.code)
        return _registered(found, endpoint, wanted, scopes or ())

    async def unregister(self, client: OAuthClientIdentity) -> bool:
        """Delete a registration (RFC 7592, 2.3); return whether the authorization server did.

        Raises:
            UnsafeAddressError: Its URL may not be contacted.
            OAuthError: It cannot be asked now.
        """
        url, token = (client.document.get(name) for name in MANAGEMENT_MEMBERS)
        if not isinstance(url, str) or not is_sendable(token):
            return False
        answer = await self._http.delete(url, {"Authorization": f"Bearer {token}"})
        return answer.status in DELETED


def key_members(keys: ClientKeys) -> JsonObject:
    """Return what metadata of a client say of its keys: where they are, else themselves."""
    members: JsonObject = {"token_endpoint_auth_signing_alg": SIGNING_ALGORITHM}
    if keys.jwks_uri is not None:
        return {**members, "jwks_uri": keys.jwks_uri}
    return {**members, "jwks": keys.jwks}


def client_metadata_document(
    metadata_url: str, redirect_uri: str, *, client_uri: str, keys: ClientKeys | None = None
) -> JsonObject:
    """Return the document behind a client id that is a URL.

    Args:
        metadata_url: The client id.
        redirect_uri: Where authorization responses go.
        client_uri: A page about the client.
        keys: With which it authenticates; None if it does not.
    """
    return {
        "client_id": metadata_url,
        "client_name": CLIENT_NAME,
        "client_uri": client_uri,
        "redirect_uris": [redirect_uri],
        "grant_types": [*GRANT_TYPES],
        "response_types": ["code"],
        "token_endpoint_auth_method": (NONE if keys is None else SIGNED).value,
        "application_type": application_type(redirect_uri),
        **({} if keys is None else key_members(keys)),
    }


def application_type(redirect_uri: str) -> str:
    """Return the `application_type` of OpenID Connect Dynamic Client Registration."""
    parts = urlsplit(redirect_uri)
    return "native" if parts.scheme == "http" and parts.hostname in LOCAL_HOSTS else "web"


def _with_secret(offered: tuple[str, ...] | None) -> ClientAuthentication:
    """Return how a client with a secret authenticates; RFC 8414 names the default."""
    post = ClientAuthentication.CLIENT_SECRET_POST
    if offered and BASIC not in offered and post in offered:
        return post
    return BASIC


def _grant_types(server: AuthorizationServer) -> list[str]:
    """Return the grants to register for: some servers refuse clients that want others."""
    offered = server.document.get("grant_types_supported")
    if not isinstance(offered, list):
        return [*GRANT_TYPES]
    code = GRANT_TYPES[0]
    return [grant for grant in GRANT_TYPES if grant == code or grant in offered]


def registered_scopes(client: OAuthClientIdentity) -> tuple[str, ...]:
    """Return the scopes that a registered client may ask for: those it was registered with."""
    scope = client.document.get("scope")
    return tuple(scope.split()) if isinstance(scope, str) else ()


def _registered(
    document: JsonObject, endpoint: str, wanted: ClientAuthentication, scopes: Sequence[str]
) -> OAuthClientIdentity:
    client_id, secret = document.get("client_id"), document.get("client_secret") or None
    if not is_credential(client_id):
        raise OAuthError("The registration answered no client_id that can be used.")
    if secret is not None and not is_credential(secret):
        raise OAuthError("The registration answered a client_secret that cannot be used.")
    given = document.get("token_endpoint_auth_method") or wanted.value
    # Of no use without the keys that were sent.
    if given not in PREFERRED and given != wanted:
        raise OAuthError("The registration wants a way of authentication that is not supported.")
    # 0 stands for never (RFC 7591, 3.2.1).
    expires_at = seconds_of(document.get("client_secret_expires_at"))
    kept = {name: document[name] for name in REGISTERED_MEMBERS if name in document}
    if not _is_beside(kept.get("registration_client_uri"), endpoint):
        # It would have us send a request of its choice to somebody else.
        for name in MANAGEMENT_MEMBERS:
            kept.pop(name, None)
    answered = kept.get("scope")
    granted = answered.split() if isinstance(answered, str) else []
    if scopes or granted:
        # With those that were asked for, or they would be asked for again and again.
        kept["scope"] = " ".join(dict.fromkeys((*granted, *scopes)))
    authentication = ClientAuthentication(given)
    if authentication is SIGNED:
        secret = None
    elif secret is None:
        authentication = NONE
    return OAuthClientIdentity(
        str(client_id),
        ClientKind.REGISTERED,
        authentication,
        None if secret is None else str(secret),
        expires_at=None if expires_at is None or expires_at > LAST_SECOND else expires_at,
        document=kept,
    )


def _is_beside(url: object, endpoint: str) -> bool:
    """Whether *url* is of the origin of *endpoint*."""
    try:
        return isinstance(url, str) and origin_of(url) == origin_of(endpoint)
    except ValueError:
        return False
