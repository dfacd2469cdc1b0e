"""Values about stored tokens."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from registry.core.json import JsonObject


class TokenType(StrEnum):
    """Kinds of tokens the registry stores. The collection holds others, which it never touches."""

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
"""Stored spelling to ours: jarvis-api writes and reads `mcp_oauth` and `mcp_oauth_refresh`."""


@dataclass(frozen=True, slots=True)
class StoredToken:
    """One token of a user, decrypted.

    Attributes:
        stored_type: As it stands in the database, for example `mcp_oauth`.
    """

    token_id: str
    user_id: str
    stored_type: str
    identifier: str
    value: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    metadata: JsonObject


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """How many tokens there are. *expired* ones wait for the TTL sweep."""

    total: int
    by_type: dict[TokenType, int]
    active: int
    expired: int
    active_users: int
