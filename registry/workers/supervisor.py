"""Keep a number of workers running on one port, until a signal ends them.

The parent serves nothing itself. It holds the sockets they listen on, so that what waits there
survives a worker's death, and hands those connections to others until there is a new one.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from registry.core.clock import Clock
from registry.workers.listeners import SPREADS
from registry.workers.metric_totals import record_stopped_worker
from registry.workers.parent_channel import DRAINING, READY, ParentEnd
from registry.workers.runtime_directory import new_worker_id
from registry.workers.worker_config import WorkerConfig

log = structlog.get_logger()

COMMAND = (sys.executable, "-P", "-m", "registry", "worker")

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 10.0
STABLE_SECONDS = 30.0
"""A worker that ran this long counts as having worked: its next death is a first one again."""

AFTERWARDS_SECONDS = 10.0
"""How long a worker may take to end after its drain is over; it is killed then."""
HURRIED_SECONDS = 3.0
"""The same after a second signal."""


class StartFailedError(Exception):
    """The first worker ended before it served. It has said why."""


class Slot:
    """The place of one worker: its socket, and the process that listens on it now."""

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number = number
        self.listener = listener
        self.process: asyncio.subprocess.Process | None = None
        self.channel: ParentEnd | None = None
        self.is_listening = False
        self.was_ready = asyncio.Event()


class Supervisor:
    """Starts the workers, again after each death, and ends them.

    Args:
        listeners: One socket for each worker.
        folder: Where they meet.
        config: Returns a worker's orders, given id, slot and the descriptors it gets.
        clock: Waits.
        drain_seconds: Longest time for a worker to drain, with all delays.
        ready: Called once all of them serve.
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
        self._orders = config
        self._clock = clock
        self._drain_seconds = drain_seconds
        self._ready = ready
        self._signals = 0
        self._ending = asyncio.Event()
        self._hurried = asyncio.Event()
        self._next = 0

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; a second one ends everything at once.

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
                # What is wrong with the settings or the database is said once, and what is done
                # once for each database is done when the others start.
                await self._first_is_ready(first)
                if not self._ending.is_set():
                    keeping += [group.create_task(self._keep(slot)) for slot in others]
                    announcing = group.create_task(self._announce())
                    await asyncio.wait(keeping)
                    announcing.cancel()
        except BaseExceptionGroup as errors:
            # Alone it needs no group, and callers can catch it by its name.
            raise errors.exceptions[0] from None
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        self._signals += 1
        self._ending.set()
        if self._signals > 1:
            self._hurried.set()

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
        """Start a worker and wait for its end. Returns its exit code, -n for signal n."""
        worker = new_worker_id()
        ours, theirs = socket.socketpair()
        slot.channel = ParentEnd(ours, lambda letter: self._said(slot, letter))
        config = self._orders(worker, slot.number, slot.listener.fileno(), theirs.fileno())
        try:
            with theirs:
                slot.process = await asyncio.create_subprocess_exec(
                    *COMMAND,
                    config.text(),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(slot.listener.fileno(), theirs.fileno()),
                    # Ctrl-C reaches the whole group of the terminal; passing it on is our work.
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
            self._stand_in()
            for connection in left:
                self._hand_on(connection)
            record_stopped_worker(config.place, worker)

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Pass both signals on, and wait for the end."""
        ended = asyncio.ensure_future(process.wait())
        await _first(ended, self._ending, None)
        if not ended.done():
            _send(process, signal.SIGTERM)
            await _first(ended, self._hurried, self._drain_seconds + AFTERWARDS_SECONDS)
        if not ended.done() and self._hurried.is_set():
            _send(process, signal.SIGTERM)
            await asyncio.wait({ended}, timeout=HURRIED_SECONDS)
        if not ended.done():
            log.warning("worker_killed", pid=process.pid)
            _send(process, signal.SIGKILL)
        return await ended

    def _said(self, slot: Slot, letter: bytes) -> None:
        if letter == READY:
            slot.is_listening = True
            slot.was_ready.set()
        elif letter == DRAINING:
            slot.is_listening = False
        self._stand_in()

    def _stand_in(self) -> None:
        """Accept for those that do not listen now, and give the connections to those that do."""
        if not SPREADS:
            return
        loop = asyncio.get_running_loop()
        anybody = any(slot.is_listening for slot in self._slots)
        for slot in self._slots:
            if slot.listener.fileno() < 0:
                continue
            loop.remove_reader(slot.listener.fileno())
            if slot.is_listening:
                continue
            if self._ending.is_set():
                # Nobody comes after this one; who connects now is to be refused.
                slot.listener.close()
            elif anybody:
                slot.listener.setblocking(False)
                loop.add_reader(slot.listener.fileno(), self._accept, slot)

    def _accept(self, slot: Slot) -> None:
        try:
            connection, _ = slot.listener.accept()
        except OSError:
            return
        self._hand_on(connection)

    def _hand_on(self, connection: socket.socket) -> None:
        """Give a connection to a worker that listens, each in turn."""
        able = [
            each.channel for each in self._slots if each.is_listening and each.channel is not None
        ]
        with connection:
            self._next += 1
            turn = self._next % max(len(able), 1)
            any(channel.hand(connection) for channel in (*able[turn:], *able[:turn]))


async def _first(
    ended: asyncio.Future[int], told: asyncio.Event, timeout_seconds: float | None
) -> None:
    """Wait for either, or until the time is up."""
    telling = asyncio.ensure_future(told.wait())
    either: set[asyncio.Future[Any]] = {ended, telling}
    await asyncio.wait(either, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)
