"""When the database is told of connections."""

from dataclasses import replace

import pytest

from registry.connections.coalescing import added, due_at, occasion_of
from registry.connections.values import News, Occasion, Word
from tests.fakes.clock import NOON

WORKS = News(Word.CONNECTED, NOON)
FAILS = News(Word.FAILED, NOON, "It is away.", 1)
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
def test_news_are_told_together(waiting: News | None, news: News, expected: News) -> None:
    assert added(waiting, news) == expected


@pytest.mark.parametrize(
    ("news", "said", "expected"),
    [
        (WORKS, None, Occasion.REPEAT),
        (WORKS, Word.CONNECTED, Occasion.REPEAT),
        (WORKS, Word.FAILED, Occasion.RECOVERY),
        (FAILS, Word.FAILED, Occasion.REPEAT),
        (FAILS, Word.CONNECTED, Occasion.FAILURE),
        (LAST, Word.FAILED, Occasion.LAST_STRAW),
    ],
)
def test_the_occasion_follows_from_the_last_word(
    news: News, said: Word | None, expected: Occasion
) -> None:
    assert occasion_of(news, said) is expected


@pytest.mark.parametrize(
    ("occasion", "written_at", "expected"),
    [
        (Occasion.REPEAT, {}, 100.0),
        (Occasion.REPEAT, {Occasion.REPEAT: 70.0}, 130.0),
        (Occasion.REPEAT, {Occasion.REPEAT: 10.0, Occasion.RECOVERY: 90.0}, 150.0),
        (Occasion.RECOVERY, {Occasion.REPEAT: 99.0, Occasion.FAILURE: 99.0}, 100.0),
        (Occasion.RECOVERY, {Occasion.RECOVERY: 90.0}, 100.0),
        (Occasion.RECOVERY, {Occasion.RECOVERY: 98.0}, 103.0),
        (Occasion.FAILURE, {Occasion.FAILURE: 30.0}, 100.0),
    ],
)
def test_a_turn_waits_for_a_moment_after_itself_and_a_repetition_for_an_interval_after_all(
    occasion: Occasion, written_at: dict[Occasion, float], expected: float
) -> None:
    assert due_at(occasion, written_at, 100.0, 60.0) == expected
