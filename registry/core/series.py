"""Counters and histograms for the hot path, at a tenth of the client library's cost.

The client library takes a lock for each of three values. These are changed and read only by the
event loop's thread, so they need no lock.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override


class Timing:
    """One set of labels of `Timings`."""

    __slots__ = ("_bounds", "counts", "total_seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total_seconds += seconds


class Timings(Collector):
    """A histogram of durations.

    Args:
        name: Of the metric.
        documentation: One sentence.
        labels: Their names.
        bounds: Upper bounds of the buckets in seconds, rising.
    """

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], *, bounds: Sequence[float]
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = bounds
        self._children: dict[tuple[str, ...], Timing] = {}

    def labels(self, *values: str) -> Timing:
        """Return the child for these labels. Callers keep it, to avoid the lookup."""
        return self._children.setdefault(values, Timing(self._bounds))

    @override
    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for values, timing in self._children.items():
            buckets = list(zip(names, accumulate(timing.counts), strict=True))
            family.add_metric(values, buckets, timing.total_seconds)
        yield family


class Count:
    """One set of labels of `Counts`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Add *amount*."""
        self.value += amount


class Counts(Collector):
    """A counter.

    Args:
        name: Of the metric, without `_total`.
        documentation: One sentence.
        labels: Their names.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._children: dict[tuple[str, ...], Count] = {}

    def labels(self, *values: str) -> Count:
        """Return the child for these labels. Callers keep it, to avoid the lookup."""
        return self._children.setdefault(values, Count())

    @override
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in self._children.items():
            family.add_metric(values, count.value)
        yield family
