"""Values of the tokens domain."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self

from bson import ObjectId
from pydantic import (
    AliasPath,
    BeforeValidator,
    Field,
    PlainValidator,
    StrictStr,
    ValidationInfo,
)

from packages.database.stored import (
    LATEST,
    Projection,
    RequiredId,
    RequiredTime,
    StoredText,
    StoredTexts,
    StoredTime,
    TextOrEmpty,
    id_of,
    json_members,
    moment_of,
    text_of,
    whole_of,
)
from packages.models.sessions import IssuedAccessToken
from registry.auth.identity import Role, tenant_of
from registry.core.json import JsonObject, members

ENDED = datetime(1970, 1, 1, tzinfo=UTC)
"""Expiry of a token whose stored expiry is not a date."""

RECENT_ACCESS_TOKENS = 50
"""Access tokens of a family by whose id it can be found; older ones are dropped."""


class TokenType(StrEnum):
    """Kinds of tokens that the registry stores. Others in the collection are never touched."""

    OAUTH_ACCESS = "oauth_access"
    OAUTH_REFRESH = "oauth_refresh"
    API_KEY = "api_key"


STORED_TYPES: dict[str, TokenType] = {
    "oauth_access": TokenType.OAUTH_ACCESS,
    "oauth_refresh": TokenType.OAUTH_REFRESH,
    "api_key": TokenType.API_KEY,
    "mcp_oauth": TokenType.OAUTH_ACCESS,
    "mcp_oauth_refresh": TokenType.OAUTH_REFRESH,
}
"""Kinds by stored spelling: jarvis-api writes and reads `mcp_oauth` and `mcp_oauth_refresh`."""

LINKS: dict[TokenType, str] = {
    TokenType.OAUTH_ACCESS: "refresh_token_id",
    TokenType.OAUTH_REFRESH: "access_token_id",
}
"""Member of the metadata that links a token of a kind to the other one of its pair."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """Key of a user's token.

    Attributes:
        stored_type: As it stands in the database, for example `mcp_oauth`.
        identifier: As it stands there, for example `mcp:weather`.
        given_identifier: The caller's own, where the stored one is made from a server's name.
    """

    stored_type: str
    identifier: str
    given_identifier: str | None = None

    @property
    def kind(self) -> TokenType:
        """Return the kind in our spelling."""
        return STORED_TYPES[self.stored_type]


def _created(stored: object, info: ValidationInfo) -> datetime:
    # Another program may store a token without this time; its id holds one too.
    return moment_of(stored) or ObjectId(info.data.get("token_id")).generation_time


def _access_token(stored: object) -> tuple[StoredKey, JsonObject] | None:
    facts = members(stored)
    stored_type = text_of(facts.get("type")) or ""
    if STORED_TYPES.get(stored_type) is not TokenType.OAUTH_ACCESS:
        return None
    identifier = text_of(facts.get("identifier")) or ""
    key = StoredKey(stored_type, identifier, text_of(facts.get("given_identifier")))
    return key, json_members(facts.get("metadata"))


class TokenRecord(Projection):
    """One token of a user, without its value.

    Attributes:
        access_token: Of a refresh token: key and metadata of its access token, from which that is
            restored after the TTL index removed it.
    """

    token_id: Annotated[RequiredId, Field(alias="_id")]
    user_id: Annotated[RequiredId, Field(alias="userId")]
    stored_type: Annotated[str, BeforeValidator(text_of), Field(alias="type")]
    identifier: Annotated[str, PlainValidator(lambda stored: text_of(stored) or "")] = ""
    given_identifier: Annotated[
        StoredText, Field(validation_alias=AliasPath("registry", "identifier"))
    ] = None
    created_at: Annotated[datetime, PlainValidator(_created)] = Field(
        default=None, alias="createdAt", validate_default=True
    )
    expires_at: Annotated[
        datetime,
        PlainValidator(lambda stored: moment_of(stored) or ENDED),
        Field(alias="expiresAt"),
    ] = ENDED
    metadata: Annotated[JsonObject, PlainValidator(json_members)] = Field(default_factory=dict)
    access_token: Annotated[
        tuple[StoredKey, JsonObject] | None,
        PlainValidator(_access_token),
        Field(validation_alias=AliasPath("registry", "access_token")),
    ] = None

    @property
    def key(self) -> StoredKey:
        """Return the key of the token."""
        return StoredKey(self.stored_type, self.identifier, self.given_identifier)

    def is_live(self, now: datetime) -> bool:
        """Whether the token has not expired."""
        return self.expires_at > now


class StoredToken(TokenRecord):
    """One token of a user with its value, which is encrypted as long as only the model was read.

    A value that is not text is not ciphertext either: other programs write here too.
    """

    value: Annotated[
        str, PlainValidator(lambda stored: text_of(stored) or ""), Field(alias="token", repr=False)
    ] = ""


def _own_members(stored: object) -> dict[str, object]:
    if not isinstance(stored, dict):
        raise ValueError("has another type")  # noqa: TRY004 - pydantic takes no other
    return stored


class TokenRow(Projection):
    """A row of a user's OAuth tokens for a server, encrypted, whichever program wrote it.

    Attributes:
        key: `_id` as stored.
        ciphertext: Empty if it is not text.
        registry: The members that only we write.
    """

    key: Annotated[Any, Field(alias="_id")]
    user_id: Annotated[RequiredId, Field(alias="userId")]
    stored_type: Annotated[TextOrEmpty, Field(alias="type")] = ""
    identifier: TextOrEmpty = ""
    ciphertext: Annotated[TextOrEmpty, Field(alias="token", repr=False)] = ""
    created_at: Annotated[StoredTime, Field(alias="createdAt")] = None
    expires_at: Annotated[StoredTime, Field(alias="expiresAt")] = None
    metadata: Annotated[JsonObject, PlainValidator(json_members)] = Field(default_factory=dict)
    registry: Annotated[dict[str, object], PlainValidator(_own_members)] = Field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class TokenRowValues:
    """What is written of such a row.

    Attributes:
        facts: `registry.oauth`.
        metadata: None to keep what there is.
    """

    value: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    facts: JsonObject
    metadata: JsonObject | None = None
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True)
class TokenFilter:
    """Filter of a list of tokens."""

    kind: TokenType | None = None
    identifier: str | None = None


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Numbers of tokens. *expired* ones await the TTL sweep."""

    total: int
    by_type: dict[TokenType, int]
    active: int
    expired: int
    active_users: int
    active_by_type: dict[TokenType, int] = field(
        default_factory=lambda: dict.fromkeys(TokenType, 0)
    )


