"""Supervisor: keeps a number of worker processes running on one port until a signal.

It serves no requests itself. It holds the listening sockets, so that waiting connections survive a
worker's death, and sends those connections to other workers until the worker is restarted.
Each worker has a socket of its own on the port; the system spreads connections over them evenly,
docs/decisions/0009-workers.md has the figures.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import orjson
import structlog

from registry.core.clock import Clock
from registry.processes.parent_channel import DRAINING, READY, ParentEnd
from registry.workers.metric_totals import record_stopped_worker
from registry.workers.runtime_directory import RuntimeDirectory, new_worker_id

log = structlog.get_logger()

COMMAND = (sys.executable, "-P", "-m", "registry", "worker")

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 10.0
STABLE_SECONDS = 30.0
"""A worker that ran this long has worked: its next death counts as the first failure."""

EXIT_SECONDS = 10.0
"""How long a worker may take to exit after its drain is over; then it is killed."""
FORCED_EXIT_SECONDS = 3.0
"""The same after a second signal."""


BACKLOG = 2048
"""Connections that may wait to be accepted, also before a worker serves."""

SPREADS = sys.platform == "linux"
"""Whether the system spreads connections over sockets of one port. Elsewhere all share one."""


class StartFailedError(Exception):
    """The first worker exited before it was ready. It has logged the reason."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker's configuration, passed on its command line. Holds no secret.

    Attributes:
        worker: Its id.
        slot: Its number among the workers.
        folder: The runtime directory of all workers.
        listener: File descriptor of the socket it listens on.
        channel: File descriptor of its end of the control channel.
        port: The port it listens on; the setting may be 0.
        workers: The number of workers.
        local_home: The home folder, in local mode.
    """

    worker: str
    slot: int
    folder: str
    listener: int
    channel: int
    port: int
    workers: int
    local_home: str | None

    @property
    def directory(self) -> RuntimeDirectory:
        """Return this worker's view of the runtime directory."""
        return RuntimeDirectory(Path(self.folder), self.worker, self.slot)

    def text(self) -> str:
        """Serialize to one command line argument."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse such an argument."""
        return cls(**orjson.loads(text))


class Slot:
    """One worker's listening socket, and the process that currently listens on it."""

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number = number
        self.listener = listener
        self.process: asyncio.subprocess.Process | None = None
        self.channel: ParentEnd | None = None
        self.is_listening = False
        self.was_ready = asyncio.Event()


