"""Terminates a child process that an earlier registry left behind, and only that.

A process id alone is not enough, because the system reuses it. The process must also have the
given argument in its command line.
"""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import structlog

from registry.core.clock import Clock

POLL_SECONDS = 0.02
END_SECONDS = 5.0
"""How long an orphan may take to end by itself. The embedded database needs two seconds."""

log = structlog.get_logger(__name__)


async def end_orphan(pid_file: Path, marker: str, clock: Clock) -> int | None:
    """End the process that *pid_file* names, when *marker* is one of its arguments.

    Call it before a port is chosen: the orphan holds the one that its clients know.

    Returns:
        Its process id, or None when there was nothing to end.
    """
    pid = _recorded_pid(pid_file)
    if pid is None or not _is_ours(pid, marker):
        return None
    log.warning("orphan_process_found", pid=pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = clock.monotonic() + END_SECONDS
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        while (_is_ours(pid, marker) or _is_ending(pid)) and clock.monotonic() < deadline:
            await clock.sleep(POLL_SECONDS)
    return pid


def _recorded_pid(pid_file: Path) -> int | None:
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    # To kill(2) these name a process group, all processes and init.
    return pid if pid > 1 else None


def _is_ending(pid: int) -> bool:
    """Whether *pid* has lost its memory, and with it its arguments, but not yet its sockets."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return not arguments and state not in {b"Z", b"X"}


def _is_ours(pid: int, marker: str) -> bool:
    """Whether *pid* runs with *marker*; not when it is gone or only waits to be reaped."""
    if Path("/proc/self/cmdline").exists():
        try:
            return os.fsencode(marker) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
    listing = subprocess.run(  # noqa: S603 - fixed arguments and a number
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        check=False,
        text=True,
        timeout=END_SECONDS,
    )
    return marker in listing.stdout
