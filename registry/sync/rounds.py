"""Has many servers read at once and says what came of each, for the command line."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from packages.database.slices import slices
from registry.core.clock import Clock
from registry.servers.repository import ServerRepository
from registry.servers.values import ServerRecord, ServerStatus
from registry.sync.repository import JobRepository
from registry.sync.runner import SyncRunner
from registry.sync.values import Asked, Ending, JobState, SyncJob, Trigger

LOOK_SECONDS = 0.2
"""Time between two looks at a job that another process runs."""

SERVERS_AT_ONCE = 500
"""Documents in memory at a time."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What came of one server.

    Attributes:
        job_id: None for a server that is turned off.
        state: Of the job; it is `retrying` when it failed and is tried again later.
        counts: Tools by what became of them.
        error: Why it failed.
        note: Why nothing was read, where that is no failure.
    """

    server_name: str
    job_id: str | None = None
    state: JobState | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    note: str | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the upstream could not be read, even if it is tried again later."""
        return self.state not in {None, JobState.SUCCEEDED}


class SyncRound:
    """One reading of many servers.

    Args:
        name: Host and process, as records name them.
        at_once: Most servers read side by side.
        lease_seconds: How long this process may be silent before others take its jobs.
    """

    def __init__(
        self,
        servers: ServerRepository,
        jobs: JobRepository,
        runner: SyncRunner,
        *,
        name: str,
        at_once: int,
        lease_seconds: float,
        clock: Clock,
    ) -> None:
        self._servers = servers
        self._jobs = jobs
        self._runner = runner
        self._name = name
        self._at_once = at_once
        self._lease_seconds = lease_seconds
        self._clock = clock

    async def all_ids(self) -> list[str]:
        """Return the ids of all servers."""
        return await self._servers.ids_unchecked()

    async def ids_of(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the ids of the servers of these names, and the names that none has."""
        found: list[str] = []
        unknown: list[str] = []
        for name in dict.fromkeys(names):
            server = await self._servers.by_name(name)
            if server is None:
                unknown.append(name)
            else:
                found.append(server.id)
        return found, unknown

    async def run(self, server_ids: Sequence[str], told: Callable[[RoundResult], None]) -> None:
        """Have servers read; *told* hears what came of each as it is known.

        What another process reads already is waited for.

        Raises:
            DatabaseUnavailable: It is away.
        """
        for some in slices(server_ids, SERVERS_AT_ONCE):
            read = await self._servers.by_ids_unchecked(some)
            waiting = iter(await self._servers.read_state(read))
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._at_once, len(some))):
                    group.create_task(self._work(waiting, told))

    async def _work(
        self, waiting: Iterator[ServerRecord], told: Callable[[RoundResult], None]
    ) -> None:
        for server in waiting:
            told(await self._read(server))

    async def _read(self, server: ServerRecord) -> RoundResult:
        if server.effective_status is ServerStatus.INACTIVE:
            return RoundResult(server.server_name, note="It is turned off.")
        asked = Asked(Trigger.COMMAND)
        name, lease_seconds = self._name, self._lease_seconds
        begun = await self._jobs.begin(server.id, server.server_name, asked, name, lease_seconds)
        if begun is not None:
            ending = await self._runner.run(begun, server)
            if ending is not None:
                return _result(server, begun, ending)
        return await self._joined(server, asked)

    async def _joined(self, server: ServerRecord, asked: Asked) -> RoundResult:
        """Wait for the job that there is already, or do it if nobody else does."""
        job, _ = await self._jobs.open(server.id, server.server_name, asked, self._clock.now())
        while True:
            claimed = await self._jobs.claim_one(job.id, self._name, self._lease_seconds)
            ending = None if claimed is None else await self._runner.run(claimed)
            if ending is not None:
                return _result(server, job, ending)
            latest = await self._jobs.get(job.id) or job
            has_failed = latest.state is JobState.RETRYING and latest.attempts > job.attempts
            if has_failed or not latest.state.is_open:
                return RoundResult(
                    server.server_name, job.id, latest.state, latest.counts, latest.error
                )
            await self._clock.sleep(LOOK_SECONDS)


def _result(server: ServerRecord, job: SyncJob, ending: Ending) -> RoundResult:
    return RoundResult(
        server.server_name, job.id, ending.state, ending.counts, ending.error, ending.note
    )
