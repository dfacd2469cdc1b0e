"""Stores the tools of servers that the other application alone has described, as rows.

Nothing is read but what is stored: `config.toolFunctions`, which stays as it is. Every process
hears of such servers, when it starts and when one changes, and stores their tools; that is
idempotent, and of several one finds something to do. Once a server was read by us, this lets go of
it, and the reading goes on from its rows. See docs/decisions/0042-rows-of-described-servers.md.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable

import structlog

from packages.database.client import Database, Transaction
from packages.database.errors import DatabaseUnavailable
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.core.clock import Clock
from registry.core.json import JsonObject, canonical_json
from registry.servers.storage.records import server_changes
from registry.servers.storage.registry_sync import NOTHING_CHANGED, RegistrySyncService
from registry.servers.storage.store import LARGE_SECONDS, ServerRepositories
from registry.sync.runner import SYNCHRONISER
from registry.tools.projection import restore
from registry.tools.reconcile import Changes
from registry.tools.values import ToolEditor

log = structlog.get_logger()

SETTLE_SECONDS = 1.0
"""How long after a server was heard of its tools are stored, at least, and half of the longest
time: several processes begin at different moments, and what the first stores the others find."""

AWAY_SECONDS = 5.0


class DescribedServers:
    """Rows of servers that we never read.

    Args:
        settle_seconds: How long to wait after a server was heard of, at least.
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
        self._heard: set[str] = set()
        self._woken = asyncio.Event()

    def note(self, server_ids: Iterable[str]) -> None:
        """Have these servers looked at, which we never read. Cheap."""
        self._heard.update(server_ids)
        if self._heard:
            self._woken.set()

    async def store(self, server_id: str) -> Changes:
        """Bring the rows of a server up to what is stored of its tools; return what was written.

        Nothing is written of a server that we have read.

        Raises:
            DatabaseUnavailable: It is away.
        """
        repositories = self._repositories
        server = await repositories.lookup.get_unchecked(server_id)
        if server is None or not server.is_described_elsewhere:
            return NOTHING_CHANGED.tools
        functions = await repositories.lookup.tool_functions(server_id)
        if await self._is_stored(server_id, _digest(server.server_name, functions)):
            return NOTHING_CHANGED.tools

        async def store(tx: Transaction) -> Changes:
            server = await repositories.lookup.get_unchecked(server_id, tx)
            if server is None or not server.is_described_elsewhere:
                return NOTHING_CHANGED.tools
            functions = await repositories.lookup.tool_functions(server_id, tx)
            digest = _digest(server.server_name, functions)
            if await self._is_stored(server_id, digest, tx):
                return NOTHING_CHANGED.tools
            # Of several that are at it, all but one end here and begin anew.
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
                "described_tools_stored",
                server_id=server_id,
                added=len(changes.inserts),
                changed=len(changes.updates),
            )
        return changes

    async def follow(self) -> None:
        """Store the tools of servers that are heard of, for ever."""
        while True:
            await self._woken.wait()
            await self._clock.sleep(self._settle_seconds * (1 + self._chance()))
            try:
                await self._store_heard()
            except DatabaseUnavailable:
                await self._clock.sleep(AWAY_SECONDS)

    async def _store_heard(self) -> None:
        self._woken.clear()
        while self._heard:
            server_id = self._heard.pop()
            try:
                await self.store(server_id)
            except DatabaseUnavailable:
                self.note([server_id])
                raise
            except Exception:
                # What is wrong with one server must not end the work on others.
                log.exception("described_tools_not_stored", server_id=server_id)

    async def _is_stored(self, server_id: str, digest: str, tx: Transaction | None = None) -> bool:
        """Whether the rows were made of what has this digest, and are there."""
        repositories = self._repositories
        known = await repositories.servers.described_digest(server_id, tx)
        return (known or NOTHING_DESCRIBED) == digest and (
            digest == NOTHING_DESCRIBED or await repositories.tools.has_rows(server_id, tx)
        )


def _digest(server_name: str, functions: JsonObject) -> str:
    # Without any it is the same for all, and there are no rows to be missed.
    told = canonical_json([server_name if functions else "", functions])
    return hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest()


NOTHING_DESCRIBED = _digest("", {})
"""Of servers without described tools. That nothing became of none needs no noting."""
