"""`usage_records`: what was called at the gateway, in batches. Ours alone, so written by hand.

A document holds the records of one process from about a second: one write and one entry in each
index for hundreds of calls, where a document for each would cost more than the calls themselves.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import BaseModel, ConfigDict, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

ERAS = ("legacy", "modern")


class UsageEntry(BaseModel):
    """One call of a tool, or one reading of a prompt or a resource.

    Attributes:
        server_id: Absent when there is no such server for the caller.
        server: The server's slug then.
        tool: Tool, prompt or resource as the client named it, cut and without control characters.
        admission_ms: From arrival until it was sent upstream; absent when it was not.
        upstream_ms: From there to the head of the answer, or to its failure.
        relay_ms: From there to the end.
        error_code: Of the JSON-RPC error, the gateway's own or the upstream's.
        worker: Host and process that served it.
    """

    model_config = ConfigDict(extra="allow")

    id: PydanticObjectId = Field(alias="_id")
    started_at: datetime
    user_id: PydanticObjectId
    username: str
    token_id: str | None = None
    server_id: PydanticObjectId | str | None = None
    server: str | None = None
    method: str
    tool: str | None = None
    era: str
    outcome: str
    error_code: int | None = None
    duration_ms: float
    admission_ms: float | None = None
    upstream_ms: float | None = None
    relay_ms: float | None = None
    request_bytes: int
    response_bytes: int
    trace_id: str | None = None
    worker: str


class UsageLog(Document):
    """Some calls that one process served.

    Attributes:
        last_at: When the latest of them began.
        first_at: When the earliest did.
        user_ids: Everybody who called, for the index.
        server_ids: Every server that was called, for the index.
        records: In the order in which they ended.
        expires_at: When the database removes them.
    """

    model_config = ConfigDict(extra="allow")

    first_at: datetime
    last_at: datetime
    user_ids: list[PydanticObjectId]
    server_ids: list[PydanticObjectId | str]
    records: list[UsageEntry]
    expires_at: datetime

    class Settings:
        """Where Beanie keeps it."""

        name = "usage_records"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
            IndexModel([("last_at", DESCENDING)]),
            IndexModel([("user_ids", ASCENDING), ("last_at", DESCENDING)]),
            IndexModel([("server_ids", ASCENDING), ("last_at", DESCENDING)]),
        ]


ENTRY_SCHEMA: dict[str, Any] = {
    "bsonType": "object",
    "required": ["_id", "started_at", "user_id", "method", "era", "outcome", "duration_ms"],
    "properties": {
        "started_at": {"bsonType": "date"},
        "user_id": {"bsonType": "objectId"},
        "server_id": {"bsonType": ["objectId", "string"]},
        "method": {"bsonType": "string", "minLength": 1},
        "tool": {"bsonType": "string"},
        "era": {"enum": list(ERAS)},
        "outcome": {"bsonType": "string", "minLength": 1},
        "error_code": {"bsonType": ["int", "long"]},
        "duration_ms": {"bsonType": ["double", "int", "long"], "minimum": 0},
        "request_bytes": {"bsonType": ["int", "long"], "minimum": 0},
        "response_bytes": {"bsonType": ["int", "long"], "minimum": 0},
    },
}

USAGE_RECORDS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["first_at", "last_at", "user_ids", "server_ids", "records", "expires_at"],
        "properties": {
            "first_at": {"bsonType": "date"},
            "last_at": {"bsonType": "date"},
            "user_ids": {"bsonType": "array"},
            "server_ids": {"bsonType": "array"},
            "records": {"bsonType": "array", "minItems": 1, "items": ENTRY_SCHEMA},
            "expires_at": {"bsonType": "date"},
        },
    }
}
"""Enforced by MongoDB itself: records without an expiry would stay for ever."""
