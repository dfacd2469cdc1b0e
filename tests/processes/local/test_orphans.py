import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.core.clock import SystemClock
from registry.processes.local.orphans import end_orphan

WAIT_SECONDS = 30
MARKER = "--storage-path=/some where/data"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-S",
        "-c",
        "import sys; print(flush=True); sys.stdin.read()",
        MARKER,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


async def test_an_orphan_is_ended(
    process: subprocess.Popen[bytes], tmp_path: Path, clock: SystemClock
) -> None:
    (tmp_path / "pid").write_text(str(process.pid))

    ended = await end_orphan(tmp_path / "pid", MARKER, clock)

    assert ended == process.pid
    assert process.wait(WAIT_SECONDS) == -15


@pytest.mark.parametrize("marker", ["--storage-path=/some where/dat", "/some where/data"])
async def test_a_stranger_with_the_recorded_pid_is_left_alone(
    process: subprocess.Popen[bytes], tmp_path: Path, clock: SystemClock, marker: str
) -> None:
    (tmp_path / "pid").write_text(str(process.pid))

    assert await end_orphan(tmp_path / "pid", marker, clock) is None
    assert process.poll() is None


@pytest.mark.parametrize(
    "content",
    ["", "x", "-1", "0", "999999999", str(os.getpid())],
    ids=["empty", "text", "negative", "zero", "nobody", "ourselves"],
)
async def test_a_pid_file_that_names_no_orphan_ends_nothing(
    tmp_path: Path, clock: SystemClock, content: str
) -> None:
    (tmp_path / "pid").write_text(content)

    assert await end_orphan(tmp_path / "pid", MARKER, clock) is None


async def test_without_a_pid_file_there_is_no_orphan(tmp_path: Path, clock: SystemClock) -> None:
    assert await end_orphan(tmp_path / "pid", MARKER, clock) is None
