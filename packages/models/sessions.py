"""`token_families` and `revoked_tokens`: issued tokens that can be renewed, and refused ones.

Ours alone, so written by hand. No token is kept in either, only ids.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel

REVOCATION_KINDS = ("token", "session", "user")


class TokenFamily(Document):
    """Tokens that were issued together, and those they were exchanged for.

    `POST /tokens/generate` begins one that can be renewed; `registry token create` and local mode
    begin one with a single access token and no refresh token.

    Attributes:
        id: The `sid` claim of all its tokens.
        is_known_user: Whether the user was in `users` when it began.
        hours: Lifetime of its access tokens.
        refresh_token_id: `jti` of the one refresh token that can be exchanged; none if the family
            cannot be renewed.
        access_tokens: `{id, expires_at}` of the latest access tokens.
        ancestors: `sid` or `jti` of the tokens it was generated with, the oldest first.
        expires_at: When nothing of it is valid any more, however often it was renewed.
        tenant_id: The tenant that the user was of when it began; absent without one.
    """

    id: str  # type: ignore[assignment]  # made by us, because the tokens carry it
    user_id: PydanticObjectId
    username: str
    role: str
    is_known_user: bool
    scopes: list[str]
    hours: int
    description: str | None = None
    refresh_token_id: str | None = None
    access_tokens: list[dict[str, Any]]
    ancestors: list[str]
    created_at: datetime
    exchanged_at: datetime | None = None
    revoked_at: datetime | None = None
    expires_at: datetime
    tenant_id: str | None = None

    class Settings:
        """Where Beanie keeps it."""

        name = "token_families"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("user_id", ASCENDING)]),
            IndexModel([("created_at", DESCENDING)]),
            IndexModel([("refresh_token_id", ASCENDING)]),
            IndexModel([("access_tokens.id", ASCENDING)]),
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class RevokedToken(Document):
    """One token, family or user whose tokens are refused. Its `_id` is `<kind>:<subject>`.

    Attributes:
        subject: `jti` of a token, `sid` of a family, or id of a user.
        revoked_at: Of a user, tokens issued up to then are refused.
        expires_at: When all that it refuses has expired by itself.
    """

    id: str  # type: ignore[assignment]  # names what is revoked, so that nothing is twice
    kind: str
    subject: str
    revoked_at: datetime
    revoked_by: PydanticObjectId
    expires_at: datetime

    class Settings:
        """Where Beanie keeps it."""

        name = "revoked_tokens"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class EndedSession(Document):
    """A session of a gateway's client that has ended before its time.

    Its `_id` is `<name>` or `<name>:<nonce>`: a digest of the session id, and what tells the
    session apart where the gateway is its server.

    Attributes:
        expires_at: When the session would have expired by itself.
    """

    id: str  # type: ignore[assignment]  # holds all that a replica needs to hear
    ended_at: datetime
    expires_at: datetime

    class Settings:
        """Where Beanie keeps it."""

        name = "ended_sessions"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


TOKEN_FAMILIES_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": [
            "user_id",
            "role",
            "scopes",
            "hours",
            "access_tokens",
            "ancestors",
            "created_at",
            "expires_at",
        ],
        "properties": {
            "_id": {"bsonType": "string", "minLength": 1},
            "user_id": {"bsonType": "objectId"},
            "role": {"enum": ["admin", "user"]},
            "is_known_user": {"bsonType": "bool"},
            "scopes": {"bsonType": "array"},
            "hours": {"bsonType": ["int", "long"]},
            "refresh_token_id": {"bsonType": "string", "minLength": 1},
            "access_tokens": {"bsonType": "array"},
            "ancestors": {"bsonType": "array"},
            "created_at": {"bsonType": "date"},
            "revoked_at": {"bsonType": "date"},
            "expires_at": {"bsonType": "date"},
        },
    }
}
REVOKED_TOKENS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["kind", "subject", "revoked_at", "expires_at"],
        "properties": {
            "_id": {"bsonType": "string", "minLength": 1},
            "kind": {"enum": list(REVOCATION_KINDS)},
            "subject": {"bsonType": "string", "minLength": 1},
            "revoked_at": {"bsonType": "date"},
            "revoked_by": {"bsonType": "objectId"},
            "expires_at": {"bsonType": "date"},
        },
    }
}
ENDED_SESSIONS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["ended_at", "expires_at"],
        "properties": {
            "_id": {"bsonType": "string", "minLength": 1},
            "ended_at": {"bsonType": "date"},
            "expires_at": {"bsonType": "date"},
        },
    }
}
"""Enforced by MongoDB itself: a family without an expiry would be valid for ever."""
