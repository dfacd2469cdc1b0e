"""Background worker of sync jobs: by schedule, by notification, and on request."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from packages.database.errors import DatabaseUnavailable
from packages.models.states import Trigger
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import ServerRecord, ServerStatus, SyncMode
from registry.sync.repository import JobRepository
from registry.sync.runner import SyncRunner
from registry.sync.schedule import next_round
from registry.sync.values import SyncJobRecord, SyncRequest

log = structlog.get_logger()

SCHEDULED_AT_ONCE = 100
"""Servers whose scheduled jobs are opened in one round; the rest follow in the next."""

SETTLE_SECONDS = 0.5
"""Delay between a notification and the reading: several changes often come close together."""

PAUSE_SECONDS = 30.0
MAX_READINGS = 5
"""Readings that an upstream's notifications may begin within `PAUSE_SECONDS`; further ones are
postponed to its end. A new tool appears within seconds, and an upstream that sends notifications
without end is read ten times a minute."""

RESERVED_FOR_REQUESTS = 2
"""Additional slots for jobs on request, so that hanging servers do not keep people waiting."""

COUNT_SECONDS = 15.0
"""Time between two counts of open jobs."""

DATABASE_RETRY_SECONDS = 5.0
"""Pause after the database was found unavailable."""


class Announcements:
    """Servers that sent `list_changed`. Kept in memory; added on the hot path."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._last: dict[str, list[float]] = {}
        self._wake: Callable[[], None] | None = None

    def listen(self, wake: Callable[[], None]) -> None:
        """Call *wake* whenever a server is added."""
        self._wake = wake

    def add(self, server_id: str) -> None:
        """Note that a server announced changed tools."""
        if server_id in self._due:
            return
        now = self._clock.monotonic()
        recent = self._last.get(server_id, [])
        earliest = recent[0] + PAUSE_SECONDS if len(recent) >= MAX_READINGS else now
        self._due[server_id] = max(now + SETTLE_SECONDS, earliest)
        if self._wake is not None:
            self._wake()

    def seconds_left(self) -> float | None:
        """Return the seconds until the next server is due; None if there is none."""
        if not self._due:
            return None
        return max(0.0, min(self._due.values()) - self._clock.monotonic())

    def take(self) -> list[str]:
        """Return the servers that are due, and remove them."""
        if not self._due and not self._last:
            return []
        now = self._clock.monotonic()
        ready = [server_id for server_id, due in self._due.items() if due <= now]
        recent = {
            server_id: [at for at in times if now - at < PAUSE_SECONDS]
            for server_id, times in self._last.items()
        }
        self._last = {server_id: times for server_id, times in recent.items() if times}
        for server_id in ready:
            del self._due[server_id]
            self._last.setdefault(server_id, []).append(now)
        return ready

    def put_back(self, server_id: str) -> None:
        """Queue a server again after a failure to open its job."""
        self._due.setdefault(server_id, self._clock.monotonic() + SETTLE_SECONDS)


@dataclass(frozen=True, slots=True)
class SyncWorkerConfig:
    """How a sync worker runs.

    Attributes:
        name: Host and process, as recorded with jobs.
        concurrency: Maximum number of concurrent jobs.
        poll_seconds: Interval between two polls for due jobs.
        lease_seconds: Duration of a lease without a renewal.
    """

    name: str
    concurrency: int
    poll_seconds: float
    lease_seconds: float


