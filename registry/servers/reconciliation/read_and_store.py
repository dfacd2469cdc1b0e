"""The operation "read this server and store what was found", for requests and jobs alike.

Above it are the service and the sync runner, which decide when a server is read, and what happens
if it was changed meanwhile. Below it are the reader, which contacts the upstream, and the store,
which writes in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from packages.database.client import Transaction
from registry.audit.values import AuditAction
from registry.auth.identity import UserContext
from registry.connections.tracker import ConnectionTracker
from registry.core.json import JsonObject, members
from registry.oauth.policy import grant_of
from registry.oauth.ports import RemovalListener
from registry.oauth.values import Grant
from registry.servers.changes import FieldChanges
from registry.servers.credentials import is_user_level
from registry.servers.described_keys import key_placed
from registry.servers.errors import DiscoveryFailedError, PathTakenError
from registry.servers.ports import Progressing, ServerChanges
from registry.servers.reconciliation.discovery_changes import DiscoveryResult, Recorded
from registry.servers.reconciliation.reader import ServerReader
from registry.servers.reconciliation.store import Confirm, Finish, ServerStore, ServerWriteResult
from registry.servers.values import Discovered, Era, ServerRecord, oauth_server

if TYPE_CHECKING:
    from registry.servers.schemas import ServerCreate

NO_CHANGES = FieldChanges()


class ReadAndStore:
    """Reads servers, stores the results, and reports them to the gateway and the connections.

    Args:
        removals: Is told of removed servers.
    """

    def __init__(
        self,
        reader: ServerReader,
        store: ServerStore,
        changes: ServerChanges,
        connections: ConnectionTracker,
        removals: RemovalListener | None = None,
    ) -> None:
        self._removals = removals
        self._reader = reader
        self._store = store
        self._changes = changes
        self._connections = connections

    async def read_config(self, config: JsonObject, user_values: Mapping[str, str]) -> Discovered:
        """Read an upstream that is not registered.

        Raises:
            UnsafeUrlError: The URL may not be contacted.
            DiscoveryFailedError: The discovery failed.
        """
        return await self._reader.discover("new", config, user_values)

    async def register(
        self,
        request: ServerCreate,
        config: JsonObject,
        user_key: str | None,
        user: UserContext,
        *,
        paths: Sequence[str],
        strict: bool,
    ) -> str:
        """Read the upstream of a new server, store both, and report it; return the server's id.

        Args:
            request: The server.
            config: Its config, as stored.
            user_key: The key of *user*, if users bring their own.
            user: Who registers it.
            paths: Gateway paths, of which the first free one is used.
            strict: Store nothing if the upstream cannot be read.

        Raises:
            ServerExistsError: The name is taken.
            PathTakenError: All paths are taken.
            UnsafeUrlError: The URL may not be contacted.
            DiscoveryFailedError: *strict*, and the discovery failed.
        """
        # Values stored for a former server of this name are not for this one.
        reading = await self._reader.read(
            request.server_name, "new", config, user, user_key, use_stored_key=False
        )
        if strict and reading.failure is not None:
            raise DiscoveryFailedError(reading.failure)
        config = without_description({**config, **key_placed(config, reading.found)})
        for path in paths:
            try:
                server = await self._store.insert(request, user, path, config, reading, user_key)
            except PathTakenError:
                continue
            self.report(server, reading, user, is_recorded=True)
            await self._changes.server_changed(server.id)
            if reading.needs_oauth and grant_of(config) is not Grant.AUTHORIZATION_CODE:
                await self._read_registered(server, user, strict=strict)
            return server.id
        raise PathTakenError(paths[0])

    async def record(
        self,
        request: ServerCreate,
        config: JsonObject,
        found: Discovered,
        recorded: Recorded,
        user: UserContext,
        *,
        paths: Sequence[str],
    ) -> str:
        """Store a new server as another program described it; return its id. Nothing is contacted.

        Raises:
            ServerExistsError: The name is taken.
            PathTakenError: All paths are taken.
        """
        reading = DiscoveryResult(found)
        for path in paths:
            try:
                server = await self._store.insert(
                    request, user, path, config, reading, None, recorded=recorded
                )
            except PathTakenError:
                continue
            await self._changes.server_changed(server.id)
            return server.id
        raise PathTakenError(paths[0])

    async def _read_registered(
        self, server: ServerRecord, user: UserContext, *, strict: bool
    ) -> None:
        """Read a server for the first time, whose access tokens need no person.

        They are obtained for a server that is registered: secrets and audiences name it.

        Raises:
            DiscoveryFailedError: *strict*, and it cannot be read: it is removed again.
        """
        reading = await self.read(server, user)
        if strict and reading.failure is not None:
            await self.remove(server, user, _always)
            raise DiscoveryFailedError(reading.failure)
        await self.store(server, reading, user)

    async def read(
        self,
        server: ServerRecord,
        user: UserContext,
        changes: FieldChanges = NO_CHANGES,
        *,
        progress: Progressing | None = None,
        known_eras: frozenset[Era] = frozenset(),
    ) -> DiscoveryResult:
        """Read the upstream of a server as it will be after *changes*, on behalf of *user*.

        A failure is part of the result.

        Raises:
            UnsafeUrlError: The URL may not be contacted.
            CredentialUnreadableError: A stored secret cannot be decrypted.
        """
        config = _changed_config(server.config, changes)
        return await self._reader.read(
            server.server_name,
            server.id,
            config,
            user,
            changes.user_key,
            created_at=server.created_at,
            use_stored_key=not changes.drops_user_keys,
            progress=progress,
            known_eras=known_eras,
            oauth=oauth_server(server.model_copy(update={"config": config})),
            facts=members(server.registry.get("api")),
        )

    async def store(
        self,
        server: ServerRecord,
        reading: DiscoveryResult | None,
        user: UserContext,
        changes: FieldChanges = NO_CHANGES,
        *,
        reader: UserContext | None = None,
        accept: bool = False,
        confirm: Confirm | None = None,
        finish: Finish | None = None,
        action: AuditAction = AuditAction.REFRESH,
    ) -> ServerWriteResult | None:
        """Store *changes* and the result of a reading in one transaction, then report it.

        Args:
            server: The server that was read.
            reading: The result; None if it was not read.
            user: Who is recorded as the actor.
            changes: Other changes of the server.
            reader: Whose credentials were used, if not those of *user*.
            accept: Serve new and changed tools at once.
            confirm: Checks in the transaction whether *user* may still do this.
            finish: Adds writes to the transaction.
            action: What is recorded.

        Returns:
            What was written; None if *server* is outdated, in which case nothing is.
        """
        if reading is not None:
            changes = _with_placed_key(server, reading, changes)
        written = await self._store.write(
            server,
            reading,
            _without_description(changes),
            user,
            accept=accept,
            confirm=confirm,
            finish=finish,
            action=action,
        )
        if written is None:
            return None
        if written.is_recorded:
            await self._changes.server_changed(server.id)
        if self._removals is not None and written.dropped:
            self._removals.removed(server.id, written.dropped)
        is_recorded = written.is_recorded
        self.report(written.server, reading, reader or user, is_recorded=is_recorded)
        return written

    async def remove(self, server: ServerRecord, user: UserContext, confirm: Confirm) -> bool:
        """Remove a server, then report it; False if *server* is outdated."""
        rows = await self._store.remove(server, user, confirm)
        if rows is None:
            return False
        await self._changes.server_changed(server.id)
        self._connections.forget([server.id])
        if self._removals is not None:
            self._removals.removed(server.id, rows)
        return True

    def report(
        self,
        server: ServerRecord,
        reading: DiscoveryResult | None,
        user: UserContext,
        *,
        is_recorded: bool,
    ) -> None:
        """Report the result of a reading to the connection states.

        Args:
            server: The server as stored now.
            reading: The result; None if it was not read.
            user: Whose credentials were used, if users bring their own.
            is_recorded: Whether the server's document already contains the result.
        """
        if reading is None:
            return
        user_id = user.user_id if is_user_level(server.config) else None
        about = server.id, server.updated_at, user_id
        if reading.found is not None:
            self._connections.read_succeeded(*about, is_recorded=is_recorded)
        elif reading.failure is not None and reading.is_callers_own:
            self._connections.refused(*about, reading.failure)
        elif reading.failure is not None:
            self._connections.read_failed(*about, reading.failure)


async def _always(_tx: Transaction) -> None:
    """Confirm; for what the caller has just done themselves."""


def without_description(config: JsonObject) -> JsonObject:
    """Return the `config` of a server as it is stored: a description given with it is apart."""
    given = config.get("openapi")
    if not isinstance(given, dict) or "document" not in given:
        return config
    rest = {name: value for name, value in given.items() if name != "document"}
    return {**config, "openapi": rest}


def _with_placed_key(
    server: ServerRecord, reading: DiscoveryResult, changes: FieldChanges
) -> FieldChanges:
    """Return *changes* with where the key goes, if the description that was read says it."""
    fields = key_placed(_changed_config(server.config, changes), reading.found)
    if not fields:
        return changes
    written = {f"config.{name}": value for name, value in fields.items()}
    return replace(
        changes,
        changes={**changes.changes, **written},
        removed=tuple(name for name in changes.removed if name not in written),
    )


def _without_description(changes: FieldChanges) -> FieldChanges:
    name = "config.openapi"
    if name not in changes.changes:
        return changes
    config = without_description({"openapi": cast("JsonObject", changes.changes[name])})
    return replace(changes, changes={**changes.changes, name: config["openapi"]})


def _changed_config(config: JsonObject, changes: FieldChanges) -> JsonObject:
    changed = dict(config)
    for name, value in changes.changes.items():
        if name.startswith("config."):
            changed[name.removeprefix("config.")] = cast("JsonObject", value)
    for name in changes.removed:
        changed.pop(name.removeprefix("config."), None)
    return changed
