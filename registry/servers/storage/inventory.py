"""Inventory: all servers and tools in memory, as far as lists need them.

The gateway's snapshot fills it and keeps it up to date; lists read it, and query the database only
for the documents of one page. The value of a server is replaced as a whole and never modified.
See docs/decisions/0032-lists-from-memory.md.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple

from packages.database.slices import slices
from packages.database.stored import text_of
from packages.models.states import SourceType
from registry.access.policy import Grants, ServerFacts, ServerScope
from registry.access.repository import AclRepository
from registry.auth.identity import UserContext
from registry.connections.values import VisibleServer
from registry.core.clock import Clock
from registry.core.search import joined, searchable
from registry.oauth.policy import grant_of
from registry.servers.credentials import is_user_level
from registry.servers.errors import ListsOutdatedError
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import (
    MCP_TRANSPORTS,
    UNKNOWN_SCOPE,
    ServerCounts,
    ServerRecord,
    ServerStatus,
    Transport,
    oauth_server,
)
from registry.tools.naming import SEPARATOR, public_prefix, public_suffix, slug_of
from registry.tools.projection import restore
from registry.tools.repository import ToolRepository
from registry.tools.values import ListedTool, ToolRow

NEVER = datetime.min.replace(tzinfo=UTC)

READ_AT_ONCE = 50

FEW = 200
"""Servers whose tools are sorted lazily, on the next read."""

by_row_id = attrgetter("row_id")


class OwnerWords(NamedTuple):
    """What a server's tools are found by besides their own texts.

    Attributes:
        prefix: First half of their names on the aggregate server.
    """

    server_name: str
    prefix: str


class ServerWords(NamedTuple):
    """What searches of agents and people find a server by besides its name.

    Attributes:
        catalog_id: Of the catalog entry that it is linked to.
        catalog_name: The name of that.
    """

    title: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    catalog_id: str | None = None
    catalog_name: str | None = None


NO_WORDS = ServerWords()

MAX_DESCRIPTION_CHARACTERS = 1_000
"""How much of a server's description is held in memory."""


@dataclass(frozen=True, slots=True)
class ListedServer:
    """What lists need to know of one server.

    Attributes:
        facts: The input of the access decision.
        transport: As stored; a server without one counts as SSE.
        served: The number of served tools, for statistics.
        described: The names of its tools, if only the other application has described them.
        text: The text for the filters of lists.
        tools: All of it, in the order of their ids.
        words: What the search over everything finds it by.
    """

    seen: VisibleServer
    facts: ServerFacts
    status: ServerStatus
    effective_path: str
    source_type: SourceType
    transport: str
    served: int
    described: tuple[str, ...] | None
    text: str = field(repr=False)
    tools: tuple[ListedTool, ...] = field(repr=False)
    words: ServerWords = NO_WORDS

    @property
    def id(self) -> str:
        """Return its ObjectId."""
        return self.seen.id


class FormerServer(NamedTuple):
    """A server as it was before a change of who may see it, or before its removal.

    Attributes:
        until: When it ended.
    """

    server: ListedServer
    until: datetime


MAX_FORMER = 2_000


def _is_seen_otherwise(former: ListedServer, later: ListedServer) -> bool:
    """Whether others may see it, or it is found elsewhere."""
    return (
        former.facts != later.facts
        or former.status is not later.status
        or former.effective_path != later.effective_path
        or former.words.catalog_id != later.words.catalog_id
    )


def owner_words(server: ServerRecord) -> OwnerWords:
    """Return what the server's tools are found by besides their own texts."""
    slug = slug_of(server.effective_path) or server.server_name
    return OwnerWords(server.server_name, public_prefix(slug))


def listed_tool(row: ToolRow, owner: OwnerWords) -> ListedTool:
    """Return what lists need of a stored tool; its server's name is part of the search text."""
    combined = f"{owner.prefix}{SEPARATOR}{public_suffix(owner.prefix, row.name)}"
    # Lowest weight last: the tool's own texts come first.
    return row.listed._replace(
        text=joined(row.listed.text, searchable([combined], [owner.server_name]))
    )


