"""Operations on servers: register, change, refresh, remove, each on behalf of a caller.

Upstreams are read before a transaction begins, never inside one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

import structlog

from packages.database.client import Transaction
from packages.models.states import Effect, SourceType
from registry.access.errors import AccessDeniedError
from registry.access.policy import NO_BITS, Permission, ServerScope
from registry.access.rbac import validate_admin, validate_owner
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.errors import RegistryError, ValidationFailedError
from registry.core.json import JsonObject, members
from registry.core.metrics import Metrics
from registry.core.paging import Page, PageRequest
from registry.servers.changes import FieldChanges, config_of, update_of
from registry.servers.credentials import CredentialVault, needs_user_key
from registry.servers.errors import (
    USER_VARIABLE,
    PathTakenError,
    ServerExistsError,
    ServerForbiddenError,
    ServerModifiedError,
    ServerNotFoundError,
)
from registry.servers.reconciliation.discovery_changes import (
    DiscoveryResult,
    Recorded,
    with_confirmation,
)
from registry.servers.reconciliation.read_and_store import ReadAndStore
from registry.servers.reconciliation.registry_sync import Synced
from registry.servers.reconciliation.store import Confirm, ServerRepositories
from registry.servers.values import (
    FUNCTIONS,
    NO_PRECONDITION,
    Discovered,
    Precondition,
    ServerCounts,
    ServerFilter,
    ServerRecord,
    ServerStatus,
)
from registry.tokens.values import TokenCounts
from registry.tools.naming import RESERVED_SLUGS, candidate_paths, slug_of
from registry.tools.projection import restore
from registry.tools.reported_changes import ReportedChange, reported
from registry.tools.values import ToolDefinition

if TYPE_CHECKING:
    from registry.servers.schemas import ConnectionTest, ServerCreate, ServerUpdate

log = structlog.get_logger()

UPDATE_ATTEMPTS = 5
"""How often an update without `updatedAt` starts again after a concurrent write."""

PATH_ATTEMPTS = 50

WorkOut: TypeAlias = Callable[[ServerRecord], Awaitable[FieldChanges]]
"""From a stored server to the change to make."""


USER_KEY_CHECK_SECONDS = 10
"""How long a user who stores own values waits for the check of these values."""


@dataclass(frozen=True, slots=True)
class UserKeyResult:
    """Result of a check of a user's own values.

    Attributes:
        accepted: Whether the server accepts them; None if that is unknown.
    """

    accepted: bool | None
    message: str


@dataclass(frozen=True, slots=True)
class Refreshed:
    """Result of a refresh.

    Attributes:
        failure: Why the discovery failed.
        unread: Why it was skipped.
        held: Names of tools that wait for review.
        changes: What changed of the tools.
    """

    server: ServerRecord
    failure: str | None
    unread: str | None
    held: tuple[str, ...]
    changes: tuple[ReportedChange, ...] = ()


class ServerService:
    """Operations on servers, each on behalf of a caller.

    Args:
        upstreams: Reads servers, and stores every change.
        admin_sees_private: Whether administrators see other users' private servers.
        source_type: Which servers: those of MCP, or REST APIs. Others do not exist for it.
    """

    def __init__(
        self,
        repositories: ServerRepositories,
        vault: CredentialVault,
        upstreams: ReadAndStore,
        *,
        clock: Clock,
        metrics: Metrics,
        admin_sees_private: bool,
        source_type: SourceType = SourceType.MCP,
    ) -> None:
        self._source_type = source_type
        self._is_api = source_type is SourceType.OPENAPI
        self._noun_alone = "API" if self._is_api else "server"
        self._noun = f"an {self._noun_alone}" if self._is_api else f"a {self._noun_alone}"
        self._servers = repositories.servers
        self._visible = repositories.visible
        self._inventory = repositories.inventory
        self._audit = repositories.audit
        self._tools = repositories.tools
        self._tokens = repositories.tokens
        self._vault = vault
        self._upstreams = upstreams
        self._clock = clock
        self._operations = metrics.server_operations
        self._admin_sees_private = admin_sees_private

    async def list_page(
        self, user: UserContext, narrowed: ServerFilter, page: PageRequest
    ) -> Page[ServerRecord]:
        """Return one page of the servers that *user* may see.

        Raises:
            AdminRequiredError: A plain user asked for another user's servers.
            ListsOutdatedError: The database has been unavailable for too long.
        """
        if narrowed.author is not None and narrowed.author != user.user_id:
            validate_admin(user, f"Listing the {self._noun_alone}s of another author")
        narrowed = replace(narrowed, source_type=self._source_type)
        return await self._visible.list_page(user, narrowed, page)

    async def get(self, server_id: str, user: UserContext) -> ServerRecord:
        """Return one server.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
        """
        return await self._get(server_id, user)

    async def _get(self, server_id: str, user: UserContext, *, whole: bool = True) -> ServerRecord:
        server = await self._visible.get(server_id, user, self._clock.now(), whole=whole)
        if server is None or server.source_type is not self._source_type:
            raise self._not_found()
        return server

    async def read(self, server_id: str, user: UserContext) -> ServerRecord:
        """Return one server that a caller asked for.

        An administrator's access to another user's private server is recorded first.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            DatabaseUnavailable: It cannot be read, or the access cannot be recorded.
        """
        server = await self.get(server_id, user)
        if server.scope is ServerScope.PRIVATE_USER and server.author != user.user_id:
            event = AuditEvent(AuditAction.READ, EntityType.SERVER, server_id)
            await self._audit.require(user, event)
        return server

    async def find_by_name(self, server_name: str, user: UserContext) -> ServerRecord | None:
        """Return the server of that name if *user* may see it."""
        server = await self._servers.by_name(server_name, user.tenants)
        if server is None or server.source_type is not self._source_type:
            return None
        return await self._visible.get(server.id, user, self._clock.now())

    async def find(self, reference: str, user: UserContext) -> ServerRecord | None:
        """Return the server of that id, name or gateway path if *user* may see it."""
        found = await self._servers.find(reference)
        if found is None or found.source_type is not self._source_type:
            return None
        return await self._visible.get(found.id, user, self._clock.now())

    async def tools(
        self, server_id: str, user: UserContext
    ) -> tuple[ServerRecord, list[ToolDefinition]]:
        """Return a server and its served tools, from the database.

        A server that only the other application has read has no rows; its projection is used
        instead.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
        """
        server = await self.read(server_id, user)
        served = await self._tools.served(server_id)
        if not served and await self._has_no_rows(server):
            functions = members(server.config.get(FUNCTIONS))
            served = list(restore(functions, server.server_name).tools)
        return server, served

    async def _has_no_rows(self, server: ServerRecord) -> bool:
        """Whether the tools of a server are stored only in its document."""
        return server.is_described_elsewhere and not await self._tools.has_rows(server.id)

    async def register(
        self,
        request: ServerCreate,
        user: UserContext,
        *,
        strict: bool,
        config: JsonObject | None = None,
    ) -> ServerRecord:
        """Register a server: read its tools, then store it with them and its author's ACL entry.

        An upstream that cannot be read is stored with status `error`, or, when *strict*, refused.

        Args:
            request: The server.
            user: Who registers it.
            strict: Whether one that cannot be read is refused.
            config: Its `config`, if it is not what *request* says.

        Raises:
            AdminRequiredError: A plain user asked for a shared scope.
            ServerExistsError: The name or the path is taken.
            UnsafeUrlError: The URL may not be contacted; nothing is stored.
            DiscoveryFailedError: *strict*, and the discovery failed.
        """
        facts = {"server_name": request.server_name, "user_id": user.user_id}
        log.info("server_registration_attempt", scope=request.scope.value, **facts)
        try:
            server = await self._register(request, user, config, strict=strict)
        except RegistryError as exc:
            self._operations.labels("register", "error").inc()
            log.warning("server_registration_failed", error=exc.message, **facts)
            raise
        self._operations.labels("register", "success").inc()
        log.info("server_registered", server_id=server.id, status=server.status, **facts)
        return server

    async def record(
        self,
        request: ServerCreate,
        user: UserContext,
        found: Discovered,
        recorded: Recorded,
    ) -> ServerRecord:
        """Store a server with the tools that another program knew of it, turned off.

        Nothing is contacted: the server is read when somebody turns it on.

        Args:
            request: The server.
            user: Whose it is.
            found: What that program knew.
            recorded: What else.

        Raises:
            AdminRequiredError: A plain user asked for a shared scope.
            ServerExistsError: The name or the path is taken.
        """
        await self._require_free(request, user)
        config, _ = config_of(request, self._vault)
        server_id = await self._upstreams.record(
            request, config, found, recorded, user, paths=self._paths(request)
        )
        self._operations.labels("register", "success").inc()
        log.info("server_recorded", server_id=server_id, user_id=user.user_id)
        return await self.get(server_id, user)

    async def update(
        self,
        server_id: str,
        request: ServerUpdate,
        user: UserContext,
        *,
        precondition: Precondition = NO_PRECONDITION,
    ) -> ServerRecord:
        """Change the given fields only.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            ServerForbiddenError: *user* may see it but not change it.
            ServerModifiedError: It changed since the caller read it.
            ValidationFailedError: A field cannot have that value.
            PathTakenError: The new path belongs to another server.
            UnsafeUrlError: The new URL may not be contacted.
        """
        if request.updated_at is not None:
            precondition = replace(precondition, updated_at=request.updated_at)

        async def work_out(current: ServerRecord) -> FieldChanges:
            changes = update_of(request, current, self._vault)
            self.check_update(request, current, user)
            return changes

        return await self.change(server_id, work_out, user, precondition=precondition)

    async def change(
        self,
        server_id: str,
        work_out: WorkOut,
        user: UserContext,
        *,
        precondition: Precondition = NO_PRECONDITION,
        action: AuditAction = AuditAction.UPDATE,
    ) -> ServerRecord:
        """Apply the change that *work_out* returns for the stored server.

        *work_out* is called again after a concurrent write.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            ServerForbiddenError: *user* may see it but not change it.
            ServerModifiedError: It changed since the caller read it.
            PathTakenError: The new path belongs to another server.
            UnsafeUrlError: The new URL may not be contacted.
        """
        expected = precondition.provided
        for _ in range(UPDATE_ATTEMPTS):
            current = await self._require_editable(server_id, user)
            if not precondition.holds(current.updated_at):
                raise self._modified(self._moment(current), expected)
            if await self._try_change(current, await work_out(current), user, action):
                self._operations.labels(action.value, "success").inc()
                return await self.get(server_id, user)
            if expected is not None:
                latest = await self.get(server_id, user)
                raise self._modified(self._moment(latest), expected)
        raise self._modified(self._moment(await self.get(server_id, user)), None)

    async def toggle(
        self,
        server_id: str,
        user: UserContext,
        *,
        enabled: bool,
        precondition: Precondition = NO_PRECONDITION,
    ) -> ServerRecord:
        """Turn a server on or off; doing so twice changes nothing.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            ServerForbiddenError: *user* may see it but not change it.
            ServerModifiedError: It changed since the caller read it.
        """
        from registry.servers.schemas import ServerUpdate  # noqa: PLC0415 - see command_services

        status = ServerStatus.ACTIVE if enabled else ServerStatus.INACTIVE
        return await self.update(
            server_id,
            ServerUpdate(status=status),
            user,
            precondition=precondition,
        )

    async def delete(
        self,
        server_id: str,
        user: UserContext,
        *,
        precondition: Precondition = NO_PRECONDITION,
    ) -> None:
        """Remove a server with its tools, ACL entries and the credentials stored for it.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not know of it.
            ServerForbiddenError: It is another user's, or *user* may not remove it.
            ServerModifiedError: It changed since the caller read it.
        """
        for _ in range(UPDATE_ATTEMPTS):
            server = await self._require_deletable(server_id, user)
            if not precondition.holds(server.updated_at):
                raise self._modified(self._moment(server), precondition.provided)
            may_delete = self._still(server, user, Permission.DELETE)
            if await self._upstreams.remove(server, user, may_delete):
                break
        else:
            raise self._modified(self._moment(await self.get(server_id, user)), None)
        self._operations.labels("delete", "success").inc()
        log.info("server_deleted", server_id=server_id, user_id=user.user_id)

    async def refresh(
        self,
        server_id: str,
        user: UserContext,
        *,
        accept: bool = False,
        precondition: Precondition = NO_PRECONDITION,
    ) -> Refreshed:
        """Read the upstream again and store what changed.

        New or changed tools of a shared server wait for review; with *accept* they are served,
        because the caller has reviewed them. A failure leaves the tools unchanged. The first
        response without any tools counts as a failure, unless *accept* confirms it.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            ServerForbiddenError: *user* may see it but not change it.
            UnsafeUrlError: The stored URL may not be contacted.
        """
        for _ in range(UPDATE_ATTEMPTS):
            server = await self._require_editable(server_id, user, whole=False)
            if not precondition.holds(server.updated_at):
                raise self._modified(self._moment(server), precondition.provided)
            reading = await self._upstreams.read(server, user)
            if not accept:
                reading = with_confirmation(server, reading)
            may_edit = self._still(server, user, Permission.EDIT)
            written = await self._upstreams.store(
                server, reading, user, accept=accept, confirm=may_edit
            )
            if written is not None:
                outcome = "error" if reading.failure else "success"
                self._operations.labels("refresh", outcome).inc()
                waiting = await self._waiting(server_id, written.synced)
                return Refreshed(
                    written.server,
                    reading.failure,
                    reading.unread,
                    waiting,
                    () if written.synced is None else reported(written.synced.tools),
                )
        raise self._modified(self._moment(await self.get(server_id, user)), None)

    async def _waiting(self, server_id: str, synced: Synced | None) -> tuple[str, ...]:
        """Return the names of the tools that wait for review."""
        if synced is not None and synced.waiting is not None:
            return synced.waiting
        stored = await self._tools.stored(server_id)
        return tuple(sorted(name for name, row in stored.items() if row.waits))

    async def try_user_keys(self, server_id: str, user: UserContext) -> UserKeyResult:
        """Check whether a server accepts the values that *user* stored for it.

        The discovery takes at most `USER_KEY_CHECK_SECONDS`. If the server was never read and
        *user* may change it, the result is stored, too.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            DatabaseUnavailable: The result could not be stored.
        """
        server = await self.get(server_id, user)
        try:
            async with asyncio.timeout(USER_KEY_CHECK_SECONDS):
                reading = await self._upstreams.read(server, user)
        except TimeoutError:
            return UserKeyResult(None, "The server did not answer in time.")
        except RegistryError as exc:
            log.info("server_refresh_failed", server_id=server_id, error=exc.message)
            return UserKeyResult(None, exc.message)
        self._upstreams.report(server, reading, user, is_recorded=False)
        if reading.found is None:
            message = reading.failure or reading.unread or ""
            return UserKeyResult(False if reading.is_callers_own else None, message)
        if "last_synced_at" not in server.registry and server.bits & Permission.EDIT:
            await self._store_first(server_id, user)
        return UserKeyResult(accepted=True, message="The server was read with these values.")

    async def _store_first(self, server_id: str, user: UserContext) -> None:
        """Read and store a server that was never read; its `errorMessage` reports a failure."""
        try:
            await self.refresh(server_id, user)
        except RegistryError as exc:
            log.info("server_refresh_failed", server_id=server_id, error=exc.message)

    async def try_connection(self, request: ConnectionTest) -> Discovered:
        """Read an upstream without storing anything.

        Raises:
            UnsafeUrlError: The URL may not be contacted.
            DiscoveryFailedError: The discovery failed.
            ValidationFailedError: Its users bring their own keys, and none was given.
        """
        config, user_key = config_of(request, self._vault)
        if user_key is None and needs_user_key(config):
            raise ValidationFailedError("apiKey.key", "is needed to try this server")
        values = {} if user_key is None else {USER_VARIABLE: user_key}
        return await self._upstreams.read_config(config, values)

    async def try_config(self, config: JsonObject) -> Discovered:
        """Read an upstream with this `config`, without storing anything.

        Raises:
            UnsafeUrlError: The URL may not be contacted.
            DiscoveryFailedError: The discovery failed.
        """
        return await self._upstreams.read_config(config, {})

    async def count_linked(self, entry_id: str, user: UserContext) -> int:
        """Count the servers that are linked to a server of the catalog and that *user* may see.

        Raises:
            ListsOutdatedError: The database has been unavailable for too long.
        """
        seen = {server.id for server in self._visible.listed(user)}
        return len(seen.intersection(await self._servers.linked_unchecked(entry_id)))

    async def stats(self, user: UserContext) -> tuple[ServerCounts, TokenCounts]:
        """Count all servers and tokens of the tenants that *user* sees.

        Raises:
            AdminRequiredError: The caller is no administrator.
            ListsOutdatedError: The database has been unavailable for too long.
        """
        validate_admin(user, "Counting servers and tokens")
        tokens = await self._tokens.counts(self._clock.now(), user.tenants)
        return self._inventory.counts(user), tokens

    async def _register(
        self,
        request: ServerCreate,
        user: UserContext,
        config: JsonObject | None,
        *,
        strict: bool,
    ) -> ServerRecord:
        await self._require_free(request, user)
        made, user_key = config_of(request, self._vault)
        server_id = await self._upstreams.register(
            request,
            made if config is None else config,
            user_key,
            user,
            paths=self._paths(request),
            strict=strict,
        )
        return await self.get(server_id, user)

    async def _require_free(self, request: ServerCreate, user: UserContext) -> None:
        if request.scope.is_shared:
            validate_admin(user, f"Registering {self._noun} with the scope {request.scope.value}")
        tenant_id = user.tenant_id
        if await self._servers.name_is_taken(request.server_name, tenant_id):
            raise ServerExistsError("serverName", request.server_name, is_api=self._is_api)
        if request.path is not None and await self._servers.path_is_taken(request.path, tenant_id):
            raise PathTakenError(request.path, is_api=self._is_api)

    def _paths(self, request: ServerCreate) -> list[str]:
        if request.path is not None:
            return [request.path]
        candidates = candidate_paths(request.server_name)
        return [next(candidates) for _ in range(PATH_ATTEMPTS)]

    async def _try_change(
        self, current: ServerRecord, changes: FieldChanges, user: UserContext, action: AuditAction
    ) -> bool:
        """Write a change, with what its server offers then; return False if it was outdated."""
        if changes.changes_nothing:
            return True
        reading: DiscoveryResult | None = None
        if changes.reconnects:
            reading = await self._upstreams.read(current, user, changes)
        may_edit = self._still(current, user, Permission.EDIT)
        written = await self._upstreams.store(
            current, reading, user, changes, confirm=may_edit, action=action
        )
        return written is not None

    def check_update(
        self, request: ServerUpdate, current: ServerRecord, user: UserContext
    ) -> None:
        """Refuse what nobody may change so, or not this user.

        Raises:
            ValidationFailedError: A field cannot have that value.
            AdminRequiredError: Only an administrator may change it.
            ServerForbiddenError: Only those who may share the server may change it.
        """
        if request.status is ServerStatus.ERROR and current.status is not ServerStatus.ERROR:
            raise ValidationFailedError("status", "can be set to error only by the registry")
        if request.scope is not None and request.scope is not current.scope:
            validate_admin(user, f"Changing the scope of {self._noun}")
        if (
            "default_effect" in request.model_fields_set
            and (request.default_effect or Effect.ALLOW) is not current.default_effect
            and not user.is_admin
            and not current.bits & Permission.SHARE
        ):
            raise ServerForbiddenError(
                f"defaultEffect is changed by those who may share the {self._noun_alone}, as "
                "policies are."
            )
        if request.path is not None and request.path != current.effective_path:
            slug = slug_of(request.path)
            if slug is None or slug.lower() in RESERVED_SLUGS:
                raise ValidationFailedError("path", "is reserved")

    async def require_editable(self, server_id: str, user: UserContext) -> ServerRecord:
        """Return one server that a caller asked for and may change.

        Raises:
            ServerNotFoundError: The server does not exist, or *user* may not see it.
            ServerForbiddenError: *user* may see it but not change it.
            DatabaseUnavailable: It cannot be read, or the access cannot be recorded.
        """
        await self._require_editable(server_id, user)
        return await self.read(server_id, user)

    async def _require_editable(
        self, server_id: str, user: UserContext, *, whole: bool = True
    ) -> ServerRecord:
        server = await self._get(server_id, user, whole=whole)
        try:
            validate_owner(server.bits)
        except AccessDeniedError as exc:
            raise ServerForbiddenError(
                f"You may not change this {self._noun_alone}: {exc.rule}."
            ) from exc
        return server

    def _still(self, server: ServerRecord, user: UserContext, needed: Permission) -> Confirm:
        """Return a function that checks in the transaction that *user* still has *needed*.

        A discovery takes seconds, during which the right may be revoked. Author and scope belong
        to the server and cannot have changed unnoticed; ACL entries can.
        """

        async def confirm(tx: Transaction) -> None:
            if user.is_admin or server.scope is ServerScope.PRIVATE_USER:
                return
            bits = await self._visible.bits(server, user, self._clock.now(), tx)
            try:
                validate_owner(bits, needed)
            except AccessDeniedError as exc:
                raise ServerForbiddenError(
                    f"You may not change this {self._noun_alone} any more: {exc.rule}."
                ) from exc

        return confirm

    async def _require_deletable(self, server_id: str, user: UserContext) -> ServerRecord:
        server = await self._servers.get_unchecked(server_id)
        if server is None or server.source_type is not self._source_type:
            raise self._not_found()
        seen = await self._visible.get(server_id, user, self._clock.now())
        try:
            validate_owner(seen.bits if seen is not None else NO_BITS, Permission.DELETE)
        except AccessDeniedError as exc:
            is_told = self._admin_sees_private and not self._is_api
            if server.scope is ServerScope.PRIVATE_USER and is_told:
                message = "Cannot delete another user's private server"
                raise ServerForbiddenError(message) from exc
            if seen is None:
                raise self._not_found() from None
            raise ServerForbiddenError(
                f"You may not delete this {self._noun_alone}: {exc.rule}."
            ) from exc
        return server

    def _not_found(self) -> ServerNotFoundError:
        return ServerNotFoundError(is_api=self._is_api)

    def _modified(self, current: datetime, provided: datetime | None) -> ServerModifiedError:
        return ServerModifiedError(current, provided, is_api=self._is_api)

    def _moment(self, server: ServerRecord) -> datetime:
        return server.updated_at or self._clock.now()
