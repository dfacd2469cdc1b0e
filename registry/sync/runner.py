"""Runs one sync job: reads the upstream, and stores the result and the job's end atomically."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from packages.database.batch import WriteBatch
from packages.database.client import Transaction
from packages.database.errors import DatabaseUnavailable
from packages.models.states import JobState, RunOutcome
from registry.auth.identity import SYNCHRONISER, Role, UserContext
from registry.core.background_tasks import end
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.core.metrics import Metrics
from registry.servers.errors import DiscoveryFailedError, ServerUnusableError
from registry.servers.reconciliation.discovery_changes import DiscoveryResult, needs_confirmation
from registry.servers.reconciliation.read_and_store import ReadAndStore
from registry.servers.reconciliation.registry_sync import Synced
from registry.servers.reconciliation.store import (
    LARGE_SECONDS,
    ServerWriteResult,
    is_large,
)
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import ServerRecord, ServerStatus
from registry.sync.errors import LeaseLostError
from registry.sync.repository import JobRepository
from registry.sync.schedule import RetryPolicy, failed
from registry.sync.values import Ending, Phase, Progress, SyncJobRecord, SyncRequest, counts_of

log = structlog.get_logger()

WRITE_ATTEMPTS = 5
"""How often the server is read again if it is changed concurrently."""

WRITES_AT_ONCE = 2
"""Concurrent transactions. More gain nothing: databases lose the time to conflicts, and the
embedded one blocks for seconds when it must split a page that several transactions hold."""

PROGRESS_SECONDS = 1.0
"""Time between two writes of a job's progress."""

RENEWALS = 3
"""Renewals within the duration of a lease; two may be missed."""

NOT_STORED = (
    "What it offers was not stored: the database was unavailable, or storing took longer than a "
    "transaction may."
)


@dataclass(frozen=True, slots=True)
class SyncRunnerConfig:
    """How jobs are run.

    Attributes:
        lease_seconds: Duration of a lease without a renewal.
    """

    retry_policy: RetryPolicy
    lease_seconds: float


@dataclass(slots=True)
class _Attempt:
    """State of a running attempt."""

    job: SyncJobRecord
    server: ServerRecord | None = None
    tools_read: int = 0
    upstream_ms: int | None = None
    ending: Ending | None = None
    is_writing: bool = False
    is_ending: bool = False

    def read(self, tools: int) -> None:
        """Note the number of tools read so far."""
        self.tools_read = tools


