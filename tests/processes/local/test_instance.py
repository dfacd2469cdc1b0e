import asyncio
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client
from pymongo import AsyncMongoClient

from registry.core.clock import SystemClock
from registry.core.settings import load_settings
from registry.processes.local import daemon
from registry.processes.local.children import accepts
from registry.processes.local.errors import ChildFailedError, HomeInUseError
from registry.processes.local.home import LocalHome, settings_overrides
from registry.processes.local.instance import LocalInstance
from tests.kit.waiting import PROCESS_SECONDS, until, until_async

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 20

INSTANCE = """
import asyncio, sys
from pathlib import Path
from pymongo import AsyncMongoClient
from registry.core.clock import SystemClock
from registry.processes.local.instance import LocalInstance

async def main():
    async with LocalInstance(Path(sys.argv[1]), SystemClock()) as instance:
        async with AsyncMongoClient(instance.mongo_uri) as client:
            await client.get_default_database()["rows"].insert_one({"_id": 1})
        print(instance.database_pid, instance.demo_pid, flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


# One instance serves the tests that leave it as it is: a first start takes a second.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def instance(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalInstance]:
    async with LocalInstance(tmp_path_factory.mktemp("shared") / "home", SystemClock()) as running:
        yield running


@pytest.mark.wire
async def test_the_instance_gives_a_database_and_a_demo_server(instance: LocalInstance) -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(instance.mongo_uri)
    async with client, Client(instance.demo_url) as demo:
        hello = await client.admin.command("hello")
        answer = await demo.call_tool("add", {"a": 1, "b": 2})

    assert hello["setName"]
    assert answer.structured_content == {"result": 3.0}


@pytest.mark.wire
async def test_other_commands_find_the_running_instance(instance: LocalInstance) -> None:
    settings = load_settings(**settings_overrides(instance.home.path))

    assert settings.mongo_uri.get_secret_value() == instance.mongo_uri
    assert instance.settings_overrides() == settings_overrides(instance.home.path)


@pytest.mark.wire
async def test_every_file_of_a_running_instance_is_private(instance: LocalInstance) -> None:
    files = [path for path in instance.home.path.rglob("*") if path.is_file()]

    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.wire
async def test_a_second_instance_is_refused(instance: LocalInstance, clock: SystemClock) -> None:
    with pytest.raises(HomeInUseError, match=rf"another registry \(pid {os.getpid()}\)"):
        async with LocalInstance(instance.home.path, clock):
            pass


@pytest.mark.wire
async def test_the_demo_server_comes_back_after_a_crash(instance: LocalInstance) -> None:
    first = instance.demo_pid
    assert first is not None

    os.kill(first, signal.SIGKILL)
    await until(lambda: instance.demo_pid not in {None, first}, PROCESS_SECONDS)
    await until_async(lambda: accepts(int(instance.demo_url.split(":")[2].partition("/")[0])))

    async with Client(instance.demo_url) as demo:
        assert (await demo.list_tools()).tools


@pytest.mark.wire
async def test_a_clean_stop_leaves_no_process_and_the_next_start_the_same_addresses(
    home: LocalHome, clock: SystemClock
) -> None:
    addresses, pids = [], []
    for _ in range(2):
        async with LocalInstance(home.path, clock) as instance:
            addresses.append((instance.mongo_uri, instance.demo_url))
            pids += [instance.database_pid, instance.demo_pid]

    assert addresses[0] == addresses[1]
    assert not any(pid is None or is_running(pid) for pid in pids)


@pytest.mark.wire
async def test_an_instance_that_does_not_run_has_no_address(
    home: LocalHome, clock: SystemClock
) -> None:
    with pytest.raises(RuntimeError, match="not running"):
        _ = LocalInstance(home.path, clock).mongo_uri


@pytest.mark.wire
async def test_a_database_that_cannot_start_ends_the_instance_and_its_demo_server(
    home: LocalHome, clock: SystemClock
) -> None:
    with home.locked():
        home.prepare()
    (home.data / "WiredTiger").write_text("damaged")
    (home.data / "WiredTiger.turtle").write_text("damaged")

    with pytest.raises(ChildFailedError, match=r"crashed 5 times .* its log is .*database\.log"):
        async with LocalInstance(home.path, clock):
            pass

    with home.locked():
        assert not list(home.path.glob("demo-server.pid"))


@pytest.mark.wire
async def test_a_database_that_fails_for_good_cancels_the_body(
    home: LocalHome, clock: SystemClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "QUICK_CRASHES", 1)

    with pytest.raises(ChildFailedError, match=r"exit code -9"):  # noqa: PT012 - the body fails
        async with LocalInstance(home.path, clock) as instance:
            assert instance.database_pid is not None
            os.kill(instance.database_pid, signal.SIGKILL)
            await asyncio.get_running_loop().create_future()


@pytest.mark.requirement("R-001")
@pytest.mark.wire
async def test_kill_9_of_the_registry_takes_the_children_along_and_loses_nothing(
    home: LocalHome, clock: SystemClock
) -> None:
    with subprocess.Popen(  # noqa: ASYNC220 - our own script, and nothing else runs meanwhile
        [sys.executable, "-c", INSTANCE, home.path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if re.fullmatch(r"\d+ \d+\n", line))
        process.kill()
    await until(lambda: not any(is_running(int(pid)) for pid in line.split()), PROCESS_SECONDS)

    async with LocalInstance(home.path, clock) as instance:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(instance.mongo_uri)
        async with client:
            assert await client.get_default_database()["rows"].count_documents({}) == 1


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that waits to be reaped has no command line any more.
    return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
