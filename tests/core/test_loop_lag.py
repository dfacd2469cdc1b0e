"""A loop that is held up shows in the metrics."""

import asyncio
import socket
import time

import pytest

from registry.core import metrics as loop_lag
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from tests.fakes.blocking import BlockingCalls

HELD_UP_SECONDS = 0.1


@pytest.mark.requirement("R-333")
async def test_a_loop_that_is_held_up_shows_in_the_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_lag, "INTERVAL_SECONDS", 0.01)
    metrics = Metrics()
    task = asyncio.get_running_loop().create_task(
        loop_lag.watch_loop(SystemClock(), metrics.loop_lag)
    )
    await SystemClock().sleep(0)

    time.sleep(HELD_UP_SECONDS)  # noqa: ASYNC251 - that is the point
    await SystemClock().sleep(0.05)
    task.cancel()

    total = metrics.registry.get_sample_value("event_loop_lag_seconds_sum")
    assert total is not None
    assert total > HELD_UP_SECONDS / 2


def test_a_call_that_waits_is_noticed() -> None:
    with BlockingCalls() as seen:
        socket.getaddrinfo("127.0.0.1", 80)

    assert seen == ["socket.getaddrinfo"]
