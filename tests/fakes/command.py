"""The `registry` command as a process of its own."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.fakes.loopback import NO_CERTIFICATES

START = "from registry.__main__ import main; main()"
READY_SECONDS = 25.0
END_SECONDS = 15.0
POLL_SECONDS = 0.05
HOST = "127.0.0.1"


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def run_registry(
    folder: Path, environment: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run one command in *folder* to its end, with nothing but *environment*."""
    return subprocess.run(
        [sys.executable, "-c", START, *arguments],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=READY_SECONDS,
    )


class RunningRegistry:
    """A registry that serves. Leaving it as a context manager kills what still runs.

    Attributes:
        url: Its address.
        log_file: What it wrote to standard output and error.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *arguments: str,
        port: int | None = None,
    ) -> None:
        port = port or free_port()
        self.url = f"http://{HOST}:{port}"
        self.log_file = folder / f"registry-{port}.log"
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, "serve", *arguments],
                cwd=folder,
                env={**environment, "REGISTRY_PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def output(self) -> str:
        """Return what it wrote so far."""
        return self.log_file.read_text()

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> float:
        """Return how many seconds it took until it was ready.

        Raises:
            AssertionError: It ended, or was not ready in time.
        """
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            assert self._process.poll() is None, self.output
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health/ready", verify=NO_CERTIFICATES).is_success:
                    return time.monotonic() - began
            time.sleep(POLL_SECONDS)
        raise AssertionError(self.output)

    def descendants(self) -> set[int]:
        """Return the process ids of its children and their children (Linux)."""
        return _descendants(self._process.pid)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code, which must come in time."""
        self._process.send_signal(number)
        return self._process.wait(END_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait(END_SECONDS)


def worker_pid(registry: RunningRegistry, slot: int) -> int:
    """Return the process that serves as the worker of a slot now, as the log has it."""
    lines = [line for line in registry.output.splitlines() if '"worker_started"' in line]
    started = [json.loads(line) for line in lines if line.endswith("}")]
    return int([each["pid"] for each in started if each["slot"] == slot][-1])


def wait_until_gone(pids: set[int]) -> set[int]:
    """Wait until none of *pids* runs and return those that still do after a while."""
    deadline = time.monotonic() + END_SECONDS
    while (left := {pid for pid in pids if _runs(pid)}) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return left


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child} | _descendants(child)
    return found


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
