"""Transactions of operations on a server: each operation writes in one.

Nothing here decides whether the caller may write, and nothing here reads an upstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from beanie import PydanticObjectId

from packages.database.batch import WriteBatch
from packages.database.client import Database, Transaction
from packages.models.states import ServerVersionOrigin, SourceType
from registry.access.limits.repository import LimitRepository
from registry.access.policies.repository import PolicyRepository
from registry.access.policy import ServerScope
from registry.access.repository import AclRepository
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.oauth.repository import OAuthFlowRepository
from registry.prompts_and_resources.repository import FeatureRepository
from registry.servers.changes import FieldChanges
from registry.servers.reconciliation.audit_records import server_changes
from registry.servers.reconciliation.catalog_links import CatalogLink, CatalogMatcher
from registry.servers.reconciliation.discovery_changes import (
    DiscoveryResult,
    Recorded,
    apply_to_new,
    changed_record,
    discovery_changes,
    functions_differ,
    is_modification,
    schedule_fields,
    state_only_write,
    time_after,
)
from registry.servers.reconciliation.registry_sync import (
    NOTHING_CHANGED,
    RegistrySyncService,
    Synced,
    auto_expose_of,
    digest_of,
)
from registry.servers.storage.inventory import Inventory
from registry.servers.storage.repository import ServerRepository, new_record
from registry.servers.storage.version_repository import (
    ServerVersionRepository,
    VersionCause,
    VersionTakenError,
)
from registry.servers.storage.visible import VisibleServers
from registry.servers.transport import connection_members
from registry.servers.values import (
    Discovered,
    ServerRecord,
    ServerStatus,
    names_in,
    source_type_of,
)
from registry.tokens.plugin_auths import PluginAuthRepository
from registry.tokens.repository import TokenRepository
from registry.tokens.values import TokenRow
from registry.tools.repository import ToolRepository
from registry.tools.values import ToolEditor

if TYPE_CHECKING:
    from registry.servers.schemas import ServerCreate


@dataclass(frozen=True, slots=True)
class ServerRepositories:
    """The collections that an operation on a server uses.

    Attributes:
        servers: Reads and writes servers, without an access check.
        inventory: Holds them in memory, as far as lists need them.
        visible: Reads what a caller may see of them.
    """

    servers: ServerRepository
    inventory: Inventory
    visible: VisibleServers
    versions: ServerVersionRepository
    tools: ToolRepository
    features: FeatureRepository
    acl: AclRepository
    tokens: TokenRepository
    plugin_auths: PluginAuthRepository
    flows: OAuthFlowRepository
    policies: PolicyRepository
    limits: LimitRepository
    audit: AuditTrail


@dataclass(frozen=True, slots=True)
class ServerWriteResult:
    """Result of a write.

    Attributes:
        server: As stored now.
        synced: What changed of its tools, if its upstream was read.
        is_recorded: Whether the server's document was written.
        dropped: Users' tokens that were removed and are to be revoked: they do not fit any more.
    """

    server: ServerRecord
    synced: Synced | None
    is_recorded: bool = True
    dropped: Sequence[TokenRow] = ()


T = TypeVar("T")
Confirm = Callable[[Transaction], Awaitable[None]]
"""Raises in the transaction if the operation is not allowed any more."""
Finish = Callable[["ServerWriteResult", WriteBatch], None]
"""Adds writes to the same transaction."""


LARGE_CHARACTERS = 64 * 1024
"""Only one larger set of definitions is written at a time: uncommitted data is held in the
database's memory, and several of the largest sets would fill it."""

LARGE_TOOLS = 1_000
"""A write that may remove more stored tools than this counts as large, too."""

LARGE_SECONDS = 55.0
"""Time limit of a large write: MongoDB itself ends a transaction that takes more than a minute."""


SETTLED_FOR = timedelta(hours=1)
"""After this time all tools are compared again even if nothing seems to have changed: it repairs
changes that were made in the database directly."""

LINK_MEMBERS = ("registry_server_id", "registry_server_name", "registry_server_description")
"""Members of `registry` that say which server of the catalog a server is an instance of."""

SETTLED = ("registry.settled_digest", "registry.settled_at")


@dataclass(frozen=True, slots=True)
class _Plan:
    """The writes of an operation.

    Attributes:
        server: The server on which the plan is based.
        found: What its upstream reported, if it was read.
        set_fields: Stored fields to set, known before the transaction.
        removed: Stored fields to remove.
        changes: The caller's changes.
        accept: Serve new and changed tools at once.
        is_plain: Whether the operation is only a discovery.
        digest: The digest of the discovery, if there was one.
    """

    server: ServerRecord
    found: Discovered | None
    set_fields: Mapping[str, object]
    removed: Sequence[str]
    changes: FieldChanges
    user: UserContext
    now: datetime
    action: AuditAction
    accept: bool
    is_plain: bool
    digest: str | None


