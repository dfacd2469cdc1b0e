"""Services of the control plane for commands, without a gateway or background tasks.

Serving processes see the changes of commands through change streams. The dependencies of a service
are imported on first use, so that commands that only read start quickly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from packages.database.client import Database
from packages.models import check_schema_version
from packages.models.states import SourceType
from registry.core.clock import Clock, SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.servers.reconciliation.store import ServerRepositories
from registry.tools.governance.repository import GovernedTools
from registry.tools.governance.verification import ToolVerifier
from registry.wiring.database import connected
from registry.wiring.keys import build_cipher
from registry.wiring.services import (
    NoGateway,
    build_approval_reader,
    build_approval_repository,
    build_approval_service,
    build_budget_service,
    build_limit_service,
    build_permissions,
    build_policies,
    build_quarantine,
    build_servers,
    build_sessions,
    build_simulation,
    build_tools,
    build_toolsets,
    build_users,
)
from registry.wiring.storage import Storage, build_storage, prepared

if TYPE_CHECKING:
    from registry.access.budgets.service import BudgetService
    from registry.access.limits.service import LimitService
    from registry.access.policies.service import PolicyService
    from registry.access.quarantine.service import QuarantineService
    from registry.access.service import PermissionService
    from registry.access.simulation.service import SimulationService
    from registry.access.toolsets.service import ToolsetService
    from registry.approvals.reading import ApprovalReader
    from registry.approvals.service import ApprovalService
    from registry.audit.service import AuditService
    from registry.auth.identity import UserContext
    from registry.auth.repository import DirectoryRepository
    from registry.catalog.legacy import LegacyEntries
    from registry.catalog.service import CatalogService
    from registry.catalog.table import CatalogTable
    from registry.servers.apis.service import ApiService
    from registry.servers.service import ServerService
    from registry.servers.values import ServerRecord
    from registry.tokens.sessions import SessionService
    from registry.tokens.values import TokenRow
    from registry.tools.governance.service import ToolService
    from registry.usage.service import UsageService
    from registry.users.service import UserService


Lists: TypeAlias = Literal["servers", "tools", "catalog"]
"""Which lists are loaded. `tools` includes servers; `servers` alone loads faster."""


class NotedRemovals:
    """Servers that a command removes: what was obtained for them is given back at its end.

    Implements `oauth.ports.RemovalListener`.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[str, Sequence[TokenRow]]] = []

    def removed(self, server_id: str, rows: Sequence[TokenRow]) -> None:
        """Note it."""
        self._noted.append((server_id, rows))

    async def give_back(
        self, settings: Settings, storage: Storage, clock: Clock, metrics: Metrics
    ) -> None:
        """Revoke tokens and delete clients; what fails is logged."""
        if not self._noted:
            return
        from registry.core.background_tasks import BackgroundTasks  # noqa: PLC0415
        from registry.wiring.keys import build_issuer, build_keys  # noqa: PLC0415
        from registry.wiring.oauth import build_oauth  # noqa: PLC0415
        from registry.wiring.upstreams import build_upstreams  # noqa: PLC0415

        upstreams = build_upstreams(settings, storage, clock=clock, metrics=metrics)
        async with AsyncExitStack() as stack:
            parts = await build_oauth(
                stack,
                settings,
                storage,
                upstreams.guard,
                upstreams.vault,
                build_issuer(settings, build_keys(settings), clock),
                BackgroundTasks(),
                clock=clock,
                metrics=metrics,
            )
            for server_id, rows in self._noted:
                await parts.unregistration.give_back(server_id, rows)


