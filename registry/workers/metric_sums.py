"""Add up what several workers have counted. Pure.

Counters and histograms are added, also those of workers that are no more: a sum that fell would
look like a restart, and a rate over it like a burst. What gauges mean decides what becomes of
them, see `GAUGES`.
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


class Across(StrEnum):
    """What the metric of all workers is, given that of each."""

    SUM = "sum"
    """They count things, of which each has its own."""
    MAX = "max"
    """The worst is what matters."""
    OWN = "own"
    """All would say the same; the one that is asked has the latest."""
    EACH = "each"
    """Each is of interest, with a label `worker`: its number."""


GAUGES: Mapping[str, Across] = {
    "mcp_connections": Across.SUM,
    "mcp_gateway_breaker_state": Across.SUM,
    "mcp_gateway_feeds": Across.SUM,
    "mcp_gateway_policies_unreadable": Across.MAX,
    "mcp_gateway_requests_in_flight": Across.SUM,
    "mcp_gateway_snapshot_age_seconds": Across.MAX,
    "mcp_gateway_streams": Across.SUM,
    "mcp_sync_jobs_open": Across.OWN,
    "mongodb_pool_connections": Across.SUM,
    "tokens_active": Across.OWN,
    "tokens_active_users": Across.OWN,
    "tokens_expired": Across.OWN,
    "usage_records_waiting": Across.SUM,
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


def across(name: str, kind: str) -> Across:
    """Return what a metric becomes."""
    if name.startswith(OF_EACH):
        return Across.EACH
    if name.startswith(OF_ALL):
        return Across.OWN
    if kind in CUMULATIVE:
        return Across.SUM
    return GAUGES.get(name, Across.SUM)


def counted(metrics: Iterable[Metric], slot: int) -> Counts:
    """Return what a worker has counted.

    Args:
        metrics: As they are collected.
        slot: Its number, which becomes the label of what is told of each worker.
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
    """Return counts as what can be written in Prometheus' text format."""
    metrics = []
    for family in counts:
        metric = Metric(family.name, family.documentation, family.kind)
        metric.samples = [Sample(name, labels, value) for name, labels, value in family.rows]
        metrics.append(metric)
    return metrics


def packed(counts: Counts, included: Iterable[str] = ()) -> bytes:
    """Return counts as bytes.

    Args:
        counts: What was counted.
        included: Ids of the workers whose counts these are, where there are several.
    """
    families = [[family.name, family.documentation, family.kind, family.rows] for family in counts]
    return orjson.dumps({"families": families, "included": list(included)})


def unpacked(data: bytes) -> tuple[Counts, frozenset[str]]:
    """Return what `packed` was given."""
    told = orjson.loads(data)
    families = [
        MetricFamily(
            name,
            documentation,
            kind,
            # JSON has no NaN.
            tuple((row[0], row[1], math.nan if row[2] is None else row[2]) for row in rows),
        )
        for name, documentation, kind, rows in told["families"]
    ]
    return families, frozenset(told["included"])


def total(own: Counts, others: Iterable[Counts], departed: Iterable[Counts]) -> Counts:
    """Return what all workers together have counted.

    Args:
        own: Of the worker that is asked.
        others: Of the others that answered.
        departed: The last known of those that did not: only what is added up counts.
    """
    sums: dict[str, _Sum] = {}
    for counts, is_own, is_alive in (
        (own, True, True),
        *((counts, False, True) for counts in others),
        *((counts, False, False) for counts in departed),
    ):
        for family in counts:
            rule = across(family.name, family.kind)
            if not is_alive and not (rule is Across.SUM and family.kind in CUMULATIVE):
                continue
            if rule is Across.OWN and not is_own:
                continue
            if family.name not in sums:
                sums[family.name] = _Sum(family)
            sums[family.name].add(family, rule)
    return [each.family() for each in sums.values()]


def _labels(metric: Metric, sample: Sample, slot: int) -> dict[str, str]:
    if across(metric.name, metric.type) is Across.EACH:
        return {**sample.labels, "worker": str(slot)}
    return sample.labels


class _Sum:
    """One metric while it is added up."""

    def __init__(self, first: MetricFamily) -> None:
        self._first = first
        self._rows: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def add(self, family: MetricFamily, rule: Across) -> None:
        rows = self._rows
        for name, labels, value in family.rows:
            key = (name, tuple(labels.items()))
            known = rows.get(key)
            if known is None:
                rows[key] = value
            elif name.endswith(CREATED):
                rows[key] = min(known, value)
            elif rule is Across.MAX:
                rows[key] = max(known, value)
            else:
                rows[key] = known + value

    def family(self) -> MetricFamily:
        first = self._first
        rows = tuple((name, dict(labels), value) for (name, labels), value in self._rows.items())
        return MetricFamily(first.name, first.documentation, first.kind, rows)
