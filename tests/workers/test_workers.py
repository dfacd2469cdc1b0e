"""`registry serve --workers N`, as processes."""

import asyncio
import os
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.workers.relay import RELAY_HEADER
from tests.conftest import ALICE
from tests.fakes.command import RunningRegistry, run_registry, wait_until_gone
from tests.fakes.loopback import NO_CERTIFICATES
from tests.gateway.failing import error_of, outcome
from tests.kit.waiting import until
from tests.workers.fleet import Fleet, fleet

pytestmark = [pytest.mark.wire, pytest.mark.timeout(120)]

CALLS = 24
"""Of so many connections, one worker gets all in one of eight million runs."""


shared = pytest.mark.asyncio(loop_scope="module")
"""Those of `workers`: the last one kills one of them."""


@pytest.fixture
def environment(database_uri: str, key_files: tuple[Path, Path]) -> Iterator[dict[str, str]]:
    with environment_of(database_uri, key_files) as variables:
        yield variables


@contextmanager
def environment_of(database_uri: str, key_files: tuple[Path, Path]) -> Iterator[dict[str, str]]:
    # Where the workers meet, so that the test sees it; short, for the addresses of sockets.
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as folder:
        yield {
            "MONGO_URI": database_uri,
            "CREDS_KEY": "0f" * 32,
            "CREDS_IV": "1e" * 16,
            "JWT_PRIVATE_KEY_FILE": str(key_files[0]),
            "JWT_PUBLIC_KEY_FILE": str(key_files[1]),
            "TMPDIR": folder,
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    """Return two workers for the tests that leave two."""
    base, question, options = mongo_uri.partition("?")
    uri = f"{base.rstrip('/')}/shared_workers{question}{options}"
    folder = tmp_path_factory.mktemp("workers")
    with environment_of(uri, key_files) as variables:
        async with fleet(folder, variables, ALICE) as running:
            yield running
            # So that it closes its connections to the upstream before the loop ends.
            await running.end(signal.SIGTERM)


def meeting_places(environment: dict[str, str]) -> list[Path]:
    return list(Path(environment["TMPDIR"]).glob("registry-*"))


async def outcomes(tasks: list[asyncio.Task[httpx.Response]]) -> list[int]:
    """Return the status of each answer; 0 where the connection broke."""
    await asyncio.wait(tasks)
    return [0 if task.exception() else outcome(task.result()) for task in tasks]


async def test_the_death_of_a_worker_costs_its_own_calls_and_nothing_else(
    tmp_path: Path, environment: dict[str, str], alice: UserContext
) -> None:
    async with fleet(tmp_path, environment, alice) as running:
        loop = asyncio.get_running_loop()
        calls = [loop.create_task(running.nap(1.5, number)) for number in range(24)]
        await running.until_asleep(24)
        running.kill(0)
        during = [outcome(await running.nap(0, number)) for number in range(30)]
        statuses = await outcomes(calls)
        await running.until("worker_started", 3)
        await until_served_by_all(running)
        after = [outcome(await running.nap(0, number)) for number in range(30)]
        (directory,) = meeting_places(environment)
        sockets = [path.suffix for path in directory.iterdir()].count(".sock")
        code = await running.end(signal.SIGTERM)

    assert set(statuses) == {0, 200}
    assert [
        task.result().json()["result"]["content"][0]["text"]
        for task in calls
        if not task.exception()
    ] == [str(number) for number, status in enumerate(statuses) if status]
    assert (set(during), set(after)) == ({200}, {200})
    assert [event["exit_code"] for event in running.events("worker_died")] == [-9]
    assert (code, sockets) == (0, 2)
    assert meeting_places(environment) == []
    assert "Traceback" not in running.process.output


@shared
async def test_any_worker_tells_of_the_connections_of_all(workers: Fleet) -> None:
    listed = await asked(workers, "GET", "/servers")
    path = f"/servers/{listed['servers'][0]['id']}"
    await asked(workers, "PATCH", path, json={"title": "New"})
    async with asyncio.timeout(30):
        # Until every worker has heard of the change.
        while {await state(workers) for _ in range(20)} != {"disconnected"}:
            pass
    async with asyncio.timeout(30):
        # Until the worker that is called has heard of the change.
        while await state(workers) != "connected":
            await workers.nap(0)
    after = [await state(workers) for _ in range(20)]

    assert set(after) == {"connected"}


async def asked(running: Fleet, method: str, path: str, **request: Any) -> dict[str, Any]:
    """Ask one worker, over a connection of its own, which any of them may get."""
    async with httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=30) as http:
        url = f"{running.url}/api/v1{path}"
        answer = await http.request(method, url, headers=running.headers, **request)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def state(running: Fleet) -> str:
    told = await asked(running, "GET", "/mcp/connection/status")
    return str(told["connectionStatus"]["naps"]["connectionState"])


