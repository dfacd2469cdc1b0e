"""The driver's waiting leaves neither a lock nor a socket behind."""

import asyncio
import gc
import socket
import warnings
from types import ModuleType

import pytest
from pymongo import network_layer, pool_shared
from pymongo.lock import _async_cond_wait, _async_create_condition, _async_create_lock
from pymongo.pool_options import PoolOptions

from packages.database.waiting import CONNECT, repair_driver
from registry.core.clock import SystemClock
from tests.kit.waiting import others_ran


async def test_who_is_cancelled_when_the_time_is_up_leaves_the_lock_free() -> None:
    repair_driver()
    clock = SystemClock()
    lock = _async_create_lock()
    condition = _async_create_condition(lock)

    async def waiting() -> None:
        async with lock:
            await _async_cond_wait(condition, 0.05)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(waiting())
        await clock.sleep(0.01)
        async with lock:
            # The time is up, and the lock cannot be had yet.
            await clock.sleep(0.1)
            task.cancel()

    assert task.cancelled()
    assert not lock.locked()
    async with asyncio.timeout(1), lock:
        assert lock.locked()


async def test_waiting_ends_by_time_and_by_being_told() -> None:
    repair_driver()
    clock = SystemClock()
    condition = _async_create_condition(_async_create_lock())

    async with condition:
        assert not await _async_cond_wait(condition, 0.01)

    async def tell() -> None:
        await clock.sleep(0.02)
        async with condition:
            condition.notify_all()

    async with asyncio.TaskGroup() as group, condition:
        group.create_task(tell())
        assert await _async_cond_wait(condition, 5)


@pytest.mark.parametrize("module", [network_layer, pool_shared])
@pytest.mark.parametrize("steps", range(5))
async def test_a_cancellation_is_not_lost_to_what_has_just_ended(
    module: ModuleType, steps: int
) -> None:
    repair_driver()
    written = asyncio.Event()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(module.asyncio.wait_for(written.wait(), 5))
        await others_ran()
        written.set()
        for _ in range(steps):
            await others_ran()
        is_under_way = task.cancel()
        await asyncio.wait([task])

    assert task.cancelled() is is_under_way


async def test_who_is_cancelled_while_a_connection_is_opened_ends_and_leaves_no_socket_behind(
    recwarn: pytest.WarningsRecorder,
) -> None:
    repair_driver()
    warnings.simplefilter("always", ResourceWarning)

    async def give_up(address: tuple[str, int], after: int) -> None:
        opening = getattr(pool_shared, CONNECT)(address, PoolOptions())
        task: asyncio.Task[socket.socket] = asyncio.ensure_future(opening)
        for _ in range(after):
            await others_ran()
        is_under_way = task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() is is_under_way
        if not is_under_way:
            task.result().close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        for steps in range(8):
            await give_up(listener.getsockname(), steps)
    gc.collect()

    assert [str(one.message) for one in recwarn if one.category is ResourceWarning] == []
