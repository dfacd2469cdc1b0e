"""Builds the search: loaded only where it is on, as numpy takes some 25 MB."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.view.snapshot import Snapshot
from registry.gateway.view.toolsets import Toolsets
from registry.search.ports import CatalogRows, CatalogTools, NoVectors, QueryVectors
from registry.servers.storage.inventory import Inventory

if TYPE_CHECKING:
    from registry.gateway.view.search_feed import SearchFeed
    from registry.search.catalog_feed import CatalogFeed
    from registry.search.index import SearchIndex
    from registry.search.service import SearchService


@dataclass(frozen=True, slots=True)
class Search:
    """The parts of the search."""

    index: "SearchIndex"
    feed: "SearchFeed"
    catalog_feed: "CatalogFeed"
    service: "SearchService"


def build_search(
    settings: Settings,
    snapshot: Snapshot,
    inventory: Inventory,
    toolsets: Toolsets,
    catalog: CatalogRows,
    catalog_tools: CatalogTools,
    *,
    clock: Clock,
    metrics: Metrics,
    vectors: QueryVectors | None = None,
) -> Search | None:
    """Return the search, its index still empty; None if it is off."""
    if not settings.search_enabled:
        return None
    _use_one_thread()
    from registry.gateway.view.search_feed import SearchFeed  # noqa: PLC0415 - loads numpy
    from registry.search.catalog_feed import CatalogFeed  # noqa: PLC0415
    from registry.search.index import SearchIndex  # noqa: PLC0415
    from registry.search.service import SearchService  # noqa: PLC0415

    rest: Callable[[], Awaitable[None]] = partial(clock.sleep, 0)
    index = SearchIndex(rest)
    feed = SearchFeed(
        index,
        snapshot,
        inventory,
        toolsets,
        clock,
        admin_uses_private=settings.admin_uses_private,
    )
    service = SearchService(index, vectors or NoVectors(), feed, clock=clock, metrics=metrics)
    return Search(index, feed, CatalogFeed(index, catalog, catalog_tools, clock), service)


def _use_one_thread() -> None:
    """Let numpy multiply in the thread that asks.

    Its threads spin for the processors that serve calls, and a block of vectors is too small for
    more than one: measured, 10,000 vectors took 8 ms instead of 0.6. Read when it is loaded.
    """
    import os  # noqa: PLC0415 - nothing else here asks for the environment

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # noqa: TID251 - no setting of ours
