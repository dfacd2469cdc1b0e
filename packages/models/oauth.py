"""Documents of `oauth_flows` and `oauth_clients`, which are ours alone.

Users' tokens for servers are in `tokens`, which is shared with jarvis-api.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import ASCENDING, DESCENDING, IndexModel

from packages.models.states import FlowStatus

NonEmptyText = Annotated[str, Field(min_length=1)]


class OAuthFlowDocument(Document):
    """One attempt of a user to authorise the registry at a server.

    Its `_id` is public: it is the `elicitationId` of the link that started it.

    Attributes:
        server_name: Of the server when the flow started, like *server_url*.
        role: Of the user's token, which may be lower than the stored one.
        is_service_account: Whether the user need not be stored.
        configuration: Digest of the server's configuration of OAuth then.
        browser: SHA-256 of the cookie of the browser that pressed the button, in hexadecimal;
            absent until then, like everything from there to *code_verifier*.
        nonce: Part of the `state` that is expected.
        issuer: Of the authorization server; absent if it has none.
        authorization_server: Its metadata; the code is exchanged there and nowhere else.
        resource_issuers: The authorization servers that the server named.
        scopes: Those that were asked for; absent if none were named.
        resource: The `resource` that was sent (RFC 8707).
        code_verifier: Of PKCE, sealed.
        reason: Why it failed, without what the authorization server was sent.
        expires_at: When the state is no longer accepted and the database removes it.
    """

    id: NonEmptyText  # type: ignore[assignment]  # a text that is chosen with the link
    user_id: PydanticObjectId
    username: str
    role: Literal["admin", "user"]
    is_service_account: bool
    tenant_id: str | None = None
    server_id: NonEmptyText
    server_name: str
    server_url: str
    configuration: str
    status: FlowStatus
    browser: str | None = None
    nonce: str | None = None
    issuer: str | None = None
    authorization_server: dict[str, Any] | None = None
    resource_issuers: list[str] | None = None
    client_id: str | None = None
    redirect_uri: str | None = None
    scopes: list[str] | None = None
    resource: str | None = None
    code_verifier: str | None = None
    reason: str | None = None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime

    class Settings:
        """Where it is stored."""

        name = "oauth_flows"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("user_id", ASCENDING), ("created_at", DESCENDING)]),
            IndexModel([("server_id", ASCENDING)]),
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class OAuthClientDocument(Document):
    """The registry as a client that an authorization server registered, for all users of a tenant.

    Its `_id` is a digest of issuer, redirect URI and tenant.

    Attributes:
        client: What the registration answered, as JSON, sealed: it may hold a secret.
        expires_at: When the registration ends and the database removes it; absent if never.
    """

    id: NonEmptyText  # type: ignore[assignment]  # one document for each of what it is a digest of
    issuer: NonEmptyText
    redirect_uri: NonEmptyText
    tenant_id: str | None = None
    client: NonEmptyText
    created_at: datetime
    expires_at: datetime | None = None

    class Settings:
        """Where it is stored."""

        name = "oauth_clients"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]
