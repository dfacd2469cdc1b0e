"""Users' own values for servers that need them: `pluginauths`, in jarvis-api's format."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from packages.database.client import Database, Transaction
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import UserContext
from registry.connections.tracker import ConnectionTracker
from registry.core.clock import Clock
from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.servers.credentials import require_cookie_value, user_variables_of
from registry.servers.errors import (
    USER_VARIABLE,
    ServerModifiedError,
    ServerNotFoundError,
    UnknownVariableError,
    UserKeyNotFoundError,
)
from registry.servers.ports import ServerChanges
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.values import ServerRecord

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class UserKeyState:
    """One user variable of a server.

    Attributes:
        variable: Title and description, as stored in `config.customUserVars`.
        is_set: Whether the caller has stored one.
    """

    name: str
    variable: JsonObject
    is_set: bool
    updated_at: datetime | None


class UserKeyService:
    """Stores the values of each user for a server."""

    def __init__(
        self,
        database: Database,
        repositories: ServerRepositories,
        changes: ServerChanges,
        connections: ConnectionTracker,
        *,
        clock: Clock,
    ) -> None:
        self._database = database
        self._servers = repositories.servers
        self._visible = repositories.visible
        self._plugin_auths = repositories.plugin_auths
        self._audit = repositories.audit
        self._changes = changes
        self._connections = connections
        self._clock = clock

    async def states(
        self, server_id: str, user: UserContext
    ) -> tuple[ServerRecord, list[UserKeyState]]:
        """Return the server's variables, and whether *user* has stored each.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
        """
        server = await self._require_visible(server_id, user)
        stored = await self._plugin_auths.stored(
            user.user_id, server.server_name, server.created_at
        )
        states = [
            UserKeyState(name, variable, name in stored, stored.get(name))
            for name, variable in user_variables_of(server.config).items()
        ]
        return server, states

    async def store(
        self, server_id: str, values: Mapping[str, str | None], user: UserContext
    ) -> ServerRecord:
        """Store values of *user*; None removes one, the mask keeps it. Return the server.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            UnknownVariableError: The server has no such variable.
            ServerModifiedError: It was moved to another URL since it was read.
            ValidationFailedError: A key that is sent as a cookie cannot be one.
        """
        server = await self._require_visible(server_id, user)
        asked = user_variables_of(server.config)
        unknown = [name for name in values if name not in asked]
        if unknown:
            raise UnknownVariableError(unknown, list(asked))
        given = {
            name: value for name, value in values.items() if value is not None and value != MASK
        }
        if members(server.config.get("apiKey")).get("location") == "cookie":
            key = given.get(USER_VARIABLE)
            if key is not None:
                require_cookie_value(key, f"values.{USER_VARIABLE}")
        removed = [name for name, value in values.items() if value is None]
        if not given and not removed:
            return server

        async def write(tx: Transaction) -> None:
            await self._require_unmoved(server, tx)
            now = self._clock.now()
            name = server.server_name
            for variable, value in given.items():
                await self._plugin_auths.store(
                    user.user_id, name, value, now, tx, name=variable, tenant_id=user.tenant_id
                )
            gone = removed
            if removed:
                stored = await self._plugin_auths.stored(user.user_id, name, server.created_at, tx)
                gone = [variable for variable in removed if variable in stored]
                await self._plugin_auths.remove(user.user_id, name, gone, tx)
            if given or gone:
                await self._record(user, server_id, AuditAction.UPDATE, [*given], gone, tx)

        await self._database.transaction(write)
        await self._changed(server_id, user)
        return server

    async def remove(self, server_id: str, name: str | None, user: UserContext) -> None:
        """Remove one value of *user*, or all.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            UserKeyNotFoundError: The user has stored no such value.
        """
        server = await self._require_visible(server_id, user)

        async def write(tx: Transaction) -> None:
            await self._require_unmoved(server, tx)
            stored = await self._plugin_auths.stored(user.user_id, server.server_name, None, tx)
            gone = [item for item in stored if name in {None, item}]
            if not gone:
                raise UserKeyNotFoundError
            await self._plugin_auths.remove(user.user_id, server.server_name, gone, tx)
            await self._record(user, server_id, AuditAction.DELETE, [], gone, tx)

        await self._database.transaction(write)
        await self._changed(server_id, user)

    async def _require_visible(self, server_id: str, user: UserContext) -> ServerRecord:
        server = await self._visible.get(server_id, user, self._clock.now())
        if server is None:
            raise ServerNotFoundError
        return server

    async def _require_unmoved(self, server: ServerRecord, tx: Transaction) -> None:
        """Check that the values are for the server as the caller saw it.

        It also touches the server, so that the database serializes this with other values of the
        same user, and with a removal or a move of the server, which remove all values.

        Raises:
            ServerNotFoundError: It was removed.
            ServerModifiedError: It was moved to another URL.
        """
        current = await self._servers.touch(server.id, tx)
        if current is None:
            raise ServerNotFoundError
        if current.config.get("url") != server.config.get("url"):
            raise ServerModifiedError(current.updated_at or self._clock.now(), server.updated_at)

    async def _record(
        self,
        user: UserContext,
        server_id: str,
        action: AuditAction,
        given: list[str],
        gone: list[str],
        tx: Transaction,
    ) -> None:
        changes: JsonObject = {}
        if gone:
            changes["before"] = dict.fromkeys(gone, MASK)
        if given:
            changes["after"] = dict.fromkeys(given, MASK)
            changes["secrets"] = [*sorted(given)]
        event = AuditEvent(action, EntityType.USER_KEY, server_id, changes)
        await self._audit.record(user, event, tx)

    async def _changed(self, server_id: str, user: UserContext) -> None:
        log.info("user_keys_changed", server_id=server_id, user_id=user.user_id)
        self._connections.forget_user(server_id, user.user_id)
        await self._changes.server_changed(server_id)