class _OutdatedError(Exception):
    """A concurrent write to the server came first."""


class ServerStore:
    """Writes servers together with their tools, ACL entries and keys.

    Args:
        failures_until_error: Attempts that fail in a row until an active server is in error.
        catalog: Links servers to the catalog; without it none is linked.
    """

    def __init__(
        self,
        database: Database,
        repositories: ServerRepositories,
        clock: Clock,
        *,
        failures_until_error: int,
        catalog: CatalogMatcher | None = None,
    ) -> None:
        self._failures_until_error = failures_until_error
        self._catalog = catalog
        self._database = database
        self._servers = repositories.servers
        self._versions = repositories.versions
        self._tools = repositories.tools
        self._features = repositories.features
        self._sync = RegistrySyncService(repositories.tools, repositories.features)
        self._acl = repositories.acl
        self._tokens = repositories.tokens
        self._plugin_auths = repositories.plugin_auths
        self._flows = repositories.flows
        self._policies = repositories.policies
        self._limits = repositories.limits
        self._audit = repositories.audit
        self._clock = clock
        self._large_writes = asyncio.Lock()

    async def insert(
        self,
        request: ServerCreate,
        user: UserContext,
        path: str,
        config: JsonObject,
        reading: DiscoveryResult,
        user_key: str | None,
        *,
        recorded: Recorded | None = None,
    ) -> ServerRecord:
        """Store a new server with its tools and its author's ACL entry; return it.

        Args:
            request: The server.
            user: Who registers it.
            path: Its gateway path.
            config: Its config, as stored.
            reading: What its upstream reported, or what is recorded in its place.
            user_key: The key of *user*, if users bring their own.
            recorded: What else is recorded of a server that was not read; it is turned off.

        Raises:
            ServerExistsError: The name is taken.
            PathTakenError: *path* is taken.
        """
        now = self._clock.now()
        fields: dict[str, object] = {
            "serverName": request.server_name,
            "config": dict(config),
            "author": user.user_id,
            **({} if user.tenant_id is None else {"tenantId": user.tenant_id}),
            "scope": request.scope.value,
            "status": (ServerStatus.ERROR if reading.failure else ServerStatus.ACTIVE).value,
            "path": path,
            "tags": list(request.tags),
            "numTools": 0,
            "numStars": 0,
            "registry": {
                "auto_expose": request.auto_expose.value,
                **({} if request.on_change is None else {"on_change": request.on_change.value}),
                **(
                    {}
                    if request.call_rules is None
                    else {"call_rules": request.call_rules.stored()}
                ),
                **(
                    {}
                    if request.default_effect is None
                    else {"default_effect": request.default_effect.value}
                ),
                **_sync_settings(request),
            },
            "createdAt": now,
            "updatedAt": now,
        }
        apply_to_new(fields, schedule_fields({}, _dotted(_sync_settings(request)), (), now))
        outcome = discovery_changes(
            reading,
            now,
            failures_before=0,
            failures_until_error=self._failures_until_error,
            status=None,
        )
        if recorded is not None:
            fields["status"] = ServerStatus.INACTIVE.value
            outcome = recorded.changes(outcome)
        apply_to_new(fields, outcome)
        if request.package is not None:
            cast("dict[str, object]", fields["registry"])["package"] = request.package.stored()
        if request.status is not None:
            fields["status"] = request.status.value
        source_type = source_type_of(config)

        async def store(tx: Transaction) -> ServerRecord:
            fields["registry"] = await self._linked(
                config, cast("dict[str, object]", fields["registry"]), request.catalog_id, tx
            )
            server_id = await self._servers.insert(fields, tx, source_type)
            occasion = VersionCause(now, _person(user), ServerVersionOrigin.REGISTRATION)
            await self._versions.record(server_id, None, config, occasion, tx)
            await self._acl.follow_scope(
                server_id,
                user.user_id,
                request.scope,
                tenant_id=user.tenant_id,
                granted_by=user.user_id,
                now=now,
                tx=tx,
                is_new=True,
            )
            if user_key is not None:
                await self._plugin_auths.store(
                    user.user_id,
                    request.server_name,
                    user_key,
                    now,
                    tx,
                    tenant_id=user.tenant_id,
                )
            stored = new_record(server_id, fields, source_type)
            batch = self._database.batch(tx)
            synced: Synced | None = None
            if reading.found is not None:
                synced = await self._sync.begin(
                    server_id,
                    request.server_name,
                    reading.found,
                    request.auto_expose,
                    now,
                    tx,
                    reader=_person(user),
                )
                self._servers.update(
                    server_id, now, dict(synced.projection), (), batch, outdated=_OutdatedError
                )
                stored = changed_record(stored, synced.projection, ())
            changes = server_changes(
                None,
                stored,
                None if synced is None else synced.tools,
                None if synced is None else synced.features,
                with_user_key=user_key is not None,
            )
            event = AuditEvent(AuditAction.CREATE, EntityType.SERVER, server_id, changes)
            self._audit.add(user, event, batch)
            await batch.send()
            return stored

        return await self._transaction(store, None, reading)

    async def write(
        self,
        server: ServerRecord,
        reading: DiscoveryResult | None,
        changes: FieldChanges,
        user: UserContext,
        *,
        accept: bool,
        confirm: Confirm | None = None,
        finish: Finish | None = None,
        action: AuditAction = AuditAction.UPDATE,
    ) -> ServerWriteResult | None:
        """Write an update together with the result of a discovery.

        *confirm* checks in the transaction whether the caller may still do so, if a right is
        needed; *finish* adds writes, in each attempt of the transaction.

        Returns:
            The result; None if *server* is outdated, in which case nothing is written.
        """
        now = self._clock.now()
        set_fields: dict[str, object] = dict(changes.changes)
        removed = list(changes.removed)
        if reading is not None:
            failures = server.registry.get("consecutive_failures")
            outcome = discovery_changes(
                reading,
                now,
                failures_before=failures if isinstance(failures, int) else 0,
                failures_until_error=self._failures_until_error,
                status=server.effective_status,
                was_read="last_synced_at" in server.registry,
                known=server,
            )
            # A status that the caller asked for takes precedence over the discovery's.
            set_fields = {**outcome.set_fields, **set_fields}
            removed += [name for name in outcome.removed if name not in set_fields]
        due = schedule_fields(server.registry, changes.changes, changes.removed, now)
        set_fields |= due.set_fields
        removed += due.removed
        found = reading.found if reading is not None else None
        is_plain = changes.changes_nothing and not accept
        digest = digest_of(server, found) if found is not None and is_plain else None
        plan = _Plan(
            server=server,
            found=found,
            set_fields=set_fields,
            removed=removed,
            changes=changes,
            user=user,
            now=now,
            action=action,
            accept=accept,
            is_plain=is_plain,
            digest=digest,
        )

        async def store(tx: Transaction) -> ServerWriteResult:
            if confirm is not None:
                await confirm(tx)
            batch = self._database.batch(tx)
            is_settled = digest is not None and _is_settled(server, digest, now)
            if is_settled and await self._note_read(
                server, set_fields, removed, tx, settled_as=digest
            ):
                read = changed_record(server, set_fields, tuple(removed))
                written = ServerWriteResult(read, NOTHING_CHANGED, is_recorded=False)
            else:
                written = await self._store(plan, batch)
            if finish is not None:
                finish(written, batch)
            # Nothing was committed yet: this is where an outdated server is detected.
            await batch.send()
            return written

        try:
            return await self._transaction(store, server, reading)
        except (_OutdatedError, VersionTakenError):
            return None

    async def _store(self, plan: _Plan, batch: WriteBatch) -> ServerWriteResult:
        tx = batch.tx
        server, changes = plan.server, plan.changes
        writes, removed = dict(plan.set_fields), list(plan.removed)
        synced: Synced | None = None
        if plan.found is not None:
            synced = await self._sync.synchronise(
                server, plan.found, plan.now, tx, reader=_person(plan.user), accept=plan.accept
            )
            policy = {"registry.auto_expose": auto_expose_of(server).value}
            # The caller's values take precedence.
            writes = {**synced.projection, **policy, **writes}
            if plan.digest is not None and synced.is_settled:
                writes |= {"registry.settled_digest": plan.digest, "registry.settled_at": plan.now}
            else:
                removed += SETTLED
        if changes.moves_identity and not server.is_api:
            link, unlinked = await self._relinked(server, writes, removed, batch.tx)
            writes |= link
            removed += unlinked
        is_recorded = not (plan.is_plain and await self._note_read(server, writes, removed, tx))
        if is_recorded:
            if not changes.changes_nothing or await self._modifies(server, writes, tx):
                writes["updatedAt"] = time_after(server.updated_at, plan.now)
            self._servers.update(
                server.id,
                server.updated_at,
                writes,
                tuple(removed),
                batch,
                outdated=_OutdatedError,
            )
        changed = changed_record(server, writes, tuple(removed))
        dropped = await self._follow(server, changes, plan.user, plan.now, tx)
        version = await self._versioned(server, changed, changes, plan.user, plan.now, tx)
        recorded = server_changes(
            server,
            changed,
            None if synced is None else synced.tools,
            None if synced is None else synced.features,
            with_user_key=changes.user_key is not None,
        )
        if changes.restores is not None:
            recorded["version"] = {"restored": changes.restores, "made": version}
        if recorded:
            event = AuditEvent(plan.action, EntityType.SERVER, server.id, recorded)
            self._audit.add(plan.user, event, batch)
        return ServerWriteResult(changed, synced, is_recorded=is_recorded, dropped=dropped)

    async def _linked(
        self,
        config: JsonObject,
        registry: dict[str, object],
        catalog_id: str | None,
        tx: Transaction,
    ) -> dict[str, object]:
        """Return the `registry` of a new server with its link to the catalog, if it has one."""
        bare = {name: value for name, value in registry.items() if name not in LINK_MEMBERS}
        if self._catalog is None or source_type_of(config) is not SourceType.MCP:
            return bare
        link = await self._catalog.match(config, registry.get("package"), tx)
        if link is None and catalog_id is not None:
            # A URL with variables matches no URL; who registers the entry says what it is.
            link = await self._catalog.to(catalog_id, tx)
        return {**bare, **_link_members(link)}

    async def _relinked(
        self,
        server: ServerRecord,
        writes: Mapping[str, object],
        removed: Sequence[str],
        tx: Transaction,
    ) -> tuple[dict[str, object], list[str]]:
        """Return what is set and removed so that the link fits a server after *writes*."""
        if self._catalog is None:
            return {}, []
        after = changed_record(server, writes, tuple(removed))
        package, linked = after.registry.get("package"), server.registry.get("registry_server_id")
        link = await self._catalog.match(after.config, package, tx)
        if link is None and linked is not None:
            link = await self._catalog.kept(str(linked), after.config, package, tx)
        members_ = _link_members(link)
        gone = [
            f"registry.{name}"
            for name in LINK_MEMBERS
            if name not in members_ and name in server.registry
        ]
        return {f"registry.{name}": value for name, value in members_.items()}, gone

    async def _note_read(
        self,
        server: ServerRecord,
        writes: Mapping[str, object],
        removed: Collection[str],
        tx: Transaction,
        *,
        settled_as: str | None = None,
    ) -> bool:
        """Write a discovery without news, and nothing else; False if that is not sufficient."""
        left = state_only_write(server, writes, removed)
        if left is None:
            return False
        return await self._servers.note_read(
            server.id,
            server.updated_at,
            left.changes,
            left.removed,
            tx,
            settled_as=settled_as,
        )

    async def _modifies(
        self, server: ServerRecord, writes: Mapping[str, object], tx: Transaction
    ) -> bool:
        if is_modification(server, writes):
            return True
        if "config.toolFunctions" not in writes:
            return False
        return functions_differ(await self._servers.tool_functions(server.id, tx), writes)

    async def _versioned(
        self,
        server: ServerRecord,
        changed: ServerRecord,
        changes: FieldChanges,
        user: UserContext,
        now: datetime,
        tx: Transaction,
    ) -> int | None:
        """Store a version of the connection if it changed; return the new version."""
        if connection_members(server.config) == connection_members(changed.config):
            return None
        restores = changes.restores
        origin = ServerVersionOrigin.UPDATE if restores is None else ServerVersionOrigin.ROLLBACK
        occasion = VersionCause(now, _person(user), origin, restores)
        return await self._versions.record(server.id, server.config, changed.config, occasion, tx)

    async def _follow(
        self,
        server: ServerRecord,
        changes: FieldChanges,
        user: UserContext,
        now: datetime,
        tx: Transaction,
    ) -> list[TokenRow]:
        """Write the parts of an update that are not in the server's own document.

        Returns:
            Users' tokens that were removed and are to be revoked.
        """
        dropped: list[TokenRow] = []
        scope = changes.changes.get("scope")
        if scope is not None:
            scope = ServerScope(str(scope))
            await self._acl.follow_scope(
                server.id,
                server.author,
                scope,
                tenant_id=server.tenant_id,
                granted_by=user.user_id,
                now=now,
                tx=tx,
            )
        if changes.drops_user_keys or changes.drops_tokens:
            # Obtained for another origin or authorization server; users are asked again.
            dropped, _ = await self._drop_tokens(server, tx)
            await self._flows.cancel_exchanges_of(server.id, now, tx)
        if changes.drops_user_keys:
            # Entered for another origin.
            await self._drop_user_keys(server, tx)
        if changes.user_key is not None:
            await self._plugin_auths.store(
                user.user_id,
                server.server_name,
                changes.user_key,
                now,
                tx,
                tenant_id=user.tenant_id,
            )
        return dropped

    async def remove(
        self, server: ServerRecord, user: UserContext, confirm: Confirm
    ) -> list[TokenRow] | None:
        """Remove a server with everything that belongs to it.

        Returns:
            Users' tokens that were removed and are to be revoked; None if *server* is outdated.
        """
        gone = server_changes(server, None)

        async def remove(tx: Transaction) -> list[TokenRow] | None:
            await confirm(tx)
            if not await self._servers.delete(server.id, server.updated_at, tx):
                return None
            await self._versions.delete_of(server.id, tx)
            await self._tools.delete_of(server.id, tx)
            await self._features.delete_of(server.id, tx)
            await self._acl.delete_of(server.id, tx)
            await self._flows.delete_of(server.id, self._clock.now(), tx)
            policies = await self._policies.delete_of(server.id, tx)
            await self._limits.delete_of(server.id, tx)
            rows, tokens = await self._drop_tokens(server, tx)
            user_keys = await self._drop_user_keys(server, tx)
            counts: JsonObject = {"tokens": tokens, "user_keys": user_keys, "policies": policies}
            recorded: JsonObject = {**gone, "removed": counts}
            event = AuditEvent(AuditAction.DELETE, EntityType.SERVER, server.id, recorded)
            await self._audit.record(user, event, tx)
            return rows

        async with self._large_writes:
            return await self._database.transaction(remove)

    async def _transaction(
        self,
        write: Callable[[Transaction], Awaitable[T]],
        server: ServerRecord | None,
        reading: DiscoveryResult | None,
    ) -> T:
        if not is_large(server, reading):
            return await self._database.transaction(write)
        async with self._large_writes:
            return await self._database.transaction(write, seconds=LARGE_SECONDS)

    async def _drop_tokens(
        self, server: ServerRecord, tx: Transaction
    ) -> tuple[list[TokenRow], int]:
        """Remove users' tokens for a server; return what is to be revoked, and their number."""
        named = server.server_name, server.tenant_id, server.created_at
        rows = await self._tokens.rows_of_server(*named, tx)
        return rows, await self._tokens.delete_of_server(*named, tx)

    async def _drop_user_keys(self, server: ServerRecord, tx: Transaction) -> int:
        """Remove the keys that users stored for a server; return their number."""
        named = server.server_name, server.tenant_id, server.created_at
        return await self._plugin_auths.delete_of_server(*named, tx)


