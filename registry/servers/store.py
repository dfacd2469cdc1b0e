"""What one operation on a server writes, each in one transaction.

Nothing here decides whether it may be written, and nothing here reads an upstream.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from packages.database.client import Database, Transaction
from registry.access.policy import ServerScope
from registry.access.repository import AclRepository
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.servers.changes import FieldChanges
from registry.servers.outcome import (
    Reading,
    apply_to_new,
    is_modification,
    outcome_of,
    projection_fields,
    time_after,
)
from registry.servers.repository import ServerRepository
from registry.servers.schemas import ServerCreate
from registry.servers.values import Discovered, ServerRecord, ServerStatus
from registry.tokens.repository import PluginAuthRepository, TokenRepository
from registry.tools.exposure import AutoExpose, Origin
from registry.tools.reconcile import Rules, reconcile
from registry.tools.repository import ToolRepository


@dataclass(frozen=True, slots=True)
class ServerRepositories:
    """The collections that an operation on a server touches."""

    servers: ServerRepository
    tools: ToolRepository
    acl: AclRepository
    tokens: TokenRepository
    plugin_auths: PluginAuthRepository


T = TypeVar("T")

LARGE_CHARACTERS = 64 * 1024
"""Tool definitions of which only one such set is written at a time: what is not committed yet is
held in the database's memory, and several of the largest sets would fill it."""


class _OutdatedError(Exception):
    """Another write to the server came first."""


