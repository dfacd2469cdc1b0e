"""Documents of `approvals`, which are ours alone: calls that wait for people."""

from datetime import datetime
from typing import Annotated, Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import ASCENDING, DESCENDING, IndexModel

from packages.models.states import ApprovalState

NonEmptyText = Annotated[str, Field(min_length=1)]


class ApprovalDocument(Document):
    """One call that people must approve, bound to exactly what they are shown.

    Attributes:
        binding: SHA-256 over requester, tool, arguments, definition and policies. While a request
            is live, the same call again is the same request.
        live_binding: The same while it is live, or its end is still to be reported to its
            requester; absent after that. Unique.
        requester: `user_id`, `username`, `role`, `scopes` and `token_id` of the caller; further
            `session_id`, `ancestors`, `is_service_account` and `toolset` as their token says.
        tool: The tool's own name on its server.
        called_as: The name that the caller used, at *path*.
        toolset: Name of the toolset that the caller's header limited the call to.
        client_name: What the caller's application calls itself, where that is known.
        definition_hash: SHA-256 of the served definition that the arguments match.
        arguments: Their JSON text, sealed.
        arguments_digest: SHA-256 of their canonical JSON.
        policy_version: Digest of the policies for the tool.
        needed: How many people must approve: 1 or 2.
        decisions: `user_id`, `username`, `verdict`, `comment` and `at` of each.
        worker: Which process executes it, or did.
        alive_at: When that process was last known to run.
        ended_at: When the execution ended. One that is approved all the same was put off: nothing
            was sent, and it is tried again when its requester asks.
        result: The JSON text of the answer, sealed; until it was handed over.
        is_error: Whether that is an error.
        fetched_at: When the requester got it, or was told how the request ended.
        reason: Why it is void, unknown, denied, cancelled or put off.
        notices: What the webhook has still to tell, oldest first: `id`, `state`, `at`, `attempts`;
            absent if nothing is told of the request.
        notice_at: When the first of them is sent, or sent again; absent if there is none.
        expires_at: When a request that is not decided, or not executed, ends.
        delete_at: When the database removes the document.
    """

    state: ApprovalState
    binding: NonEmptyText
    live_binding: str | None = None
    tenant_id: str | None = None
    requester: dict[str, Any]
    server_id: PydanticObjectId
    server_name: str
    tool: NonEmptyText
    called_as: str
    path: str
    toolset: str | None = None
    client_name: str | None = None
    definition_hash: NonEmptyText
    arguments: NonEmptyText
    arguments_digest: NonEmptyText
    policy_version: str
    needed: Annotated[int, Field(ge=1, le=2)]
    decisions: list[dict[str, Any]]
    revision: int
    worker: str | None = None
    started_at: datetime | None = None
    alive_at: datetime | None = None
    ended_at: datetime | None = None
    result: str | None = None
    is_error: bool | None = None
    fetched_at: datetime | None = None
    reason: str | None = None
    notices: list[dict[str, Any]] | None = None
    notice_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    delete_at: datetime

    class Settings:
        """Where it is stored."""

        name = "approvals"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [("live_binding", ASCENDING)],
                unique=True,
                partialFilterExpression={"live_binding": {"$exists": True}},
            ),
            IndexModel([("state", ASCENDING), ("created_at", DESCENDING)]),
            IndexModel([("requester.user_id", ASCENDING), ("created_at", DESCENDING)]),
            IndexModel([("server_id", ASCENDING), ("created_at", DESCENDING)]),
            IndexModel(
                [("notice_at", ASCENDING)],
                partialFilterExpression={"notice_at": {"$exists": True}},
            ),
            IndexModel([("delete_at", ASCENDING)], expireAfterSeconds=0),
        ]
