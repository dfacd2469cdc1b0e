"""The metrics of all workers add up, also over the death of one."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Gauge
from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import override

from registry.core.metrics import Metrics
from registry.workers.metric_totals import (
    GAUGES,
    Aggregation,
    MetricFamily,
    MetricTotals,
    packed,
    record_stopped_worker,
    stopped_worker_counts,
    total,
    unpacked,
)
from registry.workers.peers import WorkerPeers
from registry.workers.runtime_directory import RuntimeDirectory, runtime_directory

A, B, C = "aaaaaaaa", "bbbbbbbb", "cccccccc"


@pytest.fixture
def folder() -> Iterator[Path]:
    with runtime_directory() as folder:
        yield folder


class Others(WorkerPeers):
    """Answers for workers of this test, as long as they live."""

    def __init__(self, directory: RuntimeDirectory) -> None:
        super().__init__(directory)
        self.living: dict[str, Worker] = {}
        self.silent: set[str] = set()
        self.then: Callable[[], None] = lambda: None

    @override
    async def counts(self) -> dict[str, bytes | None]:
        """Ask each, but for oneself."""
        told = {
            name: None if name in self.silent else await worker.totals.own_counts()
            for name, worker in self.living.items()
            if name != self.own
        }
        self.then()
        return told


class Worker:
    """One worker's metrics."""

    def __init__(self, folder: Path, name: str, slot: int) -> None:
        self.directory = RuntimeDirectory(folder, name, slot)
        self.metrics = Metrics()
        self.others = Others(self.directory)
        self.refreshed = 0
        self.totals = MetricTotals(self.metrics.registry, self.others, self._refresh)

    async def _refresh(self) -> None:
        self.refreshed += 1

    async def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Return what the page says."""
        page = (await self.totals.page()).decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    async def verified(self) -> float:
        """Return how many tokens all workers have verified."""
        found = await self.samples()
        return found["auth_token_verifications_total", (("outcome", "verified"),)]


@pytest.fixture
def fleet(folder: Path) -> dict[str, Worker]:
    workers = {name: Worker(folder, name, slot) for slot, name in enumerate((A, B))}
    for worker in workers.values():
        worker.others.living = workers
    return workers


def verify(worker: Worker, times: int) -> None:
    worker.metrics.token_verifications.labels("verified").inc(times)


async def test_counters_and_histograms_are_added(fleet: dict[str, Worker]) -> None:
    verify(fleet[A], 2)
    verify(fleet[B], 3)
    for worker, seconds in ((fleet[A], 0.002), (fleet[B], 0.2), (fleet[B], 2)):
        worker.metrics.gateway_requests.labels("s", "tools/call", "ok").observe(seconds)
    fleet[B].metrics.gateway_requests.labels("only-b", "ping", "ok").observe(1)

    found = await fleet[A].samples()

    def histogram(ending: str, server: str, **more: str) -> float:
        labels = {"server": server, "method": "tools/call", "outcome": "ok", **more}
        name = f"mcp_gateway_request_duration_seconds_{ending}"
        return found[name, tuple(sorted(labels.items()))]

    assert await fleet[B].verified() == await fleet[A].verified() == 5
    assert histogram("count", "s") == histogram("bucket", "s", le="+Inf") == 3
    assert histogram("bucket", "s", le="0.0025") == 1
    assert histogram("sum", "s") == pytest.approx(2.202)
    assert histogram("count", "only-b", method="ping") == 1


async def test_the_last_counts_are_told_when_the_directory_is_gone(
    folder: Path, fleet: dict[str, Worker]
) -> None:
    verify(fleet[A], 2)
    shutil.rmtree(folder)

    assert await fleet[A].totals.own_counts()
    assert await fleet[A].verified() == 2


async def test_gauges_become_what_they_mean(fleet: dict[str, Worker]) -> None:
    for worker, value in ((fleet[A], 3), (fleet[B], 5)):
        worker.metrics.gateway_in_flight.set(value)
        worker.metrics.snapshot_age.set(value)
        worker.metrics.tokens_expired.set(value)

    found = await fleet[A].samples()

    assert found["mcp_gateway_requests_in_flight", ()] == 8
    assert found["mcp_gateway_snapshot_age_seconds", ()] == 5
    assert found["tokens_expired", ()] == 3
    assert {key for key in found if key[0] == "process_open_fds"} == {
        ("process_open_fds", (("worker", "0"),)),
        ("process_open_fds", (("worker", "1"),)),
    }
    assert len([key for key in found if key[0] == "python_info"]) == 1
    assert (fleet[A].refreshed, fleet[B].refreshed) == (1, 0)


def test_it_is_said_of_every_gauge_what_becomes_of_it() -> None:
    gauges = {name for name, each in vars(Metrics()).items() if isinstance(each, Gauge)}

    named = {getattr(Metrics(), name)._name for name in gauges}

    assert named == set(GAUGES)


async def test_no_sum_falls_when_a_worker_dies(fleet: dict[str, Worker], folder: Path) -> None:
    verify(fleet[A], 2)
    verify(fleet[B], 3)
    before = await fleet[A].verified()
    verify(fleet[B], 1)  # nobody has asked since

    del fleet[B]
    while_dead = await fleet[A].verified()
    record_stopped_worker(fleet[A].directory, B)
    added_up = await fleet[A].verified()
    fleet[C] = Worker(folder, C, 1)
    fleet[C].others.living = fleet
    verify(fleet[C], 10)
    after = [await fleet[A].verified(), await fleet[C].verified()]
    del fleet[C]
    record_stopped_worker(fleet[A].directory, C)

    assert (before, while_dead, added_up, after) == (5, 5, 5, [15, 15])
    assert await fleet[A].verified() == 15
    assert _files(folder) == [f"{A}.counts", "stopped.counts"]


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_gauges_of_the_dead_are_forgotten(fleet: dict[str, Worker]) -> None:
    fleet[B].metrics.gateway_in_flight.set(7)
    await fleet[A].totals.page()

    del fleet[B]
    record_stopped_worker(fleet[A].directory, B)
    found = await fleet[A].samples()

    assert found["mcp_gateway_requests_in_flight", ()] == 0
    assert ("process_open_fds", (("worker", "1"),)) not in found


async def test_one_that_does_not_answer_counts_with_what_it_last_told(
    fleet: dict[str, Worker],
) -> None:
    verify(fleet[B], 3)
    await fleet[A].totals.page()
    verify(fleet[B], 1)

    fleet[A].others.silent = {B}

    assert await fleet[A].verified() == 3


async def test_one_that_dies_after_it_answered_is_not_counted_twice(
    fleet: dict[str, Worker],
) -> None:
    verify(fleet[B], 3)

    fleet[A].others.then = lambda: record_stopped_worker(fleet[A].directory, B)

    assert await fleet[A].verified() == 3


async def test_many_readers_at_once_get_whole_pages(fleet: dict[str, Worker]) -> None:
    verify(fleet[A], 1)
    verify(fleet[B], 1)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fleet[name].verified()) for name in (A, B) * 8]

    assert {task.result() for task in tasks} == {2}


async def test_the_page_has_the_same_names_as_that_of_one_worker(
    fleet: dict[str, Worker],
) -> None:
    alone = {family.name for family in text_string_to_metric_families(_page(fleet[A]))}

    told = (await fleet[A].totals.page()).decode()

    assert {family.name for family in text_string_to_metric_families(told)} == alone


def _page(worker: Worker) -> str:
    return worker.metrics.render().decode()


def test_the_time_of_making_is_the_earliest() -> None:
    def made(at: float) -> list[MetricFamily]:
        return [MetricFamily("n", "", "counter", (("n_total", {}, 1.0), ("n_created", {}, at)))]

    (summed,) = total(made(5.0), [made(3.0)], [made(4.0)])

    assert {name: value for name, _, value in summed.rows} == {
        "n_total": 3.0,
        "n_created": 3.0,
    }


def test_an_unknown_gauge_is_added() -> None:
    counts: list[Any] = [MetricFamily("new", "", "gauge", (("new", {}, 2.0),))]

    assert total(counts, [counts], [counts])[0].rows == (("new", {}, 4.0),)
    assert Aggregation.SUM in set(GAUGES.values())


def test_what_is_no_number_survives_the_way() -> None:
    counts, included = unpacked(
        packed([MetricFamily("n", "d", "gauge", (("n", {}, float("nan")),))], [A])
    )

    assert counts[0].rows[0][2] != counts[0].rows[0][2]
    assert included == {A}


def test_a_new_folder_has_no_stopped_workers(folder: Path) -> None:
    assert stopped_worker_counts(RuntimeDirectory(folder, A, 0), [A]).counts == [[]]
