"""Bulk synchronisation for the command line: reads many servers and returns each result."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from packages.database.errors import DatabaseUnavailable
from packages.models.states import JobState, Trigger
from registry.core.background_tasks import end_all
from registry.core.clock import Clock
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import ServerRecord, ServerStatus
from registry.sync.repository import UNREADABLE, JobRepository
from registry.sync.runner import RENEWALS, SyncRunner
from registry.sync.values import Ending, SyncJobRecord, SyncRequest

OPENED_AT_ONCE = 8
"""Jobs that are opened in one command. Other workers cannot take them while they wait here."""

RELEASE_SECONDS = 5.0
"""Longest time for releasing open jobs when the database is unavailable."""

POLL_SECONDS = 0.2
"""Poll interval for a job that another process runs."""


ASKED = SyncRequest(Trigger.COMMAND)


@dataclass(frozen=True, slots=True)
class BulkSyncResult:
    """The result of one server.

    Attributes:
        server_name: Its id if it was removed before it was read.
        job_id: None for a server that is turned off or does not exist.
        state: Of the job; `retrying` if it failed and is tried again later.
        counts: Tools by kind of change.
        error: Why it failed.
        note: Why nothing was read, if that is not a failure.
    """

    server_name: str
    job_id: str | None = None
    state: JobState | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    note: str | None = None

    @property
    def has_failed(self) -> bool:
        """Whether reading the upstream failed, even if it is tried again later."""
        return self.error is not None or self.state not in {None, JobState.SUCCEEDED}


class BulkSync:
    """One reading of many servers.

    Args:
        name: Host and process, as recorded with jobs.
        concurrency: Maximum number of servers read concurrently.
        lease_seconds: How long a job stays this process's without a renewal.
    """

    def __init__(
        self,
        servers: ServerRepository,
        jobs: JobRepository,
        runner: SyncRunner,
        *,
        name: str,
        concurrency: int,
        lease_seconds: float,
        clock: Clock,
    ) -> None:
        self._servers = servers
        self._jobs = jobs
        self._runner = runner
        self._name = name
        self._concurrency = concurrency
        self._lease_seconds = lease_seconds
        self._clock = clock

    async def all_ids(self) -> list[str]:
        """Return the ids of all servers."""
        return await self._servers.ids_unchecked()

    async def ids_of(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the ids of the servers with these names, and the unknown names."""
        asked = list(dict.fromkeys(names))
        known = await self._servers.ids_by_names(asked)
        found = [server_id for name in asked for server_id in known.get(name, ())]
        return found, [name for name in asked if name not in known]

    async def run(
        self, server_ids: Sequence[str], on_result: Callable[[BulkSyncResult], None]
    ) -> None:
        """Read servers, and call *on_result* with each result as soon as it is known.

        A server that another process is already reading is waited for.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
        """
        if not server_ids:
            return
        line = _Queue(deque(server_ids))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._work(line, on_result))
                    for _ in range(min(self._concurrency, len(server_ids)))
                ]
                try:
                    await asyncio.wait(tasks)
                finally:
                    # The task group cancels only once, and the driver can swallow that.
                    line.is_over = True
                    await end_all(tasks)
        except BaseException:
            # Includes jobs that were just being opened. If this fails, their leases expire.
            with suppress(DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._jobs.release_held(self._name)
            raise

    async def _work(self, line: "_Queue", on_result: Callable[[BulkSyncResult], None]) -> None:
        while not line.is_over:
            async with line.lock:
                while line.waiting and not line.begun:
                    await self._begin(line, on_result)
                if not line.begun:
                    return
                server, begun = line.begun.popleft()
            on_result(await self._read(server, begun))

    async def _begin(self, line: "_Queue", on_result: Callable[[BulkSyncResult], None]) -> None:
        """Open the jobs of the next servers in one command, which is much cheaper than singly."""
        most = min(self._concurrency, OPENED_AT_ONCE, len(line.waiting))
        ids = [line.waiting.popleft() for _ in range(most)]
        found = await self._servers.read_state(await self._servers.by_ids_unchecked(ids))
        servers: list[ServerRecord] = []
        for server_id in {*ids} - {server.id for server in found}:
            on_result(BulkSyncResult(server_id, note="The server was removed."))
        for server in found:
            if server.effective_status is ServerStatus.INACTIVE:
                on_result(BulkSyncResult(server.server_name, note="The server is turned off."))
            else:
                servers.append(server)
        names = {server.id: server.server_name for server in servers}
        jobs = await self._jobs.begin(names, ASKED, self._name, self._lease_seconds)
        now = self._clock.monotonic()
        for server in servers:
            job = jobs.get(server.id)
            line.begun.append((server, None if job is None else _OpenedJob(job, now)))

    async def _read(self, server: ServerRecord, begun: "_OpenedJob | None") -> BulkSyncResult:
        job = None if begun is None else await self._held(begun)
        if job is not None:
            ending = await self._runner.run(job, server)
            if ending is not None:
                return _result(server, job, ending)
        if begun is not None:
            return await self._await_other(server, begun.job)
        now = self._clock.now()
        return await self._await_other(
            server, (await self._jobs.open(server.id, server.server_name, ASKED, now))[0]
        )

    async def _held(self, begun: "_OpenedJob") -> SyncJobRecord | None:
        """Return a job that waited here; None if another process may have taken it."""
        waited = self._clock.monotonic() - begun.at
        is_late = waited > self._lease_seconds / RENEWALS
        if is_late and not await self._jobs.renew(begun.job, self._lease_seconds):
            return None
        began_at = begun.job.started_at
        if began_at is None:
            return begun.job
        return begun.job.model_copy(update={"started_at": began_at + timedelta(seconds=waited)})

    async def _await_other(self, server: ServerRecord, job: SyncJobRecord) -> BulkSyncResult:
        """Wait for a job that another process may hold, or run it if it is free."""
        # If an attempt is already running, wait for that one.
        awaited = job.attempts + (0 if job.state is JobState.RUNNING else 1)
        while True:
            claimed = await self._jobs.claim_one(job.id, self._name, self._lease_seconds)
            ending = None if claimed is None else await self._runner.run(claimed)
            if ending is not None:
                return _result(server, job, ending)
            latest = await self._jobs.get(job.id)
            if latest is None:
                return BulkSyncResult(server.server_name, job.id, JobState.DEAD, error=UNREADABLE)
            has_failed = latest.state is JobState.RETRYING and latest.attempts >= awaited
            if has_failed or not latest.state.is_open:
                return BulkSyncResult(
                    server.server_name, job.id, latest.state, latest.counts, latest.error
                )
            await self._clock.sleep(POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class _OpenedJob:
    """An open job that waits in this process.

    Attributes:
        at: When it was opened, by the monotonic clock.
    """

    job: SyncJobRecord
    at: float


@dataclass(slots=True)
class _Queue:
    """Servers that are still to be read, in order.

    Attributes:
        waiting: Ids of servers whose jobs are not yet open.
        begun: Servers with open jobs; None for the job of another process.
        is_over: Whether to stop reading.
    """

    waiting: deque[str]
    begun: deque[tuple[ServerRecord, _OpenedJob | None]] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_over: bool = False


def _result(server: ServerRecord, job: SyncJobRecord, ending: Ending) -> BulkSyncResult:
    return BulkSyncResult(
        server.server_name, job.id, ending.state, ending.counts, ending.error, ending.note
    )


def unknown_server(name: str) -> BulkSyncResult:
    """Return the result of a server that does not exist."""
    return BulkSyncResult(name, error="There is no server of that name.")