class SyncRunner:
    """Runs jobs that this process has claimed."""

    def __init__(
        self,
        servers: ServerRepository,
        jobs: JobRepository,
        upstreams: ReadAndStore,
        config: SyncRunnerConfig,
        *,
        clock: Clock,
        metrics: Metrics,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._servers = servers
        self._jobs = jobs
        self._upstreams = upstreams
        self._config = config
        self._clock = clock
        self._runs = metrics.sync_runs
        self._duration = metrics.sync_duration
        self._chance = chance
        self._writing = asyncio.Semaphore(WRITES_AT_ONCE)

    async def run(self, job: SyncJobRecord, server: ServerRecord | None = None) -> Ending | None:
        """Run a claimed job; return its ending, or None if another worker will finish it.

        A process that shuts down releases the job.

        Args:
            job: Which.
            server: Its server, if it was just read from the database.
        """
        began_at = self._clock.monotonic()
        attempt = _Attempt(job, server)
        try:
            await self._watched(attempt)
        except* LeaseLostError:
            log.warning("sync_lease_lost", job_id=job.id, server_id=job.owner_id)
        except* DatabaseUnavailable as group:
            cause = type(group.exceptions[0].__cause__).__name__
            log.warning("sync_result_not_stored", job_id=job.id, error=cause)
            attempt.ending = await self._not_stored(attempt)
        finally:
            outcome = RunOutcome.LEASE_LOST if attempt.ending is None else attempt.ending.outcome
            self._runs.labels(job.asked.trigger.value, outcome.value).inc()
            self._duration.labels(outcome.value).observe(self._clock.monotonic() - began_at)
        ending = attempt.ending
        if ending is None:
            return None
        facts = {"server_id": job.owner_id, "job_id": job.id, "attempt": job.attempts}
        if ending.outcome is RunOutcome.FAILURE:
            log.warning("sync_failed", state=ending.state.value, error=ending.error, **facts)
        else:
            log.info("sync_succeeded", outcome=ending.outcome.value, **ending.counts, **facts)
        return ending

    async def _watched(self, attempt: _Attempt) -> None:
        """Run a job, while renewing its lease and storing its progress."""
        try:
            async with asyncio.TaskGroup() as beside:
                others = [
                    beside.create_task(self._renew(attempt)),
                    beside.create_task(self._report_progress(attempt)),
                ]
                try:
                    attempt.ending = await self._attempt(attempt)
                finally:
                    for task in others:
                        await end(task)
        except asyncio.CancelledError:
            await self._release(attempt.job)
            raise

    async def _attempt(self, attempt: _Attempt) -> Ending:
        job = attempt.job
        if job.attempts > self._config.retry_policy.max_attempts:
            # Perhaps the job itself makes its workers die.
            problem = "The workers of this job stopped without finishing it."
            ending = failed(problem, job.attempts, *self._retry_arguments())
            return await self._end(attempt, ending)
        for _ in range(WRITE_ATTEMPTS):
            server, attempt.server = attempt.server, None
            server = server or await self._servers.get_unchecked(job.owner_id)
            gone = _cancel_reason(server)
            if server is None or gone is not None:
                cancelled = Ending(JobState.CANCELLED, RunOutcome.CANCELLED, gone)
                return await self._end(attempt, cancelled)
            found = await self._read_and_write(attempt, server)
            if found is not None:
                return found
        problem = f"The server was changed during each of {WRITE_ATTEMPTS} readings."
        return await self._end(attempt, failed(problem, job.attempts, *self._retry_arguments()))

    async def _read_and_write(self, attempt: _Attempt, server: ServerRecord) -> Ending | None:
        """Return the ending; None if the server was changed while it was read."""
        job = attempt.job
        reading, is_final = await self._read(attempt, server)
        reason = self._confirmation_reason(attempt, server, reading)
        if reason is not None:
            upstream_ms = attempt.upstream_ms
            again = failed(reason, job.attempts, *self._retry_arguments(), upstream_ms=upstream_ms)
            return await self._end(attempt, again)

        ending: Ending | None = None
        repeat: SyncRequest | None = None

        async def begin(_tx: Transaction) -> None:
            # Before the transaction's first read, so that this write does not conflict with it.
            attempt.is_writing = True
            seconds = self._config.lease_seconds + LARGE_SECONDS
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
                written = await self._upstreams.store(
                    server,
                    reading,
                    _actor(job),
                    reader=_reader_of(job, server),
                    confirm=begin,
                    finish=finish,
                )
        except RegistryError as exc:
            # Nothing was stored: the document lacks the parents of a field, or was refused.
            attempt.is_writing = False
            refused = failed(
                exc.message,
                job.attempts,
                *self._retry_arguments(),
                is_final=isinstance(exc, ServerUnusableError),
                upstream_ms=attempt.upstream_ms,
            )
            return await self._end(attempt, refused)
        if written is None:
            attempt.is_ending = attempt.is_writing = False
            return None
        await self._open(job, repeat)
        return ending

    async def _read(self, attempt: _Attempt, server: ServerRecord) -> tuple[DiscoveryResult, bool]:
        """Return the result of reading an upstream, and whether a retry is pointless."""
        job = attempt.job
        began_at = self._clock.monotonic()
        is_final = False
        try:
            reading = await self._upstreams.read(
                server,
                _reader_of(job, server),
                progress=attempt.read,
                known_eras=server.eras,
            )
        except DiscoveryFailedError as exc:
            reading = DiscoveryResult(failure=exc.message)
        except RegistryError as exc:
            # A forbidden URL, or a secret that cannot be decrypted: a retry does not help.
            reading = DiscoveryResult(failure=exc.message)
            is_final = True
        attempt.upstream_ms = round((self._clock.monotonic() - began_at) * 1000)
        return reading, is_final

    def _confirmation_reason(
        self, attempt: _Attempt, server: ServerRecord, reading: DiscoveryResult
    ) -> str | None:
        """Return why a result needs confirmation by a second reading; None if it does not."""
        is_first = attempt.job.attempts == 1 < self._config.retry_policy.max_attempts
        return needs_confirmation(server, reading) if is_first else None

    def _ending(
        self, attempt: _Attempt, reading: DiscoveryResult, synced: Synced | None, *, is_final: bool
    ) -> Ending:
        if reading.failure is not None:
            return failed(
                reading.failure,
                attempt.job.attempts,
                *self._retry_arguments(),
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
        # From here on a lost lease may mean that the job is done.
        attempt.is_ending = True
        now = self._clock.now()
        await self._open(attempt.job, await self._jobs.end(attempt.job, ending, now))
        return ending

    async def _open(self, job: SyncJobRecord, repeat: SyncRequest | None) -> None:
        """Open the job that was requested while this one ran."""
        if repeat is not None:
            await self._jobs.open(job.owner_id, job.owner_name, repeat, self._clock.now())

    async def _not_stored(self, attempt: _Attempt) -> Ending | None:
        """End an attempt whose result was not stored, if the database is available.

        Otherwise the lease expires, and any worker can claim the job.
        """
        job, upstream_ms = attempt.job, attempt.upstream_ms
        retry = self._retry_arguments()
        ending = failed(NOT_STORED, job.attempts, *retry, upstream_ms=upstream_ms)
        try:
            return await self._end(attempt, ending)
        except (DatabaseUnavailable, LeaseLostError):
            return None

    def _retry_arguments(self) -> tuple[RetryPolicy, float]:
        return self._config.retry_policy, self._chance()

    async def _renew(self, attempt: _Attempt) -> None:
        """Renew the lease until cancelled.

        Raises:
            LeaseLostError: Another attempt has begun.
        """
        while True:
            await self._clock.sleep(self._config.lease_seconds / RENEWALS)
            if attempt.is_writing:
                continue
            try:
                is_ours = await self._jobs.renew(attempt.job, self._config.lease_seconds)
            except DatabaseUnavailable:
                continue
            if not is_ours and not attempt.is_ending:
                raise LeaseLostError

    async def _report_progress(self, attempt: _Attempt) -> None:
        """Store the progress of a long reading."""
        written = 0
        while True:
            await self._clock.sleep(PROGRESS_SECONDS)
            if attempt.is_writing or attempt.tools_read == written:
                continue
            written = attempt.tools_read
            try:
                await self._jobs.set_progress(attempt.job, Progress(Phase.READING, written))
            except DatabaseUnavailable:
                continue

    async def _release(self, job: SyncJobRecord) -> None:
        try:
            await asyncio.shield(self._jobs.release(job))
        except (asyncio.CancelledError, DatabaseUnavailable):
            log.info("sync_job_release_failed", job_id=job.id)


def _cancel_reason(server: ServerRecord | None) -> str | None:
    """Return why a server's job is cancelled; None if it is not."""
    if server is None:
        return "The server was removed."
    if server.effective_status is ServerStatus.INACTIVE:
        return "The server is turned off."
    return None


def _reader_of(job: SyncJobRecord, server: ServerRecord) -> UserContext:
    """Return the user whose key is used: the requester, or else the server's author."""
    person = job.asked.person
    user_id = server.author if person is None else person.user_id
    return UserContext(user_id, "", Role.USER, frozenset(), tenant_id=server.tenant_id)


def _actor(job: SyncJobRecord) -> UserContext:
    person = job.asked.person
    if person is None:
        return SYNCHRONISER
    return UserContext(person.user_id, person.username, Role.USER, frozenset())
