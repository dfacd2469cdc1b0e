"""`usage_records`: what was called at the gateway, in batches. Ours alone, so written by hand.

A document holds the records of one process from about a second: one write and one entry in each
index for hundreds of calls, where a document for each would cost more than the calls themselves.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import BaseModel, ConfigDict
from pymongo import ASCENDING, DESCENDING, IndexModel

ERAS = ("legacy", "modern")


class UsageFacts(BaseModel):
    """What some calls of a tool, or readings of a prompt or a resource, have in common.

    Attributes:
        server_id: Absent when there is no such server for the caller.
        server: The server's slug then.
        tool: Tool, prompt or resource as the client named it, cut and without control characters.
        error_code: Of the JSON-RPC error, the gateway's own or the upstream's.
        count: How many they are.
    """

    model_config = ConfigDict(extra="allow")

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
    count: int


class UsageLog(Document):
    """Some calls that one process served.

    Attributes:
        packed: How *rows* is made: 1.
        worker: Host and process that served them.
        last_at: When the latest of them began.
        first_at: When the earliest did.
        calls: What was called by whom, and how it ended.
        rows: Each call in the order in which they ended: JSON, compressed with zlib. A call is a
            list: its place in *calls*; microseconds after *first_at*; bytes of the request and of
            the answer; trace id or null; then how many microseconds it took from its arrival
            until it was sent upstream, from there to the head of the answer, and from there to
            the end, or only how many in all if nothing was sent upstream.
        trace_ids: Those of *rows*; absent when there are none.
        expires_at: When the database removes them.
    """

    model_config = ConfigDict(extra="allow")

    packed: int
    worker: str
    first_at: datetime
    last_at: datetime
    calls: list[UsageFacts]
    rows: bytes
    trace_ids: list[str] | None = None
    expires_at: datetime

    class Settings:
        """Where Beanie keeps it."""

        name = "usage_records"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
            IndexModel([("last_at", DESCENDING)]),
            IndexModel([("calls.user_id", ASCENDING), ("last_at", DESCENDING)]),
            IndexModel([("calls.server_id", ASCENDING), ("last_at", DESCENDING)]),
        ]


PACKED = 1
"""How rows are packed today; readers leave out what is packed otherwise."""

FACTS_SCHEMA: dict[str, Any] = {
    "bsonType": "object",
    "required": ["user_id", "method", "era", "outcome", "count"],
    "properties": {
        "user_id": {"bsonType": "objectId"},
        "server_id": {"bsonType": ["objectId", "string"]},
        "method": {"bsonType": "string", "minLength": 1},
        "tool": {"bsonType": "string"},
        "era": {"enum": list(ERAS)},
        "outcome": {"bsonType": "string", "minLength": 1},
        "error_code": {"bsonType": ["int", "long"]},
        "count": {"bsonType": ["int", "long"], "minimum": 1},
    },
}

USAGE_RECORDS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["packed", "first_at", "last_at", "calls", "rows", "expires_at"],
        "properties": {
            "packed": {"bsonType": ["int", "long"]},
            "first_at": {"bsonType": "date"},
            "last_at": {"bsonType": "date"},
            "calls": {"bsonType": "array", "minItems": 1, "items": FACTS_SCHEMA},
            "rows": {"bsonType": "binData"},
            "trace_ids": {"bsonType": "array"},
            "expires_at": {"bsonType": "date"},
        },
    }
}
"""Enforced by MongoDB itself: records without an expiry would stay for ever."""
