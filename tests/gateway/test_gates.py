"""What one server's calls may take up, and what they may not take from others."""

import asyncio
import errno
from typing import Any

import pytest
from aiohttp import ServerDisconnectedError

from registry.core.metrics import Metrics
from registry.gateway.errors import UpstreamBusy, UpstreamPaused
from registry.gateway.transport.bulkhead import MIN_IDLE_CHECK, Bulkhead, BulkheadLimits, Bulkheads
from registry.gateway.transport.circuit_breaker import CircuitBreakerRules
from tests.fakes.clock import FakeClock
from tests.gateway.fakes import PRIVATE, make_route
from tests.kit.waiting import others_ran

WAIT_SECONDS = 5.0
ROUTE = make_route()


class Gates:
    """Gates with a clock that a test moves."""

    def __init__(self, *, calls: int = 2, waiting: int = 1, seconds: float = WAIT_SECONDS) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        limits = BulkheadLimits(calls, waiting, seconds, CircuitBreakerRules(2, 30.0, 10.0))
        self.all = Bulkheads(limits, self.clock, self.metrics)
        self.gate: Bulkhead = self.all.of(ROUTE)

    async def fail(self, error: BaseException) -> None:
        """Make a call that ends with *error*."""
        with pytest.raises(type(error)):
            async with self.gate.call():
                raise error

    async def open(self) -> None:
        """Fail until the server is left alone."""
        await self.fail(ServerDisconnectedError())
        await self.fail(ServerDisconnectedError())

    def sample(self, name: str, **labels: str) -> float | None:
        """Return a metric of the server."""
        return self.metrics.registry.get_sample_value(name, {"server": ROUTE.label, **labels})


async def hold(gate: Bulkhead, until: asyncio.Event) -> None:
    async with gate.call():
        await until.wait()


async def settle() -> None:
    for _ in range(5):
        await others_ran()


async def test_calls_beyond_the_limit_wait_and_those_beyond_the_queue_are_refused() -> None:
    gates, ended = Gates(), asyncio.Event()

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(hold(gates.gate, ended))
        await settle()
        busy = gates.gate.busy
        with pytest.raises(UpstreamBusy) as refused:
            async with gates.gate.call():
                pass
        ended.set()

    assert busy == 2
    assert (refused.value.http_status, refused.value.error) == (503, "upstream_busy")
    assert refused.value.headers == ((b"retry-after", b"2"),)
    assert gates.gate.busy == 0
    assert gates.sample("mcp_gateway_queue_refusals_total") == 1


async def test_who_waits_longest_is_next() -> None:
    gates, order = Gates(calls=1, waiting=5), []

    async def note(number: int) -> None:
        async with gates.gate.call():
            order.append(number)
            await settle()

    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(note(number))

    assert order == [0, 1, 2, 3, 4]


async def test_waiting_has_an_end() -> None:
    gates, ended = Gates(calls=1, seconds=0.01), asyncio.Event()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(gates.gate, ended))
        await settle()
        with pytest.raises(UpstreamBusy):
            async with gates.gate.call():
                pass
        ended.set()

    assert gates.gate.is_idle


async def test_a_place_is_not_lost_with_a_call_that_stops_waiting() -> None:
    gates, ended = Gates(calls=1, waiting=3), asyncio.Event()
    order = []

    async def note() -> None:
        async with gates.gate.call():
            order.append("served")

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(gates.gate, ended))
        await settle()
        leaving = tasks.create_task(note())
        tasks.create_task(note())
        await settle()
        # The place is its own already when it is cancelled.
        ended.set()
        await others_ran()
        leaving.cancel()

    assert order == ["served"]
    assert gates.gate.is_idle


