"""Values of the sync domain."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from registry.tools.reconcile import Changes
from registry.tools.values import RegistrationState, ToolEditor


class Trigger(StrEnum):
    """What asks for a synchronisation."""

    MANUAL = "manual"
    SCHEDULE = "schedule"
    WEBHOOK = "webhook"
    NOTIFICATION = "notification"
    COMMAND = "command"


class JobState(StrEnum):
    """State of a job. A dead job failed too often and waits for a request to retry it."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        """Whether work remains."""
        return self in OPEN_STATES


OPEN_STATES = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.RETRYING})


class RunOutcome(StrEnum):
    """How an attempt ended; `lost` means that its worker died."""

    SUCCESS = "success"
    FAILURE = "failure"
    LEASE_LOST = "lease_lost"
    CANCELLED = "cancelled"


class Phase(StrEnum):
    """Phase of a running attempt."""

    READING = "reading"
    WRITING = "writing"


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What triggers a synchronisation, and which person requested it, if any."""

    trigger: Trigger
    person: ToolEditor | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a running attempt."""

    phase: Phase
    tools_read: int = 0


@dataclass(frozen=True, slots=True)
class SyncJobRecord:
    """A job as it is stored.

    Attributes:
        due_at: When a worker may claim it; None once finished. For a running job, when its
            worker counts as dead.
        attempts: Number of runs so far.
        repeat: A request that arrived while it ran.
        counts: Changes that the last attempt found, by kind.
    """

    id: str
    owner_id: str
    owner_name: str
    source_type: str
    asked: SyncRequest
    state: JobState
    due_at: datetime | None
    attempts: int
    holder: str | None
    lease_id: str | None
    repeat: SyncRequest | None
    progress: Progress | None
    error: str | None
    counts: Mapping[str, int]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class SyncRunRecord:
    """One attempt.

    Attributes:
        note: Why nothing was read, if that is not a failure.
        upstream_ms: Whole milliseconds that reading the upstream took.
    """

    attempt: int
    worker: str
    outcome: RunOutcome
    error: str | None
    note: str | None
    counts: Mapping[str, int]
    upstream_ms: int | None
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Filter of a list of jobs. *owner_ids* None means all servers."""

    owner_ids: frozenset[str] | None = None
    state: JobState | None = None
    trigger: Trigger | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """Result of an attempt.

    Attributes:
        state: The new state of the job.
        retry_seconds: Delay until the retry, for a job that is still open.
        upstream_ms: Whole milliseconds that reading the upstream took.
    """

    state: JobState
    outcome: RunOutcome
    error: str | None = None
    note: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    retry_seconds: float | None = None
    upstream_ms: int | None = None


def counts_of(changes: Changes, *, offered: int, rejected: int) -> dict[str, int]:
    """Return the number of tools by kind of change, without zeros.

    Args:
        changes: The result of reconciliation.
        offered: Tools that the upstream lists and that are valid.
        rejected: Tools that are invalid.
    """
    counts = {
        "offered": offered,
        "rejected": rejected,
        "added": len(changes.inserts),
        "changed": 0,
        "held": 0,
        "stale": 0,
        "returned": 0,
    }
    for update in changes.updates:
        before, after = update.tool.registration_state, update.registration_state
        if update.serve is not None:
            counts["changed"] += 1
        if update.hold is not None:
            counts["held"] += 1
        if after is RegistrationState.STALE and before is not after:
            counts["stale"] += 1
        if before is RegistrationState.STALE and after is not before:
            counts["returned"] += 1
    return {name: count for name, count in counts.items() if count or name == "offered"}
