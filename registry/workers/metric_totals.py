"""Metrics of all workers, served by any one of them.

Serving a request costs nothing extra: the other workers are asked only when the metrics are read.
A worker writes its counts to a file before it returns them. The file outlives the worker, so that
no sum falls when a worker dies.

Counters and histograms are added, including those of workers that have stopped: a sum that fell
would look like a restart, and a rate over it like a burst. `GAUGES` declares how each gauge is
aggregated.
"""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import orjson
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from typing_extensions import override

from registry.workers.runtime_directory import COUNTS, STOPPED, RuntimeDirectory

if TYPE_CHECKING:
    # It loads the data plane, which the parent of the workers does without.
    from registry.workers.peers import WorkerPeers

CREATED = "_created"
CUMULATIVE = frozenset({"counter", "histogram", "summary"})


class Aggregation(StrEnum):
    """How one metric is aggregated over all workers."""

    SUM = "sum"
    """Added: each worker counts things of its own."""
    MAX = "max"
    """The largest value: the worst worker matters."""
    OWN = "own"
    """The value of the worker that is asked: it is the same in all workers."""
    EACH = "each"
    """One series for each worker, with its number in the label `worker`."""


GAUGES: Mapping[str, Aggregation] = {
    "catalog_servers": Aggregation.OWN,
    "mcp_connections": Aggregation.SUM,
    "mcp_gateway_breaker_state": Aggregation.SUM,
    "mcp_gateway_notification_feeds": Aggregation.SUM,
    "mcp_gateway_policies_unreadable": Aggregation.MAX,
    "mcp_gateway_requests_in_flight": Aggregation.SUM,
    "mcp_gateway_snapshot_age_seconds": Aggregation.MAX,
    "mcp_gateway_streams": Aggregation.SUM,
    "mcp_sync_jobs_open": Aggregation.OWN,
    "mongodb_pool_connections": Aggregation.SUM,
    "search_documents": Aggregation.OWN,
    "search_embedding_model_up": Aggregation.OWN,
    "search_embeddings_pending": Aggregation.OWN,
    "search_vectors": Aggregation.OWN,
    "tokens_active": Aggregation.OWN,
    "tokens_active_users": Aggregation.OWN,
    "tokens_expired": Aggregation.OWN,
    "usage_records_pending": Aggregation.SUM,
}
"""Gauges of the application. A test holds this to be all of them."""

OF_EACH = ("process_", "python_gc_")
OF_ALL = ("python_info",)


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One metric of one worker."""

    name: str
    documentation: str
    kind: str
    rows: tuple[tuple[str, dict[str, str], float], ...]
    """Name of a sample, its labels, its value."""


Counts: TypeAlias = list[MetricFamily]


def aggregation_of(name: str, kind: str) -> Aggregation:
    """Return how a metric is aggregated."""
    if name.startswith(OF_EACH):
        return Aggregation.EACH
    if name.startswith(OF_ALL):
        return Aggregation.OWN
    if kind in CUMULATIVE:
        return Aggregation.SUM
    return GAUGES.get(name, Aggregation.SUM)


def collect_counts(metrics: Iterable[Metric], slot: int) -> Counts:
    """Return the metrics of one worker.

    Args:
        metrics: As collected.
        slot: The worker's number, for the label `worker`.
    """
    return [
        MetricFamily(
            metric.name,
            metric.documentation,
            metric.type,
            tuple(
                (sample.name, _labels(metric, sample, slot), sample.value)
                for sample in metric.samples
            ),
        )
        for metric in metrics
    ]


def as_metrics(counts: Counts) -> list[Metric]:
    """Return counts as metrics that can be written in Prometheus' text format."""
    metrics = []
    for family in counts:
        metric = Metric(family.name, family.documentation, family.kind)
        metric.samples = [Sample(name, labels, value) for name, labels, value in family.rows]
        metrics.append(metric)
    return metrics


def packed(counts: Counts, included: Iterable[str] = ()) -> bytes:
    """Serialize counts.

    Args:
        counts: What was counted.
        included: Ids of the workers that the counts were added up from, if several.
    """
    families = [[family.name, family.documentation, family.kind, family.rows] for family in counts]
    return orjson.dumps({"families": families, "included": list(included)})


def unpacked(data: bytes) -> tuple[Counts, frozenset[str]]:
    """Deserialize counts, and the ids of the workers that they include."""
    message = orjson.loads(data)
    families = [
        MetricFamily(
            name,
            documentation,
            kind,
            # JSON has no NaN.
            tuple((row[0], row[1], math.nan if row[2] is None else row[2]) for row in rows),
        )
        for name, documentation, kind, rows in message["families"]
    ]
    return families, frozenset(message["included"])


def total(own: Counts, others: Iterable[Counts], stopped: Iterable[Counts]) -> Counts:
    """Return the aggregated counts of all workers.

    Args:
        own: Of the worker that is asked.
        others: Of the other workers that answered.
        stopped: The last known counts of workers that did not answer. Only counters and
            histograms are taken from these.
    """
    sums: dict[str, _Sum] = {}
    for counts, is_own, is_alive in (
        (own, True, True),
        *((counts, False, True) for counts in others),
        *((counts, False, False) for counts in stopped),
    ):
        for family in counts:
            rule = aggregation_of(family.name, family.kind)
            if not is_alive and not (rule is Aggregation.SUM and family.kind in CUMULATIVE):
                continue
            if rule is Aggregation.OWN and not is_own:
                continue
            if family.name not in sums:
                sums[family.name] = _Sum(family)
            sums[family.name].add(family, rule)
    return [each.family() for each in sums.values()]


def _labels(metric: Metric, sample: Sample, slot: int) -> dict[str, str]:
    if aggregation_of(metric.name, metric.type) is Aggregation.EACH:
        return {**sample.labels, "worker": str(slot)}
    return sample.labels


class _Sum:
    """One metric while it is added up."""

    def __init__(self, first: MetricFamily) -> None:
        self._first = first
        self._rows: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def add(self, family: MetricFamily, rule: Aggregation) -> None:
        rows = self._rows
        for name, labels, value in family.rows:
            key = (name, tuple(labels.items()))
            known = rows.get(key)
            if known is None:
                rows[key] = value
            elif name.endswith(CREATED):
                rows[key] = min(known, value)
            elif rule is Aggregation.MAX:
                rows[key] = max(known, value)
            else:
                rows[key] = known + value

    def family(self) -> MetricFamily:
        first = self._first
        rows = tuple((name, dict(labels), value) for (name, labels), value in self._rows.items())
        return MetricFamily(first.name, first.documentation, first.kind, rows)


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
            # Gone with the process that made it, and with everybody who would read the file.
            with suppress(FileNotFoundError):
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
