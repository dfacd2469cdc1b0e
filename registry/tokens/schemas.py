"""Wire schemas of the tokens API, in snake_case."""

import math
import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from registry.auth.identity import SCOPE_NAME, Role
from registry.core.json import JsonObject, JsonValue, canonical_json
from registry.core.logs import MASK
from registry.core.text import OBJECT_ID
from registry.tokens.values import LINKS, TokenType
from registry.web.pages import Pagination

ONE_LINE = r"^[^\x00-\x1f\x7f]*$"
"""Text without control characters: they forge log lines and end strings of other programs."""

MAX_IDENTIFIER_CHARACTERS = 256
MAX_TOKEN_BYTES = 64 * 1024
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 16
MAX_HOURS = 24 * 365
"""Beyond what any setting allows."""

MAX_REFRESH_TOKEN_CHARACTERS = 6_000
"""Ours are under 1,000."""

INT64 = range(-(2**63), 2**63)
"""Whole numbers that BSON can represent."""

TOKEN_ID = re.compile(r"[0-9a-f]{24}")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d.*")


def _is_text(value: object) -> object:
    # Pydantic would also accept a bare number, and assume UTC.
    if isinstance(value, str) and not RFC3339.fullmatch(value):
        msg = "must be a date and time with a zone, like 2030-01-31T18:00:00Z"
        raise ValueError(msg)
    if not isinstance(value, str | datetime | None):
        msg = "must be text: a date and time with a zone, like 2030-01-31T18:00:00Z"
        raise ValueError(msg)  # noqa: TRY004 - pydantic takes a ValueError for a refusal
    return value


def _fits(value: str) -> str:
    if value == MASK:
        msg = "is the mask of a token, not its value"
        raise ValueError(msg)
    if len(value.encode()) > MAX_TOKEN_BYTES:
        msg = f"must not be longer than {MAX_TOKEN_BYTES} bytes"
        raise ValueError(msg)
    return value


def _can_be_stored(value: JsonObject) -> JsonObject:
    for name in value:
        # jarvis-api stores metadata in a mongoose Map, which refuses such names.
        if not name or "." in name or name.startswith("$"):
            msg = "names must not be empty, contain `.` or begin with `$`"
            raise ValueError(msg)
    _check(value, 1)
    if len(canonical_json(value).encode()) > MAX_METADATA_BYTES:
        msg = f"must not be longer than {MAX_METADATA_BYTES} bytes of JSON"
        raise ValueError(msg)
    for name in LINKS.values():
        linked = value.get(name)
        if linked is not None and not isinstance(linked, str):
            msg = f"{name} must be the id of a token"
            raise ValueError(msg)
    server = value.get("server_name")
    if isinstance(server, str) and (
        len(server) > MAX_IDENTIFIER_CHARACTERS or not re.fullmatch(ONE_LINE, server)
    ):
        msg = f"server_name must be one line of at most {MAX_IDENTIFIER_CHARACTERS} characters"
        raise ValueError(msg)
    return value


def _check(value: JsonValue, depth: int) -> None:
    """Refuse values that BSON cannot represent or reads as something else.

    Raises:
        ValueError: Says what is wrong.
    """
    if depth > MAX_METADATA_DEPTH:
        msg = f"must not be nested deeper than {MAX_METADATA_DEPTH}"
        raise ValueError(msg)
    match value:
        case dict():
            for name, member in value.items():
                if "\x00" in name or name.startswith("$"):
                    msg = "names must not contain NUL or begin with `$`"
                    raise ValueError(msg)
                _check(member, depth + 1)
        case list():
            for member in value:
                _check(member, depth + 1)
        case str() if "\x00" in value:
            msg = "must not contain NUL"
            raise ValueError(msg)
        case int() if value not in INT64:
            msg = "contains a whole number beyond 64 bits"
            raise ValueError(msg)
        case float() if not math.isfinite(value):
            msg = "contains a number that is too large"
            raise ValueError(msg)
        case _:
            pass


