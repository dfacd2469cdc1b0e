"""`usage_records` and `usage_totals`: calls at the gateway, in batches, and their sums.

Both collections are this program's own.

A document holds the records of one process from about a second: one write and one entry in each
index for hundreds of calls, where a document for each would cost more than the calls themselves.
"""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from beanie import Document, PydanticObjectId
from pydantic import BaseModel, ConfigDict, Field
from pymongo import ASCENDING, DESCENDING, IndexModel


class UsageFacts(BaseModel):
    """What several calls of a tool, or reads of a prompt or a resource, have in common.

    Attributes:
        server_id: Absent when there is no such server for the caller.
        server: The server's slug then.
        tool: Tool, prompt or resource as the client named it, cut and without control characters.
        own_tool: The tool's name on its server, if the client named it otherwise.
        error_code: Of the JSON-RPC error, the gateway's own or the upstream's.
        price_per_call: Millionths of the currency unit, when they were made; so is the next.
        price_per_kib: For each KiB of request and response.
        count: Number of these calls.
    """

    model_config = ConfigDict(extra="allow")

    user_id: PydanticObjectId
    username: str
    token_id: str | None = None
    server_id: PydanticObjectId | str | None = None
    server: str | None = None
    method: Annotated[str, Field(min_length=1)]
    tool: str | None = None
    own_tool: str | None = None
    era: Literal["legacy", "modern"]
    outcome: Annotated[str, Field(min_length=1)]
    error_code: int | None = None
    cost_tier: str | None = None
    billing_tags: list[str] | None = None
    price_per_call: Annotated[int, Field(ge=0)] | None = None
    price_per_kib: Annotated[int, Field(ge=0)] | None = None
    count: Annotated[int, Field(ge=1)]


class UsageLog(Document):
    """A batch of calls that one process served.

    Attributes:
        packed: Format of *rows*: 1.
        worker: Host and process.
        last_at: When the latest of them started.
        first_at: When the earliest started.
        calls: What was called by whom, and how it ended.
        rows: Each call in the order in which they ended: JSON, compressed with zlib. A call is a
            list: its index in *calls*; microseconds after *first_at*; bytes of the request and of
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
    calls: Annotated[list[UsageFacts], Field(min_length=1)]
    rows: bytes
    trace_ids: list[str] | None = None
    expires_at: datetime

    class Settings:
        """The collection, and its indexes."""

        name = "usage_records"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
            IndexModel([("last_at", DESCENDING)]),
            IndexModel([("calls.user_id", ASCENDING), ("last_at", DESCENDING)]),
            IndexModel([("calls.server_id", ASCENDING), ("last_at", DESCENDING)]),
        ]


PACKED = 1
"""Format of `UsageLog.rows`; readers skip documents with another one."""

DAY = "day"
MONTH = "month"


class UsageTotal(Document):
    """Sums of a day, or what was spent in a month. Written together with their batches.

    Attributes:
        id: Digest of what the total is of.
        period: A total of a day is of calls with the same caller, server, tool, method, outcome,
            cost tier and tags; one of a month is of a caller and tags, and has the cost only.
        writer: Names the start of a process that writes it, and no other does.
        at: When the day or month begins, UTC.
        server: The server's slug, as it was last.
        tool: Its own name; absent for what no server offers, and for prompts and resources.
        tenant_id: Of the caller, for months; so is the next.
        cost: Millionths of the currency unit.
        sent: How many calls were sent upstream.
        latency: Number of calls by the bucket of their duration, see `registry.usage.totals`.
        updated_at: Of months: by the database's clock.
        expires_at: When the database removes it.
    """

    model_config = ConfigDict(extra="allow")

    id: str = Field(alias="_id")  # type: ignore[assignment]  # beanie's own is an ObjectId
    period: Literal["day", "month"]
    writer: Annotated[str, Field(min_length=1)]
    at: datetime
    user_id: PydanticObjectId | str
    username: str | None = None
    tenant_id: str | None = None
    role: str | None = None
    server_id: PydanticObjectId | str | None = None
    server: str | None = None
    tool: str | None = None
    method: str | None = None
    outcome: str | None = None
    cost_tier: str | None = None
    billing_tags: list[str] | None = None
    cost: Annotated[int, Field(ge=0)]
    calls: Annotated[int, Field(ge=1)] | None = None
    sent: Annotated[int, Field(ge=0)] | None = None
    request_bytes: Annotated[int, Field(ge=0)] | None = None
    response_bytes: Annotated[int, Field(ge=0)] | None = None
    duration_us: Annotated[int, Field(ge=0)] | None = None
    latency: dict[str, int] | None = None
    updated_at: datetime | None = None
    expires_at: datetime

    class Settings:
        """The collection, and its indexes."""

        name = "usage_totals"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
            IndexModel([("period", ASCENDING), ("at", ASCENDING)]),
            IndexModel([("user_id", ASCENDING), ("at", ASCENDING)]),
            IndexModel([("server_id", ASCENDING), ("at", ASCENDING)]),
            IndexModel([("updated_at", ASCENDING)], sparse=True),
        ]