def listed_server(
    server: ServerRecord,
    grants: Grants,
    tools: Iterable[ListedTool],
    described: Collection[str] | None = None,
) -> ListedServer:
    """Return what lists need of a stored server.

    Args:
        server: The stored server.
        grants: What its entries grant.
        tools: Its rows.
        described: Names of the tools that are served, if we never read it.
    """
    config = server.config
    names = None if described is None else server.in_stored_order(described)
    served = server.tool_names if names is None else names
    owner = owner_words(server)
    combined = (f"{owner.prefix}{SEPARATOR}{public_suffix(owner.prefix, one)}" for one in served)
    return ListedServer(
        seen=seen(server),
        facts=server.facts(grants),
        status=server.effective_status,
        effective_path=server.effective_path,
        source_type=server.source_type,
        transport=transport_named(config.get("type")),
        served=len(served),
        described=names,
        text=searchable(
            [server.server_name],
            [config.get("title")],
            server.tags,
            [config.get("description")],
            # Only those that callers with access to the server may see.
            [*served, *combined],
        ),
        tools=tuple(sorted(tools, key=by_row_id)),
        words=_words(server),
    )


def _words(server: ServerRecord) -> ServerWords:
    config, registry = server.config, server.registry
    description = text_of(config.get("description")) or text_of(
        registry.get("registry_server_description")
    )
    catalog_id = registry.get("registry_server_id")
    return ServerWords(
        title=text_of(config.get("title")) or text_of(registry.get("title")),
        description=None if description is None else description[:MAX_DESCRIPTION_CHARACTERS],
        tags=tuple(server.tags),
        catalog_id=None if catalog_id is None else str(catalog_id),
        catalog_name=text_of(registry.get("registry_server_name")),
    )


def transport_named(stored: object) -> str:
    """Return the name under which statistics count a stored transport; None if it is not text."""
    if stored is None:
        # As the other application reads it.
        return Transport.SSE.value
    name = text_of(stored) or "unknown"
    return Transport.STREAMABLE_HTTP.value if name == "http" else name


def seen(server: ServerRecord) -> VisibleServer:
    """Return what connections need to know of a server."""
    return VisibleServer(
        id=server.id,
        name=server.server_name,
        version=server.updated_at,
        is_off=server.effective_status is ServerStatus.INACTIVE,
        is_user_level=is_user_level(server.config),
        oauth=None if grant_of(server.config) is None else oauth_server(server),
    )


@dataclass(frozen=True, slots=True)
class InventorySources:
    """Source of an inventory for a process that follows no changes."""

    servers: ServerRepository
    tools: ToolRepository
    acl: AclRepository

    async def read(self, now: datetime, *, with_tools: bool) -> dict[str, ListedServer]:
        """Return all servers as they are stored now.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """
        found: dict[str, ListedServer] = {}
        for ids in slices(await self.servers.ids_unchecked(), READ_AT_ONCE):
            servers = await self.servers.by_ids_unchecked(ids)
            grants = await self.acl.grants_of(ids, now)
            owners = {server.id: owner_words(server) for server in servers}
            tools: dict[str, list[ListedTool]] = {}
            described: dict[str, list[str]] = {
                server.id: [] for server in servers if server.is_described_elsewhere
            }
            async for row in self.tools.rows(ids if with_tools else list(described)):
                owner_id = row.listed.owner_id
                tools.setdefault(owner_id, []).append(listed_tool(row, owners[owner_id]))
                if row.is_served and owner_id in described:
                    described[owner_id].append(row.name)
            for server in servers:
                if server.id in described and server.id not in tools:
                    functions = await self.servers.tool_functions(server.id)
                    restored = restore(functions, server.server_name)
                    described[server.id] = [tool.name for tool in restored.tools]
                entries = Grants.of(grants.get(server.id, ()), server.tenant_id)
                found[server.id] = listed_server(
                    server,
                    entries,
                    tools.get(server.id, ()) if with_tools else (),
                    described.get(server.id),
                )
        return found


