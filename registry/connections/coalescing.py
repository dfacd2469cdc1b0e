"""When what happened to a server is written. Pure: the time is passed in.

Connections come and go by the thousand; the database is told of each server once an interval, and
at once when it begins to fail, fails for good, or recovers. That too is told once an interval, so
that a server that comes and goes costs four writes in it and no more.
"""

from collections.abc import Mapping
from dataclasses import replace

from registry.connections.values import News, Occasion, Word


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
        interval_seconds: The least time between two writes of the same occasion; a repetition
            also waits so long after every other.
    """
    if occasion is Occasion.REPEAT:
        last = max(written_at.values(), default=None)
    else:
        last = written_at.get(occasion)
    return now if last is None else max(now, last + interval_seconds)
