"""Values of the oauth domain."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from registry.core.json import JsonObject
from registry.upstream.oauth.values import TokenRequest


class Grant(StrEnum):
    """How access tokens for a server are obtained."""

    AUTHORIZATION_CODE = "authorization_code"
    """Each user authorises the registry in a browser."""
    CLIENT_CREDENTIALS = "client_credentials"
    """The registry acts for itself: one token for all users."""
    TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a URN
    """The registry exchanges an assertion about the caller (RFC 8693)."""


class FlowStatus(StrEnum):
    """State of a flow, as stored; one past its expiry counts as `FAILED`."""

    PENDING = "pending"
    EXCHANGING = "exchanging"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class OAuthServer:
    """A registered server, as far as OAuth is concerned.

    Attributes:
        config: As stored; `oauth` and `oauthMetadata` may hold anything.
        created_at: Tokens stored before are of a former server of that name.
        updated_at: The version of its configuration.
    """

    id: str
    name: str
    slug: str
    title: str
    url: str
    config: JsonObject = field(repr=False)
    created_at: datetime | None
    updated_at: datetime | None
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A usable access token of a user for a server, in memory.

    Two are the same token only if they are the same object.

    Attributes:
        token_id: `_id` of its document; None for one that is not stored.
        expires_at: When it is no longer used, UTC.
        refresh_at: When it is renewed in the background, UTC; not before.
        scopes: Those granted; None if unknown.
    """

    value: str = field(repr=False)
    token_id: str | None
    expires_at: datetime
    refresh_at: datetime
    scopes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class AuthorizationLink:
    """A link under which a person can authorise the registry at a server.

    Attributes:
        flow_id: Identifies the flow that it starts; public.
        url: Below the registry's public URL.
        expires_at: UTC.
    """

    flow_id: str
    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class RemovedTokens:
    """Tokens that were removed here and are to be revoked at their authorization server.

    Attributes:
        request: By which authorization server and client they were obtained; None if unknown.
        refresh_token: None if there was none, or it cannot be decrypted; so the access token.
    """

    request: TokenRequest | None
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AuthorizationState:
    """One user's authorization at one server, without its tokens.

    Attributes:
        is_authorized: Whether there is a usable access token, or one can be obtained without the
            user.
        needs_reauth: Whether the authorization server has refused the stored refresh token.
        is_renewing: Whether stored tokens are being exchanged now.
        has_failed: Whether the last flow failed.
        is_under_way: Whether the user was sent to the authorization server.
    """

    is_authorized: bool = False
    needs_reauth: bool = False
    is_renewing: bool = False
    has_failed: bool = False
    is_under_way: bool = False
