"""The `registry` command as a process of its own.

Most tests mind what it does, not how it is loaded: theirs are forked from one that has loaded
it, which takes a tenth of the time. `run_in_new_interpreter` starts it as a shell does, and so do
`registry` itself, where it starts workers, and what `tests/test_readme.py` runs.
"""

import atexit
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx

from tests.fakes import fork_server
from tests.fakes.loopback import NO_CERTIFICATES

START = "from registry.__main__ import main; main()"
READY_SECONDS = 60.0
END_SECONDS = 60.0
"""Longer than the drain of any test and what follows it: a worker is killed 40 seconds after the
signal where one may drain for 30."""
POLL_SECONDS = 0.05
STATUS_BYTES = 32
HOST = "127.0.0.1"


PORTS = range(20_000, 32_000)
"""Below those that systems give to connections: one could take a port before it is listened on."""


def free_port() -> int:
    """Return a port that nobody listens on now."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


class Command:
    """A command that was started, with what a `subprocess.Popen` has.

    Leaving it as a context manager kills what still runs.

    Attributes:
        pid: Its process id.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *arguments: str,
        log: IO[bytes] | None = None,
    ) -> None:
        self._arguments = arguments
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - see __exit__
        self._status, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._returncode: int | None = None
        self._lock = threading.Lock()
        request = {
            "folder": str(folder),
            "environment": dict(environment),
            "arguments": arguments,
        }
        with theirs, Path(os.devnull).open("rb") as nothing:
            standard = [nothing, log or self._files[0], log or self._files[1]]
            files = [*(file.fileno() for file in standard), theirs.fileno()]
            socket.send_fds(_fork_server(), [json.dumps(request).encode()], files)
        self._status.settimeout(READY_SECONDS)
        self.pid = self._told()

    def result(self, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        """Return how it ended, and what it wrote unless that went to a log.

        Raises:
            subprocess.TimeoutExpired: It runs on.
        """
        code = self.wait(timeout_seconds)
        wrote = []
        for file in self._files:
            file.seek(0)
            wrote.append(file.read().decode())
        return subprocess.CompletedProcess(self._arguments, code, *wrote)

    def poll(self) -> int | None:
        """Return the exit code, as `Popen` has it, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout_seconds: float) -> int:
        """Return the exit code.

        Raises:
            subprocess.TimeoutExpired: It runs on.
        """
        if self._returncode is None:
            status = select.poll()
            status.register(self._status, select.POLLIN)
            if not status.poll(timeout_seconds * 1000):
                raise subprocess.TimeoutExpired("registry", timeout_seconds)
        with self._lock:
            if self._returncode is None:
                self._returncode = self._told()
            return self._returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.send_signal(signal.SIGKILL)
        self.wait(END_SECONDS)
        self._status.close()
        for file in self._files:
            file.close()

    def _told(self) -> int:
        number = self._status.recv(STATUS_BYTES)
        assert number, "the fork server has ended; standard error has its traceback"
        return int(number)


@cache
def _fork_server() -> socket.socket:
    """Return the control socket of a process that forks commands; one for each of pytest."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", fork_server.__file__, str(theirs.fileno())],
            env={},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait(END_SECONDS)

    atexit.register(end)
    return ours


def run_registry(
    folder: Path,
    environment: Mapping[str, str],
    *arguments: str,
    timeout_seconds: float = READY_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run one command in *folder* to its end, with nothing but *environment*."""
    with Command(folder, environment, *arguments) as command:
        return command.result(timeout_seconds)


def run_in_new_interpreter(
    folder: Path, environment: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run one command like `run_registry`, in an interpreter that has loaded nothing yet."""
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
            variables = {"SEARCH_MODEL": "none", **environment, "REGISTRY_PORT": str(port)}
            self._process = Command(folder, variables, "serve", *arguments, log=log)

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
        """Send a signal and return the exit code.

        Raises:
            AssertionError: It runs on after a while. Holds what it wrote.
        """
        self._process.send_signal(number)
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(self.output) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.__exit__(kind, error, traceback)


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
