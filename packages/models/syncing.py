"""`sync_states`, `sync_jobs`, `sync_job_runs`, `sync_deliveries`: when servers are read, and why.

These collections are this program's own. A job is one request to read a server again; a run is one
attempt at it.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

from packages.models.states import JobState, RunOutcome, SourceType, SyncStatus, Trigger


def _in_states(required: list[str], *states: JobState) -> dict[str, object]:
    """Return a rule: jobs in these states have these members."""
    return {
        "required": required,
        "properties": {"state": {"enum": [state.value for state in states]}},
    }


class SyncState(Document):
    """When a server was read, and is to be read next. Its `_id` is the server's.

    Stored apart from the server, because it changes at every reading: a server's document repeats
    all its tools, and everything that follows it would have to read it again.

    Attributes:
        last_sync_started_at: When the last attempt to read it began.
        last_sync_completed_at: When that attempt ended, successful or not.
        last_sync_status: How it ended.
        last_synced_at: When it was last read successfully.
        next_sync_at: When it is due; absent unless it is read by schedule.
        settled_digest: Digest of what it offered, and of the rules that applied, when its tools
            agreed with that and nothing was waiting for a decision; absent after a change.
        settled_at: When they agreed.
        decisions: Number of decisions of people about its tools.
        described_digest: Digest of the tools that jarvis-api described, if the rows were made from
            these.
    """

    model_config = ConfigDict(extra="allow")

    id: PydanticObjectId
    source_type: SourceType
    last_sync_started_at: datetime | None = None
    last_sync_completed_at: datetime | None = None
    last_sync_status: SyncStatus | None = None
    last_synced_at: datetime | None = None
    next_sync_at: datetime | None = None
    settled_digest: str | None = None
    settled_at: datetime | None = None
    decisions: int = 0
    described_digest: str | None = None

    class Settings:
        """The collection, and its indexes."""

        name = "sync_states"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("next_sync_at", ASCENDING)], sparse=True),
        ]


class SyncJob(Document):
    """One request to read a server again, until it succeeds or is given up.

    Attributes:
        owner_id: The server (`mcpservers`) or API (`raw_apis`) that is read.
        owner_name: Its name when the job was opened; the job may outlive it.
        trigger: What asked for it.
        requested_by: The person who asked for it, if any: `{user_id, username}`.
        due_at: When a worker may claim it, by the database's clock; absent once finished. For a
            running job, when its worker counts as dead.
        open_owner_id: *owner_id* as long as the job is open, so that each server has one.
        attempts: Number of runs so far.
        holder: Host and process that runs it.
        lease_id: Identifies the running attempt; writes of an earlier attempt are refused.
        repeat: A request that arrived while it ran: `{trigger, requested_by}`.
        progress: Progress of the running attempt: `{phase, tools_read}`.
        error: Why the last attempt failed.
        counts: What the last attempt found, by kind of change.
        expires_at: When the database removes it; absent while it is open.
    """

    model_config = ConfigDict(extra="allow")

    owner_id: PydanticObjectId
    owner_name: str
    source_type: SourceType
    trigger: Trigger
    requested_by: dict[str, str] | None = None
    state: JobState
    due_at: datetime | None = None
    open_owner_id: PydanticObjectId | None = None
    attempts: Annotated[int, Field(ge=0)]
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
        """The collection, and its indexes."""

        name = "sync_jobs"
        keep_nulls = False
        # An open job without a time would never be run, and a finished one without an end would
        # never be removed.
        rules: ClassVar[dict[str, Any]] = {
            "anyOf": [
                _in_states(["due_at", "open_owner_id"], JobState.QUEUED, JobState.RETRYING),
                _in_states(["due_at", "open_owner_id", "lease_id"], JobState.RUNNING),
                _in_states(["expires_at"], JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED),
            ]
        }
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("open_owner_id", ASCENDING)], unique=True, sparse=True),
            IndexModel([("due_at", ASCENDING)], sparse=True),
            IndexModel([("owner_id", ASCENDING), ("_id", DESCENDING)]),
            IndexModel([("state", ASCENDING), ("_id", DESCENDING)]),
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class SyncJobRun(Document):
    """One attempt, stored when it ended.

    Attributes:
        attempt: 1 for the first of its job.
        worker: Host and process.
        error: Why it failed.
        note: Why nothing was read, if that is not a failure.
        counts: What it found, by kind of change.
        upstream_ms: Whole milliseconds that reading the server took.
    """

    model_config = ConfigDict(extra="allow")

    job_id: PydanticObjectId
    owner_id: PydanticObjectId
    attempt: Annotated[int, Field(ge=1)]
    worker: str
    outcome: RunOutcome
    error: str | None = None
    note: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    upstream_ms: int | None = None
    started_at: datetime
    finished_at: datetime
    expires_at: datetime

    class Settings:
        """The collection, and its indexes."""

        name = "sync_job_runs"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("job_id", ASCENDING), ("_id", DESCENDING)]),
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class SyncDelivery(Document):
    """A webhook call that was accepted, so that a repetition of it is not.

    Its `_id` is the server's id, a slash, and the id that the sender gave the message.
    """

    id: str  # type: ignore[assignment]  # identifies the message, so that it is stored once
    job_id: PydanticObjectId
    received_at: datetime
    expires_at: datetime

    class Settings:
        """The collection, and its indexes."""

        name = "sync_deliveries"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]
