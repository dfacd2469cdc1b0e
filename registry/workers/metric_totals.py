"""The metrics of all workers, at whichever of them one asks.

Nothing is counted twice as often, or shared, while requests are served: the others are asked when
somebody reads the metrics. Whatever a worker tells it has written to a file first, which outlives
it, so that no sum that was ever shown falls when a worker dies.
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

from registry.workers.metric_sums import Counts, as_metrics, counted, packed, total, unpacked
from registry.workers.runtime_directory import COUNTS, DEPARTED, RuntimeDirectory

if TYPE_CHECKING:
    # It loads the data plane, which the parent of the workers does without.
    from registry.workers.peers import WorkerPeers


class Totals:
    """What this worker has counted, and what all have.

    Args:
        registry: Of this worker's metrics.
        peers: The others.
        refresh: Brings up to date what is not counted as it happens.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        peers: "WorkerPeers",
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._siblings = peers
        self._place = peers.place
        self._refresh = refresh
        self._lock = threading.Lock()

    async def told(self, _message: bytes = b"") -> bytes:
        """Return what this worker has counted, once that is written down."""
        return await asyncio.to_thread(self._keep)

    async def page(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        await self._refresh()
        told = await self._siblings.counts()
        return await asyncio.to_thread(self._render, told)

    def _keep(self) -> bytes:
        # What is shown last must be what is kept.
        with self._lock:
            counts = packed(counted(self._registry.collect(), self._place.slot))
            write_whole(self._place.counts_of(self._place.own), counts)
        return counts

    def _render(self, told: dict[str, bytes | None]) -> bytes:
        own, _ = unpacked(self._keep())
        answered = {worker: unpacked(data)[0] for worker, data in told.items() if data is not None}
        known = stopped_worker_counts(self._place, {self._place.own, *answered})
        # Those that died since they answered are among the departed already.
        living = [each for worker, each in answered.items() if worker not in known.included]
        return generate_latest(_Given(as_metrics(total(own, living, known.counts))))


@dataclass(frozen=True, slots=True)
class StoppedWorkerCounts:
    """The last known counts of workers that do not answer.

    Attributes:
        included: The ids of those that are added up already.
    """

    counts: list[Counts]
    included: frozenset[str]


def stopped_worker_counts(place: RuntimeDirectory, answered: Iterable[str]) -> StoppedWorkerCounts:
    """Return what is known of the workers that did not answer."""
    kept = {path.name.removesuffix(COUNTS): path for path in place.folder.glob(f"*{COUNTS}")}
    kept.pop(DEPARTED.removesuffix(COUNTS), None)
    files = {worker: _read(path) for worker, path in kept.items() if worker not in set(answered)}
    # Read last: who is missing above because it was added up meanwhile is in here.
    added = _read(place.folder / DEPARTED)
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


def record_stopped_worker(place: RuntimeDirectory, worker: str) -> None:
    """Add a dead worker's counts to those of all dead ones, and remove what it left.

    Only the process that starts the workers may do so, for one after another.
    """
    place.socket_of(worker).unlink(missing_ok=True)
    last = _read(place.counts_of(worker))
    if last is None:
        return
    added = _read(place.folder / DEPARTED)
    counts, included = ([], frozenset()) if added is None else unpacked(added)
    summed = total([], [], [counts, unpacked(last)[0]])
    write_whole(place.folder / DEPARTED, packed(summed, {*included, worker}))
    place.counts_of(worker).unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step: readers see the old or the new text."""
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    beside.replace(path)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


class _Given(Collector):
    """Metrics that were counted elsewhere."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    @override
    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)
