"""Metrics of all workers, served by any one of them.

Serving a request costs nothing extra: the other workers are asked only when the metrics are read.
A worker writes its counts to a file before it returns them. The file outlives the worker, so that
no sum falls when a worker dies.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from typing_extensions import override

from registry.workers.metric_sums import (
    Counts,
    as_metrics,
    collect_counts,
    packed,
    total,
    unpacked,
)
from registry.workers.runtime_directory import COUNTS, STOPPED, RuntimeDirectory

if TYPE_CHECKING:
    # It loads the data plane, which the parent of the workers does without.
    from registry.workers.peers import WorkerPeers


class MetricTotals:
    """Counts of this worker, and totals of all workers.

    Args:
        registry: This worker's metrics.
        peers: The other workers.
        refresh: Updates metrics that are not counted as they happen.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        peers: "WorkerPeers",
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._directory = peers.directory
        self._refresh = refresh
        self._lock = threading.Lock()

    async def own_counts(self, _message: bytes = b"") -> bytes:
        """Write this worker's counts to its file, then return them."""
        return await asyncio.to_thread(self._keep)

    async def page(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        await self._refresh()
        worker_counts = await self._peers.counts()
        return await asyncio.to_thread(self._render, worker_counts)

    def _keep(self) -> bytes:
        # The file must hold the counts that were returned last.
        with self._lock:
            counts = packed(collect_counts(self._registry.collect(), self._directory.slot))
            write_whole(self._directory.counts_of(self._directory.own), counts)
        return counts

    def _render(self, worker_counts: dict[str, bytes | None]) -> bytes:
        own, _ = unpacked(self._keep())
        answered = {
            worker: unpacked(data)[0] for worker, data in worker_counts.items() if data is not None
        }
        known = stopped_worker_counts(self._directory, {self._directory.own, *answered})
        # Workers that died after they answered are already among the stopped ones.
        living = [each for worker, each in answered.items() if worker not in known.included]
        return generate_latest(_PrecomputedMetrics(as_metrics(total(own, living, known.counts))))


@dataclass(frozen=True, slots=True)
class StoppedWorkerCounts:
    """The last known counts of workers that do not answer.

    Attributes:
        included: Ids of the workers that are already added up.
    """

    counts: list[Counts]
    included: frozenset[str]


def stopped_worker_counts(
    directory: RuntimeDirectory, answered: Iterable[str]
) -> StoppedWorkerCounts:
    """Return the last known counts of the workers that did not answer."""
    kept = {path.name.removesuffix(COUNTS): path for path in directory.folder.glob(f"*{COUNTS}")}
    kept.pop(STOPPED.removesuffix(COUNTS), None)
    files = {worker: _read(path) for worker, path in kept.items() if worker not in set(answered)}
    # Read last: it contains a worker that was added up after the files above were listed.
    added = _read(directory.folder / STOPPED)
    counts, included = ([], frozenset()) if added is None else unpacked(added)
    return StoppedWorkerCounts(
        [
            counts,
            *(
                unpacked(data)[0]
                for worker, data in files.items()
                if data is not None and worker not in included
            ),
        ],
        included,
    )


def record_stopped_worker(directory: RuntimeDirectory, worker: str) -> None:
    """Add a stopped worker's counts to those of all stopped workers, and remove its files.

    Not safe for concurrent use: only the supervisor calls it, for one worker after another.
    """
    directory.socket_of(worker).unlink(missing_ok=True)
    last = _read(directory.counts_of(worker))
    if last is None:
        return
    added = _read(directory.folder / STOPPED)
    counts, included = ([], frozenset()) if added is None else unpacked(added)
    summed = total([], [], [counts, unpacked(last)[0]])
    write_whole(directory.folder / STOPPED, packed(summed, {*included, worker}))
    directory.counts_of(worker).unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file atomically: readers see the old or the new content."""
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    beside.replace(path)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


class _PrecomputedMetrics(Collector):
    """A collector that returns given metrics."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    @override
    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)
