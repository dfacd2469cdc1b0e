"""Values of the oauth domain."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, PlainValidator, StrictStr

from packages.database.stored import (
    Projection,
    RequiredTime,
    StoredText,
    TextOrEmpty,
    id_of,
    json_members,
    text_of,
    texts_of,
)
from packages.models.states import FlowStatus
from registry.auth.identity import Role, tenant_of
from registry.core.json import JsonObject, choice_of
from registry.upstream.oauth.values import OAuthClientIdentity, TokenRequest


class Grant(StrEnum):
    """How access tokens for a server are obtained."""

    AUTHORIZATION_CODE = "authorization_code"
    """Each user authorises the registry in a browser."""
    CLIENT_CREDENTIALS = "client_credentials"
    """The registry acts for itself: one token for all users."""
    TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a URN
    """The registry exchanges an assertion about the caller (RFC 8693)."""


def _user_id(stored: object) -> str:
    user_id = id_of(stored) or text_of(stored)
    if user_id is None:
        raise ValueError("has another type")
    return user_id


def _status(stored: object) -> FlowStatus:
    # A status of another release says that its flow is of no use here.
    return choice_of(FlowStatus, stored) or FlowStatus.FAILED


def _optional_texts(stored: object) -> list[str] | None:
    return [*texts_of(stored)] if isinstance(stored, list) else None


OptionalTexts = Annotated[list[str] | None, PlainValidator(_optional_texts)]


class OAuthFlow(Projection):
    """An attempt of a user to authorise the registry; see `packages.models.oauth` for members.

    Attributes:
        code_verifier: In clear where it was claimed or is to be stored, else as stored.
    """

    model_config = ConfigDict(frozen=False, populate_by_name=True)

    id: Annotated[StrictStr, Field(alias="_id")]
    user_id: Annotated[str, PlainValidator(_user_id)]
    username: TextOrEmpty = ""
    role: Annotated[str, PlainValidator(lambda stored: Role.parse(text_of(stored)).value)] = (
        Role.USER.value
    )
    is_service_account: Annotated[bool, PlainValidator(lambda stored: stored is True)] = False
    tenant_id: Annotated[str | None, PlainValidator(tenant_of)] = None
    server_id: TextOrEmpty = ""
    server_name: TextOrEmpty = ""
    server_url: TextOrEmpty = ""
    configuration: TextOrEmpty = ""
    status: Annotated[FlowStatus, PlainValidator(_status)] = FlowStatus.FAILED
    browser: Annotated[StoredText, Field(repr=False)] = None
    nonce: Annotated[StoredText, Field(repr=False)] = None
    issuer: StoredText = None
    authorization_server: Annotated[JsonObject, PlainValidator(json_members)] = Field(
        default_factory=dict
    )
    resource_issuers: OptionalTexts = None
    client_id: StoredText = None
    redirect_uri: StoredText = None
    scopes: OptionalTexts = None
    resource: StoredText = None
    code_verifier: Annotated[StoredText, Field(repr=False)] = None
    reason: StoredText = None
    created_at: RequiredTime
    updated_at: RequiredTime
    expires_at: RequiredTime

    def status_at(self, now: datetime) -> FlowStatus:
        """Return the status: a flow that was not completed in time has failed."""
        is_open = self.status in {FlowStatus.PENDING, FlowStatus.EXCHANGING}
        return FlowStatus.FAILED if is_open and self.expires_at <= now else self.status


ABOUT_TOKENS = ("requiresOAuth", "oauth", "oauthMetadata")
"""Members of `config` that say where tokens come from and what they are for."""


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

    def takes_tokens_of(self, former: "OAuthServer") -> bool:
        """Whether tokens that were found for *former*, a version of this server, are good here."""
        return self is former or (
            (self.id, self.name, self.url) == (former.id, former.name, former.url)
            and all(self.config.get(name) == former.config.get(name) for name in ABOUT_TOKENS)
        )


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
class TokenProblem:
    """Why this process could obtain no access token for a server when it was last asked for one.

    Attributes:
        message: Safe to show.
        at: When, UTC.
        version: The `updatedAt` of the server's configuration.
        authorization: Identifies the stored authorization that it was found with: once another
            one is stored, the problem is past. None if nothing stored was used.
    """

    message: str
    at: datetime
    version: datetime | None
    authorization: str | None = None


SHOWN_SCOPES = 10


def shown_scopes(scopes: Sequence[str]) -> str:
    """Return scopes as a text for people; a server may have named any number, of any length."""
    shown = ", ".join(one[:100] for one in scopes[:SHOWN_SCOPES])
    return f"{shown} and others" if len(scopes) > SHOWN_SCOPES else shown


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
        user_id: Whose they were.
    """

    request: TokenRequest | None
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    user_id: str = ""


@dataclass(frozen=True, slots=True)
class StoredClient:
    """A client that an authorization server registered, for all users of a tenant.

    Attributes:
        issuer: Of the authorization server, else its token endpoint.
    """

    issuer: str
    redirect_uri: str
    tenant_id: str | None
    identity: OAuthClientIdentity


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
        identity: Identifies what is stored, without showing it; None if it cannot be renewed.
    """

    is_authorized: bool = False
    needs_reauth: bool = False
    is_renewing: bool = False
    has_failed: bool = False
    is_under_way: bool = False
    identity: str | None = None
