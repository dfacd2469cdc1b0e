"""Documents `audit_logs` and `audit_seals`: audit records, and the chain that proves them.

Only ours, so written by hand. Both are insert-only: this program never updates or deletes their
documents.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict
from pymongo import ASCENDING, DESCENDING, IndexModel

OUTCOMES = ("success", "denied", "failed")


class AuditLog(Document):
    """One change, one secret read, or one attempt that was refused.

    Attributes:
        entity_id: ObjectId of the document concerned, or a text id such as a token's `jti`.
        server_id: The server that it is about, or whose tool or policy; absent of others.
        user_id: Who did it.
        tenant_id: The tenant that they were of; absent without one.
        changes: `before` and `after` hold the members that changed, secrets as `***`; `secrets`
            names those that were replaced.
        kid: Id of the key that *mac* was made with.
        mac: HMAC-SHA256 over all other members; see `registry.audit.chain`.
    """

    model_config = ConfigDict(extra="allow")

    timestamp: datetime
    action: str
    entity_type: str
    entity_id: PydanticObjectId | str | None = None
    server_id: PydanticObjectId | str | None = None
    user_id: PydanticObjectId
    tenant_id: str | None = None
    username: str
    role: str
    token_id: str | None = None
    request_id: str | None = None
    source_address: str | None = None
    outcome: str
    reason: str | None = None
    changes: dict[str, Any] | None = None
    kid: str
    mac: str

    class Settings:
        """Where Beanie keeps it."""

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
        """Where Beanie keeps it."""

        name = "audit_seals"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = []


AUDIT_LOGS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": [
            "timestamp",
            "action",
            "entity_type",
            "user_id",
            "outcome",
            "kid",
            "mac",
        ],
        "properties": {
            "timestamp": {"bsonType": "date"},
            "action": {"bsonType": "string", "minLength": 1},
            "entity_type": {"bsonType": "string", "minLength": 1},
            "entity_id": {"bsonType": ["objectId", "string"]},
            "user_id": {"bsonType": "objectId"},
            "outcome": {"enum": list(OUTCOMES)},
            "changes": {"bsonType": "object"},
            "kid": {"bsonType": "string"},
            "mac": {"bsonType": "string"},
        },
    }
}
AUDIT_SEALS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["_id", "previous", "sealed_at", "records", "hash", "kid", "mac"],
        "properties": {
            "_id": {"bsonType": ["int", "long"]},
            "previous": {"bsonType": "string"},
            "sealed_at": {"bsonType": "date"},
            "records": {"bsonType": "array"},
            "hash": {"bsonType": "string"},
            "kid": {"bsonType": "string"},
            "mac": {"bsonType": "string"},
        },
    }
}
"""Enforced by MongoDB itself."""
