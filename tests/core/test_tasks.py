"""Ending background tasks."""

import asyncio

import pytest

from registry.core import background_tasks as tasks
from registry.core.background_tasks import end, end_all
from registry.core.clock import SystemClock


async def test_a_task_that_winds_up_is_left_to_do_so() -> None:
    clock = SystemClock()
    cancellations = 0

    async def winding_up() -> None:
        nonlocal cancellations
        try:
            await clock.sleep(60)
        except asyncio.CancelledError:
            cancellations += 1
            try:
                await clock.sleep(0.5)
            except asyncio.CancelledError:
                cancellations += 1

    async with asyncio.TaskGroup() as group:
        task = group.create_task(winding_up())
        await clock.sleep(0)
        await end(task)

    assert cancellations == 1


async def test_a_task_that_loses_a_cancellation_is_ended_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "CANCEL_INTERVAL_SECONDS", 0.1)
    clock = SystemClock()

    async def losing() -> None:
        try:
            await clock.sleep(60)
        except asyncio.CancelledError:
            await clock.sleep(60)

    async with asyncio.TaskGroup() as group:
        losers = [group.create_task(losing()) for _ in range(3)]
        await clock.sleep(0)
        await end_all(losers)

    assert all(task.cancelled() for task in losers)
