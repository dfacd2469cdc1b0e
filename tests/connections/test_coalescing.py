"""When the database is told of connections."""

from dataclasses import replace

import pytest

from registry.connections.values import HealthEvent, HealthReport, HealthTrigger
from registry.connections.writer import added, due_at, occasion_of
from tests.fakes.clock import NOON

WORKS = HealthReport(HealthEvent.CONNECTED, NOON)
FAILS = HealthReport(HealthEvent.FAILED, NOON, "It is away.", 1)
LAST = replace(FAILS, is_last_straw=True)


@pytest.mark.parametrize(
    ("waiting", "news", "expected"),
    [
        (None, FAILS, FAILS),
        (FAILS, WORKS, WORKS),
        (WORKS, FAILS, replace(FAILS, is_anew=True)),
        (FAILS, FAILS, replace(FAILS, failures=2)),
        (LAST, FAILS, replace(LAST, failures=2)),
        (replace(FAILS, is_anew=True), FAILS, replace(FAILS, failures=2, is_anew=True)),
    ],
)
def test_news_are_told_together(
    waiting: HealthReport | None, news: HealthReport, expected: HealthReport
) -> None:
    assert added(waiting, news) == expected


@pytest.mark.parametrize(
    ("news", "said", "expected"),
    [
        (WORKS, None, HealthTrigger.REPEAT),
        (WORKS, HealthEvent.CONNECTED, HealthTrigger.REPEAT),
        (WORKS, HealthEvent.FAILED, HealthTrigger.RECOVERY),
        (FAILS, HealthEvent.FAILED, HealthTrigger.REPEAT),
        (FAILS, HealthEvent.CONNECTED, HealthTrigger.FAILURE),
        (LAST, HealthEvent.FAILED, HealthTrigger.LAST_STRAW),
    ],
)
def test_the_occasion_follows_from_the_last_word(
    news: HealthReport, said: HealthEvent | None, expected: HealthTrigger
) -> None:
    assert occasion_of(news, said) is expected


@pytest.mark.parametrize(
    ("occasion", "written_at", "expected"),
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
    occasion: HealthTrigger, written_at: dict[HealthTrigger, float], expected: float
) -> None:
    assert due_at(occasion, written_at, 100.0, 60.0) == expected
