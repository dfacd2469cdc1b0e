"""Jobs and their leases: one worker at a time for each server, whoever dies."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import WriteError
from structlog.testing import capture_logs
from typing_extensions import override

from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.database.errors import DatabaseUnavailable
from packages.models.states import JobState, RunOutcome, Trigger
from registry.auth.identity import UserContext
from registry.core.background_tasks import end
from registry.core.clock import SystemClock
from registry.core.definitions import Rejection
from registry.core.metrics import Metrics
from registry.core.paging import PageRequest
from registry.servers.errors import DiscoveryFailedError
from registry.servers.reconciliation.discovery_changes import MOVED_MEANWHILE, NOTHING_OFFERED
from registry.servers.reconciliation.store import LARGE_CHARACTERS, ServerRepositories
from registry.servers.schemas import ServerCreate
from registry.servers.values import ConnectionSpec, Discovered
from registry.sync.bulk_sync import BulkSync, BulkSyncResult
from registry.sync.errors import LeaseLostError
from registry.sync.repository import JobRepository
from registry.sync.runner import NOT_STORED, SyncRunner, SyncRunnerConfig
from registry.sync.schedule import RetryPolicy
from registry.sync.values import Ending, JobFilter, Phase, SyncJobRecord, SyncRequest
from registry.sync.worker import (
    MAX_READINGS,
    PAUSE_SECONDS,
    SETTLE_SECONDS,
    Announcements,
    SyncWorker,
    SyncWorkerConfig,
)
from registry.tools.intake import LISTED_TWICE
from registry.tools.repository import ToolRepository
from tests.conftest import ALICE, CREDS_IV, CREDS_KEY, ROOT
from tests.fakes.clock import FakeClock, SkewedClock
from tests.fakes.discovery import FakeDiscovery, found, tool
from tests.fakes.mongo_daemon import RunningDaemon, start_daemon
from tests.fakes.odd_values import ODD_VALUES, insert_odd
from tests.fakes.plain_upstream import ECHO, plain_upstream
from tests.fakes.rest import Rest, rest_settings, running
from tests.kit.servers import read_and_store, server_service

pytestmark = pytest.mark.wire

KEPT = timedelta(days=30)
LEASE_SECONDS = 1.0
ADD = '{"name":"add","description":"Adds.","inputSchema":{"type":"object"}}'
SUBTRACT = '{"name":"subtract","description":"Subtracts.","inputSchema":{"type":"object"}}'
CHANGED_ECHO = ECHO.replace("Says it again.", "Says it louder.")
ONE, OTHER = f"[{ECHO},{ADD}]", f"[{CHANGED_ECHO},{SUBTRACT}]"
PATIENCE_SECONDS = 30.0
ALL_JOBS = PageRequest(1, 100)


class Parts:
    """What reads servers in the background, with upstreams that answer as told."""

    def __init__(
        self, database: Database, repositories: ServerRepositories, cipher: Cipher
    ) -> None:
        self.clock = SystemClock()
        self.database = database
        self.repositories = repositories
        self.discovery = FakeDiscovery()
        self.jobs = JobRepository(database, retention=KEPT, clock=self.clock)
        self.upstreams = read_and_store(database, repositories, cipher, self.discovery)
        self.announcements = Announcements(self.clock)
        self.servers = server_service(repositories, cipher, self.upstreams)

    def runner(
        self,
        *,
        max_attempts: int = 3,
        lease_seconds: float = LEASE_SECONDS,
        backoff_seconds: float = 0.001,
    ) -> SyncRunner:
        """Return what runs jobs, and tries again at once."""
        return SyncRunner(
            self.repositories.servers,
            self.jobs,
            self.upstreams,
            SyncRunnerConfig(
                RetryPolicy(max_attempts, backoff_seconds, backoff_seconds), lease_seconds
            ),
            clock=self.clock,
            metrics=Metrics(),
        )

    def worker(self, name: str, *, concurrency: int = 2) -> SyncWorker:
        """Return a worker of some process."""
        return SyncWorker(
            self.jobs,
            self.repositories.servers,
            self.runner(),
            self.announcements,
            SyncWorkerConfig(name, concurrency, 0.05, LEASE_SECONDS),
            clock=self.clock,
            metrics=Metrics(),
        )

    def round(self, name: str, *, concurrency: int) -> BulkSync:
        """Return what has many servers read for a command."""
        return BulkSync(
            self.repositories.servers,
            self.jobs,
            self.runner(),
            name=name,
            concurrency=concurrency,
            lease_seconds=LEASE_SECONDS,
            clock=self.clock,
        )

    async def register(self, name: str, user: UserContext = ALICE, **fields: Any) -> str:
        """Register a server and return its id."""
        body = {"serverName": name, "url": f"http://{name}.example/mcp", **fields}
        request = ServerCreate.model_validate(body)
        return (await self.servers.register(request, user, strict=True)).id

    async def open(self, server_id: str, trigger: Trigger = Trigger.MANUAL) -> SyncJobRecord:
        """Have a server read."""
        job, _ = await self.jobs.open(server_id, "any", SyncRequest(trigger), self.clock.now())
        return job

    async def claim(
        self, worker: str = "one", lease_seconds: float = LEASE_SECONDS
    ) -> SyncJobRecord:
        """Take the one job that is due."""
        (job,) = await self.jobs.claim(9, worker, lease_seconds)
        return job

    async def job(self, job_id: str, state: JobState) -> SyncJobRecord:
        """Wait until a job is in some state."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                job = await self.jobs.get(job_id)
                if job is not None and job.state is state:
                    return job
                await self.clock.sleep(0.02)


