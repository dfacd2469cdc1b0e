"""Values of the OAuth client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from registry.core.json import JsonObject


class ClientAuthentication(StrEnum):
    """How a client authenticates at the token endpoint (RFC 7591, 2)."""

    NONE = "none"
    CLIENT_SECRET_BASIC = "client_secret_basic"  # noqa: S105 - the name of a method
    CLIENT_SECRET_POST = "client_secret_post"  # noqa: S105 - the name of a method
    PRIVATE_KEY_JWT = "private_key_jwt"


class ClientKind(StrEnum):
    """Where a client id comes from."""

    PREREGISTERED = "preregistered"
    METADATA_DOCUMENT = "metadata_document"
    REGISTERED = "registered"


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """A server as a resource of OAuth (RFC 9728).

    Attributes:
        resource: Its identifier, sent as `resource` (RFC 8707); None if it publishes none.
        authorization_servers: Their issuers.
        scopes: What to ask for: of the challenge, else `scopes_supported`; None if neither says.
        document: The known members of its metadata, as `config.oauthMetadata` stores them.
    """

    resource: str | None
    authorization_servers: tuple[str, ...] = ()
    scopes: tuple[str, ...] | None = None
    document: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """An authorization server (RFC 8414, OpenID Connect Discovery, or configured by hand).

    Attributes:
        issuer: None if it was configured by hand without one.
        sends_issuer: Whether its authorization responses contain `iss` (RFC 9207).
        accepts_metadata_documents: Whether a client id may be the URL of a metadata document.
        document: Its metadata as read, known members only, as jarvis-api stores them.
    """

    issuer: str | None
    authorization_endpoint: str | None
    token_endpoint: str
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    scopes_supported: tuple[str, ...] | None = None
    code_challenge_methods: tuple[str, ...] | None = None
    token_authentications: tuple[str, ...] | None = None
    sends_issuer: bool = False
    accepts_metadata_documents: bool = False
    document: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfiguredClient:
    """A client that was registered by hand.

    Attributes:
        authentication: How it must authenticate; None for what the authorization server supports.
    """

    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    authentication: ClientAuthentication | None = None


@dataclass(frozen=True, slots=True)
class OAuthClientIdentity:
    """A client at an authorization server.

    Attributes:
        expires_at: When the registration ends, Unix seconds; None if it does not.
        document: What the registration answered; contains secrets.
    """

    client_id: str
    kind: ClientKind
    authentication: ClientAuthentication
    client_secret: str | None = field(default=None, repr=False)
    expires_at: int | None = None
    document: JsonObject = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The answer of a token endpoint.

    Attributes:
        expires_in: Seconds; None if it was not told.
        refresh_expires_in: Seconds; None if it was not told.
        scopes: Those granted; None if they are those that were asked for.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in: int | None = None
    refresh_expires_in: int | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """The keys with which the registry authenticates as a client (RFC 7523), as others see them.

    Attributes:
        jwks: The public keys, as a JWK set.
        jwks_uri: Where it is published; None if that is not public.
        metadata_url: URL of the client metadata document that names them; None likewise.
    """

    jwks: JsonObject
    jwks_uri: str | None = None
    metadata_url: str | None = None


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What every request at a token endpoint contains.

    Attributes:
        resource: The `resource` of RFC 8707; None to send none.
        scopes: None to send none.
    """

    server: AuthorizationServer
    client: OAuthClientIdentity
    resource: str | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Challenge:
    """The `Bearer` challenge of a 401 or 403 (RFC 6750 3, RFC 9728 5.1).

    Attributes:
        error: For example `invalid_token` or `insufficient_scope`.
        resource_metadata: URL of the resource's metadata.
    """

    error: str | None = None
    scopes: tuple[str, ...] | None = None
    resource_metadata: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
