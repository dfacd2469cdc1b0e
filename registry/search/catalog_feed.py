"""Catalog feed: keeps the search index equal to the catalog in memory.

The table reports what has changed while it is loaded, and must not wait for words to be counted;
so changes are gathered here and indexed by a task of their own.
"""

import asyncio
from collections.abc import Set as AbstractSet

import structlog

from registry.core.clock import Clock
from registry.search.index import SearchIndex
from registry.search.ports import (
    CatalogLink,
    CatalogRow,
    CatalogRows,
    DocumentKey,
    Kind,
    SearchDocument,
    Traits,
)

log = structlog.get_logger()

MAX_DESCRIPTION_CHARACTERS = 1_000

RETRY_SECONDS = 1.0

DELETED = "deleted"
"""Entries that their source has taken back are not found."""


class CatalogFeed:
    """Follows the entries of the catalog."""

    def __init__(self, index: SearchIndex, catalog: CatalogRows, clock: Clock) -> None:
        self._index = index
        self._catalog = catalog
        self._clock = clock
        self._changed: set[str] = {row.id for row in catalog.rows()}
        self._change = asyncio.Event()
        catalog.subscribe(self._note)

    def _note(self, ids: AbstractSet[str]) -> None:
        self._changed |= ids
        self._change.set()

    async def follow(self) -> None:
        """Index what has changed, for ever."""
        while True:
            while not self._changed:
                self._change.clear()
                await self._change.wait()
            taken, self._changed = self._changed, set()
            try:
                rows = [row for row in self._catalog.rows(taken) if row.status != DELETED]
                gone = taken - {row.id for row in rows}
                await self._index.apply(
                    [catalog_document(row) for row in rows],
                    [DocumentKey(Kind.CATALOG, one) for one in gone],
                )
            except Exception:
                # Search lags rather than ends.
                log.exception("search_index_failed")
                self._changed |= taken
                await self._clock.sleep(RETRY_SECONDS)


def catalog_document(row: CatalogRow) -> SearchDocument:
    """Return what search knows of a catalog entry."""
    description = row.description
    return SearchDocument(
        DocumentKey(Kind.CATALOG, row.id),
        row.name,
        row.title,
        None if description is None else description[:MAX_DESCRIPTION_CHARACTERS],
        tags=tuple(row.tags),
        traits=Traits(str(row.status), catalog=CatalogLink(row.id, row.name)),
    )