@pytest.fixture
def parts(database: Database, repositories: ServerRepositories, cipher: Cipher) -> Parts:
    return Parts(database, repositories, cipher)


@pytest.mark.requirement("R-158")
async def test_a_job_is_taken_once_however_many_want_it(parts: Parts) -> None:
    await parts.open(await parts.register("sums"))

    taken = await asyncio.gather(*(parts.jobs.claim(4, f"w{number}", 30) for number in range(8)))

    assert [job.attempts for jobs in taken for job in jobs] == [1]


@pytest.mark.requirement("R-158")
async def test_there_is_one_open_job_for_a_server_however_many_ask(parts: Parts) -> None:
    server_id = await parts.register("sums")

    opened = await asyncio.gather(
        *(
            parts.jobs.open(server_id, "sums", SyncRequest(Trigger.MANUAL), parts.clock.now())
            for _ in range(12)
        )
    )

    assert len({job.id for job, _ in opened}) == 1
    assert [joined for _, joined in opened].count(False) == 1


@pytest.mark.requirement("R-158")
async def test_several_workers_read_each_server_once(parts: Parts) -> None:
    names = [f"server{number}" for number in range(12)]
    ids = [await parts.register(name) for name in names]
    asked_before = len(parts.discovery.asked)
    jobs = [await parts.open(server_id) for server_id in ids]

    tasks = [asyncio.ensure_future(parts.worker(f"w{number}").follow()) for number in range(3)]
    done = [await parts.job(job.id, JobState.SUCCEEDED) for job in jobs]
    for task in tasks:
        await end(task)

    runs = [run for job in done for run in await parts.jobs.runs(job.id)]
    assert len(runs) == 12
    assert len(parts.discovery.asked) - asked_before == 12


@pytest.mark.requirement("R-158")
@pytest.mark.requirement("E-09")
async def test_the_job_of_a_dead_worker_is_taken_over_by_the_databases_clock(
    parts: Parts, database: Database
) -> None:
    await parts.open(await parts.register("sums"))
    dead = await parts.claim("dead", lease_seconds=0.3)
    slow, fast = (
        JobRepository(database, retention=KEPT, clock=SkewedClock(ahead))
        for ahead in (timedelta(hours=-2), timedelta(hours=2))
    )

    early = [await jobs.claim(1, "two", 30) for jobs in (slow, fast)]
    await parts.clock.sleep(0.4)
    (taken,) = await slow.claim(1, "two", 30)

    assert early == [[], []]
    assert (taken.id, taken.attempts, taken.holder) == (dead.id, 2, "two")
    assert [(run.outcome, run.worker) for run in await parts.jobs.runs(dead.id)] == [
        (RunOutcome.LEASE_LOST, "dead")
    ]


@pytest.mark.requirement("E-22")
async def test_odd_jobs_cost_themselves_alone_and_do_not_stay_due(parts: Parts) -> None:
    jobs = parts.database.collection("sync_jobs")
    await parts.open(await parts.register("first"))
    kept = await jobs.find_one({})
    assert kept is not None
    await jobs.delete_many({})
    await parts.database.db.command("collMod", "sync_jobs", validator={})
    # Older than any other, so that they are taken first.
    odd = {**kept, "due_at": kept["due_at"] - timedelta(hours=1)}
    del odd["open_owner_id"]
    members = (
        "attempts",
        "state",
        "owner_id",
        "trigger",
        "created_at",
        "requested_by",
        "lease_id",
    )
    rows = [
        {**odd, "_id": ObjectId(), name: value}
        for name in members
        for value in ODD_VALUES.values()
    ]
    rows += [{**odd, "_id": key} for key in ("a text", 1.5)]
    await insert_odd(jobs, rows)
    blocked = await parts.register("blocked")
    await jobs.insert_one(
        {**odd, "_id": ObjectId(), "open_owner_id": ObjectId(blocked), "state": 5}
    )
    good = await parts.open(await parts.register("good"))
    unblocked, _ = await parts.jobs.open(
        blocked, "blocked", SyncRequest(Trigger.MANUAL), parts.clock.now()
    )

    with capture_logs() as told:
        taken = await parts.jobs.claim(len(rows), "one", PATIENCE_SECONDS)

    readable = {job.id for job in taken}
    assert {good.id, unblocked.id} <= readable
    named = {line["document_id"] for line in told if line["event"] == "sync_job_unreadable"}
    assert {"a text", "1.5"} <= named
    assert not named & readable
    assert {line["event"] for line in told} == {"sync_job_unreadable"}
    assert len(named) > 3 * len(ODD_VALUES)
    assert await parts.jobs.claim(9, "one", LEASE_SECONDS) == []


@pytest.mark.requirement("R-158")
async def test_a_worker_that_was_taken_for_dead_stores_nothing(parts: Parts) -> None:
    server_id = await parts.register("sums")
    await parts.open(server_id)
    late = await parts.claim("late", lease_seconds=0.2)
    parts.discovery.answer = lambda _: found(tool("echo"), tool("stale news"))

    async def overtaken() -> None:
        await parts.clock.sleep(0.3)
        await parts.claim("other", lease_seconds=30)

    parts.discovery.meanwhile = overtaken
    ending = await parts.runner(lease_seconds=60).run(late)

    assert ending is None
    assert set(await parts.repositories.tools.stored(server_id)) == {"echo"}
    job = await parts.jobs.get(late.id)
    assert job is not None
    assert (job.state, job.holder) == (JobState.RUNNING, "other")


