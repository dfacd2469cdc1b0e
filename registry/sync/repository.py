"""Repository of sync jobs: the only access to `sync_jobs`, `sync_job_runs`, `sync_deliveries`.

Due times and leases are compared with the database's clock, so that replicas whose clocks differ
agree on them.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

import structlog
from bson import ObjectId
from pydantic import PlainValidator, ValidationError
from pymongo import ReturnDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from packages.database.batch import WriteBatch
from packages.database.client import Database, Doc
from packages.database.documents import as_stored, read_all
from packages.database.errors import (
    DUPLICATE_KEY,
    LOGIN_CODES,
    is_unreachable,
    translates_driver_errors,
)
from packages.database.server_time import ServerTime
from packages.database.stored import Projection, RequiredTime, moment_of, text_of, whole_of
from packages.models.states import JobState, RunOutcome, SourceType, Trigger
from packages.models.syncing import SyncDelivery, SyncJob, SyncJobRun
from registry.core.clock import Clock
from registry.core.json import choice_of
from registry.core.paging import Page, PageRequest
from registry.sync.errors import JobsContendedError, LeaseLostError
from registry.sync.values import (
    Ending,
    JobFilter,
    Phase,
    Progress,
    SyncJobRecord,
    SyncRequest,
    SyncRunRecord,
    request_of,
)

log = structlog.get_logger()

MAX_OPEN_ATTEMPTS = 10
"""How often opening is tried while other processes open or finish jobs of the same server."""

ASKED_FOR = [Trigger.MANUAL.value, Trigger.WEBHOOK.value, Trigger.COMMAND.value]
"""Triggers for which a person or a program is waiting."""

UNREADABLE = "The stored job cannot be read; another program wrote or changed it."

MAX_RUNS_SHOWN = 50

NOW = "$$NOW"


@translates_driver_errors
class JobRepository:
    """Stores jobs, their runs, and the webhook calls that began them.

    Args:
        retention: How long finished jobs are kept.
        jobs: Documents of other jobs with the same members, in a collection of their own.
    """

    def __init__(
        self,
        database: Database,
        *,
        retention: timedelta,
        clock: Clock,
        jobs: type[SyncJob] | None = None,
    ) -> None:
        self._clock = clock
        self._time = ServerTime(database, now=clock.now, monotonic=clock.monotonic)
        self._jobs = database.document(SyncJob)
        if jobs is not None:
            self._jobs = jobs
        self._runs = database.document(SyncJobRun)
        self._deliveries = database.document(SyncDelivery)
        # Beanie has no update that returns a projection, no pipeline in an update with a filter of
        # its own, and cannot encode every value that another program may have stored.
        self._collection = self._jobs.get_pymongo_collection()
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
            job = self._new(owner, owner_name, asked, now)
            try:
                await job.insert()
            except DuplicateKeyError:
                try:
                    joined = await self._join(owner, asked, now)
                except ValidationError:
                    await self._make_room(owner)
                    continue
                if joined is not None:
                    return joined, True
            else:
                return _record_of(as_stored(job)), False
        raise JobsContendedError

    async def _join(
        self, owner: ObjectId, asked: SyncRequest, now: datetime
    ) -> SyncJobRecord | None:
        running = {"open_owner_id": owner}
        if asked.trigger is not Trigger.SCHEDULE:
            waiting = {**running, "state": {"$ne": JobState.RUNNING.value}}
            row = await self._collection.find_one_and_update(
                waiting, {"$min": {"due_at": now}}, return_document=ReturnDocument.AFTER
            )
            if row is not None:
                return _record_of(row)
        if asked.trigger in {Trigger.WEBHOOK, Trigger.NOTIFICATION}:
            row = await self._collection.find_one_and_update(
                running,
                {"$set": {"repeat": _asked_fields(asked)}},
                return_document=ReturnDocument.AFTER,
            )
        else:
            row = await self._collection.find_one(running)
        return None if row is None else _record_of(row)

    async def _make_room(self, owner: ObjectId) -> None:
        """Set a server's open job aside if it cannot be read."""
        row = await self._collection.find_one({"open_owner_id": owner})
        if row is not None and not _is_readable(row):
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
            row = await self._collection.find_one_and_update(
                finished,
                {"$set": changes, "$unset": gone},
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:
            return await self._join(owner, asked, now)
        return None if row is None else _record_of(row)

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
        candidates = self._collection.find(due, sort=[("due_at", 1)], batch_size=most * 2)
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
        now = await self._time.now()
        jobs = [
            self._new(ObjectId(owner), name, asked, now).model_copy(
                update={
                    "state": JobState.RUNNING,
                    "due_at": now + timedelta(seconds=lease_seconds),
                    "holder": worker,
                    "started_at": now,
                    "attempts": 1,
                    "lease_id": ObjectId(),
                }
            )
            for owner, name in owners.items()
        ]
        if not jobs:
            return {}
        others = set[int]()
        try:
            await self._jobs.insert_many(jobs, ordered=False)
        except BulkWriteError as exc:
            refused = exc.details["writeErrors"]
            if any(one["code"] != DUPLICATE_KEY for one in refused):
                raise
            others = {one["index"] for one in refused}
        begun = (_record_of(as_stored(job)) for n, job in enumerate(jobs) if n not in others)
        return {job.owner_id: job for job in begun}

    async def claim_one(
        self, job_id: str, worker: str, lease_seconds: float
    ) -> SyncJobRecord | None:
        """Claim one job if it is due, or if its worker died."""
        row = await self._collection.find_one({"_id": ObjectId(job_id), **await self._due()})
        return None if row is None else await self._claim(row, worker, lease_seconds)

    async def _due(self) -> Doc:
        """Return the filter for due jobs.

        The time is a constant in the query: with `$$NOW`, MongoDB-compatible servers scan every
        job that was ever stored.
        """
        return {"due_at": {"$lte": await self._time.now()}}

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
            _ClaimableJob.model_validate(row)
            before = await self._collection.find_one_and_update(
                {"_id": row["_id"], **await self._due()},
                # This attempt also serves requests that arrived while the dead worker held it.
                [{"$set": changes}, {"$unset": ["repeat"]}],
                return_document=ReturnDocument.BEFORE,
            )
            if before is None:
                return None
            if before["state"] == JobState.RUNNING.value:
                await self._note_lost(before)
            taken = {"_id": row["_id"], "lease_id": lease}
            return await self._jobs.find_one(taken, projection_model=SyncJobRecord)
        except ValidationError:
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
            await self._collection.update_one(unchanged, {"$set": changes, "$unset": gone})
        except OperationFailure as exc:
            if is_unreachable(exc) or exc.code in LOGIN_CODES:
                raise
            await self._collection.delete_one(unchanged)

    async def _note_lost(self, row: Doc) -> None:
        ended_at = moment_of(row["due_at"]) or self._clock.now()
        run = self._runs(
            job_id=row["_id"],
            owner_id=row["owner_id"],
            attempt=row["attempts"],
            worker=text_of(row.get("holder")) or "",
            outcome=RunOutcome.LEASE_LOST,
            error="The worker stopped without finishing the job.",
            started_at=moment_of(row.get("started_at")) or ended_at,
            finished_at=ended_at,
            expires_at=ended_at + self._retention,
        )
        await run.insert()

    async def renew(self, job: SyncJobRecord, lease_seconds: float) -> bool:
        """Renew a lease; return False if another attempt has begun."""
        renewed = [{"$set": {"due_at": _after(lease_seconds)}}]
        return await self._update_held(job, renewed)

    async def set_progress(self, job: SyncJobRecord, progress: Progress) -> None:
        """Store the progress of a running job."""
        stored = {"phase": progress.phase.value, "tools_read": progress.tools_read}
        await self._update_held(job, {"$set": {"progress": stored}})

    async def begin_writing(self, job: SyncJobRecord, seconds: float, tools_read: int) -> bool:
        """Extend a lease for a large write; return False if another attempt has begun.

        Nothing else may be written to the job until then: it would conflict with the transaction
        that ends the job.
        """
        changes: Doc = {
            "due_at": _after(seconds),
            "progress": {"phase": Phase.WRITING.value, "tools_read": tools_read},
        }
        return await self._update_held(job, [{"$set": changes}])

    async def release(self, job: SyncJobRecord) -> None:
        """Release an unfinished job, so that other workers can claim it at once."""
        await self._update_held(job, RELEASED)

    async def _update_held(self, job: SyncJobRecord, update: Doc | list[Doc]) -> bool:
        """Update a job; return False if another attempt has begun."""
        result = await self._collection.update_one(_held(job), update)
        return result.matched_count == 1

    async def release_held(self, worker: str) -> None:
        """Release all jobs that *worker* holds."""
        held = {"due_at": {"$exists": True}, "state": JobState.RUNNING.value, "holder": worker}
        await self._collection.update_many(held, RELEASED)

    async def end(self, job: SyncJobRecord, ending: Ending, now: datetime) -> SyncRequest | None:
        """Store the result of an attempt.

        Returns:
            A request that arrived while it ran, for which a job must be opened.

        Raises:
            LeaseLostError: Another attempt has begun.
        """
        # Written first, so that a reader that sees the finished job also sees its last run.
        run = self._new_run(job, ending, now)
        await run.insert()
        ended = self._ended(job, ending, now)
        before = await self._collection.find_one_and_update(_held(job), ended)
        if before is None:
            await run.delete()
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
            before = await self._collection.find_one_and_update(held, ended, session=batch.tx)
            if before is None:
                raise LeaseLostError
            asked = _repeat_of(before)
            if asked is not None:
                repeated(asked)

        run = self._new_run(job, ending, now)
        batch.insert(self._runs.get_collection_name(), as_stored(run))
        batch.update(self._jobs.get_collection_name(), plain, ended, unmatched=unmatched)

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
        found = self._jobs.find({"_id": ObjectId(job_id)}, projection_model=SyncJobRecord)
        return next(iter(await read_all(found)), None)

    async def runs(self, job_id: str) -> list[SyncRunRecord]:
        """Return the latest attempts at a job, newest first."""
        found = self._runs.find({"job_id": ObjectId(job_id)}, projection_model=SyncRunRecord)
        return await read_all(found.sort("-_id").limit(MAX_RUNS_SHOWN))

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
        found = self._jobs.find(query, projection_model=SyncJobRecord)
        total = await found.count()
        rows = found.sort("-_id").skip(page.offset).limit(page.per_page)
        return Page(tuple(await read_all(rows)), total, page)

    async def count_open(self) -> dict[JobState, int]:
        """Return the number of jobs in each open state."""
        found = self._jobs.find({"due_at": {"$exists": True}}, projection_model=_JobInState)
        counts = dict.fromkeys((state for state in JobState if state.is_open), 0)
        async for job in found:
            if job.state in counts:
                counts[job.state] += 1
        return counts

    async def delivered(self, owner_id: str, message_id: str) -> str | None:
        """Return the id of the job that a webhook call began; None if the call is new."""
        named = {"_id": f"{owner_id}/{message_id}"}
        found = await self._deliveries.find_one(named, projection_model=_DeliveredJob)
        return None if found is None else found.job_id

    async def note_delivery(
        self, owner_id: str, message_id: str, job_id: str, now: datetime, keep: timedelta
    ) -> bool:
        """Store a webhook call; return whether it is the first with its id.

        Of several concurrent calls, exactly one is the first.
        """
        delivery = self._deliveries(
            id=f"{owner_id}/{message_id}",
            job_id=ObjectId(job_id),
            received_at=now,
            expires_at=now + keep,
        )
        try:
            await delivery.insert()
        except DuplicateKeyError:
            return False
        return True

    def _new(self, owner: ObjectId, owner_name: str, asked: SyncRequest, now: datetime) -> SyncJob:
        return self._jobs(
            id=ObjectId(),
            owner_id=owner,
            owner_name=owner_name,
            source_type=SourceType.MCP,
            **_asked_fields(asked),
            state=JobState.QUEUED,
            due_at=now,
            open_owner_id=owner,
            attempts=0,
            created_at=now,
        )

    def _new_run(self, job: SyncJobRecord, ending: Ending, now: datetime) -> SyncJobRun:
        return self._runs(
            id=ObjectId(),
            job_id=ObjectId(job.id),
            owner_id=ObjectId(job.owner_id),
            attempt=job.attempts,
            worker=job.holder or "",
            outcome=ending.outcome,
            error=ending.error,
            note=ending.note,
            counts=dict(ending.counts),
            upstream_ms=ending.upstream_ms,
            started_at=job.started_at or now,
            finished_at=now,
            expires_at=now + self._retention,
        )


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
    return _Repeat.model_validate(row).repeat


def _lease(job: SyncJobRecord) -> ObjectId:
    if job.lease_id is None:
        raise LeaseLostError
    return ObjectId(job.lease_id)


def _asked_fields(asked: SyncRequest) -> Doc:
    fields: Doc = {"trigger": asked.trigger.value}
    if asked.person is not None:
        fields["requested_by"] = asked.person._asdict()
    return fields


def _record_of(row: Mapping[str, Any]) -> SyncJobRecord:
    return SyncJobRecord.model_validate(row)


def _is_readable(row: Doc) -> bool:
    try:
        _record_of(row)
    except ValidationError:
        return False
    return True


def _countable(stored: object) -> int:
    attempts = None if isinstance(stored, bool) else whole_of(stored)
    if attempts is None:
        raise ValueError("is not a number")
    return attempts


class _ClaimableJob(SyncJobRecord):
    """A job that is due, whose attempts can be counted."""

    due_at: RequiredTime
    attempts: Annotated[int, PlainValidator(_countable)]


class _JobInState(Projection):
    """The state of a job alone."""

    state: Annotated[
        JobState | None, PlainValidator(lambda stored: choice_of(JobState, stored))
    ] = None


class _DeliveredJob(Projection):
    """The job that a webhook call began."""

    job_id: Annotated[str, PlainValidator(str)]


class _Repeat(Projection):
    """The request that arrived while a job ran."""

    repeat: Annotated[SyncRequest | None, PlainValidator(request_of)] = None
