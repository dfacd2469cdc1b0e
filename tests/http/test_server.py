"""How a server ends: what is in flight is answered, and nobody is left hanging."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from registry.core.clock import SystemClock
from registry.core.drain import Drain
from registry.http.server.connection import ConnectionLimits
from registry.http.server.server import Server
from registry.web.middleware import RefuseWhileDraining


@dataclass
class App:
    """Answers at once, or when it is told to."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] == "/slow":
            self.begun.set()
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


@dataclass
class Running:
    """A server that serves."""

    app: App
    drain: Drain
    server: Server
    url: str
    http: httpx.AsyncClient
    serving: asyncio.Task[None]


LIMITS = ConnectionLimits(100, 5.0, 5.0, 1024 * 1024)


@asynccontextmanager
async def running(
    *, delay_seconds: float = 0.0, drain_seconds: float = 5.0
) -> AsyncIterator[Running]:
    app, drain = App(), Drain()
    server = Server(
        RefuseWhileDraining(app, drain),
        drain,
        SystemClock(),
        LIMITS,
        delay_seconds=delay_seconds,
        drain_seconds=drain_seconds,
    )
    listening = asyncio.Event()
    server.on_listening = listening.set
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listener]))
        await listening.wait()
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            yield Running(app, drain, server, url, http, serving)
        server.stop()


async def test_with_nothing_in_flight_it_ends_at_once() -> None:
    async with running() as run:
        began = time.monotonic()
        run.server.stop()
        await run.serving

    assert time.monotonic() - began < 0.3


async def test_what_is_in_flight_is_answered_and_its_connection_closed() -> None:
    async with running() as run, asyncio.TaskGroup() as group:
        slow = group.create_task(run.http.get("/slow"))
        await run.app.begun.wait()
        run.server.stop()
        await run.drain.wait()
        run.app.released.set()
        answer = await slow
        await run.serving

    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert run.app.cancelled == 0


async def test_a_request_on_an_open_connection_is_refused_and_not_cut_off() -> None:
    async with running() as run:
        await run.http.get("/")
        run.server.stop()
        await run.drain.wait()
        refused = await run.http.get("/")
        with pytest.raises(httpx.ConnectError):
            await run.http.get("/")

    assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    assert refused.json()["error"] == "service_unavailable"
    assert int(refused.headers["retry-after"]) > 0


async def test_an_open_connection_can_still_be_asked_for_health_and_metrics() -> None:
    async with running() as run:
        await run.http.get("/")
        run.server.stop()
        await run.drain.wait()
        answers = [(await run.http.get(path)).status_code for path in ("/health/x", "/metrics")]

    assert answers == [200, 200]


async def test_idle_connections_are_closed_in_the_end() -> None:
    async with running() as run:
        await run.http.get("/")
        began = time.monotonic()
        run.server.stop()
        await run.serving

    assert time.monotonic() - began < 2


async def test_what_takes_too_long_is_cut_off() -> None:
    async with running(drain_seconds=0.1) as run, asyncio.TaskGroup() as group:
        slow = group.create_task(run.http.get("/slow"))
        await run.app.begun.wait()
        run.server.stop()
        await run.serving

    assert run.app.cancelled == 1
    assert slow.result().status_code == 200


async def test_told_twice_it_ends_at_once() -> None:
    async with running(drain_seconds=60) as run, asyncio.TaskGroup() as group:
        group.create_task(run.http.get("/slow"))
        await run.app.begun.wait()
        run.server.stop()
        await run.drain.wait()
        run.server.stop()
        await run.serving

    assert run.app.cancelled == 1


async def test_before_it_drains_it_serves_on_and_says_that_it_leaves() -> None:
    async with running(delay_seconds=0.5) as run:
        run.server.stop()
        await SystemClock().sleep(0.1)
        steps = (run.drain.is_leaving, run.drain.has_begun)
        async with httpx.AsyncClient(base_url=run.url, timeout=30) as another:
            served = await another.get("/")
        await run.serving

    assert (steps, served.status_code) == ((True, False), 200)
    assert run.drain.has_begun


async def test_told_twice_it_does_not_wait_for_balancers_either() -> None:
    async with running(delay_seconds=60) as run:
        run.server.stop()
        await SystemClock().sleep(0.05)
        run.server.stop()
        await run.serving

    assert run.drain.has_begun


async def test_a_connection_that_another_process_accepted_is_served() -> None:
    async with running() as run:
        with socket.create_server(("127.0.0.1", 0)) as other:
            async with asyncio.TaskGroup() as group:
                port = other.getsockname()[1]
                asked = group.create_task(run.http.get(f"http://127.0.0.1:{port}/"))
                accepted, _ = await asyncio.to_thread(other.accept)
                run.server.take_over(accepted)

    assert asked.result().status_code == 200


async def test_an_orphan_ends() -> None:
    async with running() as run:
        run.server.orphaned()
        await run.serving

    assert run.server.is_orphaned