class SyncWorker:
    """Claims jobs and runs them, a few at a time, until the process ends."""

    def __init__(
        self,
        jobs: JobRepository,
        servers: ServerRepository,
        runner: SyncRunner,
        announcements: Announcements,
        config: SyncWorkerConfig,
        *,
        clock: Clock,
        metrics: Metrics,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._jobs = jobs
        self._servers = servers
        self._runner = runner
        self._announcements = announcements
        self._config = config
        self._clock = clock
        self._open = metrics.sync_jobs_open
        self._counted_at = -COUNT_SECONDS
        self._chance = chance
        self._running: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        announcements.listen(self.wake)

    def wake(self) -> None:
        """Poll at once, because there is a new job."""
        self._woken.set()

    async def follow(self) -> None:
        """Run forever. Jobs that are running at the end are released."""
        is_unavailable = False
        async with asyncio.TaskGroup() as group:
            while True:
                self._woken.clear()
                try:
                    await self._round(group)
                    is_unavailable = False
                except DatabaseUnavailable as exc:
                    if not is_unavailable:
                        log.warning("sync_worker_paused", error=str(exc))
                    is_unavailable = True
                except Exception:
                    # An error of one server must not stop the others.
                    log.exception("sync_poll_failed")
                await self._pause(
                    DATABASE_RETRY_SECONDS if is_unavailable else self._config.poll_seconds
                )

    async def _round(self, group: asyncio.TaskGroup) -> None:
        await self._take_announcements()
        for server in await self._servers.due_for_sync(self._clock.now(), SCHEDULED_AT_ONCE):
            try:
                await self._schedule(server)
            except DatabaseUnavailable:
                raise
            except Exception:
                # The other servers are still to be read.
                log.exception("sync_not_scheduled", server_id=server.id)
        config = self._config
        free = max(0, config.concurrency - len(self._running))
        taken = await self._jobs.claim(free, config.name, config.lease_seconds) if free else []
        self._begin(group, taken)
        kept = config.concurrency + RESERVED_FOR_REQUESTS - len(self._running)
        if kept > 0 and len(taken) == free:
            # All usual slots are taken, and more jobs may be due.
            taken = await self._jobs.claim(kept, config.name, config.lease_seconds, asked_for=True)
            self._begin(group, taken)
        if self._clock.monotonic() - self._counted_at >= COUNT_SECONDS:
            self._counted_at = self._clock.monotonic()
            for state, count in (await self._jobs.count_open()).items():
                self._open.labels(state.value).set(count)

    def _begin(self, group: asyncio.TaskGroup, jobs: Sequence[SyncJobRecord]) -> None:
        for job in jobs:
            task = group.create_task(self._run(job))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._woken.set()

    async def _run(self, job: SyncJobRecord) -> None:
        try:
            await self._runner.run(job)
        except Exception:
            # The lease expires, and the job counts one more attempt.
            log.exception("sync_crashed", job_id=job.id, server_id=job.owner_id)

    async def _take_announcements(self) -> None:
        ready = self._announcements.take()
        for done, server_id in enumerate(ready):
            try:
                await self._announced(server_id)
            except DatabaseUnavailable:
                for left in ready[done:]:
                    self._announcements.put_back(left)
                raise
            except Exception:
                # The other servers are still to be read.
                log.exception("sync_not_scheduled", server_id=server_id)

    async def _announced(self, server_id: str) -> None:
        server = await self._servers.record_unchecked(server_id)
        if server is None or server.effective_status is ServerStatus.INACTIVE:
            return
        asked = SyncRequest(Trigger.NOTIFICATION)
        await self._jobs.open(server.id, server.server_name, asked, self._clock.now())

    async def _schedule(self, server: ServerRecord) -> None:
        """Open a server's job and set its next due time; one of several replicas does it."""
        now = self._clock.now()
        is_on = server.sync_mode is SyncMode.SCHEDULED
        following = next_round(now, server.sync_interval_seconds, self._chance())
        if not await self._servers.schedule_next(server, following if is_on else None):
            return
        if is_on and server.effective_status is not ServerStatus.INACTIVE:
            await self._jobs.open(
                server.id, server.server_name, SyncRequest(Trigger.SCHEDULE), now
            )

    async def _pause(self, seconds: float) -> None:
        """Wait until the worker is woken, or until the next poll."""
        spread = seconds * (0.8 + 0.4 * self._chance())
        announced = self._announcements.seconds_left()
        if announced is not None and seconds < DATABASE_RETRY_SECONDS:
            spread = min(spread, announced)
        try:
            async with asyncio.timeout(spread):
                await self._woken.wait()
        except TimeoutError:
            return
