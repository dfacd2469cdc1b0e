"""Splits large sets of documents into several commands.

A command that writes ten thousand documents can take longer than a driver waits for an answer, and
one that names ten thousand has each document compared with all of them.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

DOCUMENTS_AT_ONCE = 500

T = TypeVar("T")


def slices(items: Iterable[T], size: int = DOCUMENTS_AT_ONCE) -> Iterator[list[T]]:
    """Yield *items* in lists of at most *size* items."""
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
