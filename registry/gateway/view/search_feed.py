"""Search feed: keeps the search index equal to what the gateway serves, and says who sees what.

It follows the snapshot, so the index has the same tools as `tools/list`, on every replica, a
moment after each commit. Candidates are made from a caller's view of the catalogue: search decides
nothing itself. Above are the wiring and, through ports, `registry.search`; below is the snapshot.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from registry.access.policies.values import NarrowedPath
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.json import load_text
from registry.gateway.errors import ToolsetUnknown
from registry.gateway.values import Route, ToolEntry
from registry.gateway.view.catalogue import Catalogue, CatalogueView
from registry.gateway.view.offering import CombinedOffering
from registry.gateway.view.tool_search import SearchedTools, searched
from registry.gateway.view.toolsets import Toolsets
from registry.search.index import SearchIndex
from registry.search.ports import (
    Candidates,
    CatalogLink,
    DocumentKey,
    Kind,
    SearchDocument,
    Traits,
)
from registry.servers.errors import ListsOutdatedError
from registry.servers.storage.inventory import Inventory, ListedServer
from registry.tools.metadata import READ_ONLY, facet

log = structlog.get_logger()

MAX_DESCRIPTION_CHARACTERS = 2_000
"""How much of a tool's description is searched and held in memory."""

CATCH_UP_SECONDS = 0.5
"""How long a search waits for what has just changed."""

SERVERS_AT_A_TIME = 20
"""Changed servers of one step, before other tasks get a turn."""

RETRY_SECONDS = 1.0

IS_READ_ONLY, CHANGES = facet(READ_ONLY, value=True), facet(READ_ONLY, value=False)

EVERYWHERE = NarrowedPath()
"""`/mcp` itself, as a client without a header and a name of its own asks."""

CANDIDATES = "candidates"


class ServedView(Protocol):
    """What the gateway serves. Implemented by `gateway.view.snapshot`."""

    @property
    def catalogue(self) -> Catalogue:
        """Return the catalogue of the aggregate server."""

    @property
    def version(self) -> int:
        """Return the version of the view."""

    async def changed(self, seen: int) -> int:
        """Wait until the version of the view is not *seen*, and return it."""

    def view(self, user: UserContext) -> CatalogueView:
        """Return *user*'s view of the catalogue."""

    def is_fresh(self) -> bool:
        """Whether the view agreed with the database recently enough to be used."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """What the index holds of one server, and what it was made from."""

    route: Route
    listed: ListedServer | None
    documents: Mapping[str, SearchDocument]
    server: SearchDocument


class SearchFeed:
    """Follows the snapshot. Implements `search.ports.Audience`.

    Args:
        snapshot: What is followed.
        inventory: Of the same version.
        toolsets: What narrows `/mcp` to callers who have one by default.
        admin_uses_private: Whether administrators may use others' private servers.
    """

    def __init__(
        self,
        index: SearchIndex,
        snapshot: ServedView,
        inventory: Inventory,
        toolsets: Toolsets,
        clock: Clock,
        *,
        admin_uses_private: bool,
    ) -> None:
        self._index = index
        self._snapshot = snapshot
        self._inventory = inventory
        self._toolsets = toolsets
        self._clock = clock
        self._admin_uses_private = admin_uses_private
        self._known: dict[str, Indexed] = {}
        self._applied = 0
        self._caught_up = asyncio.Event()

    async def follow(self) -> None:
        """Index what is served, and whatever changes of it, for ever."""
        while True:
            await self._snapshot.changed(self._applied)
            try:
                await self.update()
            except Exception:
                # Search lags rather than ends.
                log.exception("search_index_failed")
                await self._clock.sleep(RETRY_SECONDS)

    async def update(self) -> None:
        """Index what has changed since the last time."""
        version = self._snapshot.version
        await self._apply()
        self._applied = version
        self._caught_up.set()
        self._caught_up = asyncio.Event()

    async def caught_up(self) -> None:
        """Wait, for a moment at most, until the index has what the gateway serves now."""
        wanted = self._snapshot.version
        if self._applied >= wanted:
            return
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while self._applied < wanted:
                    await self._caught_up.wait()
        except TimeoutError:
            # Much has changed at once: what is indexed is searched.
            return

    async def _apply(self) -> None:
        served = self._snapshot.catalogue.by_server
        gone = [server_id for server_id in self._known if server_id not in served]
        changed = [
            server_id
            for server_id, member in served.items()
            if not self._is_known(server_id, member.route)
        ]
        if gone:
            await self._index.apply((), _keys(self._known.pop(one) for one in gone))
        for at in range(0, len(changed), SERVERS_AT_A_TIME):
            some = changed[at : at + SERVERS_AT_A_TIME]
            await self._replace({one: served[one].route for one in some})
            await self._clock.sleep(0)

    def _is_known(self, server_id: str, route: Route) -> bool:
        known = self._known.get(server_id)
        return (
            known is not None
            and known.route.tools is route.tools
            and known.listed is self._inventory.server(server_id)
            and known.route.slug == route.slug
        )

    async def _replace(self, routes: Mapping[str, Route]) -> None:
        put: list[SearchDocument] = []
        gone: list[DocumentKey] = []
        later: dict[str, Indexed] = {}
        for server_id, route in routes.items():
            before = self._known.get(server_id)
            now = later[server_id] = _indexed(route, self._inventory.server(server_id), before)
            put += [now.server, *now.documents.values()]
            if before is not None:
                kept = {one.key for one in now.documents.values()}
                gone += [one.key for one in before.documents.values() if one.key not in kept]
        await self._index.apply(
            put, gone, served={server_id: route.tools for server_id, route in routes.items()}
        )
        self._known |= later

    def candidates(self, user: UserContext) -> Candidates:
        """Return the tools that `tools/list` at `/mcp` shows to *user*, and their servers.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        if not self._snapshot.is_fresh():
            raise ListsOutdatedError
        view = self._snapshot.view(user)
        try:
            toolsets = self._toolsets.applied(
                user, EVERYWHERE, admin_uses_private=self._admin_uses_private
            )
        except ToolsetUnknown:
            # At `/mcp` the caller gets an error, and no list.
            return Candidates(servers=_servers(view))
        if toolsets:
            named = [toolset for toolset, _ in toolsets]
            tools = searched(self._toolsets.offering(view, named, is_default=True))
        else:
            tools = searched(CombinedOffering(view))
        key = (CANDIDATES, id(tools))
        known = view.toolsets.get(key)
        if not isinstance(known, _Kept) or known.made_of is not tools:
            candidates = replace(tools.candidates, servers=_servers(view), catalog=None)
            known = view.toolsets[key] = _Kept(tools, candidates)
        return known.candidates


