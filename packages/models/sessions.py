"""Documents of tokens and sessions, which are ours alone.

They hold ids of tokens and sessions, never a token.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from beanie import Document, PydanticObjectId
from pydantic import BaseModel, ConfigDict, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

NonEmptyText = Annotated[str, Field(min_length=1)]


class RevocationKind(StrEnum):
    """What is revoked."""

    TOKEN = "token"  # noqa: S105 - the name of a kind
    SESSION = "session"
    USER = "user"


class IssuedAccessToken(BaseModel):
    """`jti` and expiry of an access token."""

    model_config = ConfigDict(frozen=True)

    id: str
    expires_at: datetime


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
        access_tokens: The latest access tokens, the newest last.
        ancestors: `sid` or `jti` of the tokens it was generated with, the oldest first.
        expires_at: When nothing of it is valid any more, however often it was renewed. Required,
            because a family without it would be valid forever.
        tenant_id: The tenant that the user was of when it began; absent without one.
        toolset: Name and id of the toolset that its tokens are limited to, as `name#id` (the
            name alone in those of earlier releases); absent without one.
        tools: Which tools clients find with its tokens: `all` or `search`; absent if they do not
            say.
    """

    id: NonEmptyText  # type: ignore[assignment]  # a text that we generate: the tokens contain it
    user_id: PydanticObjectId
    username: str
    role: Literal["admin", "user"]
    is_known_user: bool
    scopes: list[str]
    hours: int
    description: str | None = None
    refresh_token_id: NonEmptyText | None = None
    access_tokens: list[IssuedAccessToken]
    ancestors: list[str]
    created_at: datetime
    exchanged_at: datetime | None = None
    revoked_at: datetime | None = None
    expires_at: datetime
    tenant_id: str | None = None
    toolset: str | None = None
    tools: str | None = None

    class Settings:
        """Where it is stored."""

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
    """A revoked token, family or user. Its `_id` is `<kind>:<subject>`.

    Attributes:
        subject: `jti` of a token, `sid` of a family, or id of a user.
        revoked_at: Of a user, tokens issued up to then are refused.
        expires_at: When all tokens that it refuses have expired.
    """

    id: NonEmptyText  # type: ignore[assignment]  # names the subject: nothing is stored twice
    kind: RevocationKind
    subject: NonEmptyText
    revoked_at: datetime
    revoked_by: PydanticObjectId
    expires_at: datetime

    class Settings:
        """Where it is stored."""

        name = "revoked_tokens"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class EndedSession(Document):
    """A client's session that was ended before it expired.

    Its `_id` is `<name>` or `<name>:<nonce>`: a digest of the session id, and the nonce that
    identifies the session where the gateway is its server.

    Attributes:
        expires_at: When the session would have expired.
    """

    id: NonEmptyText  # type: ignore[assignment]  # holds all that a replica needs to know
    ended_at: datetime
    expires_at: datetime

    class Settings:
        """Where it is stored."""

        name = "ended_sessions"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class SpentState(Document):
    """A sealed `requestState` that counts once, and has. Its `_id` is the nonce inside.

    Attributes:
        expires_at: When the state has expired anyway.
    """

    id: NonEmptyText  # type: ignore[assignment]  # the only thing known of it
    expires_at: datetime

    class Settings:
        """Where it is stored."""

        name = "spent_states"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]