def _link_members(link: CatalogLink | None) -> dict[str, object]:
    if link is None:
        return {}
    linked: dict[str, object] = {
        "registry_server_id": PydanticObjectId(link.entry_id),
        "registry_server_name": link.name,
    }
    if link.description is not None:
        linked["registry_server_description"] = link.description
    return linked


def is_large(server: ServerRecord | None, reading: DiscoveryResult | None) -> bool:
    """Whether storing the result of a discovery may take long."""
    found = reading.found if reading is not None else None
    stored = 0 if server is None else len(names_in(server.config.get("tools")))
    return found is not None and (_characters(found) > LARGE_CHARACTERS or stored > LARGE_TOOLS)


def _is_settled(server: ServerRecord, digest: str, now: datetime) -> bool:
    """Whether the tools agreed with what has *digest* a while ago."""
    settled_at = server.registry.get("settled_at")
    return (
        server.registry.get("settled_digest") == digest
        and isinstance(settled_at, datetime)
        and timedelta(0) <= now - settled_at < SETTLED_FOR
    )


def _characters(found: Discovered) -> int:
    tools = sum(len(tool.definition) for tool in found.snapshot.tools)
    lists = found.features.lists.values()
    return tools + sum(len(feature.definition) for listed in lists for feature in listed)


def _sync_settings(request: ServerCreate) -> dict[str, object]:
    settings: dict[str, object] = {"sync_mode": request.sync_mode.value}
    if request.sync_interval_seconds is not None:
        settings["sync_interval_seconds"] = request.sync_interval_seconds
    return settings


def _dotted(settings: dict[str, object]) -> dict[str, object]:
    return {f"registry.{name}": value for name, value in settings.items()}


def _person(user: UserContext) -> ToolEditor:
    return ToolEditor(user.user_id, user.username)
