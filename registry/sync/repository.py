"""Reads and writes `sync_jobs`, `sync_job_runs` and `sync_deliveries`. The only one that does.

When a job is due, and until when a worker holds it, is judged by the database's clock, so that
replicas whose clocks differ agree on it.
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
OPEN_ATTEMPTS = 10
"""How often a job is looked for that another process opens or finishes just then."""

ASKED_FOR = [Trigger.MANUAL.value, Trigger.WEBHOOK.value, Trigger.COMMAND.value]
"""What somebody waits for."""

UNREADABLE = "The stored job cannot be read; another program wrote or changed it."

MOST_RUNS_SHOWN = 50

TIME_SECONDS = 60.0
"""How long the difference between the clocks is taken to stay as it was."""

PROMPT_SECONDS = 1.0
"""An answer within that is taken to be about the moment of its question."""

NOW = "$$NOW"


@translates_driver_errors
class JobRepository:
    """Jobs, their runs, and the webhook calls that began them.

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
        """Have an owner read; return the job, and whether there was one already.

        A job that waits to be tried again is tried at once, unless it is only its owner's time.
        One that runs may have read the upstream before what was announced happened, so it is
        followed by another.
        """
        owner = ObjectId(owner_id)
        for _ in range(OPEN_ATTEMPTS):
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
        """Set an owner's open job aside if it cannot be read."""
        row = await self._jobs.find_one({"open_owner_id": owner})
        if row is not None and not any(_readable([row], job_of)):
            await self._set_aside(row)

    async def reopen(
        self, job: SyncJobRecord, asked: SyncRequest, now: datetime
    ) -> SyncJobRecord | None:
        """Have a job tried anew that is dead or cancelled; None if it is neither any more.

        Where there is an open job for its owner by now, that one is returned.
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
        """Take up to *most* jobs that are due, and those of workers that died.

        Each is this worker's until *lease_seconds* have passed without `renew`.

        Args:
            most: How many at most.
            worker: Whose they are.
            lease_seconds: How long, without news of the worker.
            asked_for: Only first attempts at what somebody asked for.
        """
        due = await self._due()
        if asked_for:
            due |= {"trigger": {"$in": ASKED_FOR}, "state": JobState.QUEUED.value}
        # Some of them others take meanwhile.
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
        """Open jobs that this worker holds from the first, in one command.

        Args:
            owners: Names of the owners, by id.
            asked: What asks for it.
            worker: Whose the jobs are.
            lease_seconds: How long, without news of the worker.

        Returns:
            The jobs, by owner; none for an owner that has an open one already.
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
        """Take one job if it is due, or its worker died."""
        row = await self._jobs.find_one({"_id": ObjectId(job_id), **await self._due()})
        return None if row is None else await self._claim(row, worker, lease_seconds)

    async def _due(self) -> Doc:
        """Return what selects the jobs that are due.

        By a time that is part of the query: one that the database is to look at for itself is
        looked at in every job that there ever was, by compatible servers.
        """
        return {"due_at": {"$lte": await self._database_time()}}

    async def _database_time(self) -> datetime:
        """Return the database's time, which is asked for once in a while and reckoned between.

        It is ahead by no more than the way of the question took, and not behind, so that what is
        due just now is not missed; after an answer that took long it may be behind.
        """
        since = self._clock.monotonic() - self._time_asked_at
        if since > TIME_SECONDS:
            asked_at = self._clock.monotonic()
            answer = await self._command("hello")
            since = self._clock.monotonic() - asked_at
            if since > PROMPT_SECONDS:
                asked_at, since = asked_at + since, 0.0
            self._time_asked_at = asked_at
            told = answer.get("localTime")
            self._time = told if isinstance(told, datetime) else self._clock.now()
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
                # What asked for it again while a worker had it that died is done by this attempt.
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
            # Others are still to be done, and this one is looked at again in the next round.
            log.warning("sync_job_not_claimed", document_id=str(row["_id"]), code=exc.code)
        return None

    async def _set_aside(self, row: Doc) -> None:
        """Take a job that no worker can do out of those that are due, and name it in the log.

        Its server can have another one then. Where the database refuses to have it ended, because
        nothing can be written to such a document, it is removed.
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
                "outcome": RunOutcome.LOST.value,
                "error": "Its worker did not come to an end.",
                "started_at": moment_of(row.get("started_at")) or ended_at,
                "finished_at": ended_at,
                "expires_at": ended_at + self._retention,
            }
        )

    async def renew(self, job: SyncJobRecord, lease_seconds: float) -> bool:
        """Hold a job for longer; False when another attempt has begun."""
        renewed = [{"$set": {"due_at": _after(lease_seconds)}}]
        result = await self._jobs.update_one(_held(job), renewed)
        return result.matched_count == 1

    async def tell(self, job: SyncJobRecord, progress: Progress) -> None:
        """Note how far a running job is."""
        told = {"phase": progress.phase.value, "tools_read": progress.tools_read}
        await self._jobs.update_one(_held(job), {"$set": {"progress": told}})

    async def begin_writing(self, job: SyncJobRecord, seconds: float, tools_read: int) -> bool:
        """Hold a job for as long as it may take to store much; False when another has begun.

        Until that is done nothing else may be written of the job: it would be a conflict with the
        transaction that ends the job.
        """
        changes: Doc = {
            "due_at": _after(seconds),
            "progress": {"phase": Phase.WRITING.value, "tools_read": tools_read},
        }
        result = await self._jobs.update_one(_held(job), [{"$set": changes}])
        return result.matched_count == 1

    async def release(self, job: SyncJobRecord) -> None:
        """Give a job back that was not finished, for others to take at once."""
        await self._jobs.update_one(_held(job), GIVEN_BACK)

    async def release_held(self, worker: str) -> None:
        """Give all jobs back that *worker* has, because it does none of them any more."""
        held = {"due_at": {"$exists": True}, "state": JobState.RUNNING.value, "holder": worker}
        await self._jobs.update_many(held, GIVEN_BACK)

    async def end(self, job: SyncJobRecord, ending: Ending, now: datetime) -> SyncRequest | None:
        """Store what came of an attempt.

        Returns:
            What asked for it again while it ran, for which a job is to be opened.

        Raises:
            LeaseLostError: Another attempt has begun.
        """
        # First, so that whoever sees the job's end sees how it came to it.
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
        """Store what came of an attempt, with other writes of a transaction.

        An attempt that begins meanwhile writes to the same job, so that one of the two is done
        again, and `batch.send` raises LeaseLostError.

        Args:
            job: Which.
            ending: How it ended.
            now: When.
            batch: The writes.
            repeated: Is told what asked for it again while it ran, for which a job is to be
                opened.
        """
        ended = self._ended(job, ending, now)
        held = _held(job)
        # An update is all that can be sent together, and it tells nothing of what was there.
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
        """Return one job, whoever asks."""
        row = await self._jobs.find_one({"_id": ObjectId(job_id)})
        return None if row is None else next(_readable([row], job_of), None)

    async def runs(self, job_id: str) -> list[SyncRunRecord]:
        """Return the latest attempts at a job, newest first."""
        rows = self._runs.find(
            {"job_id": ObjectId(job_id)}, sort=NEWEST_FIRST, limit=MOST_RUNS_SHOWN
        )
        return list(_readable(await rows.to_list(), _run))

    async def page(self, narrowed: JobFilter, page: PageRequest) -> Page[SyncJobRecord]:
        """Return one page of jobs, newest first."""
        query: Doc = {}
        if narrowed.owner_ids is not None:
            owners = [ObjectId(owner) for owner in sorted(narrowed.owner_ids)]
            query["owner_id"] = owners[0] if len(owners) == 1 else {"$in": owners}
        if narrowed.state is not None:
            query["state"] = narrowed.state.value
        if narrowed.trigger is not None:
            query["trigger"] = narrowed.trigger.value
        total = await self._jobs.count_documents(query)
        rows = self._jobs.find(query, sort=NEWEST_FIRST, skip=page.offset, limit=-page.per_page)
        return Page(tuple(_readable(await rows.to_list(), job_of)), total, page)

    async def count_open(self) -> dict[JobState, int]:
        """Return how many jobs there are of each open state."""
        rows = self._jobs.find({"due_at": {"$exists": True}}, {"state": 1, "_id": 0})
        counts = dict.fromkeys((state for state in JobState if state.is_open), 0)
        async for row in rows:
            state = choice_of(JobState, row.get("state"))
            if state in counts:
                counts[state] += 1
        return counts

    async def delivered(self, owner_id: str, message_id: str) -> str | None:
        """Return the id of the job that a webhook call began, if it came before."""
        row = await self._deliveries.find_one({"_id": f"{owner_id}/{message_id}"})
        return None if row is None else str(row["job_id"])

    async def note_delivery(
        self, owner_id: str, message_id: str, job_id: str, now: datetime, keep: timedelta
    ) -> bool:
        """Remember a webhook call; say whether it is the first of its id.

        Of several at the same moment one is.
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


