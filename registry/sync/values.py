"""Values of the sync domain."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import Field, PlainValidator

from packages.database.stored import (
    Projection,
    RequiredId,
    RequiredTime,
    RequiredWhole,
    StoredCounts,
    StoredText,
    StoredTime,
    StoredWhole,
    TextOrEmpty,
    WholeOrZero,
    text_of,
    whole_of,
)
from packages.models.states import JobState, RegistrationState, RunOutcome, Trigger
from registry.core.json import choice_of, members
from registry.tools.reconcile import Changes
from registry.tools.values import ToolEditor


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


def _editor(stored: object) -> ToolEditor | None:
    user_id = text_of(members(stored).get("user_id"))
    username = text_of(members(stored).get("username")) or ""
    return None if user_id is None else ToolEditor(user_id, username)


def request_of(stored: object) -> SyncRequest | None:
    """Read a stored request; None if it has no known trigger."""
    trigger = choice_of(Trigger, members(stored).get("trigger"))
    person = _editor(members(stored).get("requested_by"))
    return None if trigger is None else SyncRequest(trigger, person)


def _progress(stored: object) -> Progress | None:
    phase = choice_of(Phase, members(stored).get("phase"))
    tools_read = whole_of(members(stored).get("tools_read")) or 0
    return None if phase is None else Progress(phase, tools_read)


class SyncJobRecord(Projection):
    """A job as it is stored.

    Attributes:
        due_at: When a worker may claim it; None once finished. For a running job, when its
            worker counts as dead.
        attempts: Number of runs so far.
        repeat: A request that arrived while it ran.
        counts: Changes that the last attempt found, by kind.
    """

    id: Annotated[RequiredId, Field(alias="_id")]
    owner_id: RequiredId
    owner_name: TextOrEmpty = ""
    source_type: TextOrEmpty = ""
    trigger: Trigger
    requested_by: Annotated[ToolEditor | None, PlainValidator(_editor)] = None
    state: JobState
    due_at: StoredTime = None
    attempts: WholeOrZero = 0
    holder: StoredText = None
    lease_id: Annotated[str | None, PlainValidator(lambda stored: stored and str(stored))] = None
    repeat: Annotated[SyncRequest | None, PlainValidator(request_of)] = None
    progress: Annotated[Progress | None, PlainValidator(_progress)] = None
    error: StoredText = None
    counts: StoredCounts = Field(default_factory=dict)
    created_at: RequiredTime
    started_at: StoredTime = None
    finished_at: StoredTime = None

    @property
    def asked(self) -> SyncRequest:
        """Return the request that opened it."""
        return SyncRequest(self.trigger, self.requested_by)


class SyncRunRecord(Projection):
    """One attempt.

    Attributes:
        note: Why nothing was read, if that is not a failure.
        upstream_ms: Whole milliseconds that reading the upstream took.
    """

    attempt: RequiredWhole
    worker: TextOrEmpty = ""
    outcome: RunOutcome
    error: StoredText = None
    note: StoredText = None
    counts: StoredCounts = Field(default_factory=dict)
    upstream_ms: StoredWhole = None
    started_at: RequiredTime
    finished_at: RequiredTime


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