@dataclass(frozen=True)
class CommandServices:
    """The services that a command may use, each built on first use."""

    settings: Settings
    clock: Clock
    storage: Storage
    _metrics: Metrics
    _removals: NotedRemovals

    @cached_property
    def servers(self) -> ServerService:
        """Return the service of MCP servers."""
        return self._owners(SourceType.MCP)

    @cached_property
    def apis(self) -> ApiService:
        """Return the service of REST APIs."""
        from registry.servers.apis.service import ApiService  # noqa: PLC0415
        from registry.servers.credentials import CredentialVault  # noqa: PLC0415

        servers = self._owners(SourceType.OPENAPI)
        return ApiService(servers, CredentialVault(self.storage.cipher))

    async def find_owner(self, reference: str, user: UserContext) -> ServerRecord | None:
        """Return the server or API of that id, name or gateway path if *user* may see it."""
        found = await self.servers.find(reference, user)
        return found or await self.apis.servers.find(reference, user)

    def _owners(self, source_type: SourceType) -> ServerService:
        from registry.wiring.connections import build_connections  # noqa: PLC0415
        from registry.wiring.upstreams import build_upstreams  # noqa: PLC0415

        settings, clock, metrics = self.settings, self.clock, self._metrics
        upstreams = build_upstreams(settings, self.storage, clock=clock, metrics=metrics)
        # Readings store their results themselves; connection states are not needed here.
        _, tracker = build_connections(settings, self.storage, clock=clock, metrics=metrics)
        read_and_store = upstreams.reporting_to(NoGateway(), tracker, self._removals)
        return build_servers(
            settings,
            self.storage,
            upstreams.vault,
            read_and_store,
            clock=clock,
            metrics=metrics,
            source_type=source_type,
        )

    @cached_property
    def catalog(self) -> CatalogService:
        """Return the service of the catalog. Its jobs run in serving processes."""
        from registry.upstream.guard import UrlGuard  # noqa: PLC0415
        from registry.wiring.catalog import build_catalog  # noqa: PLC0415

        guard = UrlGuard(self.settings.upstream_allowed_networks)
        parts = build_catalog(
            self.settings,
            self.storage,
            self.servers,
            guard,
            self.catalog_table,
            NoGateway(),
            clock=self.clock,
            metrics=self._metrics,
        )
        return parts.service

    @cached_property
    def legacy_entries(self) -> LegacyEntries:
        """Return what stores entries of an older layout in the catalog."""
        from registry.auth.identity import OPERATOR  # noqa: PLC0415
        from registry.catalog.legacy import LegacyEntries  # noqa: PLC0415
        from registry.catalog.repository import CatalogRepository  # noqa: PLC0415

        return LegacyEntries(CatalogRepository(self.storage.database), self.catalog, OPERATOR)

    @cached_property
    def catalog_table(self) -> CatalogTable:
        """Return the list of the catalog, which is empty unless it was asked for."""
        from registry.catalog.repository import CatalogRepository  # noqa: PLC0415
        from registry.catalog.table import CatalogTable  # noqa: PLC0415

        return CatalogTable(CatalogRepository(self.storage.database))

    @cached_property
    def tools(self) -> ToolService:
        """Return the tool service."""
        return build_tools(self.storage, NoGateway(), self.clock)

    @cached_property
    def directory(self) -> DirectoryRepository:
        """Return the reader of users and groups."""
        from registry.auth.repository import DirectoryRepository  # noqa: PLC0415

        return DirectoryRepository(self.storage.database)

    @cached_property
    def permissions(self) -> PermissionService:
        """Return the sharing service."""
        return build_permissions(
            self.settings, self.storage, self.directory, NoGateway(), self.clock
        )

    @cached_property
    def quarantine(self) -> QuarantineService:
        """Return the service of quarantine."""
        return build_quarantine(
            self.settings, self.storage, self.directory, NoGateway(), self.clock
        )

    @cached_property
    def simulation(self) -> SimulationService:
        """Return the service that tries drafts of rules on recorded calls."""
        return build_simulation(self.settings, self.storage, self.directory, self.clock)

    @cached_property
    def limits(self) -> LimitService:
        """Return the service of limits."""
        return build_limit_service(
            self.settings, self.storage, self.directory, NoGateway(), self.clock
        )

    @cached_property
    def budgets(self) -> BudgetService:
        """Return the service of budgets."""
        return build_budget_service(self.settings, self.storage, self.directory, self.clock)

    @cached_property
    def policies(self) -> PolicyService:
        """Return the policy service."""
        return build_policies(self.settings, self.storage, self.directory, NoGateway(), self.clock)

    @cached_property
    def toolsets(self) -> ToolsetService:
        """Return the toolset service."""
        return build_toolsets(self.settings, self.storage, self.directory, NoGateway(), self.clock)

    @cached_property
    def approvals(self) -> ApprovalService:
        """Return the service of requests for approval."""
        settings, clock = self.settings, self.clock
        repository = build_approval_repository(settings, self.storage, clock)
        # Serving processes see changes of requests in the change stream.
        return build_approval_service(
            settings, self.storage, self.directory, repository, lambda _: None, clock
        )

    @cached_property
    def approval_reader(self) -> ApprovalReader:
        """Return the reader of requests for approval."""
        repository = build_approval_repository(self.settings, self.storage, self.clock)
        return build_approval_reader(self.storage, repository)

    @cached_property
    def sessions(self) -> SessionService:
        """Return the service of issued tokens."""
        from registry.auth.repository import RevocationRepository  # noqa: PLC0415
        from registry.auth.revocation import RevocationList  # noqa: PLC0415
        from registry.wiring.identities import build_verifier  # noqa: PLC0415
        from registry.wiring.keys import build_issuer, build_keys  # noqa: PLC0415

        keys = build_keys(self.settings)
        return build_sessions(
            self.settings,
            self.storage,
            self.directory,
            build_verifier(self.settings, keys),
            # Serving processes read revocations from the database.
            RevocationList(RevocationRepository(self.storage.database), self.clock),
            build_issuer(self.settings, keys, self.clock),
            clock=self.clock,
            metrics=self._metrics,
        )

    @cached_property
    def users(self) -> UserService:
        """Return the user service."""
        return build_users(self.settings, self.storage, self.clock)

    @cached_property
    def audit(self) -> AuditService:
        """Return the audit service."""
        from registry.audit.service import AuditService  # noqa: PLC0415

        return AuditService(self.storage.audit_repository, self.storage.repositories.visible)

    @cached_property
    def usage(self) -> UsageService:
        """Return the usage service."""
        from registry.usage.repository import UsageRepository  # noqa: PLC0415
        from registry.usage.service import UsageService  # noqa: PLC0415

        return UsageService(
            UsageRepository(self.storage.database), self.storage.repositories.visible
        )

    def secret_of(self, server_id: str) -> Callable[[str, str], str | None]:
        """Return the decryption of a server's stored secrets; it returns None if no key fits."""
        from registry.servers.credentials import CredentialVault  # noqa: PLC0415
        from registry.servers.errors import CredentialUnreadableError  # noqa: PLC0415

        vault = CredentialVault(self.storage.cipher)

        def opened(directory: str, stored: str) -> str | None:
            try:
                return vault.decrypt(stored, server_id, f"config.{directory}")
            except CredentialUnreadableError:
                return None

        return opened

    @property
    def database(self) -> Database:
        """Return the shared database client."""
        return self.storage.database


