"""Does one job: reads the upstream, and stores what came of it together with the job's own end."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from packages.database.batch import WriteBatch
from packages.database.client import Database, Transaction
from packages.database.errors import DatabaseUnavailable
from registry.audit.values import AuditAction
from registry.auth.identity import ALL_SCOPES, Role, UserContext
from registry.connections.tracker import ConnectionTracker
from registry.core.background_tasks import end
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.core.metrics import Metrics
from registry.servers.changes import FieldChanges
from registry.servers.discovery_changes import DiscoveryResult, needs_confirmation
from registry.servers.errors import DiscoveryFailedError, ServerUnusableError
from registry.servers.ports import ServerChanges
from registry.servers.reader import ServerReader, note_reading
from registry.servers.storage.registry_sync import Synced
from registry.servers.storage.store import (
    LARGE_SECONDS,
    ServerRepositories,
    ServerStore,
    ServerWriteResult,
    is_large,
)
from registry.servers.values import ServerRecord, ServerStatus
from registry.sync.errors import LeaseLostError
from registry.sync.repository import JobRepository
from registry.sync.schedule import RetryPolicy, failed
from registry.sync.values import (
    Ending,
    JobState,
    Phase,
    Progress,
    RunOutcome,
    SyncJobRecord,
    SyncRequest,
    counts_of,
)

log = structlog.get_logger()

WRITE_ATTEMPTS = 5
"""How often what was read is worked into a server that somebody changes meanwhile."""

WRITES_AT_ONCE = 2
"""Transactions side by side. More of them gain nothing: databases lose the time by conflicts, and
the embedded one stands still for seconds when it has to split a page that several hold."""

TELL_SECONDS = 1.0
"""Time between two notes of how far a reading is."""

RENEWALS = 3
"""How often a lease is renewed within its time; two may be missed."""

NOT_STORED = (
    "What it offers was not stored: the database was away, or it took longer than a transaction "
    "may."
)

SYNCHRONISER = UserContext("0" * 24, "sync", Role.ADMIN, ALL_SCOPES, is_of_all_tenants=True)
"""Who acts when nobody in particular asked."""


@dataclass(frozen=True, slots=True)
class Terms:
    """By which rules jobs are done.

    Attributes:
        lease_seconds: How long a worker may be silent before others take its job.
        failures_until_error: Attempts that fail in a row until an active server is in error.
    """

    retry_policy: RetryPolicy
    lease_seconds: float
    failures_until_error: int


@dataclass(slots=True)
class _Attempt:
    """What is known of an attempt while it runs."""

    job: SyncJobRecord
    server: ServerRecord | None = None
    tools_read: int = 0
    upstream_ms: int | None = None
    ending: Ending | None = None
    is_writing: bool = False
    is_ending: bool = False

    def read(self, tools: int) -> None:
        """Note that so many tools were read so far."""
        self.tools_read = tools


class SyncRunner:
    """Runs jobs that this process has claimed."""

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        database: Database,
        repositories: ServerRepositories,
        jobs: JobRepository,
        reader: ServerReader,
        changes: ServerChanges,
        connections: ConnectionTracker,
        terms: Terms,
        *,
        clock: Clock,
        metrics: Metrics,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._lookup = repositories.lookup
        self._store = ServerStore(
            database, repositories, clock, failures_until_error=terms.failures_until_error
        )
        self._connections = connections
        self._jobs = jobs
        self._reader = reader
        self._changes = changes
        self._terms = terms
        self._clock = clock
        self._runs = metrics.sync_runs
        self._duration = metrics.sync_duration
        self._chance = chance
        self._writing = asyncio.Semaphore(WRITES_AT_ONCE)

    async def run(self, job: SyncJobRecord, server: ServerRecord | None = None) -> Ending | None:
        """Do a claimed job; return what came of it, or None when that was left to others.

        A process that is told to end gives the job back.

        Args:
            job: Which.
            server: Its server, where that was read a moment ago.
        """
        began_at = self._clock.monotonic()
        attempt = _Attempt(job, server)
        try:
            await self._watched(attempt)
        except* LeaseLostError:
            log.warning("sync_lost", job_id=job.id, server_id=job.owner_id)
        except* DatabaseUnavailable as group:
            cause = type(group.exceptions[0].__cause__).__name__
            log.warning("sync_not_stored", job_id=job.id, problem=cause)
            attempt.ending = await self._not_stored(attempt)
        finally:
            outcome = RunOutcome.LOST if attempt.ending is None else attempt.ending.outcome
            self._runs.labels(job.asked.trigger.value, outcome.value).inc()
            self._duration.labels(outcome.value).observe(self._clock.monotonic() - began_at)
        ending = attempt.ending
        if ending is None:
            return None
        facts = {"server_id": job.owner_id, "job_id": job.id, "attempt": job.attempts}
        if ending.outcome is RunOutcome.FAILURE:
            log.warning("sync_failed", state=ending.state.value, problem=ending.error, **facts)
        else:
            log.info("sync_done", outcome=ending.outcome.value, **ending.counts, **facts)
        return ending

    async def _watched(self, attempt: _Attempt) -> None:
        """Do a job, holding its lease and telling how far it is."""
        try:
            async with asyncio.TaskGroup() as beside:
                others = [
                    beside.create_task(self._renew(attempt)),
                    beside.create_task(self._tell(attempt)),
                ]
                try:
                    attempt.ending = await self._attempt(attempt)
                finally:
                    for task in others:
                        await end(task)
        except asyncio.CancelledError:
            await self._give_back(attempt.job)
            raise

    async def _attempt(self, attempt: _Attempt) -> Ending:
        job = attempt.job
        if job.attempts > self._terms.retry_policy.most_attempts:
            # Perhaps it is the job that its workers die of.
            ending = failed("Its workers did not come to an end.", job.attempts, *self._luck())
            return await self._end(attempt, ending)
        for _ in range(WRITE_ATTEMPTS):
            server, attempt.server = attempt.server, None
            server = server or await self._lookup.get_unchecked(job.owner_id)
            gone = _why_not(server)
            if server is None or gone is not None:
                cancelled = Ending(JobState.CANCELLED, RunOutcome.CANCELLED, gone)
                return await self._end(attempt, cancelled)
            found = await self._read_and_write(attempt, server)
            if found is not None:
                return found
        told = "The server was changed again and again while it was read."
        return await self._end(attempt, failed(told, job.attempts, *self._luck()))

    async def _read_and_write(self, attempt: _Attempt, server: ServerRecord) -> Ending | None:
        """Return what came of it; None when the server was changed meanwhile."""
        job = attempt.job
        reading, is_final = await self._read(attempt, server)
        doubt = self._doubt(attempt, server, reading)
        if doubt is not None:
            upstream_ms = attempt.upstream_ms
            again = failed(doubt, job.attempts, *self._luck(), upstream_ms=upstream_ms)
            return await self._end(attempt, again)

        ending: Ending | None = None
        repeat: SyncRequest | None = None

        async def begin(_tx: Transaction) -> None:
            # Before the transaction sees anything, so that it is not in conflict with this.
            attempt.is_writing = True
            seconds = self._terms.lease_seconds + LARGE_SECONDS
            if is_large(server, reading) and not await self._jobs.begin_writing(
                job, seconds, attempt.tools_read
            ):
                raise LeaseLostError

        def repeated(asked: SyncRequest) -> None:
            nonlocal repeat
            repeat = asked

        def finish(written: ServerWriteResult, batch: WriteBatch) -> None:
            nonlocal ending, repeat
            ending = self._ending(attempt, reading, written.synced, is_final=is_final)
            repeat = None
            attempt.is_ending = True
            self._jobs.end_with(job, ending, self._clock.now(), batch, repeated)

        try:
            async with self._writing:
                written = await self._store.write(
                    server,
                    reading,
                    FieldChanges(),
                    _actor(job),
                    accept=False,
                    confirm=begin,
                    finish=finish,
                    action=AuditAction.REFRESH,
                )
        except RegistryError as exc:
            # Nothing was stored: of a document that has no place for it, or that is not taken.
            attempt.is_writing = False
            refused = failed(
                exc.message,
                job.attempts,
                *self._luck(),
                is_final=isinstance(exc, ServerUnusableError),
                upstream_ms=attempt.upstream_ms,
            )
            return await self._end(attempt, refused)
        if written is None:
            attempt.is_ending = attempt.is_writing = False
            return None
        await self._open(job, repeat)
        if written.is_recorded:
            await self._changes.server_changed(server.id)
        user_id = _reader_of(job, server).user_id
        note_reading(
            self._connections, written.server, reading, user_id, is_recorded=written.is_recorded
        )
        return ending

    async def _read(self, attempt: _Attempt, server: ServerRecord) -> tuple[DiscoveryResult, bool]:
        """Return what came of reading an upstream, and whether another time is of no use."""
        job = attempt.job
        began_at = self._clock.monotonic()
        is_final = False
        try:
            reading = await self._reader.read(
                server.server_name,
                server.id,
                server.config,
                _reader_of(job, server),
                created_at=server.created_at,
                progress=attempt.read,
                known_eras=server.eras,
            )
        except DiscoveryFailedError as exc:
            reading = DiscoveryResult(failure=exc.message)
        except RegistryError as exc:
            # A URL that may not be contacted, a secret that cannot be read: time does not help.
            reading = DiscoveryResult(failure=exc.message)
            is_final = True
        attempt.upstream_ms = round((self._clock.monotonic() - began_at) * 1000)
        return reading, is_final

    def _doubt(
        self, attempt: _Attempt, server: ServerRecord, reading: DiscoveryResult
    ) -> str | None:
        """Return why an upstream is asked again before it is believed, if so."""
        is_first = attempt.job.attempts == 1 < self._terms.retry_policy.most_attempts
        return needs_confirmation(server, reading) if is_first else None

    def _ending(
        self, attempt: _Attempt, reading: DiscoveryResult, synced: Synced | None, *, is_final: bool
    ) -> Ending:
        if reading.failure is not None:
            return failed(
                reading.failure,
                attempt.job.attempts,
                *self._luck(),
                is_final=is_final,
                upstream_ms=attempt.upstream_ms,
            )
        counts: dict[str, int] = {}
        if reading.found is not None and synced is not None:
            snapshot = reading.found.snapshot
            counts = counts_of(
                synced.tools, offered=len(snapshot.tools), rejected=len(snapshot.rejected)
            )
        return Ending(
            JobState.SUCCEEDED,
            RunOutcome.SUCCESS,
            note=reading.unread,
            counts=counts,
            upstream_ms=attempt.upstream_ms,
        )

    async def _end(self, attempt: _Attempt, ending: Ending) -> Ending:
        # From here on the lease may be gone because the job is done.
        attempt.is_ending = True
        now = self._clock.now()
        await self._open(attempt.job, await self._jobs.end(attempt.job, ending, now))
        return ending

    async def _open(self, job: SyncJobRecord, repeat: SyncRequest | None) -> None:
        """Open the job that was asked for while another one ran."""
        if repeat is not None:
            await self._jobs.open(job.owner_id, job.owner_name, repeat, self._clock.now())

    async def _not_stored(self, attempt: _Attempt) -> Ending | None:
        """End an attempt of which nothing is stored, if the database can be told so.

        Otherwise the lease runs out, and then the job is anybody's.
        """
        job, upstream_ms = attempt.job, attempt.upstream_ms
        ending = failed(NOT_STORED, job.attempts, *self._luck(), upstream_ms=upstream_ms)
        try:
            return await self._end(attempt, ending)
        except (DatabaseUnavailable, LeaseLostError):
            return None

    def _luck(self) -> tuple[RetryPolicy, float]:
        return self._terms.retry_policy, self._chance()

    async def _renew(self, attempt: _Attempt) -> None:
        """Hold the lease for as long as this runs.

        Raises:
            LeaseLostError: Another attempt has begun.
        """
        while True:
            await self._clock.sleep(self._terms.lease_seconds / RENEWALS)
            if attempt.is_writing:
                continue
            try:
                is_ours = await self._jobs.renew(attempt.job, self._terms.lease_seconds)
            except DatabaseUnavailable:
                continue
            if not is_ours and not attempt.is_ending:
                raise LeaseLostError

    async def _tell(self, attempt: _Attempt) -> None:
        """Note how far a reading is that takes long."""
        told = 0
        while True:
            await self._clock.sleep(TELL_SECONDS)
            if attempt.is_writing or attempt.tools_read == told:
                continue
            told = attempt.tools_read
            try:
                await self._jobs.tell(attempt.job, Progress(Phase.READING, told))
            except DatabaseUnavailable:
                continue

    async def _give_back(self, job: SyncJobRecord) -> None:
        try:
            await asyncio.shield(self._jobs.release(job))
        except (asyncio.CancelledError, DatabaseUnavailable):
            log.info("sync_not_given_back", job_id=job.id)


def _why_not(server: ServerRecord | None) -> str | None:
    """Say why a server is not read any more."""
    if server is None:
        return "The server was removed."
    if server.effective_status is ServerStatus.INACTIVE:
        return "The server is turned off."
    return None


def _reader_of(job: SyncJobRecord, server: ServerRecord) -> UserContext:
    """Return by whose key a server is read that wants one: who asked, or who registered it."""
    person = job.asked.person
    user_id = server.author if person is None else person.user_id
    return UserContext(user_id, "", Role.USER, frozenset())


def _actor(job: SyncJobRecord) -> UserContext:
    person = job.asked.person
    if person is None:
        return SYNCHRONISER
    return UserContext(person.user_id, person.username, Role.USER, frozenset())
