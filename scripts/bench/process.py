"""Processes under measurement: start, CPU time, resident memory, stop."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of one process so far, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_mib(pid: int) -> float:
    """Return the resident memory of one process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


def free_port() -> int:
    """Return a port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[str], ready_url: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* until the context ends; it is entered once *ready_url* answers."""
    process = subprocess.Popen(
        command,
        env={**_inherited(), **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_ready(process, ready_url)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until *url* answers with any status below 500."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            try:
                with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - loopback
                    return
            except urllib.error.HTTPError as exc:
                if exc.code < 500:  # noqa: PLR2004 - it answers
                    return
        time.sleep(0.02)
    raise RuntimeError(f"{url} did not answer")


def _inherited() -> dict[str, str]:
    wanted = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in wanted if name in os.environ}  # noqa: TID251 - for children