@asynccontextmanager
async def command_services(
    settings: Settings, *, changes: bool, lists: Lists | None
) -> AsyncIterator[CommandServices]:
    """Connect to the database and return the services.

    Args:
        settings: Of this installation.
        changes: Whether something may be changed: collections and indexes that are missing are
            made then, and the keys must fit what is stored.
        lists: What lists are asked for, which are answered from memory: it is read first.

    Raises:
        SchemaVersionError: The generated models are of another release.
        SettingsError: The stored credentials were encrypted with other keys.
        UnsupportedServerError: MongoDB is too old, or a sharded cluster.
        TopologyError: Something is to be changed, and MongoDB is no replica set.
        DatabaseUnavailable: MongoDB cannot be reached.
    """
    check_schema_version()
    clock, metrics, cipher = SystemClock(), Metrics(), build_cipher(settings)
    async with connected(settings, metrics) as database:
        if changes:
            await database.require_replica_set()
            await prepared(database, cipher)
        storage = build_storage(settings, database, cipher, clock=clock, metrics=metrics)
        if lists in {"servers", "tools"}:
            await _read_lists(storage.repositories, clock, with_tools=lists == "tools")
        removals = NotedRemovals()
        built = CommandServices(settings, clock, storage, metrics, removals)
        if lists == "catalog":
            await built.catalog_table.reload(None)
        try:
            yield built
        finally:
            await removals.give_back(settings, storage, clock, metrics)


async def _read_lists(repositories: ServerRepositories, clock: Clock, *, with_tools: bool) -> None:
    from registry.servers.storage.inventory import InventorySources  # noqa: PLC0415

    sources = InventorySources(repositories.servers, repositories.tools, repositories.acl)
    began_at = clock.monotonic()
    servers = await sources.read(clock.now(), with_tools=with_tools)
    repositories.inventory.replace_all(servers)
    repositories.inventory.agrees(began_at)


@asynccontextmanager
async def tool_verifier(settings: Settings) -> AsyncIterator[ToolVerifier]:
    """Connect to the database and yield the verifier of stored tools.

    Raises:
        UnsupportedServerError: MongoDB is too old, or a sharded cluster.
        DatabaseUnavailable: MongoDB cannot be reached.
    """
    async with connected(settings) as database:
        yield ToolVerifier(GovernedTools(database))