GIVEN_BACK: list[Doc] = [
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
    """Return the expression for the database's time and so many seconds."""
    return {"$add": [NOW, round(seconds * 1000)]}


def _held(job: SyncJobRecord) -> Doc:
    """Return what selects a job as long as nobody else has it."""
    return {"_id": ObjectId(job.id), "lease_id": _lease(job)}


def _repeat_of(row: Mapping[str, Any]) -> SyncRequest | None:
    return _asked(members(row.get("repeat")))


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


def _asked(row: Mapping[str, Any]) -> SyncRequest | None:
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
    """A stored job, or attempt, does not say what it is about, or how it stands."""


def job_of(row: Mapping[str, Any]) -> SyncJobRecord:
    """Return a stored job as a value.

    Raises:
        JobUnreadableError: Another program stored something else.
    """
    told = members(row.get("progress"))
    phase, tools_read = choice_of(Phase, told.get("phase")), whole_of(told.get("tools_read"))
    owner_id, state = id_of(row.get("owner_id")), choice_of(JobState, row.get("state"))
    job_id, created_at = id_of(row["_id"]), moment_of(row.get("created_at"))
    asked = _asked(row)
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
        repeat=_asked(members(row.get("repeat"))),
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
    """Yield *rows* as values but for those that are not; these are named in the log."""
    for row in rows:
        try:
            yield read(row)
        except JobUnreadableError:
            log.warning("sync_job_unreadable", document_id=str(row["_id"]))