Moment = Annotated[AwareDatetime, BeforeValidator(_is_text)]
Identifier = Annotated[
    str,
    StringConstraints(pattern=ONE_LINE, min_length=1, max_length=MAX_IDENTIFIER_CHARACTERS),
]
TokenValue = Annotated[
    str,
    StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=MAX_TOKEN_BYTES),
    AfterValidator(_fits),
]
Metadata = Annotated[
    JsonObject,
    AfterValidator(_can_be_stored),
    Field(
        description="`server_name` makes jarvis-api find the token; `refresh_token_id` of an "
        "access token and `access_token_id` of a refresh token link the two. The rest is yours."
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class TokenCreate(_Body):
    """A token to store."""

    type: TokenType
    identifier: Identifier
    token: TokenValue
    expires_at: Moment | None = Field(default=None, description="365 days from now if not given.")
    metadata: Metadata | None = None


class TokenRefresh(_Body):
    """New values of an access token, and of its refresh token if that was exchanged too."""

    new_access_token: TokenValue
    new_expires_at: Moment
    new_refresh_token: TokenValue | None = None
    new_refresh_expires_at: Moment | None = Field(
        default=None, description="365 days from now if not given."
    )

    @model_validator(mode="after")
    def _expiry_of_something(self) -> Self:
        if self.new_refresh_expires_at is not None and self.new_refresh_token is None:
            msg = "new_refresh_expires_at needs new_refresh_token"
            raise ValueError(msg)
        return self


TOOLSET_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class TokenGenerate(_Body):
    """A pair of tokens to issue."""

    requested_scopes: (
        Annotated[
            list[Annotated[str, StringConstraints(pattern=SCOPE_NAME)]],
            Field(min_length=1, max_length=64),
        ]
        | None
    ) = Field(
        default=None,
        description="Some of the scopes that the caller's token has, those among them that only "
        "access policies know. If not given: what plain users have by default, as far as the "
        "caller's token has it.",
    )
    expires_in_hours: Annotated[int, Field(strict=True, ge=1, le=MAX_HOURS)]
    description: Annotated[str, StringConstraints(pattern=ONE_LINE, max_length=256)] | None = None
    toolset: Annotated[str, StringConstraints(pattern=TOOLSET_NAME, max_length=64)] | None = Field(
        default=None,
        description="Name of the toolset that the token is limited to at the gateway, whatever "
        "the path.",
    )
    tools: Literal["all", "search"] | None = Field(
        default=None,
        description="Which tools clients find with it at /mcp and at toolsets' paths: all, or "
        "`search` for find_tool and call_tool in their place.",
    )


class TokenIssue(_Body):
    """An access token to issue for another user."""

    requested_scopes: (
        Annotated[
            list[Annotated[str, StringConstraints(pattern=SCOPE_NAME)]],
            Field(min_length=1, max_length=64),
        ]
        | None
    ) = Field(
        default=None,
        description="Some of the scopes that the caller's token has. If not given: what plain "
        "users have by default, as far as the caller's token has it.",
    )
    role: Role = Field(default=Role.USER, description="Not above the role stored of the user.")
    expires_in_hours: Annotated[int, Field(strict=True, ge=1, le=MAX_HOURS)] = 8
    description: Annotated[str, StringConstraints(pattern=ONE_LINE, max_length=256)] | None = None
    toolset: Annotated[str, StringConstraints(pattern=TOOLSET_NAME, max_length=64)] | None = Field(
        default=None,
        description="Name of the toolset that the token is limited to at the gateway, whatever "
        "the path.",
    )
    tools: Literal["all", "search"] | None = Field(
        default=None,
        description="Which tools clients find with it at /mcp and at toolsets' paths: all, or "
        "`search` for find_tool and call_tool in their place.",
    )


class SessionRefresh(_Body):
    """A refresh token to exchange."""

    refresh_token: Annotated[
        str, StringConstraints(min_length=1, max_length=MAX_REFRESH_TOKEN_CHARACTERS)
    ]


class TokenRevoke(_Body):
    """What to revoke: a token with its family, or all tokens of a user."""

    jti: (
        Annotated[str, StringConstraints(pattern=ONE_LINE, min_length=1, max_length=256)] | None
    ) = None
    user_id: Annotated[str, StringConstraints(pattern=OBJECT_ID)] | None = None
    unrecorded: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="Refuse the `jti` though no token with it is on record, as those of earlier "
        "releases of the command line are not. Administrators only.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.jti is None) == (self.user_id is None):
            msg = "give either jti or user_id"
            raise ValueError(msg)
        return self


class TokenCreated(BaseModel):
    """A stored token, without its value."""

    id: str
    type: TokenType
    identifier: str
    created_at: datetime
    expires_at: datetime


class TokenSummary(TokenCreated):
    """A token in lists."""

    metadata: JsonObject


class TokenDetail(TokenSummary):
    """A token with its value."""

    user_id: str
    token: str


class TokenRefreshed(BaseModel):
    """A token that was refreshed."""

    id: str
    type: Literal[TokenType.OAUTH_ACCESS]
    identifier: str
    token: str
    expires_at: datetime
    updated_at: datetime


class TokenList(BaseModel):
    """One page of tokens."""

    tokens: list[TokenSummary]
    pagination: Pagination


class IssuedTokens(BaseModel):
    """A pair of tokens. Lifetimes are in seconds."""

    jti: str = Field(description="Id of the access token, by which both can be revoked.")
    access_token: str
    refresh_token: str
    expires_in: int
    refresh_expires_in: int
    token_type: Literal["Bearer"]
    scope: str


class IssuedTokenPair(BaseModel):
    """The answer that holds a pair of tokens."""

    success: Literal[True]
    tokens: IssuedTokens


class IssuedUserToken(BaseModel):
    """An access token for another user, which cannot be renewed."""

    jti: str = Field(description="Its id, by which it can be revoked.")
    access_token: str
    expires_in: int = Field(description="Lifetime in seconds.")
    token_type: Literal["Bearer"]
    user_id: str
    role: str
    scope: str


class IssuedSummary(BaseModel):
    """Tokens that were issued together, without their values."""

    jti: str = Field(description="Id of the newest access token; revoking it revokes them all.")
    session_id: str = Field(description="The `sid` claim of all of them.")
    user_id: str
    username: str
    role: str
    scope: str
    description: str | None
    toolset: str | None = Field(description="The toolset that they are limited to.")
    tools: str | None = Field(description="Which tools clients find with them: all or search.")
    generated_with: str | None = Field(
        description="`sid` or `jti` of the token that they were generated with."
    )
    created_at: datetime
    renewed_at: datetime | None
    access_expires_at: datetime = Field(description="Of the newest access token.")
    is_renewable: bool = Field(description="Whether a refresh token was issued.")
    expires_at: datetime = Field(description="When none of them is valid any more.")
    revoked: bool


class IssuedList(BaseModel):
    """One page of issued tokens."""

    tokens: list[IssuedSummary]
    pagination: Pagination


class RevokedAnswer(BaseModel):
    """What was revoked."""

    revoked: Literal[True]
    already_revoked: bool = Field(description="Whether it had been revoked before.")
    jti: str | None = None
    user_id: str | None = None