@dataclass(frozen=True, slots=True)
class _Kept:
    """Candidates that are kept with a view, and what they were made of."""

    made_of: SearchedTools
    candidates: Candidates


def _servers(view: CatalogueView) -> frozenset[str]:
    return frozenset(member.route.server_id for member in view.members)


def _keys(servers: Iterable[Indexed]) -> Iterator[DocumentKey]:
    for one in servers:
        yield one.server.key
        for document in one.documents.values():
            yield document.key


def _indexed(route: Route, listed: ListedServer | None, before: Indexed | None) -> Indexed:
    words = None if listed is None else listed.words
    link = None
    if words is not None and words.catalog_id is not None:
        link = CatalogLink(words.catalog_id, words.catalog_name or "")
    traits = Traits(
        status="" if listed is None else listed.status.value,
        source_type="" if listed is None else listed.source_type.value,
        catalog=link,
    )
    context = (None if words is None else words.catalog_name) or route.server_name
    server = SearchDocument(
        DocumentKey(Kind.SERVER, route.server_id),
        route.server_name,
        route.title,
        (None if words is None else words.description) or _description_of_tools(route),
        server_id=route.server_id,
        server_name=route.server_name,
        slug=route.slug,
        tags=() if words is None else words.tags,
        tools=tuple(route.tools),
        traits=traits,
    )
    shared = {flag: traits._replace(read_only=flag) for flag in (None, True, False)}
    known = {} if before is None else before.documents
    entries = {} if before is None else before.route.tools
    documents: dict[str, SearchDocument] = {}
    for name, entry in route.tools.items():
        flag = _read_only(entry)
        former = known.get(name)
        if (
            former is not None
            and entries.get(name) is entry
            and former.context == context
            and former.traits == shared[flag]
            and former.slug == route.slug
        ):
            documents[name] = former
            continue
        documents[name] = _document(entry, route, context, shared[flag])
    return Indexed(route, listed, documents, server)


def _description_of_tools(route: Route) -> str | None:
    """Return the description of a server that has none, and inherits none: what its tools are."""
    text = ", ".join(entry.name for entry in route.tools.values())
    return f"Tools: {text}"[:MAX_DESCRIPTION_CHARACTERS] if text else None


def _document(entry: ToolEntry, route: Route, context: str, traits: Traits) -> SearchDocument:
    # The gateway serves no other texts than those of JSON objects.
    shown = load_text(entry.wire)
    title, description = shown.get("title"), shown.get("description")
    return SearchDocument(
        DocumentKey(Kind.TOOL, entry.row_id.hex() or f"{route.server_id}/{entry.name}"),
        entry.name,
        title if isinstance(title, str) else None,
        description[:MAX_DESCRIPTION_CHARACTERS] if isinstance(description, str) else None,
        context,
        route.server_id,
        route.server_name,
        route.slug,
        entry.tags,
        traits=traits,
    )


def _read_only(entry: ToolEntry) -> bool | None:
    if IS_READ_ONLY in entry.facets:
        return True
    return False if CHANGES in entry.facets else None
