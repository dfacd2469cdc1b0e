"""What is freed goes back to the system, some time after it was much."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from registry.core.background_tasks import end
from registry.core.memory import RELEASE_BYTES, RELEASE_DELAY_SECONDS, FreedMemory, release_memory
from tests.fakes.clock import FakeClock
from tests.fakes.memory import GivenBack
from tests.kit.waiting import others_ran

PATIENCE_SECONDS = 30


@asynccontextmanager
async def following(memory: FreedMemory) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE_SECONDS):
        task = group.create_task(memory.follow())
        yield
        await end(task)


async def test_much_that_was_freed_is_given_back_once_and_later() -> None:
    clock, given = FakeClock(), GivenBack()
    memory = FreedMemory(clock, given)

    async with following(memory):
        memory.note(RELEASE_BYTES)
        memory.note(RELEASE_BYTES)
        await given.came()

    assert given.times == 1
    assert clock.monotonic() == RELEASE_DELAY_SECONDS


async def test_little_is_kept_until_it_is_much_together() -> None:
    given = GivenBack()
    memory = FreedMemory(FakeClock(), given)

    async with following(memory):
        memory.note(RELEASE_BYTES // 2)
        await others_ran()
        assert given.times == 0
        memory.note(RELEASE_BYTES // 2 + 1)
        await given.came()


async def test_each_time_it_is_much_counts_anew() -> None:
    given = GivenBack()
    memory = FreedMemory(FakeClock(), given)

    async with following(memory):
        for _ in range(3):
            memory.note(RELEASE_BYTES)
            await given.came()
            memory.note(RELEASE_BYTES // 2)

    assert given.times == 3


def test_it_is_given_back_wherever_this_runs() -> None:
    release_memory()