async def test_a_server_that_fails_is_left_alone_and_those_who_wait_are_told() -> None:
    gates, ended = Gates(calls=1), asyncio.Event()
    outcomes: list[str] = []

    async def fail_later() -> None:
        async with gates.gate.call() as turn:
            await ended.wait()
            turn.answered(503)

    async def wait() -> None:
        try:
            async with gates.gate.call():
                outcomes.append("asked")
        except UpstreamPaused as paused:
            outcomes.append(paused.message)

    await gates.fail(ServerDisconnectedError())
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(fail_later())
        await settle()
        tasks.create_task(wait())
        await settle()
        ended.set()
    with pytest.raises(UpstreamPaused) as refused:
        async with gates.gate.call():
            pass

    told = "The server demo failed several times in a row; the next call is possible in 10 s."
    assert outcomes == [told]
    assert refused.value.message == told
    assert refused.value.headers == ((b"retry-after", b"10"),)


async def test_the_metrics_tell_of_an_open_breaker_until_it_closes() -> None:
    gates = Gates()
    await gates.open()
    while_open = gates.sample("mcp_gateway_breaker_state", state="open")

    gates.clock.move(10.0)
    async with gates.gate.call() as turn:
        probing = gates.sample("mcp_gateway_breaker_state", state="half_open")
        turn.answered(200)

    assert (while_open, probing) == (1, 1)
    assert gates.sample("mcp_gateway_breaker_state", state="open") == 0
    assert gates.sample("mcp_gateway_breaker_state", state="half_open") == 0
    assert gates.sample("mcp_gateway_breaker_transitions_total", state="closed") == 1


async def test_a_probe_goes_through_although_calls_that_hang_have_every_place() -> None:
    gates, ended = Gates(calls=1), asyncio.Event()

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(gates.gate, ended))
        await settle()
        gates.gate.failed(gates.gate.breaker.epoch)
        gates.gate.failed(gates.gate.breaker.epoch)
        gates.clock.move(10.0)
        async with gates.gate.call() as turn:
            turn.answered(200)
        ended.set()

    assert gates.gate.is_idle


@pytest.mark.parametrize(
    ("status", "is_asked"), [(200, True), (404, True), (500, True), (502, False), (503, False)]
)
async def test_only_what_a_front_says_of_a_dead_server_counts(
    status: int, *, is_asked: bool
) -> None:
    gates = Gates()

    for _ in range(2):
        async with gates.gate.call() as turn:
            turn.answered(status)

    assert gates.gate.is_idle is is_asked


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), ValueError("a header"), OSError(errno.EMFILE, "too many files")],
    ids=["the client left", "an unsendable request", "no file descriptor left"],
)
async def test_what_is_not_the_servers_fault_does_not_count(error: BaseException) -> None:
    gates = Gates()

    for _ in range(3):
        await gates.fail(error)

    assert gates.gate.is_idle


async def test_servers_have_gates_of_their_own_even_at_one_address() -> None:
    gates = Gates()
    other = gates.all.of(make_route(slug="other"))

    await gates.open()

    async with other.call():
        pass
    assert other is not gates.gate


async def test_a_server_that_moves_is_asked_again_and_one_that_only_changes_is_not() -> None:
    gates = Gates()
    await gates.open()

    same = gates.all.of(make_route(tools=[]))
    moved = gates.all.of(make_route("http://127.0.0.1:8/mcp"))

    assert same is gates.gate
    async with moved.call():
        pass
    assert gates.sample("mcp_gateway_breaker_state", state="open") == 0


async def test_calls_that_outlive_a_move_do_not_count_it_twice() -> None:
    gates = Gates()
    await gates.open()
    gates.clock.move(10.0)

    async with gates.gate.call() as turn:
        gates.all.of(make_route(facts=PRIVATE))
        turn.answered(200)

    assert gates.sample("mcp_gateway_breaker_state", state="half_open") == 0


async def test_gates_of_servers_that_nobody_calls_are_forgotten() -> None:
    gates = Gates()
    await gates.open()

    for number in range(3 * MIN_IDLE_CHECK):
        gates.all.of(make_route(slug=f"s{number}"))

    known: dict[Any, Any] = gates.all._bulkheads
    assert len(known) <= MIN_IDLE_CHECK + 1
    assert gates.all.of(ROUTE) is gates.gate
