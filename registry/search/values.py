"""What is asked of a search, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.search.ports import Explanation, Kind, SearchDocument


@dataclass(frozen=True, slots=True)
class Filters:
    """What hits must be besides allowed; None stands for anything.

    Attributes:
        kinds: Empty for all.
        server: Id or name of a server: itself and its tools.
        tags: Hits have all of them.
        catalog: Id or name of a catalog entry: itself, and what is linked to it.
    """

    kinds: frozenset[Kind] = frozenset()
    status: str | None = None
    server: str | None = None
    tags: tuple[str, ...] = ()
    read_only: bool | None = None
    source_type: str | None = None
    catalog: str | None = None

    @property
    def are_none(self) -> bool:
        """Whether only kinds are filtered."""
        return self == Filters(kinds=self.kinds)


NO_FILTERS = Filters()


@dataclass(frozen=True, slots=True)
class SearchQuestion:
    """A search."""

    query: str
    filters: Filters = NO_FILTERS
    limit: int = 10


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found.

    Attributes:
        score: From 0 to 1, more for one whose name was asked for; comparable within one answer.
    """

    document: SearchDocument
    score: float
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """What a search has found, best first.

    Attributes:
        model: Whose vectors counted; None where only words did.
    """

    hits: Sequence[Hit]
    model: str | None = None