@pytest.mark.requirement("R-158")
async def test_a_worker_learns_that_its_job_was_taken_over_and_stops(parts: Parts) -> None:
    await parts.open(await parts.register("sums"))
    job = await parts.claim()
    jobs = parts.database.collection("sync_jobs")
    cancelled = asyncio.Event()

    async def reading() -> None:
        await jobs.update_one({"_id": ObjectId(job.id)}, {"$set": {"lease_id": ObjectId()}})
        try:
            await parts.clock.sleep(PATIENCE_SECONDS)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    parts.discovery.meanwhile = reading

    assert await parts.runner(lease_seconds=0.3).run(job) is None
    assert cancelled.is_set()


async def test_a_large_set_is_stored_at_the_first_try_however_long_it_takes(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = await parts.register("sums")
    parts.discovery.answer = lambda _: found(tool("large", "x" * LARGE_CHARACTERS))
    await parts.open(server_id)
    job = await parts.claim(lease_seconds=0.3)
    apply = ToolRepository.apply
    tries: list[int] = []
    seen: list[Phase | None] = []

    async def slow(*args: Any, **named: Any) -> None:
        tries.append(1)
        await apply(*args, **named)
        await parts.clock.sleep(0.6)
        running = await parts.jobs.get(job.id)
        progress = None if running is None else running.progress
        seen.append(None if progress is None else progress.phase)

    monkeypatch.setattr(ToolRepository, "apply", slow)
    ending = await parts.runner(lease_seconds=0.3).run(job)

    assert ending is not None
    assert ending.state is JobState.SUCCEEDED
    assert len(tries) == 1
    assert seen == [Phase.WRITING]


async def test_what_cannot_be_stored_in_time_is_a_failure_that_says_so(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = await parts.register("sums")
    parts.discovery.answer = lambda _: found(tool("sum"), tool("difference"))
    opened = await parts.open(server_id)

    async def too_long(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(ToolRepository, "apply", too_long)
    ending = await parts.runner().run(await parts.claim())
    job = await parts.jobs.get(opened.id)

    assert ending is not None
    assert job is not None
    assert (job.state, job.error) == (JobState.RETRYING, NOT_STORED)
    assert [run.outcome for run in await parts.jobs.runs(opened.id)] == [RunOutcome.FAILURE]

    monkeypatch.undo()
    await parts.clock.sleep(0.01)
    again = await parts.runner().run(await parts.claim())
    assert again is not None
    assert again.state is JobState.SUCCEEDED
    assert len(await parts.repositories.tools.served(server_id)) == 2


@pytest.mark.requirement("R-158")
async def test_a_long_reading_keeps_its_lease(parts: Parts) -> None:
    await parts.open(await parts.register("sums"))
    job = await parts.claim(lease_seconds=0.6)
    stolen: list[SyncJobRecord] = []

    async def long() -> None:
        for _ in range(8):
            await parts.clock.sleep(0.2)
            stolen.extend(await parts.jobs.claim(1, "thief", 30))

    parts.discovery.meanwhile = long
    ending = await parts.runner(lease_seconds=0.6).run(job)

    assert stolen == []
    assert ending is not None
    assert ending.state is JobState.SUCCEEDED


@pytest.mark.requirement("R-156")
async def test_a_job_whose_workers_keep_dying_is_given_up(parts: Parts) -> None:
    job = await parts.open(await parts.register("sums"))
    asked = len(parts.discovery.asked)
    for _ in range(3):
        await parts.claim(lease_seconds=0.05)
        await parts.clock.sleep(0.1)

    ending = await parts.runner(max_attempts=3).run(await parts.claim())

    assert ending is not None
    assert ending.state is JobState.DEAD
    assert len(parts.discovery.asked) == asked
    outcomes = [run.outcome for run in await parts.jobs.runs(job.id)]
    assert outcomes == [RunOutcome.FAILURE, *[RunOutcome.LEASE_LOST] * 3]


async def test_a_worker_that_ends_gives_its_jobs_back(parts: Parts) -> None:
    job = await parts.open(await parts.register("sums"))
    reading = asyncio.Event()

    async def hang() -> None:
        reading.set()
        await parts.clock.sleep(PATIENCE_SECONDS)

    parts.discovery.meanwhile = hang
    task = asyncio.ensure_future(parts.worker("one").follow())
    await reading.wait()
    await end(task)
    given_back = await parts.job(job.id, JobState.QUEUED)

    assert (given_back.attempts, given_back.holder, given_back.lease_id) == (0, None, None)
    assert (await parts.claim("two")).id == job.id


@pytest.mark.requirement("R-156")
async def test_failures_are_tried_again_until_the_job_is_dead(parts: Parts) -> None:
    server_id = await parts.register("sums")

    def away(_: ConnectionSpec) -> Discovered:
        raise DiscoveryFailedError("It is away.")

    parts.discovery.answer = away
    job = await parts.open(server_id)
    task = asyncio.ensure_future(parts.worker("one").follow())
    dead = await parts.job(job.id, JobState.DEAD)
    await end(task)

    server = await parts.repositories.servers.get_unchecked(server_id)
    assert server is not None
    assert (dead.attempts, dead.error, dead.due_at) == (3, "It is away.", None)
    assert [run.attempt for run in await parts.jobs.runs(job.id)] == [3, 2, 1]
    assert (server.effective_status.value, server.error_message) == ("error", "It is away.")
    assert set(await parts.repositories.tools.stored(server_id)) == {"echo"}


async def test_one_server_that_makes_us_fail_does_not_stop_the_others(parts: Parts) -> None:
    bad, good = await parts.register("bad"), await parts.register("good")

    def answer(connection: ConnectionSpec) -> Discovered:
        if "bad" in connection.url:
            raise RuntimeError("a defect of ours")
        return found(tool("echo"))

    parts.discovery.answer = answer
    first = await parts.open(bad)
    second = await parts.open(good)
    task = asyncio.ensure_future(parts.worker("one", concurrency=1).follow())
    await parts.job(second.id, JobState.SUCCEEDED)
    state = await parts.jobs.get(first.id)
    await end(task)

    assert state is not None
    assert state.state in {JobState.RUNNING, JobState.DEAD}


async def test_servers_that_hang_keep_nobody_waiting(parts: Parts) -> None:
    hanging = [await parts.register(f"hangs{number}") for number in range(3)]
    healthy = await parts.register("healthy")
    released = asyncio.Event()

    async def hang() -> None:
        if "hangs" in parts.discovery.asked[-1].url:
            await released.wait()

    parts.discovery.meanwhile = hang
    for server_id in hanging:
        await parts.open(server_id, Trigger.SCHEDULE)
    task = asyncio.ensure_future(parts.worker("one", concurrency=2).follow())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await parts.jobs.count_open())[JobState.RUNNING] < 2:
            await parts.clock.sleep(0.02)
    asked = await parts.open(healthy, Trigger.MANUAL)
    await parts.job(asked.id, JobState.SUCCEEDED)
    open_jobs = await parts.jobs.count_open()
    released.set()
    await end(task)

    assert (open_jobs[JobState.RUNNING], open_jobs[JobState.QUEUED]) == (2, 1)


class AwayOnce(JobRepository):
    """Jobs of a database that is away when it is first asked to open one."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, retention=KEPT, clock=SystemClock())
        self.was_away = asyncio.Event()

    @override
    async def open(
        self, owner_id: str, owner_name: str, asked: SyncRequest, now: datetime
    ) -> tuple[SyncJobRecord, bool]:
        """Fail once."""
        if not self.was_away.is_set():
            self.was_away.set()
            raise DatabaseUnavailable
        return await super().open(owner_id, owner_name, asked, now)


@pytest.mark.requirement("R-170")
async def test_announcements_outlast_an_absence_of_the_database(
    database: Database, parts: Parts
) -> None:
    ids = [await parts.register(name) for name in ("one", "two", "three")]
    parts.jobs = jobs = AwayOnce(database)
    worker = parts.worker("one")
    for server_id in ids:
        parts.announcements.add(server_id)
    task = asyncio.ensure_future(worker.follow())
    await jobs.was_away.wait()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (done := await jobs.page(JobFilter(state=JobState.SUCCEEDED), ALL_JOBS)).total < 3:
            worker.wake()
            await parts.clock.sleep(0.1)
    await end(task)

    assert {job.owner_id for job in done.items} == set(ids)
    assert {job.asked.trigger for job in done.items} == {Trigger.NOTIFICATION}


@pytest.mark.requirement("R-170")
@pytest.mark.parametrize("trigger", [Trigger.WEBHOOK, Trigger.NOTIFICATION])
async def test_what_is_announced_while_a_job_runs_is_followed_by_another(
    parts: Parts, trigger: Trigger
) -> None:
    server_id = await parts.register("sums")
    await parts.open(server_id)
    running = await parts.claim()

    joined, was_open = await parts.jobs.open(
        server_id, "sums", SyncRequest(trigger), parts.clock.now()
    )
    await parts.runner().run(running)
    following = await parts.claim()

    assert (joined.id, was_open) == (running.id, True)
    assert following.id != running.id
    assert following.asked.trigger is trigger


async def test_a_manual_wish_while_a_job_runs_is_that_job(parts: Parts) -> None:
    server_id = await parts.register("sums")
    await parts.open(server_id)
    running = await parts.claim()

    await parts.open(server_id)
    await parts.runner().run(running)

    assert await parts.jobs.claim(1, "one", 30) == []


async def test_a_wish_brings_a_waiting_retry_forward_but_the_schedule_does_not(
    parts: Parts,
) -> None:
    server_id = await parts.register("sums")
    await parts.open(server_id)
    waiting = Ending(JobState.RETRYING, RunOutcome.FAILURE, "It is away.", retry_seconds=600)
    await parts.jobs.end(await parts.claim(), waiting, parts.clock.now())

    await parts.open(server_id, Trigger.SCHEDULE)
    none = await parts.jobs.claim(1, "one", 30)
    await parts.open(server_id, Trigger.MANUAL)

    assert none == []
    assert (await parts.claim()).attempts == 2


@pytest.mark.requirement("R-160")
@pytest.mark.parametrize("trigger", [Trigger.SCHEDULE, Trigger.MANUAL, Trigger.COMMAND])
async def test_that_all_tools_are_gone_is_believed_at_the_second_look(
    parts: Parts, trigger: Trigger
) -> None:
    server_id = await parts.register("sums")
    parts.discovery.answer = lambda _: found()
    await parts.open(server_id, trigger)
    told = []
    served = []
    for _ in range(2):
        ending = await parts.runner().run(await parts.claim())
        assert ending is not None
        told.append(ending.state)
        served.append(len(await parts.repositories.tools.served(server_id)))
        await parts.clock.sleep(0.01)

    server = await parts.repositories.servers.get_unchecked(server_id)

    assert told == [JobState.RETRYING, JobState.SUCCEEDED]
    assert served == [1, 0]
    assert server is not None
    assert server.error_message is None


async def test_that_all_tools_are_gone_is_believed_at_the_second_refresh(parts: Parts) -> None:
    server_id = await parts.register("sums")
    parts.discovery.answer = lambda _: found()

    first = await parts.servers.refresh(server_id, ALICE)
    kept = await parts.repositories.tools.served(server_id)
    second = await parts.servers.refresh(server_id, ALICE)

    assert first.failure == NOTHING_OFFERED
    assert first.server.error_message == NOTHING_OFFERED
    assert len(kept) == 1
    assert second.failure is None
    assert second.server.config["tools"] == ""
    assert second.server.error_message is None
    assert await parts.repositories.tools.served(server_id) == []


async def test_an_empty_answer_between_good_ones_takes_no_tools(parts: Parts) -> None:
    server_id = await parts.register("sums")
    good = parts.discovery.answer
    for answer in (lambda _: found(), good, lambda _: found()):
        parts.discovery.answer = answer
        await parts.servers.refresh(server_id, ALICE)

    assert len(await parts.repositories.tools.served(server_id)) == 1


async def test_a_list_that_moves_while_it_is_read_takes_no_tools_at_the_first_look(
    parts: Parts,
) -> None:
    parts.discovery.answer = lambda _: found(tool("one"), tool("two"), tool("three"))
    server_id = await parts.register("sums")
    again = Rejection("one", LISTED_TWICE)
    parts.discovery.answer = lambda _: found(tool("one"), tool("three"), rejected=(again,))
    await parts.open(server_id, Trigger.WEBHOOK)

    first = await parts.runner().run(await parts.claim())
    after_first = await parts.repositories.tools.served(server_id)
    await parts.clock.sleep(0.01)
    second = await parts.runner().run(await parts.claim())
    after_second = await parts.repositories.tools.served(server_id)

    assert first is not None
    assert second is not None
    assert (first.state, first.error) == (JobState.RETRYING, MOVED_MEANWHILE)
    assert [each.name for each in after_first] == ["one", "two", "three"]
    assert (second.state, second.counts["stale"]) == (JobState.SUCCEEDED, 1)
    assert [each.name for each in after_second] == ["one", "three"]


async def test_a_tool_that_is_listed_twice_beside_all_others_is_no_reason_for_doubt(
    parts: Parts,
) -> None:
    parts.discovery.answer = lambda _: found(tool("one"), tool("two"))
    server_id = await parts.register("sums")
    again = Rejection("one", LISTED_TWICE)
    parts.discovery.answer = lambda _: found(tool("one"), tool("two"), rejected=(again,))

    refreshed = await parts.servers.refresh(server_id, ALICE)

    assert refreshed.failure is None


async def test_who_accepts_that_all_tools_are_gone_is_believed_at_once(parts: Parts) -> None:
    server_id = await parts.register("sums")
    parts.discovery.answer = lambda _: found()

    refreshed = await parts.servers.refresh(server_id, ALICE, accept=True)

    assert refreshed.failure is None
    assert await parts.repositories.tools.served(server_id) == []


async def test_a_server_that_is_asked_once_only_is_believed_the_first_time(parts: Parts) -> None:
    server_id = await parts.register("sums")
    parts.discovery.answer = lambda _: found()
    await parts.open(server_id, Trigger.SCHEDULE)

    ending = await parts.runner(max_attempts=1).run(await parts.claim())

    assert ending is not None
    assert ending.state is JobState.SUCCEEDED
    assert await parts.repositories.tools.served(server_id) == []


async def test_tools_that_are_back_at_the_second_look_were_never_gone(parts: Parts) -> None:
    server_id = await parts.register("sums")
    answer = parts.discovery.answer
    parts.discovery.answer = lambda _: found()
    await parts.open(server_id, Trigger.WEBHOOK)
    await parts.runner().run(await parts.claim())
    parts.discovery.answer = answer
    await parts.clock.sleep(0.01)

    ending = await parts.runner().run(await parts.claim())
    rows = await parts.repositories.tools.stored(server_id)

    assert ending is not None
    assert (ending.state, ending.counts.get("vanished", 0)) == (JobState.SUCCEEDED, 0)
    assert [row.registration_state.value for row in rows.values()] == ["selected"]


@pytest.mark.requirement("R-155")
async def test_several_replicas_open_one_scheduled_job_and_skip_what_is_off(parts: Parts) -> None:
    fields: dict[str, Any] = {"syncMode": "scheduled", "syncIntervalSeconds": 60}
    on, off = await parts.register("on", **fields), await parts.register("off", **fields)
    manual = await parts.register("manual")
    await parts.servers.toggle(off, ALICE, enabled=False)
    past = parts.clock.now() - timedelta(minutes=5)
    for server_id in (on, off):
        await parts.database.collection("sync_states").update_one(
            {"_id": ObjectId(server_id)}, {"$set": {"next_sync_at": past}}
        )

    tasks = [asyncio.ensure_future(parts.worker(f"w{number}").follow()) for number in range(3)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (
            jobs := await parts.jobs.page(JobFilter(state=JobState.SUCCEEDED), ALL_JOBS)
        ).total:
            await parts.clock.sleep(0.05)
    await parts.clock.sleep(0.3)
    everything = await parts.jobs.page(JobFilter(), ALL_JOBS)
    for task in tasks:
        await end(task)

    assert [(job.owner_id, job.asked.trigger) for job in everything.items] == [
        (on, Trigger.SCHEDULE)
    ]
    assert jobs.total == 1
    assert manual not in {job.owner_id for job in everything.items}


async def test_a_server_changed_while_it_is_read_is_read_again(parts: Parts) -> None:
    server_id = await parts.register("sums")
    await parts.open(server_id)
    changes = 0

    async def change() -> None:
        nonlocal changes
        if changes < 2:
            changes += 1
            await parts.database.collection("mcpservers").update_one(
                {"_id": ObjectId(server_id)}, {"$set": {"updatedAt": parts.clock.now()}}
            )

    parts.discovery.meanwhile = change
    ending = await parts.runner().run(await parts.claim())

    assert ending is not None
    assert ending.state is JobState.SUCCEEDED
    assert changes == 2


async def test_a_round_waits_for_a_server_that_another_process_reads(parts: Parts) -> None:
    server_id = await parts.register("sums")
    asked_before = len(parts.discovery.asked)
    reading, going_on = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        reading.set()
        await going_on.wait()

    parts.discovery.meanwhile = hang
    await parts.open(server_id)
    one = asyncio.ensure_future(parts.runner().run(await parts.claim()))
    await reading.wait()
    round_ = parts.round("two", concurrency=4)
    told: list[BulkSyncResult] = []
    two = asyncio.ensure_future(round_.run([server_id], told.append))
    await parts.clock.sleep(0.5)
    waits = not told
    going_on.set()
    await asyncio.gather(one, two)

    assert waits
    assert [(result.server_name, result.state) for result in told] == [
        ("sums", JobState.SUCCEEDED)
    ]
    assert len(parts.discovery.asked) - asked_before == 1


class Turns:
    """Upstreams that hang until they are let go, but for those of the first few readings."""

    def __init__(self, parts: Parts, quick: int) -> None:
        self._left = quick
        self.hanging = asyncio.Semaphore(0)
        self.go = asyncio.Event()
        parts.discovery.meanwhile = self.take

    async def take(self) -> None:
        """Hang, unless this is one of the first."""
        self._left -= 1
        if self._left < 0:
            self.hanging.release()
            await self.go.wait()

    async def until(self, hanging: int) -> None:
        """Wait until so many hang."""
        for _ in range(hanging):
            await self.hanging.acquire()


async def one_waits(
    parts: Parts, ids: list[str]
) -> tuple[Turns, list[BulkSyncResult], asyncio.Task[None]]:
    """Have four servers read: one is, two hang, and the job of the last waits for its turn."""
    turns = Turns(parts, quick=1)
    told: list[BulkSyncResult] = []
    task = asyncio.ensure_future(parts.round("cli", concurrency=2).run(ids, told.append))
    await turns.until(hanging=2)
    return turns, told, task


async def test_a_round_that_is_ended_gives_back_what_was_not_read(parts: Parts) -> None:
    ids = [await parts.register(name) for name in ("one", "two", "three", "four")]
    _, told, task = await one_waits(parts, ids)
    running = (await parts.jobs.page(JobFilter(), ALL_JOBS)).items
    await end(task)

    jobs = (await parts.jobs.page(JobFilter(), ALL_JOBS)).items
    assert [result.server_name for result in told] == ["one"]
    assert sorted(job.state for job in running) == ["running"] * 3 + ["succeeded"]
    assert sorted(job.state for job in jobs) == ["queued"] * 3 + ["succeeded"]
    assert {(job.attempts, job.holder) for job in jobs if job.state.is_open} == {(0, None)}


async def test_what_waits_too_long_for_its_turn_is_left_to_others_and_read_once(
    parts: Parts,
) -> None:
    ids = [await parts.register(name) for name in ("one", "two", "three", "four")]
    asked_before = len(parts.discovery.asked)
    turns, told, task = await one_waits(parts, ids)
    await parts.clock.sleep(LEASE_SECONDS + 0.2)
    (taken,) = await parts.jobs.claim(9, "other", LEASE_SECONDS)
    parts.discovery.meanwhile = None
    await parts.runner().run(taken)
    turns.go.set()
    await task

    assert taken.owner_id == ids[3]
    assert {(result.server_name, result.state) for result in told} == {
        (name, JobState.SUCCEEDED) for name in ("one", "two", "three", "four")
    }
    last = (await parts.jobs.page(JobFilter(owner_ids=frozenset({ids[3]})), ALL_JOBS)).items
    assert [run.worker for run in await parts.jobs.runs(taken.id)] == ["other", "cli"]
    assert [job.state for job in last] == [JobState.SUCCEEDED]
    assert len(parts.discovery.asked) - asked_before == 4


async def test_a_turn_that_comes_late_is_taken_if_nobody_else_did(parts: Parts) -> None:
    ids = [await parts.register(name) for name in ("one", "two", "three", "four")]
    turns, told, task = await one_waits(parts, ids)
    await parts.clock.sleep(LEASE_SECONDS / 2)
    turns.go.set()
    await task

    jobs = (await parts.jobs.page(JobFilter(), ALL_JOBS)).items
    (run,) = await parts.jobs.runs(next(job.id for job in jobs if job.owner_id == ids[3]))
    assert [(job.state, job.attempts) for job in jobs] == [(JobState.SUCCEEDED, 1)] * 4
    assert len(told) == 4
    # Its time is that of reading it, not of waiting.
    assert (run.finished_at - run.started_at).total_seconds() < LEASE_SECONDS / 2


async def test_a_round_is_ended_even_when_a_cancellation_is_lost(parts: Parts) -> None:
    ids = [await parts.register(name) for name in ("one", "two", "three", "four")]
    asked_before = len(parts.discovery.asked)
    reading = asyncio.Semaphore(0)

    async def deaf() -> None:
        reading.release()
        with suppress(asyncio.CancelledError):
            await parts.clock.sleep(PATIENCE_SECONDS)

    parts.discovery.meanwhile = deaf
    told: list[BulkSyncResult] = []
    task = asyncio.ensure_future(parts.round("cli", concurrency=2).run(ids, told.append))
    for _ in range(2):
        await reading.acquire()
    task.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS / 3):
        await asyncio.wait({task})

    jobs = (await parts.jobs.page(JobFilter(), ALL_JOBS)).items
    assert task.cancelled()
    assert len(parts.discovery.asked) - asked_before == 2
    assert JobState.RUNNING not in {job.state for job in jobs}


async def test_that_an_attempt_of_another_process_failed_is_told_when_it_did(
    parts: Parts,
) -> None:
    server_id = await parts.register("sums")
    reading, going_on = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        reading.set()
        await going_on.wait()

    def away(_: ConnectionSpec) -> Discovered:
        raise DiscoveryFailedError("It is away.")

    parts.discovery.meanwhile, parts.discovery.answer = hang, away
    await parts.open(server_id)
    runner = parts.runner(backoff_seconds=PATIENCE_SECONDS * 2)
    one = asyncio.ensure_future(runner.run(await parts.claim()))
    await reading.wait()
    asked = len(parts.discovery.asked)
    told: list[BulkSyncResult] = []
    two = asyncio.ensure_future(parts.round("cli", concurrency=2).run([server_id], told.append))
    await parts.clock.sleep(0.3)
    going_on.set()
    async with asyncio.timeout(PATIENCE_SECONDS / 3):
        await asyncio.gather(one, two)

    (result,) = told
    assert (result.state, result.error) == (JobState.RETRYING, "It is away.")
    assert len(parts.discovery.asked) == asked


async def test_of_a_server_that_was_removed_meanwhile_a_round_says_so(parts: Parts) -> None:
    server_id, gone = await parts.register("one"), str(ObjectId())
    told: list[BulkSyncResult] = []

    await parts.round("cli", concurrency=2).run([gone, server_id], told.append)

    results = {result.server_name: (result.state, result.note) for result in told}
    assert results == {
        gone: (None, "The server was removed."),
        "one": (JobState.SUCCEEDED, None),
    }


async def test_what_a_round_was_begun_for_and_others_read_already_is_waited_for(
    parts: Parts,
) -> None:
    ids = [await parts.register(name) for name in ("one", "two")]
    job = await parts.open(ids[1])
    told: list[BulkSyncResult] = []

    await parts.round("cli", concurrency=2).run(ids, told.append)

    results = {result.server_name: result for result in told}
    assert {name: result.state for name, result in results.items()} == {
        "one": JobState.SUCCEEDED,
        "two": JobState.SUCCEEDED,
    }
    assert results["two"].job_id == job.id


async def test_the_end_of_a_job_that_is_no_longer_held_is_refused(parts: Parts) -> None:
    await parts.open(await parts.register("sums"))
    first = await parts.claim(lease_seconds=0.05)
    await parts.clock.sleep(0.1)
    await parts.claim("other")

    with pytest.raises(LeaseLostError):
        await parts.jobs.end(
            first, Ending(JobState.SUCCEEDED, RunOutcome.SUCCESS), parts.clock.now()
        )
    assert not await parts.jobs.renew(first, 30)


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "lost"},
        {"state": "queued", "due_at": None},
        {"state": "succeeded", "expires_at": None},
        {"trigger": "moon"},
        {"attempts": -1},
    ],
)
async def test_the_database_refuses_jobs_that_must_not_be(
    parts: Parts, wrong: dict[str, object]
) -> None:
    job = await parts.open(await parts.register("sums"))

    with pytest.raises(WriteError):
        await parts.database.collection("sync_jobs").update_one(
            {"_id": ObjectId(job.id)},
            {
                "$set": {name: value for name, value in wrong.items() if value is not None},
                "$unset": {name: "" for name, value in wrong.items() if value is None} or {"x": 1},
            },
        )


def test_announcements_are_bounded_and_the_last_one_counts() -> None:
    clock = FakeClock()
    announcements = Announcements(clock)

    for _ in range(100):
        announcements.add("sums")
    at_once = announcements.take()
    clock.move(SETTLE_SECONDS)
    first = announcements.take()
    soon = []
    for _ in range(MAX_READINGS):
        announcements.add("sums")
        clock.move(SETTLE_SECONDS)
        soon.append(announcements.take())
    clock.move(PAUSE_SECONDS)
    last = announcements.take()
    clock.move(PAUSE_SECONDS)

    assert (at_once, first) == ([], ["sums"])
    assert soon == [["sums"]] * (MAX_READINGS - 1) + [[]]
    assert last == ["sums"]
    assert announcements.take() == []


def test_who_reads_is_woken_by_an_announcement_and_told_when_it_is_due() -> None:
    woken: list[str] = []
    announcements = Announcements(FakeClock())
    announcements.listen(lambda: woken.append("woken"))
    before = announcements.seconds_left()

    announcements.add("sums")
    announcements.add("sums")

    assert (woken, before, announcements.seconds_left()) == (["woken"], None, SETTLE_SECONDS)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with start_daemon(tmp_path / "mongo") as daemon:
        yield daemon


@pytest.fixture
async def rest(
    daemon: RunningDaemon, key_files: tuple[Path, Path], tmp_path: Path
) -> AsyncIterator[Rest]:
    """Return an application that looks for jobs only when it is told to."""
    changed = {"sync_poll_seconds": 300, "sync_lease_seconds": LEASE_SECONDS}
    async with running(rest_settings(daemon.uri, key_files, tmp_path, **changed)) as rest:
        yield rest


async def tools_of(rest: Rest, server_id: str) -> tuple[set[tuple[str, str, str]], set[str]]:
    """Return the served tools with what they say, and the names that the other application reads.

    Both are of one moment.
    """
    rows = await rest.parts.database.collection("mcp_tools").find({}).to_list()
    server = await rest.parts.database.collection("mcpservers").find_one(
        {"_id": ObjectId(server_id)}
    )
    assert server is not None
    served = {
        (row["name"], row.get("description", ""), row["registration_state"])
        for row in rows
        if (row["registration_state"], row["exposure_state"]) == ("selected", "active")
    }
    return served, {name.strip() for name in server["config"]["tools"].split(",")}


def offered(text: str) -> set[tuple[str, str, str]]:
    """Return what is served when this is offered."""
    told = {"echo": "Says it again.", "add": "Adds.", "subtract": "Subtracts."}
    names = [name for name in told if f'"{name}"' in text]
    if text == OTHER:
        told["echo"] = "Says it louder."
    return {(name, told[name], "selected") for name in names}


@pytest.mark.requirement("R-159")
@pytest.mark.requirement("E-02")
async def test_a_sync_killed_at_any_write_leaves_the_old_or_the_new_set(
    rest: Rest, daemon: RunningDaemon, key_files: tuple[Path, Path]
) -> None:
    settings = rest.parts.settings
    environment = {
        "MONGO_URI": settings.mongo_uri.get_secret_value(),
        "CREDS_KEY": CREDS_KEY,
        "CREDS_IV": CREDS_IV,
        "JWT_PRIVATE_KEY_FILE": str(key_files[0]),
        "JWT_PUBLIC_KEY_FILE": str(key_files[1]),
        "UPSTREAM_ALLOWED_NETWORKS": "127.0.0.0/8",
        "SYNC_LEASE_SECONDS": str(LEASE_SECONDS),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    kills = 0
    async with plain_upstream() as upstream:
        upstream.tools = ONE
        server_id = (await rest.register(ROOT, "sums", upstream.url, onChange="accept"))["id"]
        while True:
            before = upstream.tools
            upstream.tools = OTHER if before == ONE else ONE
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.sync.dying", str(kills + 1), "sums"),
                env=environment,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            code = await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)

            served, projected = await tools_of(rest, server_id)
            assert served in (offered(before), offered(upstream.tools))
            assert projected == {name for name, _, _ in served}
            if code == 0:
                assert served == offered(upstream.tools)
                break
            assert code == -signal.SIGKILL
            kills += 1
            # Ends the transaction that is left behind, which MongoDB does after a minute.
            await asyncio.to_thread(daemon.restart)
            await completed(rest, server_id)
            served, projected = await tools_of(rest, server_id)
            assert served == offered(upstream.tools)
            assert projected == {name for name, _, _ in served}
    assert kills >= 6


async def completed(rest: Rest, server_id: str) -> None:
    """Have the application finish what a killed process began, once its lease has run out."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answer = await rest.ask(ROOT, "POST", f"/sync/owners/{server_id}")
            await rest.parts.clock.sleep(0.2)
            if answer.status_code == 503:
                continue
            path = f"/sync/jobs/{answer.json()['job_id']}"
            if (await rest.ask(ROOT, "GET", path)).json().get("state") == "succeeded":
                return


async def test_an_odd_webhook_call_is_known_by_its_job(parts: Parts) -> None:
    deliveries = parts.database.collection("sync_deliveries")
    server_id, job_id = str(ObjectId()), ObjectId()
    await deliveries.insert_one(
        {"_id": f"{server_id}/msg", "job_id": job_id, "received_at": 5},
        bypass_document_validation=True,
    )

    assert await parts.jobs.delivered(server_id, "msg") == str(job_id)
    assert await parts.jobs.delivered(server_id, "other") is None
