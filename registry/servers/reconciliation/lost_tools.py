"""Restore the tool rows of servers that were read here and have lost them.

This is the state of a database that was restored without `mcp_tools`. The rows are rebuilt from
what jarvis-api reads of the tools, `config.toolFunctions`, which is written together with them.
Rows of a server that we never read come back by themselves (`described`). Only an operator starts
this: `registry doctor --repair`.
"""

from packages.database.client import Database, Transaction
from packages.database.slices import slices
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import OPERATOR
from registry.core.clock import Clock
from registry.servers.reconciliation.audit_records import server_changes
from registry.servers.reconciliation.registry_sync import RegistrySyncService
from registry.servers.reconciliation.store import LARGE_SECONDS, ServerRepositories
from registry.servers.values import Discovered, ServerRecord
from registry.tools.exposure import AutoExpose
from registry.tools.projection import restore
from registry.tools.values import ToolEditor, ToolSnapshot

SERVERS_AT_ONCE = 200


class LostTools:
    """Servers whose documents name tools but that have no rows."""

    def __init__(
        self, database: Database, repositories: ServerRepositories, *, clock: Clock
    ) -> None:
        self._database = database
        self._repositories = repositories
        self._sync = RegistrySyncService(repositories.tools, repositories.features)
        self._clock = clock

    async def find(self) -> list[str]:
        """Return the ids of these servers.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        repositories = self._repositories
        found: list[str] = []
        for ids in slices(await repositories.servers.ids_unchecked(), SERVERS_AT_ONCE):
            for server in await repositories.servers.by_ids_unchecked(ids):
                if not _names_tools(server) or await repositories.tools.has_rows(server.id):
                    continue
                found.append(server.id)
        return sorted(found)

    async def restore(self, server_id: str) -> int:
        """Write the rows of a server, unless it has some; return the number of tools.

        They are served as jarvis-api serves them. The next sync compares them with what the server
        offers.

        Raises:
            DatabaseUnavailable: The database is unavailable.
            ReplicaSetNeeded: The database has no transactions.
        """
        repositories = self._repositories

        async def write(tx: Transaction) -> int:
            # First, so that no other process writes it at the same time.
            server = await repositories.servers.touch(server_id, tx)
            if server is None or not _names_tools(server):
                return 0
            if await repositories.tools.has_rows(server_id, tx):
                return 0
            functions = await repositories.servers.tool_functions(server_id, tx)
            snapshot = restore(functions, server.server_name)
            if not snapshot.tools:
                return 0
            synced = await self._sync.begin(
                server_id,
                server.server_name,
                _as_read(snapshot),
                AutoExpose.ALL,
                self._clock.now(),
                tx,
                reader=ToolEditor(OPERATOR.user_id, OPERATOR.username),
            )
            changes = server_changes(server, server, synced.tools)
            event = AuditEvent(AuditAction.REFRESH, EntityType.SERVER, server_id, changes)
            await repositories.audit.record(OPERATOR, event, tx)
            return len(snapshot.tools)

        return await self._database.transaction(write, seconds=LARGE_SECONDS)


def _names_tools(server: ServerRecord) -> bool:
    return not server.is_described_elsewhere and bool(server.tool_names)


def _as_read(snapshot: ToolSnapshot) -> Discovered:
    return Discovered(
        snapshot=snapshot,
        capabilities={},
        protocol_version="",
        eras=frozenset(),
        instructions=None,
        init_duration_ms=0,
    )
