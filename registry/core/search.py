"""Text search over fields held in memory. Pure.

Case and accents are folded. All words must occur, each in any field, also as part of a longer
word. Fields are ordered by weight.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Protocol, TypeVar

SEPARATOR = "\x1f"
"""Separates the fields of a text; it is white space, so no word contains it."""


DESCRIPTION = (
    "Words to look for in names, titles, tags and descriptions, of tools in the name of their "
    "server and their own name at `/mcp`, and of servers in the names of the tools that they "
    "serve. All of them must occur, each in any of these; case and accents do not count. Found in "
    "a name comes first, then title, tags, description, and the rest; otherwise the order is that "
    "of the list."
)
"""Of the query parameter, in the API."""


MAX_SEARCHED = 4096
"""Maximum number of characters of a field that are searched, because all are held in memory."""


class Searched(Protocol):
    """An item that can be searched."""

    @property
    def text(self) -> str:
        """Return its search text; see `searchable`."""


T = TypeVar("T", bound=Searched)


def folded(text: str) -> str:
    """Return *text* without differences of case, accents and width."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(one for one in decomposed if not unicodedata.combining(one))
    return bare.casefold()


def searchable(*fields: Iterable[object]) -> str:
    """Return the text that `rank` searches, from those values of each field that are strings."""
    return SEPARATOR.join(
        "\n".join(
            folded(value[:MAX_SEARCHED]).replace(SEPARATOR, " ")
            for value in field
            if isinstance(value, str)
        )
        for field in fields
    )


def joined(text: str, more: str) -> str:
    """Return the concatenation of two `searchable` texts."""
    return f"{text}{SEPARATOR}{more}"


def words_of(query: str | None) -> tuple[str, ...]:
    """Return the distinct words of a query; an empty query has none and matches everything."""
    return tuple(dict.fromkeys(folded(query or "").split()))


def rank(text: str, words: Sequence[str]) -> int | None:
    """Return the rank of a `searchable` text, lower is better; None if a word is missing.

    Each word adds the index of the first field that contains it, and less than that if it is the
    whole first field.
    """
    total = 0
    for word in words:
        # Fields are ordered by weight, so the first occurrence is the best.
        at = text.find(word)
        if at < 0:
            return None
        if at or not text.startswith(SEPARATOR, len(word)):
            total += 1 + text.count(SEPARATOR, 0, at)
    return total


def best_first(items: Sequence[T], words: Sequence[str]) -> Sequence[T]:
    """Return the items that contain all words, best match first, otherwise in their order."""
    if not words:
        return items
    ranked = [(place, item) for item in items if (place := rank(item.text, words)) is not None]
    ranked.sort(key=itemgetter(0))
    return [item for _, item in ranked]
