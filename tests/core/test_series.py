"""Counters and histograms of the hot path, as a scraper sees them."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from registry.core.series import Counts, Timings


def test_times_are_exposed_like_those_of_the_client_library() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    timings = Timings("x_seconds", "Time.", ("a",), bounds=(0.001, 0.5, 1))
    ours.register(timings)
    histogram = Histogram("x_seconds", "Time.", ("a",), registry=theirs, buckets=(0.001, 0.5, 1))

    for seconds in (0, 0.001, 0.25, 1, 7):
        timings.labels("one").observe(seconds)
        histogram.labels("one").observe(seconds)

    expected = generate_latest(theirs).partition(b"# HELP x_seconds_created")[0]
    assert generate_latest(ours) == expected


def test_counts_are_exposed_as_a_counter() -> None:
    registry = CollectorRegistry()
    counts = Counts("calls", "Calls.", ("tool",))
    registry.register(counts)

    counts.labels("echo").inc()
    counts.labels("echo").inc()
    counts.labels("add").inc()

    assert registry.get_sample_value("calls_total", {"tool": "echo"}) == 2
    assert registry.get_sample_value("calls_total", {"tool": "add"}) == 1
