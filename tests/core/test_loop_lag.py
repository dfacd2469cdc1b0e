"""A loop that is held up shows in the metrics."""

import asyncio
import socket
import time

import pytest

from registry.core.clock import SystemClock
from registry.core.metrics import Metrics, watch_loop
from tests.fakes.blocking import BlockingCalls
from tests.kit.waiting import others_ran, until

HELD_UP_SECONDS = 0.1


def observed(metrics: Metrics) -> float:
    """Return the seconds by which the loop was late."""
    return metrics.registry.get_sample_value("event_loop_lag_seconds_sum") or 0.0


@pytest.mark.requirement("R-333")
async def test_a_loop_that_is_held_up_shows_in_the_metrics() -> None:
    metrics = Metrics()
    task = asyncio.get_running_loop().create_task(
        watch_loop(SystemClock(), metrics.loop_lag, interval_seconds=0.01)
    )
    await others_ran()

    time.sleep(HELD_UP_SECONDS)  # noqa: ASYNC251 - that is the point
    await until(lambda: observed(metrics) > HELD_UP_SECONDS / 2)
    task.cancel()

    assert observed(metrics) < 100 * HELD_UP_SECONDS


def test_a_call_that_waits_is_noticed() -> None:
    with BlockingCalls() as seen:
        socket.getaddrinfo("127.0.0.1", 80)

    assert seen == ["socket.getaddrinfo"]