def _access_tokens(stored: object) -> list[object]:
    return [
        one
        for one in (stored if isinstance(stored, list | tuple) else ())
        if isinstance(one, IssuedAccessToken)
        or (text_of(members(one).get("id")) and moment_of(members(one).get("expires_at")))
    ]


class IssuedFamily(Projection):
    """Tokens that were issued together, and those they were exchanged for.

    Attributes:
        family_id: The `sid` claim of all its tokens.
        is_known_user: Whether the user was in `users` when it began.
        scopes: In the order in which they were asked for.
        hours: Lifetime of its access tokens.
        ancestors: `sid` or `jti` of the tokens it was generated with, the oldest first. Without
            the complete list it is unknown whether the family is revoked.
        expires_at: When nothing of it is valid any more.
        refresh_token_id: `jti` of the one refresh token that can be exchanged; None for tokens
            that cannot be renewed.
        access_tokens: The latest access tokens, the newest last.
        revoked_at: A stored value that is not a time counts as one.
        tenant_id: The tenant that the user was of when it began.
        toolset: The toolset that its tokens are limited to, as the claim says it; an unreadable
            one names none.
    """

    family_id: Annotated[StrictStr, Field(alias="_id")]
    user_id: Annotated[StrictStr, BeforeValidator(lambda stored: id_of(stored) or stored)]
    username: Annotated[str, PlainValidator(lambda stored: text_of(stored) or "")] = ""
    role: Annotated[Role, PlainValidator(lambda stored: Role.parse(text_of(stored)))] = Role.USER
    is_known_user: Annotated[bool, PlainValidator(lambda stored: stored is not False)] = True
    scopes: StoredTexts = ()
    hours: Annotated[int, PlainValidator(lambda stored: max(1, whole_of(stored) or 1))] = 1
    description: StoredText = None
    ancestors: tuple[StrictStr, ...]
    created_at: RequiredTime
    expires_at: RequiredTime
    refresh_token_id: StoredText = None
    access_tokens: Annotated[
        tuple[IssuedAccessToken, ...], BeforeValidator(_access_tokens), Field(min_length=1)
    ]
    exchanged_at: StoredTime = None
    revoked_at: Annotated[
        datetime | None,
        PlainValidator(lambda stored: None if stored is None else moment_of(stored) or LATEST),
    ] = None
    tenant_id: Annotated[str | None, PlainValidator(tenant_of)] = None
    toolset: Annotated[
        str | None,
        PlainValidator(lambda stored: None if stored is None else text_of(stored) or ""),
    ] = None
    tools: StoredText = None

    @property
    def access_token(self) -> IssuedAccessToken:
        """Return the latest access token."""
        return self.access_tokens[-1]

    def is_live(self, now: datetime) -> bool:
        """Whether its tokens are accepted, as far as the family itself knows."""
        return self.revoked_at is None and self.expires_at > now

    def exchanged(
        self, access_token: IssuedAccessToken, refresh_token_id: str, now: datetime
    ) -> Self:
        """Return the family with the tokens that its refresh token was exchanged for."""
        unexpired = [one for one in self.access_tokens if one.expires_at > now]
        return self.model_copy(
            update={
                "access_tokens": (*unexpired, access_token)[-RECENT_ACCESS_TOKENS:],
                "refresh_token_id": refresh_token_id,
                "exchanged_at": now,
            }
        )


@dataclass(frozen=True, slots=True)
class IssuedPair:
    """An issued access and refresh token, with values.

    Attributes:
        access_id: `jti` of the access token, by which it can be revoked.
    """

    access_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in_seconds: int
    refresh_expires_in_seconds: int
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """A request for an access token: for whom, with which rights, for how long.

    Attributes:
        username: Shown in records; the stored user's where empty.
        scopes: Custom ones included.
        ancestors: The token of the actor, preceded by that token's own ancestors.
        toolset: Name of the toolset that it is limited to at the gateway.
        tools: Which tools clients find at the gateway: `all`, `search`, or None.
    """

    user_id: str
    username: str
    role: Role
    scopes: frozenset[str]
    lifetime: timedelta
    description: str | None = None
    ancestors: tuple[str, ...] = ()
    toolset: str | None = None
    tools: str | None = None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """One issued access token, with its value.

    Attributes:
        is_known_user: Whether its user is in `users`.
    """

    access_id: str
    access_token: str = field(repr=False)
    is_known_user: bool


@dataclass(frozen=True, slots=True)
class ListedFamily:
    """A family in a list.

    Attributes:
        is_revoked: Whether its tokens are refused: it was revoked, its user's tokens were, or what
            it was generated with.
    """

    family: IssuedFamily
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class Revoked:
    """Result of a revocation. *already* is True if it was revoked before."""

    already: bool
