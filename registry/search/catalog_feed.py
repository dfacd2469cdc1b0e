"""Catalog feed: keeps the search index equal to the catalog in memory, and to its tools.

The table reports what has changed while it is loaded, and must not wait for words to be counted;
so changes are gathered here and indexed by a task of their own.
"""

import asyncio
from collections.abc import Set as AbstractSet
from itertools import chain, islice

import structlog

from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.search.index import SearchIndex
from registry.search.ports import (
    CatalogLink,
    CatalogRow,
    CatalogRows,
    CatalogTool,
    CatalogTools,
    DocumentKey,
    Kind,
    SearchDocument,
    Traits,
)

log = structlog.get_logger()

MAX_DESCRIPTION_CHARACTERS = 1_000

RETRY_SECONDS = 1.0

ENTRIES_AT_ONCE = 500
"""Entries that are indexed together with their tools, which are read for that."""

DELETED = "deleted"
"""Entries that their source has taken back are not found."""


class CatalogFeed:
    """Follows the entries of the catalog."""

    def __init__(
        self, index: SearchIndex, catalog: CatalogRows, tools: CatalogTools, clock: Clock
    ) -> None:
        self._index = index
        self._catalog = catalog
        self._tools = tools
        self._indexed: dict[str, frozenset[DocumentKey]] = {}
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
            taken = set(islice(self._changed, ENTRIES_AT_ONCE))
            self._changed -= taken
            try:
                await self._index_entries(taken)
            except DatabaseUnavailable as exc:
                log.warning("search_catalog_tools_not_read", error=str(exc))
                self._changed |= taken
                await self._clock.sleep(RETRY_SECONDS)
            except Exception:
                # Search lags rather than ends.
                log.exception("search_index_failed")
                self._changed |= taken
                await self._clock.sleep(RETRY_SECONDS)

    async def _index_entries(self, taken: AbstractSet[str]) -> None:
        rows = {row.id: row for row in self._catalog.rows(taken) if row.status != DELETED}
        tools: dict[str, list[SearchDocument]] = {}
        for tool in await self._tools.tools_of([one.id for one in rows.values() if one.num_tools]):
            row = rows.get(tool.server_id or "")
            if row is not None:
                tools.setdefault(row.id, []).append(tool_document(tool, row))
        found = {one: frozenset(tool.key for tool in tools.get(one, ())) for one in taken}
        gone = {DocumentKey(Kind.CATALOG, one) for one in taken - rows.keys()}
        for one, keys in found.items():
            gone |= self._indexed.get(one, frozenset()) - keys
        documents = [catalog_document(row) for row in rows.values()]
        await self._index.apply([*documents, *chain.from_iterable(tools.values())], gone)
        for one, keys in found.items():
            if keys:
                self._indexed[one] = keys
            else:
                self._indexed.pop(one, None)


def tool_document(tool: CatalogTool, row: CatalogRow) -> SearchDocument:
    """Return what search knows of a tool of a catalog entry."""
    description = tool.description
    return SearchDocument(
        DocumentKey(Kind.CATALOG_TOOL, f"{row.id}/{tool.name}"),
        tool.name,
        tool.title,
        None if description is None else description[:MAX_DESCRIPTION_CHARACTERS],
        context=row.name,
        tags=tuple(row.tags),
        traits=Traits(str(row.status), catalog=CatalogLink(row.id, row.name)),
    )


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
