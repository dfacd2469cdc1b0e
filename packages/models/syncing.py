"""`sync_states`, `sync_jobs`, `sync_job_runs`, `sync_deliveries`: what was read, and who asked.

Ours alone, so written by hand. A job is one wish to read an owner anew; a run is one attempt.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

from packages.models.tools import SOURCE_TYPES

SYNC_STATUSES = ("success", "failure")
TRIGGERS = ("manual", "schedule", "webhook", "notification", "command")
OPEN_STATES = ("queued", "running", "retrying")
JOB_STATES = (*OPEN_STATES, "succeeded", "dead", "cancelled")
RUN_OUTCOMES = ("success", "failure", "lease_lost", "cancelled")


class SyncState(Document):
    """When an owner was read, and is to be read. Its `_id` is the owner's.

    Apart from the owner, because it moves at every reading: a server's document repeats all its
    tools, and neither it nor anybody who follows it should pay for a time of day.

    Attributes:
        last_sync_started_at: When the last attempt to read it began.
        last_sync_completed_at: When that ended, however it did.
        last_sync_status: How it ended.
        last_synced_at: When it was read with success.
        next_sync_at: When it is due; absent unless it is read by schedule.
        settled_digest: Of what it offered and by which rules that is taken, where its tools were
            found to agree with that and nothing waits for people; absent once anybody changes one.
        settled_at: When they were found to agree.
        decisions: Counts what people decided about its tools.
        described_digest: Of the tools that the other application described, where the owner's
            rows were made of these.
    """

    model_config = ConfigDict(extra="allow")

    id: PydanticObjectId
    source_type: str
    last_sync_started_at: datetime | None = None
    last_sync_completed_at: datetime | None = None
    last_sync_status: str | None = None
    last_synced_at: datetime | None = None
    next_sync_at: datetime | None = None
    settled_digest: str | None = None
    settled_at: datetime | None = None
    decisions: int = 0
    described_digest: str | None = None

    class Settings:
        """Where Beanie keeps it."""

        name = "sync_states"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("next_sync_at", ASCENDING)], sparse=True),
        ]


class SyncJob(Document):
    """One wish to read an owner anew, until it was done or given up.

    Attributes:
        owner_id: The server (`mcpservers`) or API (`raw_apis`) that is read.
        owner_name: Its name then, for people; the job outlives it.
        trigger: What asked for it.
        requested_by: Who, where it was a person: `{user_id, username}`.
        due_at: When a worker may take it, by the database's clock; absent once it is finished. Of
            a running job, when its worker counts as dead.
        open_owner_id: *owner_id* as long as it is open, so that there is one for each owner.
        attempts: Runs so far.
        holder: Host and process that runs it.
        lease_id: Of the running attempt; what it writes is refused once another one has begun.
        repeat: What asked for it again while it ran: `{trigger, requested_by}`.
        progress: What the running attempt is at: `{phase, tools_read}`.
        error: Why the last attempt failed.
        counts: What the last attempt found, by kind of change.
        expires_at: When the database removes it; absent while it is open.
    """

    model_config = ConfigDict(extra="allow")

    owner_id: PydanticObjectId
    owner_name: str
    source_type: str
    trigger: str
    requested_by: dict[str, str] | None = None
    state: str
    due_at: datetime | None = None
    open_owner_id: PydanticObjectId | None = None
    attempts: int = 0
    holder: str | None = None
    lease_id: PydanticObjectId | None = None
    repeat: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    error: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None

    class Settings:
        """Where Beanie keeps it."""

        name = "sync_jobs"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("open_owner_id", ASCENDING)], unique=True, sparse=True),
            IndexModel([("due_at", ASCENDING)], sparse=True),
            IndexModel([("owner_id", ASCENDING), ("_id", DESCENDING)]),
            IndexModel([("state", ASCENDING), ("_id", DESCENDING)]),
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class SyncJobRun(Document):
    """One attempt, written when it ended.

    Attributes:
        attempt: 1 for the first of its job.
        worker: Host and process.
        outcome: `lost` when its worker died, which the next one found.
        error: Why it failed.
        note: Why nothing was read, where that is no failure.
        counts: What it found, by kind of change.
        upstream_ms: Whole milliseconds that reading the upstream took.
    """

    model_config = ConfigDict(extra="allow")

    job_id: PydanticObjectId
    owner_id: PydanticObjectId
    attempt: int
    worker: str
    outcome: str
    error: str | None = None
    note: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    upstream_ms: int | None = None
    started_at: datetime
    finished_at: datetime
    expires_at: datetime

    class Settings:
        """Where Beanie keeps it."""

        name = "sync_job_runs"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("job_id", ASCENDING), ("_id", DESCENDING)]),
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class SyncDelivery(Document):
    """A call of a webhook that was honoured, so that it is not honoured again.

    Its `_id` is the owner's id, a slash, and the id that the sender gave the message.
    """

    id: str  # type: ignore[assignment]  # names the message, so that nothing is twice
    job_id: PydanticObjectId
    received_at: datetime
    expires_at: datetime

    class Settings:
        """Where Beanie keeps it."""

        name = "sync_deliveries"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


def _of(schema: dict[str, object], state: str, values: tuple[str, ...]) -> dict[str, object]:
    """Return a branch of a validator: *schema* holds for these values of *state*."""
    return {**schema, "properties": {state: {"enum": list(values)}}}


SYNC_STATES_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["source_type"],
        "properties": {
            "source_type": {"enum": list(SOURCE_TYPES)},
            "last_sync_started_at": {"bsonType": "date"},
            "last_sync_completed_at": {"bsonType": "date"},
            "last_sync_status": {"enum": list(SYNC_STATUSES)},
            "last_synced_at": {"bsonType": "date"},
            "next_sync_at": {"bsonType": "date"},
            "settled_digest": {"bsonType": "string"},
            "settled_at": {"bsonType": "date"},
        },
    }
}

SYNC_JOBS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["owner_id", "source_type", "trigger", "state", "attempts", "created_at"],
        "properties": {
            "owner_id": {"bsonType": "objectId"},
            "source_type": {"enum": list(SOURCE_TYPES)},
            "trigger": {"enum": list(TRIGGERS)},
            "state": {"enum": list(JOB_STATES)},
            "attempts": {"bsonType": ["int", "long"], "minimum": 0},
            "due_at": {"bsonType": "date"},
            "expires_at": {"bsonType": "date"},
        },
        # An open job without a time would never be done, a finished one without an end would
        # stay for ever.
        "anyOf": [
            _of({"required": ["due_at", "open_owner_id"]}, "state", ("queued", "retrying")),
            _of({"required": ["due_at", "open_owner_id", "lease_id"]}, "state", ("running",)),
            _of({"required": ["expires_at"]}, "state", ("succeeded", "dead", "cancelled")),
        ],
    }
}

SYNC_JOB_RUNS_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["job_id", "owner_id", "attempt", "outcome", "started_at", "expires_at"],
        "properties": {
            "job_id": {"bsonType": "objectId"},
            "owner_id": {"bsonType": "objectId"},
            "attempt": {"bsonType": ["int", "long"], "minimum": 1},
            "outcome": {"enum": list(RUN_OUTCOMES)},
            "expires_at": {"bsonType": "date"},
        },
    }
}

SYNC_DELIVERIES_VALIDATOR: dict[str, object] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["job_id", "expires_at"],
        "properties": {
            "job_id": {"bsonType": "objectId"},
            "expires_at": {"bsonType": "date"},
        },
    }
}
