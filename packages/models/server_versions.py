"""`server_versions`: how servers were reached, so that a former way can be brought back.

The collection is this program's own. Secrets are not in `transport_config`, which has `***` in
their places, but in `sealed`, encrypted together and bound to the document.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

from packages.models.states import ServerVersionOrigin, ServerVersionState

API_VERSION_CHARACTERS = 16


class ServerVersion(Document):
    """One version of a server's connection.

    Attributes:
        server_id: The server (`mcpservers`).
        version: Counts from 1 for each server.
        api_version: The same as text.
        state: Whether the server is reached so now.
        origin: What made it. `found` was there when versions began to be kept, or was written by
            the other application.
        transport_config: Members of `config` that say how the server is reached.
        fingerprint: SHA-256 of the canonical JSON of *transport_config*.
        secret_paths: Where in it secrets are.
        sealed: The secrets, as JSON text, encrypted; absent when there are none.
        restored_from: The version that a rollback brought back.
        created_at: When it was recorded.
        created_by: Who did it, `{user_id, username}`; absent when it is unknown.
    """

    model_config = ConfigDict(extra="allow")

    server_id: PydanticObjectId
    version: Annotated[int, Field(ge=1)]
    api_version: Annotated[str, Field(min_length=1, max_length=API_VERSION_CHARACTERS)]
    api_type: Literal["mcp"]
    state: ServerVersionState
    origin: ServerVersionOrigin
    transport_config: dict[str, Any]
    fingerprint: str
    secret_paths: list[list[str]] = Field(default_factory=list)
    sealed: str | None = None
    restored_from: int | None = None
    created_at: datetime
    created_by: dict[str, str] | None = None

    class Settings:
        """The collection, and its indexes."""

        name = "server_versions"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("server_id", ASCENDING), ("version", DESCENDING)], unique=True),
            IndexModel(
                [("server_id", ASCENDING)],
                name="one_active",
                unique=True,
                partialFilterExpression={"state": "active"},
            ),
        ]