class Inventory:
    """The servers and tools of the current version of the database.

    Args:
        clock: For its age.
        max_staleness_seconds: Maximum age for reads.
    """

    def __init__(self, clock: Clock, *, max_staleness_seconds: float) -> None:
        self._clock = clock
        self._max_staleness_seconds = max_staleness_seconds
        self._agreed_at = float("-inf")
        self._servers: dict[str, ListedServer] = {}
        self._in_order: list[ListedServer] | None = None
        self._tools: list[ListedTool] = []
        self._former: deque[FormerServer] = deque(maxlen=MAX_FORMER)
        # Servers whose entries in `_tools` are outdated.
        self._outdated: set[str] = set()

    @property
    def age_seconds(self) -> float:
        """Return the time since it last agreed with the database."""
        return self._clock.monotonic() - self._agreed_at

    def is_fresh(self) -> bool:
        """Whether it agreed with the database recently enough."""
        return self.age_seconds <= self._max_staleness_seconds

    def agrees(self, since: float) -> None:
        """Record that it agreed with the database at the monotonic time *since*."""
        self._agreed_at = max(self._agreed_at, since)

    def replace(self, server_ids: Iterable[str], servers: Mapping[str, ListedServer]) -> None:
        """Replace everything that is held of *server_ids* by *servers*."""
        for server_id in server_ids:
            former, later = self._servers.pop(server_id, None), servers.get(server_id)
            if later is not None:
                self._servers[server_id] = later
            if former is not None and (later is None or _is_seen_otherwise(former, later)):
                bare = replace(former, tools=(), text="")
                self._former.append(FormerServer(bare, self._clock.now()))
            before = former.tools if former is not None else ()
            if before is not (later.tools if later is not None else ()):
                self._outdated.add(server_id)
        self._in_order = None

    def replace_all(self, servers: Mapping[str, ListedServer]) -> None:
        """Replace everything by *servers*."""
        self.replace({**self._servers, **servers}, servers)

    def servers(self) -> Sequence[ListedServer]:
        """Return all servers, the latest change first.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        self._require_fresh()
        if self._in_order is None:
            # Twice, because the order is descending by time and ascending by id.
            by_id = sorted(self._servers.values(), key=lambda server: server.seen.id)
            self._in_order = sorted(
                by_id, key=lambda server: server.seen.version or NEVER, reverse=True
            )
        return self._in_order

    def server(self, server_id: str) -> ListedServer | None:
        """Return a server, however old the inventory is."""
        return self._servers.get(server_id)

    def former(self) -> Sequence[FormerServer]:
        """Return servers as they were, the latest last: the last few that this process saw."""
        return tuple(self._former)

    def tools(self, server_ids: Collection[str]) -> Sequence[ListedTool]:
        """Return the tools of some servers in the order of their ids, that of insertion.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        self._require_fresh()
        if len(server_ids) <= FEW:
            found = (self._servers.get(server_id) for server_id in server_ids)
            some = [tool for server in found if server is not None for tool in server.tools]
            return sorted(some, key=by_row_id)
        everything = self._all_tools()
        if len(server_ids) >= len(self._servers):
            return everything
        return [tool for tool in everything if tool.owner_id in server_ids]

    def counts(self, user: UserContext) -> ServerCounts:
        """Count all MCP servers of the tenants that *user* sees, private ones too.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        servers = [
            server
            for server in self.servers()
            if server.source_type is SourceType.MCP and user.sees_tenant(server.facts.tenant_id)
        ]
        scopes = Counter(server.facts.scope or UNKNOWN_SCOPE for server in servers)
        statuses = Counter(server.status for server in servers)
        transports = Counter(server.transport for server in servers)
        return ServerCounts(
            total=len(servers),
            by_scope={scope: scopes[scope] for scope in ServerScope},
            by_status={status: statuses[status] for status in ServerStatus},
            by_transport={**dict.fromkeys(map(str, MCP_TRANSPORTS), 0), **transports},
            tools=sum(server.served for server in servers),
        )

    def _all_tools(self) -> list[ListedTool]:
        if self._outdated:
            outdated, servers = self._outdated, self._servers
            kept = [tool for tool in self._tools if tool.owner_id not in outdated]
            found = (servers.get(server_id) for server_id in outdated)
            kept += [tool for server in found if server is not None for tool in server.tools]
            # Nearly sorted already, which makes sorting fast.
            kept.sort(key=by_row_id)
            self._tools, self._outdated = kept, set()
        return self._tools

    def _require_fresh(self) -> None:
        if not self.is_fresh():
            raise ListsOutdatedError
