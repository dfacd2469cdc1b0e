"""When what happened to a server is written. Pure: the time is passed in.

Connections come and go by the thousand; the database is told of each server once an interval, and
at once when it begins to fail, fails for good, or recovers. What turns again and again is told of
each turn once in a few seconds, so that what is stored is never wrong for long.
"""

from collections.abc import Mapping
from dataclasses import replace

from registry.connections.values import News, Occasion, Word

TURN_SECONDS = 5.0
"""Least time between two writes that the same server began to fail, or recovered."""


def added(waiting: News | None, news: News) -> News:
    """Return what is to be said when *news* come while something waits to be said."""
    if news.word is Word.CONNECTED or waiting is None:
        return news
    if waiting.word is Word.CONNECTED:
        return replace(news, is_anew=True)
    return replace(
        news,
        failures=waiting.failures + news.failures,
        is_anew=waiting.is_anew,
        is_last_straw=waiting.is_last_straw or news.is_last_straw,
    )


def occasion_of(news: News, said: Word | None) -> Occasion:
    """Return why *news* are said, after *said* was the last word."""
    if news.is_last_straw:
        return Occasion.LAST_STRAW
    if said is None or said is news.word:
        return Occasion.REPEAT
    return Occasion.RECOVERY if news.word is Word.CONNECTED else Occasion.FAILURE


def due_at(
    occasion: Occasion, written_at: Mapping[Occasion, float], now: float, interval_seconds: float
) -> float:
    """Return when it may be written; times in monotonic seconds.

    Args:
        occasion: Why it is written.
        written_at: When something was written last, by occasion.
        now: The time.
        interval_seconds: How long a repetition waits after every other write. A turn waits
            `TURN_SECONDS`, if that is less, after the last of the same kind.
    """
    if occasion is Occasion.REPEAT:
        last, wait = max(written_at.values(), default=None), interval_seconds
    else:
        last, wait = written_at.get(occasion), min(interval_seconds, TURN_SECONDS)
    return now if last is None else max(now, last + wait)
