"""Registries of three processes whose processes can be killed one by one, and come back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from registry.core.clock import SystemClock
from tests.chaos.lines import Connection, served_by
from tests.fakes.command import RunningRegistry, worker_pid

PROCESSES = 3
START_SECONDS = 90.0
"""Three at once on a busy machine; alone they take a few seconds."""

POLL_SECONDS = 0.02


class Registries(Protocol):
    """Three processes."""

    shares_calls: bool

    def any_address(self) -> str:
        """Return each address that is served, in turn."""

    def hold(self, victim: int, connections: Sequence[Connection]) -> None:
        """Stop a process, and mark the connections that will be cut by its death."""

    def release(self, victim: int, connections: Sequence[Connection]) -> None:
        """Let it go on after all."""

    async def kill(self, victim: int) -> None:
        """Kill it with SIGKILL."""

    async def restore(self, victim: int) -> None:
        """Return once the process that takes its place serves."""

    def output(self) -> str:
        """Return all that they logged."""


@dataclass(slots=True)
class Replicas:
    """Registries that know nothing of each other, behind what a balancer does."""

    processes: list[RunningRegistry]
    folder: Path
    environment: Mapping[str, str]
    stack: ExitStack
    shares_calls: bool = False
    _logs: list[str] = field(default_factory=list)
    _addresses: list[str] = field(default_factory=list)
    _turn: "count[int]" = field(default_factory=count)

    def __post_init__(self) -> None:
        """Serve at all addresses."""
        self._addresses = [process.url for process in self.processes]

    def any_address(self) -> str:
        """Return each address that is served, in turn."""
        return self._addresses[next(self._turn) % len(self._addresses)]

    def hold(self, victim: int, connections: Sequence[Connection]) -> None:
        """Stop a process, and mark its connections."""
        process = self.processes[victim]
        self._addresses.remove(process.url)
        _stop(process.pid)
        for connection in connections:
            connection.is_cut |= connection.target == process.url

    def release(self, victim: int, connections: Sequence[Connection]) -> None:
        """Let it go on after all."""
        process = self.processes[victim]
        for connection in connections:
            connection.is_cut &= connection.target != process.url
        os.kill(process.pid, signal.SIGCONT)
        self._addresses.append(process.url)

    async def kill(self, victim: int) -> None:
        """Kill it."""
        await asyncio.to_thread(self.processes[victim].end, signal.SIGKILL)
        self._logs.append(self.processes[victim].output)

    async def restore(self, victim: int) -> None:
        """Start another at the same address."""
        port = urlsplit(self.processes[victim].url).port
        process = self.stack.enter_context(
            RunningRegistry(self.folder, self.environment, port=port)
        )
        self.processes[victim] = process
        await asyncio.to_thread(process.wait_until_ready, START_SECONDS)
        self._addresses.append(process.url)

    def output(self) -> str:
        """Return all that they logged."""
        return "".join([*self._logs, *(process.output for process in self.processes)])


@dataclass(slots=True)
class Workers:
    """The workers of one registry, on one port."""

    process: RunningRegistry
    shares_calls: bool = True

    @property
    def _port(self) -> int:
        return urlsplit(self.process.url).port or 0

    def any_address(self) -> str:
        """Return the only address there is."""
        return self.process.url

    def hold(self, victim: int, connections: Sequence[Connection]) -> None:
        """Stop a worker, and mark the connections that it has accepted."""
        pid = worker_pid(self.process, victim)
        _stop(pid)
        ports = served_by(pid, self._port)
        for connection in connections:
            connection.is_cut |= connection.port in ports

    def release(self, victim: int, connections: Sequence[Connection]) -> None:
        """Let it go on after all."""
        pid = worker_pid(self.process, victim)
        ports = served_by(pid, self._port)
        for connection in connections:
            connection.is_cut &= connection.port not in ports
        os.kill(pid, signal.SIGCONT)

    async def kill(self, victim: int) -> None:
        """Kill it; the registry itself starts the next."""
        pid = worker_pid(self.process, victim)
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(START_SECONDS):
            while worker_pid(self.process, victim) == pid:
                await SystemClock().sleep(POLL_SECONDS)

    async def restore(self, victim: int) -> None:
        """Wait until it has clients."""
        async with asyncio.timeout(START_SECONDS):
            while not served_by(worker_pid(self.process, victim), self._port):
                await SystemClock().sleep(POLL_SECONDS)

    def output(self) -> str:
        """Return all that they logged."""
        return self.process.output


@asynccontextmanager
async def replicas(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Replicas]:
    """Run three registries on one database."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(RunningRegistry(folder, environment)) for _ in range(PROCESSES)
        ]
        for process in processes:
            await asyncio.to_thread(process.wait_until_ready, START_SECONDS)
        yield Replicas(processes, folder, environment, stack)


@asynccontextmanager
async def workers(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Workers]:
    """Run one registry with three workers."""
    with RunningRegistry(folder, environment, "--workers", str(PROCESSES)) as process:
        async with asyncio.timeout(START_SECONDS):
            while '"registry_ready"' not in process.output:
                assert process.is_running, process.output
                await SystemClock().sleep(POLL_SECONDS)
        yield Workers(process)


def _stop(pid: int) -> None:
    """Stop a process and return once it does nothing any more (Linux)."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        pass
