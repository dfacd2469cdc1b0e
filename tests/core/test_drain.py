"""The two steps of an end, and waits that it interrupts."""

import asyncio

import pytest

from registry.core.drain import Drain


async def forever() -> str:
    await asyncio.Event().wait()
    return "never"


async def at_once() -> str:
    return "itself"


async def test_leaving_comes_before_the_drain() -> None:
    drain = Drain()

    steps = [(drain.is_leaving, drain.has_begun)]
    drain.leave()
    steps.append((drain.is_leaving, drain.has_begun))
    drain.begin()
    steps.append((drain.is_leaving, drain.has_begun))

    assert steps == [(False, False), (True, False), (True, True)]
    async with asyncio.timeout(30):
        await drain.wait()


async def test_a_wait_is_interrupted_by_the_drain_and_not_by_leaving() -> None:
    drain = Drain()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        waits = [group.create_task(drain.interrupt(forever, "instead")) for _ in range(3)]
        await asyncio.wait(waits, timeout=0.05)
        drain.leave()
        await asyncio.wait(waits, timeout=0.05)
        before = [wait.done() for wait in waits]
        drain.begin()

    assert before == [False] * 3
    assert [wait.result() for wait in waits] == ["instead"] * 3


async def test_a_wait_that_ends_by_itself_is_not_interrupted_later() -> None:
    drain = Drain()

    result = await drain.interrupt(at_once, "instead")
    drain.begin()
    await asyncio.wait_for(forever_no_more(), 1)

    assert result == "itself"


async def forever_no_more() -> None:
    """Would be cancelled if the task were still waited for."""


async def test_after_the_drain_began_nothing_is_waited_for() -> None:
    drain = Drain()
    drain.begin()

    assert await drain.interrupt(forever, "instead") == "instead"


async def test_a_cancellation_by_others_stays_one() -> None:
    drain = Drain()

    async with asyncio.TaskGroup() as group:
        wait = group.create_task(drain.interrupt(forever, "instead"))
        await asyncio.wait({wait}, timeout=0.05)
        drain.begin()
        wait.cancel()
        await asyncio.wait({wait})

    assert wait.cancelled()


async def test_an_interruption_passes_a_timeout_inside() -> None:
    drain = Drain()

    async def looking() -> str:
        while True:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                continue

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        wait = group.create_task(drain.interrupt(looking, "instead"))
        await asyncio.wait({wait}, timeout=0.05)
        drain.begin()

    assert wait.result() == "instead"


def test_only_tasks_can_be_interrupted() -> None:
    coroutine = Drain().interrupt(at_once, "instead")

    with pytest.raises(RuntimeError):
        coroutine.send(None)