async def until_served_by_all(running: Fleet) -> None:
    """Wait until the newest worker listens: the parent tells it in no other way."""
    deadline = time.monotonic() + 30
    slots: set[str] = set()
    while len(slots) < running.workers:
        assert time.monotonic() < deadline, running.process.output
        slots = {
            sample.labels["worker"]
            for sample in await samples(running)
            if sample.name == "process_open_fds"
        }


async def samples(running: Fleet) -> list[Sample]:
    async with httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=10) as http:
        page = (await http.get(f"{running.url}/metrics")).text
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


@shared
async def test_a_signal_to_one_worker_replaces_it_without_a_lost_call(workers: Fleet) -> None:
    done = asyncio.Event()
    statuses: list[int] = []

    async def caller(number: int) -> None:
        while not done.is_set():
            statuses.append(outcome(await workers.nap(0.05, number)))

    async def more() -> None:
        aim = len(statuses) + 24
        await until(lambda: len(statuses) >= aim, 30)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(caller(number))
        await more()
        workers.kill(0, signal.SIGTERM)
        await workers.until("drain_finished", 1)
        await until_served_by_all(workers)
        await more()
        done.set()

    assert set(statuses) == {200}
    assert workers.events("worker_died") == []


@shared
async def test_what_workers_tell_each_other_is_not_served_to_others(workers: Fleet) -> None:
    relay = {RELAY_HEADER.decode(): '{"client":["127.0.0.1",1],"server":null,"scheme":"http"}'}

    answers = [
        # Each over a connection of its own, to reach either worker.
        await asyncio.to_thread(httpx.post, f"{workers.url}{path}", headers=headers, timeout=10)
        for path in ("/message", "/counts", "//message", "/mcp/../counts")
        for headers in ({}, relay)
        for _ in range(4)
    ]

    assert {answer.status_code for answer in answers} == {404}
    assert {answer.json()["error"] for answer in answers} == {"not_found"}


@shared
async def test_metrics_are_those_of_all_workers_wherever_one_asks(workers: Fleet) -> None:
    def calls(found: list[Sample]) -> float:
        return sum(
            sample.value
            for sample in found
            if sample.name == "mcp_gateway_request_duration_seconds_count"
            and sample.labels["method"] == "tools/call"
            and sample.labels["outcome"] == "ok"
        )

    before = calls(await samples(workers))
    for number in range(20):
        await workers.nap(0, number)
    after = [calls(await samples(workers)) for _ in range(10)]
    workers.kill(1)
    await workers.until("worker_died", 1)
    dead = [calls(await samples(workers)) for _ in range(5)]

    assert after == dead + dead == [before + 20] * 10


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_end_of_all_answers_what_is_in_flight_and_refuses_what_is_new(
    tmp_path: Path, environment: dict[str, str], alice: UserContext, workers: int
) -> None:
    async with (
        fleet(
            tmp_path, environment, alice, workers=workers, DRAIN_TIMEOUT_SECONDS="30"
        ) as running,
        httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=20) as kept,
        httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=20) as streaming,
        streaming.stream("GET", f"{running.url}/mcp/naps", headers=running.headers) as stream,
        asyncio.TaskGroup() as group,
    ):
        pieces = stream.aiter_raw()
        first = await anext(pieces)
        await running.call(kept, 0)
        slow = [group.create_task(running.nap_until_woken(number)) for number in range(CALLS)]
        await running.until_asleep(CALLS)
        ending = group.create_task(running.end(signal.SIGTERM))
        rest = [piece async for piece in pieces]
        await running.until("drain_started", workers)
        on_the_kept = await running.call(kept, 0)
        with pytest.raises(httpx.TransportError):
            await running.nap(0)
        slow_ones_done = [task.done() for task in slow]
        running.naps.woken.set()
        code = await ending

    assert [task.result().status_code for task in slow] == [200] * CALLS
    assert (first, rest) == (b": hello\n\n", [])
    assert not any(slow_ones_done)
    assert outcome(on_the_kept) == 503
    assert error_of(on_the_kept)["data"]["error"] == "service_unavailable"
    assert on_the_kept.headers["connection"] == "close"
    assert code == 0
    assert "Traceback" not in running.process.output


