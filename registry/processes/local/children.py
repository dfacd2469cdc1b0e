"""Supervised child processes: started, watched, restarted with backoff, stopped.

Knows nothing of what a child does. Every child has a port on loopback, which it keeps over
restarts so that its clients find it again.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Never

import structlog

from registry.core.clock import Clock
from registry.processes.local import tether
from registry.processes.local.errors import ChildFailedError
from registry.processes.local.home import write_private

HOST = "127.0.0.1"
READY_SECONDS = 30.0
"""How long one start may take until the child answers. Recovery of a large log takes seconds."""
STOP_SECONDS = 10.0
"""How long a child may take to end by itself before it is killed."""
ASK_AGAIN_SECONDS = 0.25
POLL_SECONDS = 0.02
CONNECT_SECONDS = 1.0
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 10.0
STABLE_SECONDS = 30.0
"""A child that ran this long has worked: its next crash counts as the first failure."""
LOG_BYTES = 1024 * 1024
"""A longer log is rotated at the next start; one older log is kept."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """The command of a child, and its readiness check.

    Attributes:
        name: Snake-case name, the start of its log events.
        command: Program and arguments.
        folder: Folder to run in.
        port: Port on loopback that it listens on.
        log_file: Where its output goes.
        pid_file: Where its process id is kept, for `registry.processes.local.orphans`.
        answers: Whether it can be used now; asked once it accepts connections.
        quick_crashes: How many in a row are fatal; None to go on for ever.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    port: int
    log_file: Path
    pid_file: Path
    answers: Callable[[], Awaitable[bool]]
    quick_crashes: int | None


class SupervisedChild:
    """One child process. Get it from `supervised`, which owns its task."""

    def __init__(self, spec: ChildSpec, clock: Clock) -> None:
        self._spec = spec
        self._clock = clock
        self._ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id of the running child, or None while there is none."""
        if self._process is None or self._process.returncode is not None:
            return None
        return self._process.pid

    async def ready(self, *, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until the child answers.

        Raises:
            ChildFailedError: It did not in *timeout_seconds*.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._ready.wait()
        except TimeoutError:
            problem = f"did not answer in {timeout_seconds:g} s"
            raise ChildFailedError(self._spec.name, problem, self._spec.log_file) from None

    async def supervise(self) -> Never:
        """Run the child, restart it after each crash, and stop it on cancellation.

        Raises:
            ChildFailedError: It crashed too often in a row.
        """
        spec, failures = self._spec, 0
        try:
            while True:
                started = self._clock.monotonic()
                exit_code = await self._run_once()
                seconds = self._clock.monotonic() - started
                failures = 1 if seconds >= STABLE_SECONDS else failures + 1
                log.warning(self._event("crashed"), exit_code=exit_code, failures=failures)
                if spec.quick_crashes is not None and failures >= spec.quick_crashes:
                    problem = f"crashed {failures} times in a row (exit code {exit_code})"
                    raise ChildFailedError(spec.name, problem, spec.log_file)
                await self._clock.sleep(
                    min(FIRST_DELAY_SECONDS * 2 ** (failures - 1), LONGEST_DELAY_SECONDS)
                )
        finally:
            await self._stop()

    async def _run_once(self) -> int:
        """Start the child and wait until it exits. Return its exit code, -n for signal n."""
        started = self._clock.monotonic()
        process = self._process = await self._spawn()
        if await self._becomes_ready(process):
            log.info(
                self._event("started"),
                pid=process.pid,
                port=self._spec.port,
                seconds=round(self._clock.monotonic() - started, 3),
            )
            self._ready.set()
        elif process.returncode is None:
            log.warning(self._event("unresponsive"), pid=process.pid)
            process.kill()
        try:
            return await process.wait()
        finally:
            self._ready.clear()

    async def _spawn(self) -> asyncio.subprocess.Process:
        spec = self._spec
        with _opened_log(spec.log_file) as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid())),
                *spec.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=spec.folder,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
                # Ctrl-C reaches the terminal's whole process group; only we stop the child.
                start_new_session=True,
            )
        write_private(spec.pid_file, str(process.pid))
        return process

    async def _becomes_ready(self, process: asyncio.subprocess.Process) -> bool:
        deadline = self._clock.monotonic() + READY_SECONDS
        while process.returncode is None and self._clock.monotonic() < deadline:
            if await accepts(self._spec.port) and await self._spec.answers():
                # Another program may hold the port: then ours has exited.
                return process.returncode is None
            await self._clock.sleep(POLL_SECONDS)
        return False

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._ask_to_end(process)
        except TimeoutError:
            log.warning(self._event("killed"), pid=process.pid)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        self._spec.pid_file.unlink(missing_ok=True)
        log.info(self._event("stopped"), pid=process.pid, exit_code=process.returncode)

    async def _ask_to_end(self, process: asyncio.subprocess.Process) -> None:
        asked_at: float | None = None
        while process.returncode is None:
            # The database checks its stop flag only after its next connection, so this both wakes
            # it and shows whether it still listens.
            listens = await accepts(self._spec.port)
            now = self._clock.monotonic()
            # A Python program can miss a signal that comes just before it waits for a lock.
            if asked_at is None or (listens and now - asked_at >= ASK_AGAIN_SECONDS):
                asked_at = now
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            await self._clock.sleep(POLL_SECONDS)

    def _event(self, what: str) -> str:
        return f"{self._spec.name}_{what}"


@asynccontextmanager
async def supervised(spec: ChildSpec, clock: Clock) -> AsyncIterator[SupervisedChild]:
    """Keep a child running while the body runs, and stop it afterwards.

    Does not wait until the child answers: `SupervisedChild.ready` does.

    Raises:
        ChildFailedError: It crashed too often; the body was cancelled.
    """
    child = SupervisedChild(spec, clock)
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child.supervise(), name=spec.name)
            yield child
            task.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) > 1:
            raise
        failure = errors.exceptions[0]
    if failure is not None:
        # A single error needs no group: callers can catch it by its type.
        raise failure


def available_port(preferred: int | None) -> int:
    """Return *preferred* if it is free on loopback, otherwise another free port."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe, suppress(OSError):
            # As servers do: ports that only wait out an old connection are free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise OSError("no free port on " + HOST)


async def accepts(port: int) -> bool:
    """Whether something accepts connections on *port* of the loopback address."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(HOST, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def _opened_log(path: Path) -> BinaryIO:
    with suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    path.touch(mode=0o600)
    return path.open("ab")
