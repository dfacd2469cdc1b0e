"""Values of the tokens domain."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from registry.auth.identity import Role
from registry.core.json import JsonObject


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


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One token of a user, without its value.

    Attributes:
        access_token: Of a refresh token: where its access token lies, and that one's metadata;
            from this it is made again after it was swept.
    """

    token_id: str
    user_id: str
    key: StoredKey
    created_at: datetime
    expires_at: datetime
    metadata: JsonObject
    access_token: tuple[StoredKey, JsonObject] | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether the token has not expired."""
        return self.expires_at > now


@dataclass(frozen=True, slots=True)
class StoredToken:
    """One token of a user, decrypted."""

    record: TokenRecord
    value: str = field(repr=False)


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


@dataclass(frozen=True, slots=True)
class IssuedFamily:
    """Tokens that were issued together, and those they were exchanged for.

    Attributes:
        family_id: The `sid` claim of all its tokens.
        is_known_user: Whether the user was in `users` when it began.
        scopes: In the order in which they were asked for.
        hours: Lifetime of its access tokens.
        ancestors: `sid` or `jti` of the tokens it was generated with, the oldest first.
        expires_at: When nothing of it is valid any more.
        refresh_token_id: `jti` of the one refresh token that can be exchanged; None for tokens
            that cannot be renewed.
        access_tokens: `jti` and expiry of the latest access tokens.
        tenant_id: The tenant that the user was of when it began.
    """

    family_id: str
    user_id: str
    username: str
    role: Role
    is_known_user: bool
    scopes: tuple[str, ...]
    hours: int
    description: str | None
    ancestors: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    refresh_token_id: str | None = None
    access_tokens: tuple[tuple[str, datetime], ...] = ()
    exchanged_at: datetime | None = None
    revoked_at: datetime | None = None
    tenant_id: str | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether its tokens are accepted, as far as the family itself knows."""
        return self.revoked_at is None and self.expires_at > now


@dataclass(frozen=True, slots=True)
class IssuedIds:
    """Ids of tokens that were issued together. *refresh_id* is None without a refresh token."""

    access_id: str
    access_expires_at: datetime
    refresh_id: str | None = None


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
        ancestors: What the token of whoever has it issued was generated with, and that token.
    """

    user_id: str
    username: str
    role: Role
    scopes: frozenset[str]
    lifetime: timedelta
    description: str | None = None
    ancestors: tuple[str, ...] = ()


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