@pytest.mark.parametrize("workers", [2])
async def test_the_end_does_not_wait_for_ever(
    tmp_path: Path, environment: dict[str, str], alice: UserContext, workers: int
) -> None:
    async with (
        fleet(
            tmp_path, environment, alice, workers=workers, DRAIN_TIMEOUT_SECONDS="0.5"
        ) as running,
        asyncio.TaskGroup() as group,
    ):
        slow = group.create_task(running.nap_until_woken())
        await running.until_asleep(1)
        code = await running.end(signal.SIGTERM)

    assert outcome(slow.result()) == 503
    assert slow.result().json()["id"] == 1
    assert code == 0
    assert running.events("worker_killed") == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_signal_ends_it_at_once(
    tmp_path: Path, environment: dict[str, str], alice: UserContext, workers: int
) -> None:
    async with (
        fleet(
            tmp_path, environment, alice, workers=workers, DRAIN_TIMEOUT_SECONDS="300"
        ) as running,
        asyncio.TaskGroup() as group,
    ):
        slow = group.create_task(running.nap_until_woken())
        await running.until_asleep(1)
        os.kill(running.process.pid, signal.SIGINT)
        await running.until("drain_started", workers)
        code = await running.end(signal.SIGINT)

    assert outcome(slow.result()) == 503
    assert code == 0


async def test_while_balancers_take_notice_it_serves_on(
    tmp_path: Path, environment: dict[str, str], alice: UserContext
) -> None:
    async with (
        fleet(tmp_path, environment, alice, DRAIN_DELAY_SECONDS="2") as running,
        httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=30) as http,
        asyncio.TaskGroup() as group,
    ):
        ending = group.create_task(running.end(signal.SIGTERM))
        await running.until("shutdown_started", 2)
        ready = await http.get(f"{running.url}/health/ready")
        called = await running.nap(0)

    assert (ready.status_code, ready.json()["checks"]["accepting_requests"]) == (503, False)
    assert (called.status_code, ending.result()) == (200, 0)


async def test_workers_end_with_their_parent(
    tmp_path: Path, environment: dict[str, str], alice: UserContext
) -> None:
    async with fleet(tmp_path, environment, alice) as running, asyncio.TaskGroup() as group:
        workers = running.process.descendants()
        slow = group.create_task(running.nap(1.5))
        await running.until_asleep(1)
        await running.end(signal.SIGKILL)
        left = await asyncio.to_thread(wait_until_gone, workers)

    assert (len(workers), left) == (2, set())
    assert slow.result().status_code == 200
    assert meeting_places(environment) == []


def problems(folder: Path, environment: dict[str, str]) -> list[str]:
    """Return the lines that a start with two workers ends with."""
    ended = run_registry(folder, environment, "serve", "--workers", "2")
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return [line for line in ended.stderr.splitlines() if line.startswith("registry: ")]


def test_a_wrong_setting_is_said_once(tmp_path: Path, environment: dict[str, str]) -> None:
    (line,) = problems(tmp_path, {**environment, "CREDS_KEY": "short"})

    assert line.startswith("registry: CREDS_KEY")


def test_a_database_that_is_away_is_said_once(tmp_path: Path, environment: dict[str, str]) -> None:
    away = {"MONGO_URI": "mongodb://127.0.0.1:1/", "MONGO_TIMEOUT_MS": "300"}

    (line,) = problems(tmp_path, {**environment, **away})

    assert line == "registry: MONGO_URI: the database cannot be reached"
    assert meeting_places(environment) == []


def test_a_taken_port_is_said_once(tmp_path: Path, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        (line,) = problems(tmp_path, {**environment, "REGISTRY_PORT": port})

    assert "cannot listen on" in line


def test_a_number_of_workers_that_makes_no_sense_is_refused(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (line,) = [
        line
        for line in run_registry(
            tmp_path, {**environment, "REGISTRY_WORKERS": "0"}, "serve"
        ).stderr.splitlines()
        if line.startswith("registry: ")
    ]

    assert line.startswith("registry: REGISTRY_WORKERS")


async def test_local_mode_starts_its_database_once_for_all_workers(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {"REGISTRY_HOME": str(home), "REGISTRY_WORKERS": "2"}

    with RunningRegistry(tmp_path, environment, "--local") as registry:
        await asyncio.to_thread(registry.wait_until_ready)
        headers = {"Authorization": f"Bearer {(home / 'admin.token').read_text()}"}
        async with httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=10) as http:
            listed = await http.get(f"{registry.url}/api/v1/servers", headers=headers)
        children = registry.descendants()
        while "Registry ready" not in registry.output:
            await SystemClock().sleep(0.05)
        code = registry.end(signal.SIGTERM)

    assert [server["serverName"] for server in listed.json()["servers"]] == ["demo"]
    assert (code, wait_until_gone(children)) == (0, set())
    assert registry.output.count("Registry ready") == 1
    assert registry.output.count('"database_started"') <= 2
    assert "Traceback" not in registry.output
