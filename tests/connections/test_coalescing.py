"""When the database is told of connections."""

from dataclasses import replace

import pytest

from registry.connections.values import HealthEvent, HealthReport, HealthTrigger
from registry.connections.writer import due_at, merge_reports, trigger_of
from tests.fakes.clock import NOON

WORKS = HealthReport(HealthEvent.CONNECTED, NOON)
FAILS = HealthReport(HealthEvent.FAILED, NOON, "It is away.", 1)
LAST = replace(FAILS, is_at_threshold=True)


@pytest.mark.parametrize(
    ("waiting", "report", "expected"),
    [
        (None, FAILS, FAILS),
        (FAILS, WORKS, WORKS),
        (WORKS, FAILS, replace(FAILS, is_after_success=True)),
        (FAILS, FAILS, replace(FAILS, failures=2)),
        (LAST, FAILS, replace(LAST, failures=2)),
        (
            replace(FAILS, is_after_success=True),
            FAILS,
            replace(FAILS, failures=2, is_after_success=True),
        ),
    ],
)
def test_news_are_told_together(
    waiting: HealthReport | None, report: HealthReport, expected: HealthReport
) -> None:
    assert merge_reports(waiting, report) == expected


@pytest.mark.parametrize(
    ("report", "last_event", "expected"),
    [
        (WORKS, None, HealthTrigger.REPEAT),
        (WORKS, HealthEvent.CONNECTED, HealthTrigger.REPEAT),
        (WORKS, HealthEvent.FAILED, HealthTrigger.RECOVERY),
        (FAILS, HealthEvent.FAILED, HealthTrigger.REPEAT),
        (FAILS, HealthEvent.CONNECTED, HealthTrigger.FAILURE),
        (LAST, HealthEvent.FAILED, HealthTrigger.THRESHOLD),
    ],
)
def test_the_occasion_follows_from_the_last_word(
    report: HealthReport, last_event: HealthEvent | None, expected: HealthTrigger
) -> None:
    assert trigger_of(report, last_event) is expected


@pytest.mark.parametrize(
    ("trigger", "written_at", "expected"),
    [
        (HealthTrigger.REPEAT, {}, 100.0),
        (HealthTrigger.REPEAT, {HealthTrigger.REPEAT: 70.0}, 130.0),
        (HealthTrigger.REPEAT, {HealthTrigger.REPEAT: 10.0, HealthTrigger.RECOVERY: 90.0}, 150.0),
        (HealthTrigger.RECOVERY, {HealthTrigger.REPEAT: 99.0, HealthTrigger.FAILURE: 99.0}, 100.0),
        (HealthTrigger.RECOVERY, {HealthTrigger.RECOVERY: 90.0}, 100.0),
        (HealthTrigger.RECOVERY, {HealthTrigger.RECOVERY: 98.0}, 103.0),
        (HealthTrigger.FAILURE, {HealthTrigger.FAILURE: 30.0}, 100.0),
    ],
)
def test_a_turn_waits_for_a_moment_after_itself_and_a_repetition_for_an_interval_after_all(
    trigger: HealthTrigger, written_at: dict[HealthTrigger, float], expected: float
) -> None:
    assert due_at(trigger, written_at, 100.0, 60.0) == expected
