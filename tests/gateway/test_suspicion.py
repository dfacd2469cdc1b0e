"""Which suspected servers are asked again, and how often."""

import asyncio

import pytest

from registry.gateway.view.era_probe import AT_ONCE, PAUSE_SECONDS, EraReprobe
from registry.servers.errors import DiscoveryFailedError
from tests.fakes.clock import FakeClock
from tests.kit.waiting import in_background, others_ran, until


class Probes:
    """Remembers who was asked; fails or waits as a test says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.problem: Exception | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, server_id: str) -> None:
        """Ask one."""
        self.asked.append(server_id)
        await self.may_end.wait()
        if self.problem is not None:
            raise self.problem

    async def until(self, number: int) -> None:
        """Wait until so many were asked."""
        await until(lambda: len(self.asked) >= number, 5)


async def test_many_calls_in_doubt_ask_a_server_once_in_a_while() -> None:
    probes, clock = Probes(), FakeClock()
    suspicions = EraReprobe(probes, clock=clock)
    async with in_background(suspicions.follow()):
        for _ in range(100):
            suspicions.note("a")
        suspicions.note("b")
        await probes.until(2)
        clock.move(PAUSE_SECONDS + 1)
        suspicions.note("a")
        await probes.until(3)

    assert probes.asked == ["a", "b", "a"]


@pytest.mark.parametrize("problem", [DiscoveryFailedError("away"), ValueError("unexpected")])
async def test_a_server_that_cannot_be_asked_costs_the_others_nothing(problem: Exception) -> None:
    probes = Probes()
    probes.problem = problem
    suspicions = EraReprobe(probes, clock=FakeClock())
    async with in_background(suspicions.follow()):
        for number in range(2 * AT_ONCE):
            suspicions.note(str(number))
        await probes.until(2 * AT_ONCE)


async def test_silent_servers_are_few_at_once() -> None:
    probes = Probes()
    probes.may_end.clear()
    suspicions = EraReprobe(probes, clock=FakeClock())
    async with in_background(suspicions.follow()):
        for number in range(3 * AT_ONCE):
            suspicions.note(str(number))
        await probes.until(AT_ONCE)
        await others_ran()

        assert len(probes.asked) == AT_ONCE
        probes.may_end.set()
        await probes.until(3 * AT_ONCE)
