"""Read what a caller may see of servers.

Lists are decided in memory, by the same function as all other access, and read the documents of
one page; a single server is read and decided from the database alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from packages.database.client import Transaction
from registry.access.policy import (
    VIEW_BIT,
    Grants,
    evaluate,
    sees_everything,
)
from registry.access.repository import AclRepository
from registry.auth.identity import UserContext
from registry.core.json import members
from registry.core.paging import Page, PageRequest
from registry.core.search import best_first, words_of
from registry.servers.storage.inventory import FormerServer, Inventory, ListedServer
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import (
    FUNCTIONS,
    UNKNOWN_SCOPE,
    ServerFilter,
    ServerRecord,
    names_in,
)
from registry.tools.exposure import is_served
from registry.tools.projection import restore
from registry.tools.repository import ToolRepository


class VisibleServers:
    """The servers that a caller may see, and the caller's rights on them.

    Args:
        admin_sees_private: Whether administrators see other users' private servers.
    """

    def __init__(
        self,
        servers: ServerRepository,
        acl: AclRepository,
        inventory: Inventory,
        tools: ToolRepository,
        *,
        admin_sees_private: bool,
    ) -> None:
        self._servers = servers
        self._acl = acl
        self._inventory = inventory
        self._tools = tools
        self._admin_sees_private = admin_sees_private

    async def list_page(
        self, user: UserContext, narrowed: ServerFilter, page: PageRequest
    ) -> Page[ServerRecord]:
        """Return one page of what *user* may see, the best match or the latest change first.

        Without tool functions and sync states.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        found = _narrowed(self.listed(user), narrowed)
        chosen = found[page.offset : page.offset + page.per_page]
        ids = [server.id for server in chosen]
        rows = await self._servers.by_ids_unchecked(ids) if ids else []
        records = {record.id: record for record in rows}
        # Decided again: the server may have changed since, or been removed.
        seen = [
            self._judged(
                records[server.id].model_copy(update={"described": server.described}),
                user,
                server.facts.grants,
            )
            for server in chosen
            if server.id in records
        ]
        items = tuple(record for record in seen if record.bits & VIEW_BIT)
        return Page(items, len(found), page)

    def listed(self, user: UserContext) -> list[ListedServer]:
        """Return all that *user* may see, latest change first. No database.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        return [server for server, _ in self._seen(user)]

    def former(self, user: UserContext) -> list[FormerServer]:
        """Return what *user* could see, as it was before a change or removal, latest last.

        As far as this process has seen it happen.
        """
        sees_private = self._admin_sees_private
        return [
            one
            for one in self._inventory.former()
            if evaluate(user, one.server.facts, admin_sees_private=sees_private).bits & VIEW_BIT
        ]

    def moved_at(self) -> dict[str, datetime]:
        """Return when it changed who may see a server, by its id, as far as it is known."""
        return {one.server.id: one.until for one in self._inventory.former()}

    def rights(self, user: UserContext) -> dict[str, int]:
        """Return what *user* may do with each server that they see. No database.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        return {server.id: bits for server, bits in self._seen(user)}

    def sees_everything(self, user: UserContext) -> bool:
        """Whether *user* may see every server, and what is left of removed ones."""
        return sees_everything(user, admin_sees_private=self._admin_sees_private)

    def sees_private(self, user: UserContext) -> bool:
        """Whether *user* may see others' private servers in the tenants that they see."""
        return user.is_admin and self._admin_sees_private

    async def get(
        self, server_id: str, user: UserContext, now: datetime, *, whole: bool = True
    ) -> ServerRecord | None:
        """Return a server that *user* may see, or None.

        Args:
            server_id: The server's id.
            user: The caller.
            now: The current time, for entries that expire.
            whole: With its tool functions, which may be megabytes.
        """
        found = await self._servers.record_unchecked(server_id, whole=whole)
        server = await self._if_visible(found, user, now)
        if server is None:
            return None
        server = await self._servers.with_state(server)
        return (
            await self._with_tools(server) if whole and server.is_described_elsewhere else server
        )

    async def _with_tools(self, server: ServerRecord) -> ServerRecord:
        """Return a server that we never read with what is stored of its tools."""
        functions = members(server.config.get(FUNCTIONS))
        found = restore(functions, server.server_name, names_in(server.config.get("tools")))
        rows = await self._tools.stored(server.id)
        names = {tool.name for tool in found.tools}
        if rows:
            names = {
                name
                for name, row in rows.items()
                if is_served(row.registration_state, row.exposure_state)
            }
        described = server.in_stored_order(names)
        return server.model_copy(update={"described": described, "rejected": found.rejected})

    async def seen(self, server_id: str, user: UserContext, now: datetime) -> ServerRecord | None:
        """Return a server that *user* may see, without its sync state, or None."""
        return await self._if_visible(await self._servers.record_unchecked(server_id), user, now)

    async def bits(
        self,
        server: ServerRecord,
        user: UserContext,
        now: datetime,
        tx: Transaction | None = None,
    ) -> int:
        """Return what *user* may do with a server, by its entries as a transaction sees them."""
        grants = (await self._acl.grants_of([server.id], now, tx)).get(server.id, [])
        return self._judged(server, user, Grants.of(grants, server.tenant_id)).bits

    async def _if_visible(
        self, record: ServerRecord | None, user: UserContext, now: datetime
    ) -> ServerRecord | None:
        if record is None:
            return None
        grants = (await self._acl.grants_of([record.id], now)).get(record.id, [])
        judged = self._judged(record, user, Grants.of(grants, record.tenant_id))
        return judged if judged.bits & VIEW_BIT else None

    def _seen(self, user: UserContext) -> Iterator[tuple[ListedServer, int]]:
        sees_private = self._admin_sees_private
        for server in self._inventory.servers():
            bits = evaluate(user, server.facts, admin_sees_private=sees_private).bits
            if bits & VIEW_BIT:
                yield server, bits

    def _judged(self, record: ServerRecord, user: UserContext, grants: Grants) -> ServerRecord:
        sees_private = self._admin_sees_private
        verdict = evaluate(user, record.facts(grants), admin_sees_private=sees_private)
        return record.model_copy(update={"bits": verdict.bits})


def _narrowed(servers: Iterable[ListedServer], narrowed: ServerFilter) -> Sequence[ListedServer]:
    """Return the requested servers, in the order of the list."""
    found = [
        server
        for server in servers
        if (narrowed.scope is None or (server.facts.scope or UNKNOWN_SCOPE) is narrowed.scope)
        and (narrowed.status is None or server.status is narrowed.status)
        and (narrowed.author is None or server.facts.author == narrowed.author)
        and narrowed.source_type in {None, server.source_type}
    ]
    return best_first(found, words_of(narrowed.query))
