import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from structlog.testing import capture_logs

from registry.core.clock import SystemClock
from registry.processes.local import children
from registry.processes.local.children import ChildSpec, accepts, available_port, supervised
from registry.processes.local.errors import ChildFailedError
from tests.kit.waiting import PROCESS_SECONDS, until

IMPORTS = "import os, signal, socket, sys, time\n"
SERVE = """
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("serving", sorted(os.environ), flush=True)
    while True:
        server.accept()[0].close()
"""
SERVE_STUBBORNLY = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" + SERVE
HANG = "time.sleep(60)"
CRASH = "sys.exit('no good')"

SpecOf = Callable[[str], ChildSpec]


async def _yes() -> bool:
    return True


def log_of(spec: ChildSpec) -> str:
    return spec.log_file.read_text() if spec.log_file.exists() else ""


@pytest.fixture
def spec_of(tmp_path: Path) -> SpecOf:
    port = available_port(None)

    def spec(program: str) -> ChildSpec:
        return ChildSpec(
            name="worker",
            command=(sys.executable, "-I", "-S", "-c", IMPORTS + program, str(port)),
            folder=tmp_path,
            port=port,
            log_file=tmp_path / "worker.log",
            pid_file=tmp_path / "worker.pid",
            answers=_yes,
            quick_crashes=3,
        )

    return spec


async def test_a_child_runs_while_the_body_runs(spec_of: SpecOf, clock: SystemClock) -> None:
    spec = spec_of(SERVE)

    with capture_logs() as logs:
        async with supervised(spec, clock) as child:
            await child.ready()
            pid = child.pid
            assert await accepts(spec.port)

    assert [entry["event"] for entry in logs] == ["worker_started", "worker_stopped"]
    assert {entry["pid"] for entry in logs} == {pid}
    assert child.pid is None
    assert not await accepts(spec.port)
    assert not spec.pid_file.exists()


def test_a_child_runs_under_uvloop_too(spec_of: SpecOf, clock: SystemClock) -> None:
    spec = spec_of(SERVE)

    async def run() -> bool:
        async with supervised(spec, clock) as child:
            await child.ready()
            return await accepts(spec.port)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run())


async def test_a_crashed_child_is_started_again_on_its_port(
    spec_of: SpecOf, clock: SystemClock
) -> None:
    spec = spec_of(SERVE)

    async with supervised(spec, clock) as child:
        await child.ready()
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.pid not in {None, first}, PROCESS_SECONDS)
        await child.ready()

        assert await accepts(spec.port)
        assert spec.pid_file.read_text() == str(child.pid)


async def test_a_child_that_keeps_crashing_is_given_up_and_the_body_cancelled(
    spec_of: SpecOf, clock: SystemClock
) -> None:
    spec = spec_of(CRASH)

    with capture_logs() as logs, pytest.raises(ChildFailedError) as caught:
        async with supervised(spec, clock):
            await asyncio.get_running_loop().create_future()

    assert str(caught.value) == (
        f"The worker crashed 3 times in a row (exit code 1); its log is {spec.log_file}"
    )
    assert spec.log_file.read_text() == "no good\n" * 3
    assert [entry["failures"] for entry in logs] == [1, 2, 3]


async def test_a_child_that_may_crash_for_ever_is_not_given_up(
    spec_of: SpecOf, clock: SystemClock
) -> None:
    spec = replace(spec_of(CRASH), quick_crashes=None)

    async with supervised(spec, clock):
        await until(lambda: log_of(spec).count("no good") > 3, PROCESS_SECONDS)


async def test_a_child_that_does_not_answer_is_reported(
    spec_of: SpecOf, clock: SystemClock
) -> None:
    spec = spec_of(HANG)

    with pytest.raises(ChildFailedError, match=r"The worker did not answer in 0\.05 s; its log"):
        async with supervised(spec, clock) as child:
            await child.ready(timeout_seconds=0.05)


async def test_a_child_that_hangs_at_its_start_is_killed_and_started_again(
    spec_of: SpecOf, clock: SystemClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "READY_SECONDS", 0.05)

    with capture_logs() as logs, pytest.raises(ChildFailedError, match="exit code -9"):
        async with supervised(spec_of(HANG), clock):
            await asyncio.get_running_loop().create_future()

    assert [entry["event"] for entry in logs] == ["worker_unresponsive", "worker_crashed"] * 3


async def test_a_child_that_ignores_the_signal_is_killed(
    spec_of: SpecOf, clock: SystemClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "STOP_SECONDS", 0.1)
    spec = spec_of(SERVE_STUBBORNLY)

    with capture_logs() as logs:
        async with supervised(spec, clock) as child:
            await child.ready()

    assert [entry["event"] for entry in logs] == [
        "worker_started",
        "worker_killed",
        "worker_stopped",
    ]
    assert not await accepts(spec.port)


async def test_the_bodys_own_error_leaves_unchanged(spec_of: SpecOf, clock: SystemClock) -> None:
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the body is what raises
        async with supervised(spec_of(SERVE), clock) as child:
            await child.ready()
            raise KeyError("mine")

    assert child.pid is None


async def test_a_child_gets_no_variables_and_no_terminal_of_ours(
    spec_of: SpecOf, clock: SystemClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDS_KEY", "secret")
    spec = spec_of(SERVE)

    async with supervised(spec, clock) as child:
        await child.ready()
        assert child.pid is not None

        assert os.getsid(child.pid) == child.pid

    assert spec.log_file.read_text() == "serving ['LANG', 'PATH', 'PYTHONUNBUFFERED']\n"


async def test_a_long_log_is_put_aside_at_the_next_start(
    spec_of: SpecOf, clock: SystemClock
) -> None:
    spec = spec_of(SERVE)
    spec.log_file.write_bytes(b"x" * (children.LOG_BYTES + 1))

    async with supervised(spec, clock) as child:
        await child.ready()

    assert spec.log_file.stat().st_size < 100
    assert spec.log_file.with_name("worker.log.1").stat().st_size == children.LOG_BYTES + 1


def test_a_preferred_port_is_kept_while_it_is_free() -> None:
    port = available_port(None)

    assert available_port(port) == port


async def test_a_taken_port_is_replaced() -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with server:
        taken = server.sockets[0].getsockname()[1]

        assert available_port(taken) not in {taken, 0}
