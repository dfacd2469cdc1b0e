"""A MongoDB-compatible daemon in a process of its own, for tests that need the real wire.

It runs without `--sync-on-commit`: tests want speed, and what they store may be lost. Where the
system has a file system in memory, its files are there: it makes a file for each collection and
index, hundreds in a test, and waits for each where the disk is busy.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pymongo import MongoClient

from registry.processes.local import tether
from registry.processes.local.daemon import CACHE_SIZE

HOST = "127.0.0.1"
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
ASK_AGAIN_SECONDS = 0.25
POLL_SECONDS = 0.02
LOG_TAIL_CHARACTERS = 2000
MEMORY = Path("/", "dev", "shm")
LEAST_MEMORY_BYTES = 2_000_000_000
"""Free space of that file system below which the disk is used."""
PREFIX = "registry-tests-"


class DaemonError(Exception):
    """The daemon did not start. The message ends with its log."""


@dataclass(slots=True)
class RunningDaemon:
    """A daemon that answers. Leave it as a context manager, or call `stop`.

    Attributes:
        storage: Folder of the data; `restart` finds it again.
        port: Port on loopback, kept over restarts.
        process: The child process, which is new after every restart.
        options: Further arguments of its command line.
    """

    storage: Path
    port: int
    process: subprocess.Popen[bytes]
    options: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """Return a connection string without a database name."""
        return f"mongodb://{HOST}:{self.port}/"

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    def stop(self) -> None:
        """Ask it to end and wait; it is killed when it does not. Does nothing when it is down."""
        self._signal(signal.SIGTERM)
        asked_at, deadline = time.monotonic(), time.monotonic() + STOP_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            # Its accept loop looks at the stop flag only after its next connection. A signal that
            # comes just before it waits for a lock is missed: then it goes on listening.
            if _accepts(self.port) and time.monotonic() - asked_at >= ASK_AGAIN_SECONDS:
                self._signal(signal.SIGTERM)
                asked_at = time.monotonic()
            time.sleep(POLL_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it as `kill -9` does. Does nothing when it is down."""
        self._signal(signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def suspend(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `suspend`."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again on the same port and data, after `stop`, `kill` or while it runs."""
        self.stop()
        self.process = _spawn(self.storage, self.port, self.options)
        _wait_until_ready(self)

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        data = self.storage / "data"
        if data.is_symlink():
            shutil.rmtree(data.resolve(), ignore_errors=True)
            data.unlink()


def start_daemon(storage: Path, *options: str) -> RunningDaemon:
    """Start a daemon with its data in *storage* on a free port, and wait until it answers.

    Raises:
        DaemonError: It ended, or did not answer in time.
    """
    storage.mkdir(parents=True, exist_ok=True)
    _keep_in_memory(storage / "data")
    port = _free_port()
    daemon = RunningDaemon(storage, port, _spawn(storage, port, options), options)
    _wait_until_ready(daemon)
    return daemon


def _keep_in_memory(data: Path) -> None:
    if data.exists() or not _has_room(MEMORY):
        return
    for left in MEMORY.glob(f"{PREFIX}*"):
        # Of a run of tests that was killed.
        if not Path("/proc", left.name.removeprefix(PREFIX).partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    data.symlink_to(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=MEMORY))


def _has_room(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= LEAST_MEMORY_BYTES


def _spawn(storage: Path, port: int, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    # Without a file of its own it would read one of the user's.
    configuration = storage / "daemon.toml"
    configuration.touch()
    command = [
        *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid())),
        *(sys.executable, "-P", "-m", "secantus"),
        *("--config", str(configuration), "--host", HOST, "--port", str(port)),
        *("--storage-path", str(storage / "data"), "--cache-size", CACHE_SIZE),
        *("--log-level", "WARNING"),
        *options,
    ]
    with _log(storage).open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=storage,
            start_new_session=True,
        )


def _wait_until_ready(daemon: RunningDaemon) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _accepts(daemon.port):
        if daemon.process.poll() is not None or time.monotonic() > deadline:
            daemon.kill()
            log = _log(daemon.storage).read_text(errors="replace")
            raise DaemonError(log[-LOG_TAIL_CHARACTERS:])
        time.sleep(POLL_SECONDS)
    client: MongoClient[dict[str, object]] = MongoClient(
        daemon.uri, serverSelectionTimeoutMS=int(READY_SECONDS * 1000)
    )
    with client:
        client.admin.command("ping")


def _log(storage: Path) -> Path:
    return storage / "daemon.log"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False
