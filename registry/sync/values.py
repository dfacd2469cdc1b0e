"""Values about synchronisation that travel between modules."""

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
    """Where a job is. What is dead failed too often and waits for somebody to ask again."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done."""
        return self in OPEN_STATES


OPEN_STATES = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.RETRYING})


class RunOutcome(StrEnum):
    """How an attempt ended; `lost` is one whose worker died."""

    SUCCESS = "success"
    FAILURE = "failure"
    LOST = "lost"
    CANCELLED = "cancelled"


class Phase(StrEnum):
    """What a running attempt is at."""

    READING = "reading"
    WRITING = "writing"


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What asks for a synchronisation, and who, where it is a person."""

    trigger: Trigger
    person: ToolEditor | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running attempt is."""

    phase: Phase
    tools_read: int = 0


@dataclass(frozen=True, slots=True)
class SyncJobRecord:
    """A job as it is stored.

    Attributes:
        due_at: When a worker may take it; None once it is finished. Of a running job, when its
            worker counts as dead.
        attempts: Runs so far.
        repeat: What asked for it again while it ran.
        counts: What the last attempt found, by kind of change.
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
        note: Why nothing was read, where that is no failure.
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
    """What a list of jobs is narrowed to. *owner_ids* None stands for all owners."""

    owner_ids: frozenset[str] | None = None
    state: JobState | None = None
    trigger: Trigger | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """What came of an attempt.

    Attributes:
        state: What the job is from now on.
        retry_seconds: When it is tried again, for a job that is open still.
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
    """Return how many tools there were of each kind; what there is none of is left out.

    Args:
        changes: What reconciling came to.
        offered: Tools that the upstream lists and that can be taken.
        rejected: Those that cannot.
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
