"""Ending background tasks."""

import asyncio

from registry.core.background_tasks import end, end_all
from tests.kit.waiting import others_ran


async def test_a_task_that_winds_up_is_left_to_do_so() -> None:
    began, cleaned = asyncio.Event(), asyncio.Event()
    cancellations = 0

    async def winding_up() -> None:
        nonlocal cancellations
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancellations += 1
            asyncio.get_running_loop().call_soon(cleaned.set)
            try:
                await cleaned.wait()
            except asyncio.CancelledError:
                cancellations += 1

    async with asyncio.TaskGroup() as group:
        task = group.create_task(winding_up())
        await began.wait()
        await end(task)

    assert cancellations == 1


async def test_a_task_that_loses_a_cancellation_is_ended_by_the_next() -> None:
    losing: set[int] = set()

    async def lose(number: int) -> None:
        losing.add(number)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        losers = [group.create_task(lose(number)) for number in range(3)]
        await others_ran()
        await end_all(losers, interval_seconds=0.01)

    assert losing == {0, 1, 2}
    assert all(task.cancelled() for task in losers)
