"""The parts of a running registry, and its readiness checks."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable
from registry.access.budgets.service import BudgetService
from registry.access.limits.service import LimitService
from registry.access.policies.service import PolicyService
from registry.access.quarantine.service import QuarantineService
from registry.access.quarantine.table import QuarantineTable
from registry.access.service import PermissionService
from registry.access.simulation.service import SimulationService
from registry.access.toolsets.service import ToolsetService
from registry.approvals.reading import ApprovalReader
from registry.approvals.service import ApprovalService
from registry.audit.service import AuditService
from registry.audit.trail import AuditTrail
from registry.auth.bearer import BearerAuthenticator
from registry.auth.jwt import TokenIssuer, TokenVerifier
from registry.auth.keys import SigningKeys
from registry.catalog.service import CatalogService
from registry.catalog.subregistry.service import SubregistryService
from registry.connections.reconnection import Reconnection
from registry.connections.service import ConnectionService
from registry.core.clock import Clock
from registry.core.drain import Drain
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.endpoint import GatewayEndpoint
from registry.gateway.ports import Peers
from registry.gateway.view.snapshot import Snapshot
from registry.oauth.service import AuthorizationService
from registry.servers.apis.service import ApiService
from registry.servers.service import ServerService
from registry.servers.user_keys.service import UserKeyService
from registry.servers.versions.service import VersionService
from registry.sync.service import SyncService
from registry.tokens.metrics import TokenGauges
from registry.tokens.service import TokenService
from registry.tokens.sessions import SessionService
from registry.tools.governance.service import ToolService
from registry.usage.service import UsageService
from registry.users.service import UserService
from registry.wiring.vectors import Vectors
from registry.workers.metric_totals import MetricTotals

if TYPE_CHECKING:
    from registry.search.service import SearchService

READY_CHECK_SECONDS = 2.0
"""How long a readiness check may take; probes time out soon after."""


@dataclass(frozen=True, slots=True)
class Components:
    """The parts of a running registry."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    keys: SigningKeys
    issuer: TokenIssuer
    verifier: TokenVerifier
    database: Database
    authenticator: BearerAuthenticator
    servers: ServerService
    catalog: CatalogService
    subregistry: SubregistryService
    apis: ApiService
    connections: ConnectionService
    reconnection: Reconnection
    permissions: PermissionService
    user_keys: UserKeyService
    versions: VersionService
    api_versions: VersionService
    tokens: TokenService
    sessions: SessionService
    token_gauges: TokenGauges
    snapshot: Snapshot
    gateway: GatewayEndpoint
    peers: Peers
    drain: Drain
    totals: MetricTotals | None
    audit: AuditTrail
    audit_service: AuditService
    usage: UsageService
    tools: ToolService
    policies: PolicyService
    limits: LimitService
    toolsets: ToolsetService
    toolset_permissions: PermissionService
    budgets: BudgetService
    quarantine: QuarantineService
    simulation: SimulationService
    quarantines: QuarantineTable
    users: UserService
    sync: SyncService
    approvals: ApprovalService
    approval_reader: ApprovalReader
    authorizations: AuthorizationService
    search: "SearchService | None"
    vectors: Vectors

    async def database_is_up(self) -> bool:
        """Whether MongoDB answers now."""
        try:
            async with asyncio.timeout(READY_CHECK_SECONDS):
                await self.database.ping()
        except (TimeoutError, DatabaseUnavailable):
            return False
        return True

    async def is_accepting_requests(self) -> bool:
        """Whether this process is not shutting down."""
        return not self.drain.is_leaving

    async def metrics_page(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        if self.totals is not None:
            return await self.totals.page()
        await self.token_gauges.refresh()
        return self.metrics.render()

    async def snapshot_is_fresh(self) -> bool:
        """Whether the gateway's snapshot follows the database."""
        return self.snapshot.is_fresh()

    def snapshot_facts(self) -> JsonObject:
        """Return the age of the gateway's snapshot, for people."""
        status = self.snapshot.status()
        return {"age_seconds": status.age_seconds, "mode": status.mode}
