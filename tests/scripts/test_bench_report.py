"""What the benchmark says of a figure that has a bar."""

import pytest

from scripts.bench.report import Bar, Report

COST = Bar(0.30, 0.20)
THROUGHPUT = Bar(0.25, 0.35, is_least=True)


@pytest.mark.parametrize(
    ("bar", "value", "verdict"),
    [
        (COST, 0.31, "MISSED"),
        (COST, 0.30, "met"),
        (COST, 0.20, "aim met"),
        (THROUGHPUT, 0.24, "MISSED"),
        (THROUGHPUT, 0.25, "met"),
        (THROUGHPUT, 0.35, "aim met"),
        (Bar(300), 171.0, "met"),
    ],
)
def test_a_figure_is_held_against_its_bar_and_its_aim(
    bar: Bar, value: float, verdict: str
) -> None:
    assert bar.verdict(value) == verdict


def test_the_median_counts_and_the_table_has_what_has_a_bar(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report()

    report.row("throughput", [900.0, 800.0, 1200.0], "calls/s")
    report.row("CPU of a call", [0.25, 0.11, 0.5], "ms", COST)
    report.errors(2)
    report.table()

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  throughput: 900 [800 .. 1200] calls/s"
    assert lines[-3] == (
        "| CPU of a call | at most 0.3 ms | at most 0.2 ms | 0.250 [0.110 .. 0.500] ms | met |"
    )
    assert lines[-1] == "errors in all: 2"
