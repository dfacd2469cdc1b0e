"""uvicorn's server with our own graceful shutdown: no call is lost, and no client hangs."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

from registry.core.clock import Clock
from registry.core.drain import Drain
from registry.http.server.connection import ConnectionLimits, JoiningProtocol, protocol_within

log = structlog.get_logger()

KEEP_ALIVE_SECONDS = 75
"""Longer than the usual 60 s of load balancers, so that they close connections, not we."""

LINGER_SECONDS = 0.5
"""How long idle connections stay open at the end, so that a request in transit gets a 503 and is
not cut off."""

SETTLE_SECONDS = 0.2
"""How long requests are still served after the listeners closed, for the latest connections."""

POLL_SECONDS = 0.05
CANCEL_SECONDS = 2.0
"""How long cancelled requests may take to answer their clients."""


def configuration(app: ASGIApp, limits: ConnectionLimits) -> uvicorn.Config:
    """Return uvicorn's configuration for *app* within *limits*."""
    return uvicorn.Config(
        app,
        http=protocol_within(limits),  # type: ignore[arg-type]  # called like a class
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


class Server(uvicorn.Server):
    """Serves until `stop`, then drains.

    Signals are left to the caller: uvicorn would end the process before its contexts close.

    Args:
        app: What is served.
        drain: Notified of each step.
        clock: Used for delays.
        limits: What clients may take up.
        delay_seconds: How long it serves on, saying that it is not ready, before it drains.
        drain_seconds: Longest time for requests in flight to end; they are cancelled then.

    Attributes:
        on_listening: Called when it listens.
        on_draining: Called when it does not listen any more.
        is_orphaned: Whether the process that started this one is gone.
    """

    def __init__(
        self,
        app: ASGIApp,
        drain: Drain,
        clock: Clock,
        limits: ConnectionLimits,
        *,
        delay_seconds: float,
        drain_seconds: float,
    ) -> None:
        super().__init__(configuration(app, limits))
        self._limits = limits
        self._drain = drain
        self._clock = clock
        self._delay_seconds = delay_seconds
        self._drain_seconds = drain_seconds
        self.on_listening: Callable[[], None] = _nothing
        self.on_draining: Callable[[], None] = _nothing
        self.is_orphaned = False
        self._stopped = asyncio.Event()
        self._forced = asyncio.Event()
        self.private: asyncio.Server | None = None
        self._taken_over: set[asyncio.Task[object]] = set()

    def stop(self) -> None:
        """Start the shutdown; a second call ends it at once, whatever is in flight."""
        if self._stopped.is_set():
            self._forced.set()
        self._stopped.set()

    def orphaned(self) -> None:
        """Stop because the parent process has exited."""
        log.warning("worker_parent_exited")
        self.is_orphaned = True
        if not self._stopped.is_set():
            self.stop()

    async def listen_privately(self, path: Path, app: ASGIApp) -> None:
        """Serve *app* on a unix socket until the drain is over."""
        # Connections of other workers have limits of their own, apart from those of clients.
        config = configuration(app, self._limits)
        config.load()
        self.private = await asyncio.get_running_loop().create_unix_server(
            lambda: self._protocol(config), str(path)
        )

    def take_over(self, connection: socket.socket) -> None:
        """Serve a connection that another process accepted."""
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        task = loop.create_task(
            loop.connect_accepted_socket(lambda: self._protocol(self.config), connection)
        )
        self._taken_over.add(task)
        task.add_done_callback(self._taken_over.discard)

    def _protocol(self, config: uvicorn.Config) -> asyncio.Protocol:
        made: Callable[..., asyncio.Protocol] = config.http_protocol_class
        return made(config, self.server_state, {})

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_listening()

    @override
    async def main_loop(self) -> None:
        await self._stopped.wait()
        self._drain.leave()
        if self._delay_seconds:
            log.info("shutdown_started", seconds=self._delay_seconds)
            await self._sleep_unless_forced(self._delay_seconds)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self.on_draining()
        state = self.server_state
        self._drain.leave()
        if state.connections:
            await self._sleep_unless_forced(SETTLE_SECONDS)
        self._drain.begin()
        log.info("drain_started", in_flight=len(state.tasks), connections=len(state.connections))
        began_at = self._clock.monotonic()
        for connection in list(state.connections):
            if isinstance(connection, JoiningProtocol):
                connection.close_after_answer()
        await self._answered(began_at)
        cut_off = await self._cut_off()
        if self.private is not None:
            self.private.close()
        seconds = self._clock.monotonic() - began_at
        log.info("drain_finished", aborted=cut_off, seconds=round(seconds, 3))

    async def _answered(self, began_at: float) -> None:
        """Wait until nothing is in flight, or until the drain timeout."""
        state = self.server_state
        while state.connections and not self._forced.is_set():
            passed = self._clock.monotonic() - began_at
            if passed >= self._drain_seconds or (not state.tasks and passed >= LINGER_SECONDS):
                return
            await self._sleep_unless_forced(POLL_SECONDS)

    async def _cut_off(self) -> int:
        """Cancel requests in flight and close all connections; return the number of requests."""
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.close()
        return len(tasks)

    async def _sleep_unless_forced(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._forced.wait()


def _nothing() -> None:
    pass
