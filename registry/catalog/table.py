"""All servers of the catalog in memory, as lists show them.

Implements `gateway.view.tables.FollowedTable`: each replica follows the collection. Lists, filters
and searches are answered from here, so that they take no command, however long they are.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from packages.models.states import CatalogKind
from registry.catalog.repository import CatalogRepository
from registry.catalog.values import CatalogFilter, CatalogRow
from registry.core import search

Listener = Callable[[AbstractSet[str]], None]
"""Called with the ids of servers that were added, changed or removed."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """A server with its search text. Implements `core.search.Searched`."""

    row: CatalogRow
    text: str


class CatalogTable:
    """Follows `mcpservers_registry`."""

    collection = "mcpservers_registry"

    def __init__(self, catalog: CatalogRepository) -> None:
        self._catalog = catalog
        self._known: dict[str, _Listed] = {}
        self._sorted: tuple[_Listed, ...] | None = None
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Call *listener* after each change."""
        self._listeners.append(listener)

    async def reload(self, ids: AbstractSet[str] | None) -> None:
        """Read servers again: those with these ids, or those whose revision differs.

        Raises:
            DatabaseUnavailable: The table stays as it was.
        """
        if ids is None:
            heads = await self._catalog.heads()
            changed = {
                one
                for one, revision in heads.items()
                if one not in self._known or self._known[one].row.revision != revision
            }
            ids = changed | (self._known.keys() - heads.keys())
            whole = len(changed) == len(heads)
            rows = await self._catalog.rows(None if whole else changed)
        else:
            rows = await self._catalog.rows(ids)
        found = {row.id: _Listed(row, row.text) for row in rows}
        known = {key: one for key, one in self._known.items() if key not in ids}
        self._known = {**known, **found}
        self._sorted = None
        if ids:
            for listener in self._listeners:
                listener(ids)

    def rows(self, ids: Iterable[str] | None = None) -> Sequence[CatalogRow]:
        """Return servers, by name; those with these ids, or all."""
        if ids is None:
            return [one.row for one in self._in_order()]
        return [self._known[one].row for one in ids if one in self._known]

    def count(self, kind: CatalogKind) -> int:
        """Return how many there are of a kind."""
        return sum(one.row.kind is kind for one in self._known.values())

    def listed(self, narrowed: CatalogFilter) -> Sequence[CatalogRow]:
        """Return the servers that pass a filter: best match first, or by name."""
        passing = [one for one in self._in_order() if narrowed.takes(one.row)]
        found = search.best_first(passing, search.words_of(narrowed.query))
        return [one.row for one in found]

    def _in_order(self) -> Sequence[_Listed]:
        if self._sorted is None:
            self._sorted = tuple(
                sorted(self._known.values(), key=lambda one: (one.row.name, one.row.id))
            )
        return self._sorted
