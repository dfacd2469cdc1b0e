"""Creates tool rows of servers whose tools only jarvis-api has described so far.

It reads only the stored `config.toolFunctions` and never changes it. Every process is notified of
such servers, at start and when one changes, and stores their tools. That is idempotent: of several
processes, one finds something to do. Once discovery has read a server, this module ignores it, and
discovery continues from its rows. See docs/decisions/0042-rows-of-described-servers.md.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable

import structlog

from packages.database.client import Database, Transaction
from packages.database.errors import DatabaseUnavailable
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import SYNCHRONISER
from registry.core.clock import Clock
from registry.core.json import JsonObject, canonical_json
from registry.servers.reconciliation.audit_records import server_changes
from registry.servers.reconciliation.registry_sync import NOTHING_CHANGED, RegistrySyncService
from registry.servers.reconciliation.store import LARGE_SECONDS, ServerRepositories
from registry.tools.projection import restore
from registry.tools.reconcile import Changes
from registry.tools.values import ToolEditor

log = structlog.get_logger()

SETTLE_SECONDS = 1.0
"""Minimum delay before a noted server's tools are stored; the maximum is twice that. Processes
start at different moments, so that the later ones find what the first has stored."""

DATABASE_RETRY_SECONDS = 5.0


class DescribedServers:
    """Stores rows of servers that discovery has never read.

    Args:
        settle_seconds: Minimum delay after a server was noted.
    """

    def __init__(
        self,
        database: Database,
        repositories: ServerRepositories,
        *,
        clock: Clock,
        settle_seconds: float = SETTLE_SECONDS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._repositories = repositories
        self._sync = RegistrySyncService(repositories.tools, repositories.features)
        self._clock = clock
        self._settle_seconds = settle_seconds
        self._chance = chance
        self._noted: set[str] = set()
        self._woken = asyncio.Event()

    def note(self, server_ids: Iterable[str]) -> None:
        """Queue servers that discovery has never read. Cheap."""
        self._noted.update(server_ids)
        if self._noted:
            self._woken.set()

    async def store(self, server_id: str) -> Changes:
        """Update the rows of a server from its stored tools; return the changes.

        Nothing is written for a server that discovery has read.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
        """
        repositories = self._repositories
        server = await repositories.servers.get_unchecked(server_id)
        if server is None or not server.is_described_elsewhere:
            return NOTHING_CHANGED.tools
        functions = await repositories.servers.tool_functions(server_id)
        if await self._is_stored(server_id, _digest(server.server_name, functions)):
            return NOTHING_CHANGED.tools

        async def store(tx: Transaction) -> Changes:
            server = await repositories.servers.get_unchecked(server_id, tx)
            if server is None or not server.is_described_elsewhere:
                return NOTHING_CHANGED.tools
            functions = await repositories.servers.tool_functions(server_id, tx)
            digest = _digest(server.server_name, functions)
            if await self._is_stored(server_id, digest, tx):
                return NOTHING_CHANGED.tools
            # Of several concurrent processes, all but one conflict here and retry.
            await repositories.servers.note_described(server_id, digest, tx)
            changes = await self._sync.follow_described(
                server,
                restore(functions, server.server_name),
                functions,
                self._clock.now(),
                tx,
                reader=ToolEditor(SYNCHRONISER.user_id, SYNCHRONISER.username),
            )
            recorded = server_changes(server, server, changes)
            if recorded:
                event = AuditEvent(AuditAction.REFRESH, EntityType.SERVER, server_id, recorded)
                await repositories.audit.record(SYNCHRONISER, event, tx)
            return changes

        changes = await self._database.transaction(store, seconds=LARGE_SECONDS)
        if not changes.is_nothing:
            log.info(
                "tool_functions_imported",
                server_id=server_id,
                added=len(changes.inserts),
                changed=len(changes.updates),
            )
        return changes

    async def follow(self) -> None:
        """Store the tools of noted servers, forever."""
        while True:
            await self._woken.wait()
            await self._clock.sleep(self._settle_seconds * (1 + self._chance()))
            try:
                await self._store_noted()
            except DatabaseUnavailable:
                await self._clock.sleep(DATABASE_RETRY_SECONDS)

    async def _store_noted(self) -> None:
        self._woken.clear()
        while self._noted:
            server_id = self._noted.pop()
            try:
                await self.store(server_id)
            except DatabaseUnavailable:
                self.note([server_id])
                raise
            except Exception:
                # An error of one server must not stop the work on others.
                log.exception("tool_functions_import_failed", server_id=server_id)

    async def _is_stored(self, server_id: str, digest: str, tx: Transaction | None = None) -> bool:
        """Whether rows exist that were made from tools with this digest."""
        repositories = self._repositories
        known = await repositories.servers.described_digest(server_id, tx)
        return (known or NOTHING_DESCRIBED) == digest and (
            digest == NOTHING_DESCRIBED or await repositories.tools.has_rows(server_id, tx)
        )


def _digest(server_name: str, functions: JsonObject) -> str:
    # Without tools the digest is the same for all servers, and no rows can be missing.
    described = canonical_json([server_name if functions else "", functions])
    return hashlib.sha256(described.encode(errors="surrogatepass")).hexdigest()


NOTHING_DESCRIBED = _digest("", {})
"""The digest of servers without described tools, which is not stored."""
