"""Documents `audit_logs` and `audit_seals`: audit records, and the chain that proves them.

The collections are this program's own, and insert-only: it never updates or deletes their
documents.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

from packages.models.states import AuditOutcome


class AuditLog(Document):
    """One change, one secret read, or one attempt that was refused.

    Attributes:
        entity_id: ObjectId of the document concerned, or a text id such as a token's `jti`.
        server_id: The server that it concerns, or to which the tool or policy belongs, if any.
        user_id: The acting user.
        tenant_id: The tenant of that user; absent without one.
        changes: `before` and `after` hold the members that changed, secrets as `***`; `secrets`
            names those that were replaced.
        kid: Id of the key that *mac* was made with.
        mac: HMAC-SHA256 over all other members; see `registry.audit.chain`.
    """

    model_config = ConfigDict(extra="allow")

    timestamp: datetime
    action: Annotated[str, Field(min_length=1)]
    entity_type: Annotated[str, Field(min_length=1)]
    entity_id: PydanticObjectId | str | None = None
    server_id: PydanticObjectId | str | None = None
    user_id: PydanticObjectId
    tenant_id: str | None = None
    username: str
    role: str
    token_id: str | None = None
    request_id: str | None = None
    source_address: str | None = None
    outcome: AuditOutcome
    reason: str | None = None
    changes: dict[str, Any] | None = None
    kid: str
    mac: str

    class Settings:
        """The collection, and its indexes."""

        name = "audit_logs"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("timestamp", DESCENDING), ("_id", DESCENDING)]),
            IndexModel(
                [
                    ("entity_type", ASCENDING),
                    ("entity_id", ASCENDING),
                    ("timestamp", DESCENDING),
                    ("_id", DESCENDING),
                ]
            ),
            IndexModel([("user_id", ASCENDING), ("timestamp", DESCENDING), ("_id", DESCENDING)]),
        ]


class AuditSeal(Document):
    """One link of the chain over `audit_logs`. Its `_id` counts up from 1.

    Attributes:
        previous: *hash* of the seal before it; 64 zeros in the first.
        records: `{id, digest}` of the records it seals.
        hash: SHA-256 over the members above and the id.
        kid: Id of the key that *mac* was made with.
        mac: HMAC-SHA256 of *hash*.
    """

    id: int  # type: ignore[assignment]  # counts up, so that two writers cannot both be next
    previous: str
    sealed_at: datetime
    records: list[dict[str, Any]]
    hash: str
    kid: str
    mac: str

    class Settings:
        """The collection, and its indexes."""

        name = "audit_seals"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = []
