"""`usage_records`: one document for each call at the gateway. Ours alone, so written by hand."""

from datetime import datetime
from typing import ClassVar

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict
from pymongo import ASCENDING, DESCENDING, IndexModel

ERAS = ("legacy", "modern")
NEWEST_FIRST = (("started_at", DESCENDING), ("_id", DESCENDING))


class UsageLog(Document):
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
        expires_at: When the database removes it.
    """

    model_config = ConfigDict(extra="allow")

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
    expires_at: datetime

    class Settings:
        """Where Beanie keeps it."""

        name = "usage_records"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
            IndexModel([*NEWEST_FIRST]),
            IndexModel([("user_id", ASCENDING), *NEWEST_FIRST]),
            IndexModel([("server_id", ASCENDING), *NEWEST_FIRST]),
            # None for tools and outcomes: each index makes every call dearer, and these narrow
            # what is found by time, user or server.
        ]


USAGE_RECORDS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": [
            "started_at",
            "user_id",
            "method",
            "era",
            "outcome",
            "duration_ms",
            "expires_at",
        ],
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
            "expires_at": {"bsonType": "date"},
        },
    }
}
"""Enforced by MongoDB itself: a record without an expiry would stay for ever."""
