"""Search for words in the fields of what is held in memory. Pure.

Case and accents are folded. All words must occur, each in any field, also as a part of a longer
word. Fields are given in the order of their weight.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Protocol, TypeVar

SEPARATOR = "\x1f"
"""Between the fields of a text; white space, so it is in no word."""


DESCRIPTION = (
    "Words to look for in names, titles, tags and descriptions, of tools in the name of their "
    "server and their own name at `/mcp`, and of servers in the names of the tools that they "
    "serve. All of them must occur, each in any of these; case and accents do not count. Found in "
    "a name comes first, then title, tags, description, and the rest; otherwise the order is that "
    "of the list."
)
"""Of the query parameter, in the API."""


MAX_SEARCHED = 4096
"""Characters of one field that are searched, from its beginning: all of it is in memory."""


class Searched(Protocol):
    """Something that is searched for."""

    @property
    def text(self) -> str:
        """Return what it is searched by; see `searchable`."""


T = TypeVar("T", bound=Searched)


def folded(text: str) -> str:
    """Return *text* without differences of case, accents and width."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(one for one in decomposed if not unicodedata.combining(one))
    return bare.casefold()


def searchable(*fields: Iterable[object]) -> str:
    """Return the text that `rank` looks in; of each field those values that are strings."""
    return SEPARATOR.join(
        "\n".join(
            folded(value[:MAX_SEARCHED]).replace(SEPARATOR, " ")
            for value in field
            if isinstance(value, str)
        )
        for field in fields
    )


def joined(text: str, more: str) -> str:
    """Return the text of the fields of one `searchable` text, and of another after them."""
    return f"{text}{SEPARATOR}{more}"


def words_of(query: str | None) -> tuple[str, ...]:
    """Return the words of a query, each once; none of an empty one, which everything matches."""
    return tuple(dict.fromkeys(folded(query or "").split()))


def rank(text: str, words: Sequence[str]) -> int | None:
    """Return how well a `searchable` text matches, the best first; None when a word is missing.

    Each word counts by the weightiest field that it occurs in, and by less than that where it is
    the whole of the first field.
    """
    total = 0
    for word in words:
        # Fields stand in the order of their weight, so the first place is the best.
        at = text.find(word)
        if at < 0:
            return None
        if at or not text.startswith(SEPARATOR, len(word)):
            total += 1 + text.count(SEPARATOR, 0, at)
    return total


def best_first(items: Sequence[T], words: Sequence[str]) -> Sequence[T]:
    """Return the items in which all words occur, the best match first, else in their order."""
    if not words:
        return items
    ranked = [(place, item) for item in items if (place := rank(item.text, words)) is not None]
    ranked.sort(key=itemgetter(0))
    return [item for _, item in ranked]
