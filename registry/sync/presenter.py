"""JSON answers of the sync API: jobs and their attempts. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import cast

from pydantic import JsonValue

from packages.models.states import JobState
from registry.core.json import JsonObject
from registry.core.text import timestamp
from registry.sync.values import SyncJobRecord, SyncRunRecord


def present_job(job: SyncJobRecord) -> JsonObject:
    """Return a job; members that do not apply are left out."""
    waits = job.state in {JobState.QUEUED, JobState.RETRYING}
    ended_at = job.finished_at
    facts: dict[str, object] = {
        "id": job.id,
        "owner_id": job.owner_id,
        "owner_name": job.owner_name,
        "source_type": job.source_type,
        "trigger": job.asked.trigger.value,
        "requested_by": None if job.asked.person is None else job.asked.person._asdict(),
        "state": job.state.value,
        "attempts": job.attempts,
        "next_attempt_at": _time(job.due_at) if waits else None,
        "progress": (
            None
            if job.progress is None or job.state is not JobState.RUNNING
            else {"phase": job.progress.phase.value, "tools_read": job.progress.tools_read}
        ),
        "error": job.error,
        "counts": dict(job.counts),
        "created_at": timestamp(job.created_at),
        "started_at": None if job.state is JobState.QUEUED else _time(job.started_at),
        "finished_at": _time(ended_at),
        "duration_ms": (
            None
            if ended_at is None or job.started_at is None
            else _milliseconds(job.started_at, ended_at)
        ),
    }
    return _without_none(facts)


def present_run(run: SyncRunRecord, *, names_worker: bool) -> JsonObject:
    """Return an attempt; with *names_worker* also the host and process that made it."""
    return _without_none(
        {
            "attempt": run.attempt,
            "worker": run.worker if names_worker else None,
            "outcome": run.outcome.value,
            "error": run.error,
            "note": run.note,
            "counts": dict(run.counts),
            "upstream_ms": run.upstream_ms,
            "started_at": timestamp(run.started_at),
            "finished_at": timestamp(run.finished_at),
            "duration_ms": _milliseconds(run.started_at, run.finished_at),
        }
    )


def _without_none(facts: Mapping[str, object]) -> JsonObject:
    return {name: cast("JsonValue", value) for name, value in facts.items() if value is not None}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)


def _milliseconds(began_at: datetime, ended_at: datetime) -> int:
    return max(0, round((ended_at - began_at) / timedelta(milliseconds=1)))