class Supervisor:
    """Starts the workers, restarts them with exponential backoff, and stops them.

    Args:
        listeners: One socket for each worker.
        folder: Their runtime directory.
        config: Returns a worker's configuration, given id, slot and its file descriptors.
        clock: The time source.
        drain_seconds: Longest time for a worker to drain, including all delays.
        ready: Called once all workers are ready.
    """

    def __init__(
        self,
        listeners: list[socket.socket],
        folder: Path,
        config: Callable[[str, int, int, int], WorkerConfig],
        clock: Clock,
        *,
        drain_seconds: float,
        ready: Callable[[], None],
    ) -> None:
        self._slots = [Slot(number, each) for number, each in enumerate(listeners)]
        self._folder = folder
        self._config = config
        self._clock = clock
        self._drain_seconds = drain_seconds
        self._ready = ready
        self._signals = 0
        self._ending = asyncio.Event()
        self._forced = asyncio.Event()
        self._next = 0

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. A second signal stops all workers at once.

        Raises:
            StartFailedError: The first worker did not start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        first, *others = self._slots
        try:
            async with asyncio.TaskGroup() as group:
                keeping = [group.create_task(self._keep(first))]
                # So that a wrong setting or an unavailable database is reported once, and the
                # work that is needed once per database is done before the others start.
                await self._first_is_ready(first)
                if not self._ending.is_set():
                    keeping += [group.create_task(self._keep(slot)) for slot in others]
                    announcing = group.create_task(self._announce())
                    await asyncio.wait(keeping)
                    announcing.cancel()
        except BaseExceptionGroup as errors:
            # A single error needs no group: callers can catch it by its type.
            raise errors.exceptions[0] from None
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        self._signals += 1
        self._ending.set()
        if self._signals > 1:
            self._forced.set()

    async def _announce(self) -> None:
        for slot in self._slots:
            await slot.was_ready.wait()
        self._ready()

    async def _first_is_ready(self, slot: Slot) -> None:
        while not slot.was_ready.is_set() and not self._ending.is_set():
            await self._clock.sleep(0.02)

    async def _keep(self, slot: Slot) -> None:
        failures = 0
        while not self._ending.is_set():
            started_at = self._clock.monotonic()
            code = await self._run_once(slot)
            if self._ending.is_set():
                break
            if slot.number == 0 and not slot.was_ready.is_set():
                raise StartFailedError
            if code == 0:
                failures = 0
                continue
            stable = self._clock.monotonic() - started_at >= STABLE_SECONDS
            failures = 1 if stable else failures + 1
            log.warning("worker_died", slot=slot.number, exit_code=code, failures=failures)
            delay = min(FIRST_DELAY_SECONDS * 2 ** (failures - 1), LONGEST_DELAY_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._ending.wait()

    async def _run_once(self, slot: Slot) -> int:
        """Start a worker and wait until it exits. Return its exit code, -n for signal n."""
        worker = new_worker_id()
        ours, theirs = socket.socketpair()
        slot.channel = ParentEnd(ours, lambda message: self._on_message(slot, message))
        config = self._config(worker, slot.number, slot.listener.fileno(), theirs.fileno())
        try:
            with theirs:
                slot.process = await asyncio.create_subprocess_exec(
                    *COMMAND,
                    config.text(),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(slot.listener.fileno(), theirs.fileno()),
                    # Ctrl-C reaches the terminal's whole process group; only we forward it.
                    start_new_session=True,
                )
            log.info("worker_started", slot=slot.number, worker=worker, pid=slot.process.pid)
            return await self._ended(slot.process)
        finally:
            if slot.process is not None and slot.process.returncode is None:
                slot.process.kill()
                await slot.process.wait()
            left, slot.channel = slot.channel.close(), None
            slot.is_listening = False
            self._cover_listeners()
            for connection in left:
                self._dispatch(connection)
            record_stopped_worker(config.directory, worker)

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Forward both signals, and wait until the process exits."""
        ended = asyncio.ensure_future(process.wait())
        await _first(ended, self._ending, None)
        if not ended.done():
            _send(process, signal.SIGTERM)
            await _first(ended, self._forced, self._drain_seconds + EXIT_SECONDS)
        if not ended.done() and self._forced.is_set():
            _send(process, signal.SIGTERM)
            await asyncio.wait({ended}, timeout=FORCED_EXIT_SECONDS)
        if not ended.done():
            log.warning("worker_killed", pid=process.pid)
            _send(process, signal.SIGKILL)
        return await ended

    def _on_message(self, slot: Slot, message: bytes) -> None:
        if message == READY:
            slot.is_listening = True
            slot.was_ready.set()
        elif message == DRAINING:
            slot.is_listening = False
        self._cover_listeners()

    def _cover_listeners(self) -> None:
        """Accept connections for workers that do not listen now; send them to those that do."""
        if not SPREADS:
            return
        loop = asyncio.get_running_loop()
        is_any_listening = any(slot.is_listening for slot in self._slots)
        for slot in self._slots:
            if slot.listener.fileno() < 0:
                continue
            loop.remove_reader(slot.listener.fileno())
            if slot.is_listening:
                continue
            if self._ending.is_set():
                # No worker will be started here again, so refuse new connections.
                slot.listener.close()
            elif is_any_listening:
                slot.listener.setblocking(False)
                loop.add_reader(slot.listener.fileno(), self._accept, slot)

    def _accept(self, slot: Slot) -> None:
        try:
            connection, _ = slot.listener.accept()
        except OSError:
            return
        self._dispatch(connection)

    def _dispatch(self, connection: socket.socket) -> None:
        """Send a connection to a worker that listens, round robin."""
        able = [
            each.channel for each in self._slots if each.is_listening and each.channel is not None
        ]
        with connection:
            self._next += 1
            turn = self._next % max(len(able), 1)
            any(channel.send_connection(connection) for channel in (*able[turn:], *able[:turn]))


async def _first(
    ended: asyncio.Future[int], event: asyncio.Event, timeout_seconds: float | None
) -> None:
    """Wait for either, or until the timeout."""
    waiting = asyncio.ensure_future(event.wait())
    either: set[asyncio.Future[Any]] = {ended, waiting}
    await asyncio.wait(either, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


@contextmanager
def listening(host: str, port: int, count: int) -> Iterator[list[socket.socket]]:
    """Listen on a port, with as many sockets as there are workers.

    Raises:
        OSError: The port is taken, or there is no such address.
    """
    family, kind, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with ExitStack() as stack:
        first = stack.enter_context(socket.socket(family, kind))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Without SO_REUSEPORT, so that binding fails if another process listens on the port.
        first.bind(address)
        listeners = [first]
        if count > 1 and SPREADS:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listeners += [
                stack.enter_context(_beside(family, kind, first.getsockname()))
                for _ in range(count - 1)
            ]
        for listener in listeners:
            # A port that is only bound can still be taken by another process that listens.
            listener.listen(BACKLOG)
        yield listeners if SPREADS else listeners * count


def _beside(family: int, kind: int, address: object) -> socket.socket:
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)  # type: ignore[arg-type]  # as its kind of socket names it
    return listener