class ServerStore:
    """Writes servers together with their tools, ACL entries and keys."""

    def __init__(self, database: Database, repositories: ServerRepositories, clock: Clock) -> None:
        self._database = database
        self._servers = repositories.servers
        self._tools = repositories.tools
        self._acl = repositories.acl
        self._tokens = repositories.tokens
        self._plugin_auths = repositories.plugin_auths
        self._clock = clock
        self._large_writes = asyncio.Lock()

    async def insert(
        self,
        request: ServerCreate,
        user: UserContext,
        path: str,
        config: JsonObject,
        reading: Reading,
        user_key: str | None,
    ) -> str:
        """Store a new server with its tools and its author's ACL entry; return its id.

        Raises:
            ServerExistsError: The name is taken.
            PathTakenError: *path* is.
        """
        now = self._clock.now()
        snapshot = reading.found.snapshot if reading.found else None
        rules = Rules(request.auto_expose, Origin.AT_REGISTRATION)
        fields: dict[str, object] = {
            "serverName": request.server_name,
            "config": dict(config),
            "author": user.user_id,
            "scope": request.scope.value,
            "status": (ServerStatus.ERROR if reading.failure else ServerStatus.ACTIVE).value,
            "path": path,
            "tags": list(request.tags),
            "numTools": 0,
            "numStars": 0,
            "registry": {"auto_expose": request.auto_expose.value},
            "createdAt": now,
            "updatedAt": now,
        }
        outcome = outcome_of(reading, now, failures_before=0, status=None)
        apply_to_new(fields, outcome)

        async def store(tx: Transaction) -> str:
            server_id = await self._servers.insert(fields, tx)
            await self._acl.grant_owner(server_id, user.user_id, now, tx)
            if request.scope is ServerScope.SHARED_APP:
                await self._acl.set_public(server_id, user.user_id, now, tx, public=True)
            if user_key is not None:
                await self._plugin_auths.store(
                    user.user_id, request.server_name, user_key, now, tx
                )
            if snapshot is not None:
                await self._tools.apply(server_id, reconcile(snapshot, {}, rules), now, tx)
                served = await self._tools.served(server_id, tx)
                projected = projection_fields(served, request.server_name)
                await self._servers.update(server_id, now, projected, (), tx)
            return server_id

        return await self._transaction(store, reading)

    async def write(
        self,
        server: ServerRecord,
        reading: Reading | None,
        changes: FieldChanges,
        user: UserContext,
        *,
        accept: bool,
    ) -> bool:
        """Write an update together with what came of reading the upstream.

        Returns:
            False when *server* is outdated by now; nothing is written then.
        """
        now = self._clock.now()
        set_fields: dict[str, object] = dict(changes.changes)
        removed = list(changes.removed)
        if reading is not None:
            failures = server.registry.get("consecutive_failures")
            outcome = outcome_of(
                reading,
                now,
                failures_before=failures if isinstance(failures, int) else 0,
                status=server.effective_status,
            )
            # A status that the caller asked for wins over what the reading suggests.
            set_fields = {**outcome.set_fields, **set_fields}
            removed += [name for name in outcome.removed if name not in set_fields]
        found = reading.found if reading is not None else None

        async def store(tx: Transaction) -> None:
            writes = dict(set_fields)
            if found is not None:
                writes.update(await self._reconciled(server, found, now, tx, accept=accept))
            if changes.changes or changes.removed or is_modification(server, writes):
                writes["updatedAt"] = time_after(server.updated_at, now)
            if not await self._servers.update(
                server.id, server.updated_at, writes, tuple(removed), tx
            ):
                # Raised, because what was written to its tools so far must not be committed.
                raise _OutdatedError
            if "scope" in changes.changes:
                public = changes.changes["scope"] == ServerScope.SHARED_APP.value
                await self._acl.set_public(server.id, user.user_id, now, tx, public=public)
            if changes.leaves_origin:
                # Given for another origin; users are asked again.
                await self._drop_credentials(server.server_name, tx)
            if changes.user_key is not None:
                await self._plugin_auths.store(
                    user.user_id, server.server_name, changes.user_key, now, tx
                )

        try:
            await self._transaction(store, reading)
        except _OutdatedError:
            return False
        return True

    async def remove(self, server: ServerRecord) -> bool:
        """Remove a server with everything that belongs to it; False if it was gone already."""

        async def remove(tx: Transaction) -> bool:
            if not await self._servers.delete(server.id, tx):
                return False
            await self._tools.delete_of(server.id, tx)
            await self._acl.delete_of(server.id, tx)
            await self._drop_credentials(server.server_name, tx)
            return True

        async with self._large_writes:
            return await self._database.transaction(remove)

    async def _transaction(
        self, write: Callable[[Transaction], Awaitable[T]], reading: Reading | None
    ) -> T:
        found = reading.found if reading is not None else None
        tools = found.snapshot.tools if found is not None else ()
        if sum(len(tool.definition) for tool in tools) <= LARGE_CHARACTERS:
            return await self._database.transaction(write)
        async with self._large_writes:
            return await self._database.transaction(write)

    async def _drop_credentials(self, server_name: str, tx: Transaction) -> None:
        await self._tokens.delete_of_server(server_name, tx)
        await self._plugin_auths.delete_of_server(server_name, tx)

    async def _reconciled(
        self,
        server: ServerRecord,
        found: Discovered,
        now: datetime,
        tx: Transaction,
        *,
        accept: bool,
    ) -> Mapping[str, object]:
        stored = await self._tools.stored(server.id, tx)
        rules = Rules(_auto_expose(server), _origin(server, stored), accept)
        await self._tools.apply(server.id, reconcile(found.snapshot, stored, rules), now, tx)
        served = await self._tools.served(server.id, tx)
        writes = dict(projection_fields(served, server.server_name))
        writes["registry.auto_expose"] = _auto_expose(server).value
        return writes


def _auto_expose(server: ServerRecord) -> AutoExpose:
    stored = server.registry.get("auto_expose")
    known = {item.value for item in AutoExpose}
    return AutoExpose(stored) if stored in known else AutoExpose.ALL


def _origin(server: ServerRecord, stored: Mapping[str, object]) -> Origin:
    # The first successful reading is the registration, even if earlier attempts failed.
    if not stored and "last_synced_at" not in server.registry:
        return Origin.AT_REGISTRATION
    return Origin.LATER_ON_SHARED if server.effective_scope.is_shared else Origin.LATER_ON_PRIVATE
