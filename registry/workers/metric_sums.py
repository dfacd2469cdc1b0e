"""Aggregation of the metrics of several workers. Pure.

Counters and histograms are added, including those of workers that have stopped: a sum that fell
would look like a restart, and a rate over it like a burst. `GAUGES` declares how each gauge is
aggregated.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import orjson
from prometheus_client import Metric
from prometheus_client.samples import Sample

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
    "mcp_connections": Aggregation.SUM,
    "mcp_gateway_breaker_state": Aggregation.SUM,
    "mcp_gateway_notification_feeds": Aggregation.SUM,
    "mcp_gateway_policies_unreadable": Aggregation.MAX,
    "mcp_gateway_requests_in_flight": Aggregation.SUM,
    "mcp_gateway_snapshot_age_seconds": Aggregation.MAX,
    "mcp_gateway_streams": Aggregation.SUM,
    "mcp_sync_jobs_open": Aggregation.OWN,
    "mongodb_pool_connections": Aggregation.SUM,
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
