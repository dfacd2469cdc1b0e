"""Repository of sync jobs: the only access to `sync_jobs`, `sync_job_runs`, `sync_deliveries`.

Due times and leases are compared with the database's clock, so that replicas whose clocks differ
agree on them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from bson import ObjectId
from pymongo import DESCENDING, ReturnDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from packages.database.batch import WriteBatch
from packages.database.client import Database, Doc
from packages.database.errors import (
    DUPLICATE_KEY,
    LOGIN_CODES,
    is_unreachable,
    translates_driver_errors,
)
from packages.database.stored import counts_of, id_of, moment_of, text_of, whole_of
from packages.models.syncing import SyncDelivery, SyncJobRun
from packages.models.syncing import SyncJob as SyncJobDocument
from registry.core.clock import Clock
from registry.core.json import choice_of, members
from registry.core.paging import Page, PageRequest
from registry.sync.errors import JobsContendedError, LeaseLostError
from registry.sync.values import (
    Ending,
    JobFilter,
    JobState,
    Phase,
    Progress,
    RunOutcome,
    SyncJobRecord,
    SyncRequest,
    SyncRunRecord,
    Trigger,
)
from registry.tools.values import ToolEditor

log = structlog.get_logger()

T = TypeVar("T")

NEWEST_FIRST = [("_id", DESCENDING)]
MAX_OPEN_ATTEMPTS = 10
"""How often opening is tried while other processes open or finish jobs of the same server."""

ASKED_FOR = [Trigger.MANUAL.value, Trigger.WEBHOOK.value, Trigger.COMMAND.value]
"""Triggers for which a person or a program is waiting."""

UNREADABLE = "The stored job cannot be read; another program wrote or changed it."

MAX_RUNS_SHOWN = 50

TIME_SECONDS = 60.0
"""How long the measured difference between the clocks is used."""

PROMPT_SECONDS = 1.0
"""An answer within this time is taken as of the moment of the request."""

NOW = "$$NOW"


@translates_driver_errors
class JobRepository:
    """Stores jobs, their runs, and the webhook calls that began them.

    Args:
        retention: How long finished jobs are kept.
    """

    def __init__(self, database: Database, *, retention: timedelta, clock: Clock) -> None:
        self._command = database.db.command
        self._clock = clock
        self._time = clock.now()
        self._time_asked_at = -math.inf
        self._jobs = database.collection(SyncJobDocument.Settings.name)
        self._runs = database.collection(SyncJobRun.Settings.name)
        self._deliveries = database.collection(SyncDelivery.Settings.name)
        self._retention = retention

    async def open(
        self, owner_id: str, owner_name: str, asked: SyncRequest, now: datetime
    ) -> tuple[SyncJobRecord, bool]:
        """Open a job for a server; return it, and whether it was already open.

        A job that waits for a retry becomes due at once, unless the trigger is the schedule. A
        running job may have read the upstream before the announced change, so another follows.
        """
        owner = ObjectId(owner_id)
        for _ in range(MAX_OPEN_ATTEMPTS):
            row = _new_row(owner, owner_name, asked, now)
            try:
                await self._jobs.insert_one(row)
            except DuplicateKeyError:
                try:
                    joined = await self._join(owner, asked, now)
                except JobUnreadableError:
                    await self._make_room(owner)
                    continue
                if joined is not None:
                    return joined, True
            else:
                return job_of(row), False
        raise JobsContendedError

    async def _join(
        self, owner: ObjectId, asked: SyncRequest, now: datetime
    ) -> SyncJobRecord | None:
        running = {"open_owner_id": owner}
        if asked.trigger is not Trigger.SCHEDULE:
            waiting = {**running, "state": {"$ne": JobState.RUNNING.value}}
            row = await self._jobs.find_one_and_update(
                waiting, {"$min": {"due_at": now}}, return_document=ReturnDocument.AFTER
            )
            if row is not None:
                return job_of(row)
        if asked.trigger in {Trigger.WEBHOOK, Trigger.NOTIFICATION}:
            row = await self._jobs.find_one_and_update(
                running,
                {"$set": {"repeat": _asked_fields(asked)}},
                return_document=ReturnDocument.AFTER,
            )
        else:
            row = await self._jobs.find_one(running)
        return None if row is None else job_of(row)

    async def _make_room(self, owner: ObjectId) -> None:
        """Set a server's open job aside if it cannot be read."""
        row = await self._jobs.find_one({"open_owner_id": owner})
        if row is not None and not any(_readable([row], job_of)):
            await self._set_aside(row)

    async def retry(
        self, job: SyncJobRecord, asked: SyncRequest, now: datetime
    ) -> SyncJobRecord | None:
        """Open a dead or cancelled job again; return None if it is in another state now.

        If its server has another open job, that one is returned.
        """
        finished = {
            "_id": ObjectId(job.id),
            "state": {"$in": [JobState.DEAD.value, JobState.CANCELLED.value]},
        }
        owner = ObjectId(job.owner_id)
        changes: Doc = {
            **_asked_fields(asked),
            "state": JobState.QUEUED.value,
            "due_at": now,
            "open_owner_id": owner,
            "attempts": 0,
        }
        gone = dict.fromkeys(("expires_at", "finished_at", "error"), "")
        try:
            row = await self._jobs.find_one_and_update(
                finished,
                {"$set": changes, "$unset": gone},
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:
            return await self._join(owner, asked, now)
        return None if row is None else job_of(row)

    async def claim(
        self,
        most: int,
        worker: str,
        lease_seconds: float,
        *,
        asked_for: bool = False,
    ) -> list[SyncJobRecord]:
        """Claim up to *most* jobs that are due, including those of workers that died.

        The lease of each ends *lease_seconds* after the last `renew`.

        Args:
            most: Maximum number of jobs.
            worker: The holder of the leases.
            lease_seconds: Duration of a lease without a renewal.
            asked_for: Claim only first attempts of `ASKED_FOR` jobs.
        """
        due = await self._due()
        if asked_for:
            due |= {"trigger": {"$in": ASKED_FOR}, "state": JobState.QUEUED.value}
        # Twice as many: other workers claim some of them concurrently.
        candidates = self._jobs.find(due, sort=[("due_at", 1)], batch_size=most * 2)
        taken: list[SyncJobRecord] = []
        async with candidates:
            async for candidate in candidates:
                job = await self._claim(candidate, worker, lease_seconds)
                if job is not None:
                    taken.append(job)
                if len(taken) >= most:
                    break
        return taken

    async def begin(
        self, owners: Mapping[str, str], asked: SyncRequest, worker: str, lease_seconds: float
    ) -> dict[str, SyncJobRecord]:
        """Open jobs that this worker holds from the start, in one command.

        Args:
            owners: Names of the servers, by id.
            asked: The request.
            worker: The holder of the leases.
            lease_seconds: Duration of a lease without a renewal.

        Returns:
            The jobs, by server; none for a server that already has an open job.
        """
        now = await self._database_time()
        held = {
            "state": JobState.RUNNING.value,
            "due_at": now + timedelta(seconds=lease_seconds),
            "holder": worker,
            "started_at": now,
            "attempts": 1,
        }
        rows = [
            {**_new_row(ObjectId(owner), name, asked, now), **held, "lease_id": ObjectId()}
            for owner, name in owners.items()
        ]
        if not rows:
            return {}
        others = set[int]()
        try:
            await self._jobs.insert_many(rows, ordered=False)
        except BulkWriteError as exc:
            refused = exc.details["writeErrors"]
            if any(one["code"] != DUPLICATE_KEY for one in refused):
                raise
            others = {one["index"] for one in refused}
        begun = (job_of(row) for index, row in enumerate(rows) if index not in others)
        return {job.owner_id: job for job in begun}

    async def claim_one(
        self, job_id: str, worker: str, lease_seconds: float
    ) -> SyncJobRecord | None:
        """Claim one job if it is due, or if its worker died."""
        row = await self._jobs.find_one({"_id": ObjectId(job_id), **await self._due()})
        return None if row is None else await self._claim(row, worker, lease_seconds)

    async def _due(self) -> Doc:
        """Return the filter for due jobs.

        The time is a constant in the query: with `$$NOW`, MongoDB-compatible servers scan every
        job that was ever stored.
        """
        return {"due_at": {"$lte": await self._database_time()}}

    async def _database_time(self) -> datetime:
        """Return the database's time, read periodically and extrapolated in between.

        It is ahead by at most the latency of the request and never behind, so that no due job is
        missed. After a slow answer it may be behind.
        """
        since = self._clock.monotonic() - self._time_asked_at
        if since > TIME_SECONDS:
            asked_at = self._clock.monotonic()
            answer = await self._command("hello")
            since = self._clock.monotonic() - asked_at
            if since > PROMPT_SECONDS:
                asked_at, since = asked_at + since, 0.0
            self._time_asked_at = asked_at
            local_time = answer.get("localTime")
            self._time = local_time if isinstance(local_time, datetime) else self._clock.now()
        return self._time + timedelta(seconds=since)

    async def _claim(self, row: Doc, worker: str, lease_seconds: float) -> SyncJobRecord | None:
        """Take a job; None when others did, or when it cannot be read and is set aside."""
        lease = ObjectId()
        changes: Doc = {
            "state": JobState.RUNNING.value,
            "holder": {"$literal": worker},
            "lease_id": lease,
            "started_at": NOW,
            "due_at": _after(lease_seconds),
            "attempts": {"$add": ["$attempts", 1]},
            "progress": {"phase": Phase.READING.value, "tools_read": 0},
        }
        try:
            _require_claimable(row)
            before = await self._jobs.find_one_and_update(
                {"_id": row["_id"], **await self._due()},
                # This attempt also serves requests that arrived while the dead worker held it.
                [{"$set": changes}, {"$unset": ["repeat"]}],
                return_document=ReturnDocument.BEFORE,
            )
            if before is None:
                return None
            if before["state"] == JobState.RUNNING.value:
                await self._note_lost(before)
            taken = await self._jobs.find_one({"_id": row["_id"], "lease_id": lease})
            return None if taken is None else job_of(taken)
        except JobUnreadableError:
            await self._set_aside(row)
        except OperationFailure as exc:
            if is_unreachable(exc) or exc.code in LOGIN_CODES:
                raise
            # The other jobs must still run, and this one is tried again in the next round.
            log.warning("sync_job_not_claimed", document_id=str(row["_id"]), code=exc.code)
        return None

    async def _set_aside(self, row: Doc) -> None:
        """Exclude an unreadable job from the due ones, and log it.

        Its server can then have another job. If the database refuses to update the document, the
        job is deleted.
        """
        log.warning("sync_job_unreadable", document_id=str(row["_id"]))
        now = self._clock.now()
        changes: Doc = {
            "state": JobState.DEAD.value,
            "error": UNREADABLE,
            "finished_at": now,
            "expires_at": now + self._retention,
        }
        gone = dict.fromkeys((*OF_AN_ATTEMPT, "due_at", "open_owner_id"), "")
        unchanged = {"_id": row["_id"], "state": {"$eq": row.get("state")}}
        try:
            await self._jobs.update_one(unchanged, {"$set": changes, "$unset": gone})
        except OperationFailure as exc:
            if is_unreachable(exc) or exc.code in LOGIN_CODES:
                raise
            await self._jobs.delete_one(unchanged)

    async def _note_lost(self, row: Doc) -> None:
        ended_at = moment_of(row["due_at"]) or self._clock.now()
        await self._runs.insert_one(
            {
                "job_id": row["_id"],
                "owner_id": row["owner_id"],
                "attempt": row["attempts"],
                "worker": text_of(row.get("holder")) or "",
                "outcome": RunOutcome.LEASE_LOST.value,
                "error": "The worker stopped without finishing the job.",
                "started_at": moment_of(row.get("started_at")) or ended_at,
                "finished_at": ended_at,
                "expires_at": ended_at + self._retention,
            }
        )

    async def renew(self, job: SyncJobRecord, lease_seconds: float) -> bool:
        """Renew a lease; return False if another attempt has begun."""
        renewed = [{"$set": {"due_at": _after(lease_seconds)}}]
        result = await self._jobs.update_one(_held(job), renewed)
        return result.matched_count == 1

    async def set_progress(self, job: SyncJobRecord, progress: Progress) -> None:
        """Store the progress of a running job."""
        stored = {"phase": progress.phase.value, "tools_read": progress.tools_read}
        await self._jobs.update_one(_held(job), {"$set": {"progress": stored}})

    async def begin_writing(self, job: SyncJobRecord, seconds: float, tools_read: int) -> bool:
        """Extend a lease for a large write; return False if another attempt has begun.

        Nothing else may be written to the job until then: it would conflict with the transaction
        that ends the job.
        """
        changes: Doc = {
            "due_at": _after(seconds),
            "progress": {"phase": Phase.WRITING.value, "tools_read": tools_read},
        }
        result = await self._jobs.update_one(_held(job), [{"$set": changes}])
        return result.matched_count == 1

    async def release(self, job: SyncJobRecord) -> None:
        """Release an unfinished job, so that other workers can claim it at once."""
        await self._jobs.update_one(_held(job), RELEASED)

    async def release_held(self, worker: str) -> None:
        """Release all jobs that *worker* holds."""
        held = {"due_at": {"$exists": True}, "state": JobState.RUNNING.value, "holder": worker}
        await self._jobs.update_many(held, RELEASED)

    async def end(self, job: SyncJobRecord, ending: Ending, now: datetime) -> SyncRequest | None:
        """Store the result of an attempt.

        Returns:
            A request that arrived while it ran, for which a job must be opened.

        Raises:
            LeaseLostError: Another attempt has begun.
        """
        # Written first, so that a reader that sees the finished job also sees its last run.
        run = _run_row(job, ending, now, self._retention)
        await self._runs.insert_one(run)
        ended = self._ended(job, ending, now)
        before = await self._jobs.find_one_and_update(_held(job), ended)
        if before is None:
            await self._runs.delete_one({"_id": run["_id"]})
            raise LeaseLostError
        return None if ending.state.is_open else _repeat_of(before)

    def end_with(
        self,
        job: SyncJobRecord,
        ending: Ending,
        now: datetime,
        batch: WriteBatch,
        repeated: Callable[[SyncRequest], None],
    ) -> None:
        """Store the result of an attempt as part of a transaction.

        An attempt that begins concurrently writes to the same job, so that one of the two
        conflicts and is repeated, and `batch.send` raises LeaseLostError.

        Args:
            job: Which.
            ending: How it ended.
            now: When.
            batch: The writes.
            repeated: Called with a request that arrived while it ran, for which a job must be
                opened.
        """
        ended = self._ended(job, ending, now)
        held = _held(job)
        # A batch holds only updates, which do not return the document as it was before.
        plain = held if ending.state.is_open else {**held, "repeat": {"$exists": False}}

        async def unmatched() -> None:
            before = await self._jobs.find_one_and_update(held, ended, session=batch.tx)
            if before is None:
                raise LeaseLostError
            asked = _repeat_of(before)
            if asked is not None:
                repeated(asked)

        batch.insert(SyncJobRun.Settings.name, _run_row(job, ending, now, self._retention))
        batch.update(SyncJobDocument.Settings.name, plain, ended, unmatched=unmatched)

    def _ended(self, job: SyncJobRecord, ending: Ending, now: datetime) -> Doc | list[Doc]:
        if ending.state.is_open:
            return _retried(ending)
        return self._finished(job, ending, now)

    def _finished(self, job: SyncJobRecord, ending: Ending, now: datetime) -> Doc:
        changes: Doc = {
            "state": ending.state.value,
            "counts": dict(ending.counts),
            "started_at": job.started_at or now,
            "finished_at": now,
            "expires_at": now + self._retention,
        }
        gone = [*OF_AN_ATTEMPT, "due_at", "open_owner_id"]
        if ending.error is None:
            gone.append("error")
        else:
            changes["error"] = ending.error
        return {"$set": changes, "$unset": dict.fromkeys(gone, "")}

    async def get(self, job_id: str) -> SyncJobRecord | None:
        """Return one job, without checking access."""
        row = await self._jobs.find_one({"_id": ObjectId(job_id)})
        return None if row is None else next(_readable([row], job_of), None)

    async def runs(self, job_id: str) -> list[SyncRunRecord]:
        """Return the latest attempts at a job, newest first."""
        rows = self._runs.find(
            {"job_id": ObjectId(job_id)}, sort=NEWEST_FIRST, limit=MAX_RUNS_SHOWN
        )
        return list(_readable(await rows.to_list(), _run))

    async def page(self, job_filter: JobFilter, page: PageRequest) -> Page[SyncJobRecord]:
        """Return one page of jobs, newest first."""
        query: Doc = {}
        if job_filter.owner_ids is not None:
            owners = [ObjectId(owner) for owner in sorted(job_filter.owner_ids)]
            query["owner_id"] = owners[0] if len(owners) == 1 else {"$in": owners}
        if job_filter.state is not None:
            query["state"] = job_filter.state.value
        if job_filter.trigger is not None:
            query["trigger"] = job_filter.trigger.value
        total = await self._jobs.count_documents(query)
        rows = self._jobs.find(query, sort=NEWEST_FIRST, skip=page.offset, limit=-page.per_page)
        return Page(tuple(_readable(await rows.to_list(), job_of)), total, page)

    async def count_open(self) -> dict[JobState, int]:
        """Return the number of jobs in each open state."""
        rows = self._jobs.find({"due_at": {"$exists": True}}, {"state": 1, "_id": 0})
        counts = dict.fromkeys((state for state in JobState if state.is_open), 0)
        async for row in rows:
            state = choice_of(JobState, row.get("state"))
            if state in counts:
                counts[state] += 1
        return counts

    async def delivered(self, owner_id: str, message_id: str) -> str | None:
        """Return the id of the job that a webhook call began; None if the call is new."""
        row = await self._deliveries.find_one({"_id": f"{owner_id}/{message_id}"})
        return None if row is None else str(row["job_id"])

    async def note_delivery(
        self, owner_id: str, message_id: str, job_id: str, now: datetime, keep: timedelta
    ) -> bool:
        """Store a webhook call; return whether it is the first with its id.

        Of several concurrent calls, exactly one is the first.
        """
        row = {
            "_id": f"{owner_id}/{message_id}",
            "job_id": ObjectId(job_id),
            "received_at": now,
            "expires_at": now + keep,
        }
        try:
            await self._deliveries.insert_one(row)
        except DuplicateKeyError:
            return False
        return True


RELEASED: list[Doc] = [
    {
        "$set": {
            "state": JobState.QUEUED.value,
            "due_at": NOW,
            "attempts": {"$max": [0, {"$subtract": ["$attempts", 1]}]},
        }
    },
    {"$unset": ["lease_id", "holder", "progress"]},
]
OF_AN_ATTEMPT = ("lease_id", "holder", "progress", "repeat")


def _retried(ending: Ending) -> list[Doc]:
    changes: Doc = {
        "state": ending.state.value,
        "counts": {"$literal": dict(ending.counts)},
        "error": {"$literal": ending.error},
        "due_at": _after(ending.retry_seconds or 0),
    }
    return [{"$set": changes}, {"$unset": list(OF_AN_ATTEMPT)}]


def _after(seconds: float) -> Doc:
    """Return the expression for the database's time plus *seconds*."""
    return {"$add": [NOW, round(seconds * 1000)]}


def _held(job: SyncJobRecord) -> Doc:
    """Return the filter for a job whose lease is still held by this attempt."""
    return {"_id": ObjectId(job.id), "lease_id": _lease(job)}


def _repeat_of(row: Mapping[str, Any]) -> SyncRequest | None:
    return _request_of(members(row.get("repeat")))


def _lease(job: SyncJobRecord) -> ObjectId:
    if job.lease_id is None:
        raise LeaseLostError
    return ObjectId(job.lease_id)


def _new_row(owner: ObjectId, owner_name: str, asked: SyncRequest, now: datetime) -> Doc:
    return {
        "_id": ObjectId(),
        "owner_id": owner,
        "owner_name": owner_name,
        "source_type": "mcp",
        **_asked_fields(asked),
        "state": JobState.QUEUED.value,
        "due_at": now,
        "open_owner_id": owner,
        "attempts": 0,
        "counts": {},
        "created_at": now,
    }


def _asked_fields(asked: SyncRequest) -> Doc:
    fields: Doc = {"trigger": asked.trigger.value}
    if asked.person is not None:
        fields["requested_by"] = asked.person._asdict()
    return fields


def _request_of(row: Mapping[str, Any]) -> SyncRequest | None:
    trigger, person = choice_of(Trigger, row.get("trigger")), members(row.get("requested_by"))
    if trigger is None:
        return None
    user_id = text_of(person.get("user_id"))
    username = text_of(person.get("username")) or ""
    return SyncRequest(trigger, None if user_id is None else ToolEditor(user_id, username))


def _run_row(job: SyncJobRecord, ending: Ending, now: datetime, retention: timedelta) -> Doc:
    fields: Doc = {
        "_id": ObjectId(),
        "job_id": ObjectId(job.id),
        "owner_id": ObjectId(job.owner_id),
        "attempt": job.attempts,
        "worker": job.holder or "",
        "outcome": ending.outcome.value,
        "error": ending.error,
        "note": ending.note,
        "counts": dict(ending.counts),
        "upstream_ms": ending.upstream_ms,
        "started_at": job.started_at or now,
        "finished_at": now,
        "expires_at": now + retention,
    }
    return {name: value for name, value in fields.items() if value is not None}


class JobUnreadableError(ValueError):
    """A stored job or attempt has no readable server or state."""


def job_of(row: Mapping[str, Any]) -> SyncJobRecord:
    """Return a stored job as a value.

    Raises:
        JobUnreadableError: The document is malformed.
    """
    progress = members(row.get("progress"))
    phase, tools_read = (
        choice_of(Phase, progress.get("phase")),
        whole_of(progress.get("tools_read")),
    )
    owner_id, state = id_of(row.get("owner_id")), choice_of(JobState, row.get("state"))
    job_id, created_at = id_of(row["_id"]), moment_of(row.get("created_at"))
    asked = _request_of(row)
    if None in {owner_id, job_id} or state is None or created_at is None or asked is None:
        raise JobUnreadableError
    lease = row.get("lease_id")
    return SyncJobRecord(
        id=str(job_id),
        owner_id=str(owner_id),
        owner_name=text_of(row.get("owner_name")) or "",
        source_type=text_of(row.get("source_type")) or "",
        asked=asked,
        state=state,
        due_at=moment_of(row.get("due_at")),
        attempts=whole_of(row.get("attempts")) or 0,
        holder=text_of(row.get("holder")),
        lease_id=None if lease is None else str(lease),
        repeat=_request_of(members(row.get("repeat"))),
        progress=None if phase is None else Progress(phase, tools_read or 0),
        error=text_of(row.get("error")),
        counts=counts_of(row.get("counts")),
        created_at=created_at,
        started_at=moment_of(row.get("started_at")),
        finished_at=moment_of(row.get("finished_at")),
    )


def _require_claimable(row: Doc) -> None:
    """Find out whether a job that is due can be done.

    Raises:
        JobUnreadableError: It cannot be read, or its attempts cannot be counted.
    """
    attempts, due_at = row.get("attempts"), moment_of(row.get("due_at"))
    if isinstance(attempts, bool) or whole_of(attempts) is None or due_at is None:
        raise JobUnreadableError
    job_of(row)


def _run(row: Mapping[str, Any]) -> SyncRunRecord:
    outcome, attempt = choice_of(RunOutcome, row.get("outcome")), whole_of(row.get("attempt"))
    started_at, finished_at = moment_of(row.get("started_at")), moment_of(row.get("finished_at"))
    if outcome is None or attempt is None or started_at is None or finished_at is None:
        raise JobUnreadableError
    return SyncRunRecord(
        attempt=attempt,
        worker=text_of(row.get("worker")) or "",
        outcome=outcome,
        error=text_of(row.get("error")),
        note=text_of(row.get("note")),
        counts=counts_of(row.get("counts")),
        upstream_ms=whole_of(row.get("upstream_ms")),
        started_at=started_at,
        finished_at=finished_at,
    )


def _readable(rows: Iterable[Doc], read: Callable[[Doc], T]) -> Iterator[T]:
    """Yield *rows* as values; log malformed ones and leave them out."""
    for row in rows:
        try:
            yield read(row)
        except JobUnreadableError:
            log.warning("sync_job_unreadable", document_id=str(row["_id"]))
