"""Builds the services of the control plane.

Dependencies are imported where they are used, because a command needs only one service.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from packages.models.states import SourceType

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.access.budgets.service import BudgetService
    from registry.access.conditions import CallConditions
    from registry.access.limits.ports import LimitUse
    from registry.access.limits.service import LimitService
    from registry.access.policies.authority import RuleAuthority
    from registry.access.policies.ports import CallState, PolicyChanges
    from registry.access.policies.service import PolicyService
    from registry.access.ports import ResourceChanges, TableChanges
    from registry.access.quarantine.service import QuarantineService
    from registry.access.service import PermissionService
    from registry.access.simulation.service import SimulationService
    from registry.access.toolsets.ports import ServedToolsets
    from registry.access.toolsets.service import ToolsetService
    from registry.access.toolsets.values import Toolset
    from registry.approvals.reading import ApprovalReader
    from registry.approvals.repository import ApprovalRepository
    from registry.approvals.service import ApprovalService
    from registry.auth.identity import UserContext
    from registry.auth.jwt import TokenIssuer, TokenVerifier
    from registry.auth.repository import DirectoryRepository
    from registry.auth.revocation import RevocationList
    from registry.core.clock import Clock
    from registry.core.metrics import Metrics
    from registry.core.settings import Settings
    from registry.servers.credentials import CredentialVault
    from registry.servers.ports import ServerChanges
    from registry.servers.reconciliation.read_and_store import ReadAndStore
    from registry.servers.service import ServerService
    from registry.tokens.service import TokenService
    from registry.tokens.sessions import SessionService
    from registry.tools.governance.service import ToolService
    from registry.users.service import UserService
    from registry.wiring.storage import Storage


def build_servers(
    settings: Settings,
    storage: Storage,
    vault: CredentialVault,
    upstreams: ReadAndStore,
    *,
    clock: Clock,
    metrics: Metrics,
    source_type: SourceType = SourceType.MCP,
) -> ServerService:
    """Return the service of MCP servers, or of REST APIs."""
    from registry.servers.service import ServerService  # noqa: PLC0415

    return ServerService(
        storage.repositories,
        vault,
        upstreams,
        clock=clock,
        metrics=metrics,
        admin_sees_private=settings.admin_sees_private,
        source_type=source_type,
    )


def build_tools(storage: Storage, changes: ServerChanges, clock: Clock) -> ToolService:
    """Return the tool service."""
    from registry.servers.adapters import ServerOwners  # noqa: PLC0415
    from registry.tools.governance.history import ToolHistoryReader  # noqa: PLC0415
    from registry.tools.governance.repository import GovernedTools  # noqa: PLC0415
    from registry.tools.governance.service import ToolService  # noqa: PLC0415

    repositories = storage.repositories
    governed = GovernedTools(storage.database)
    return ToolService(
        storage.database,
        repositories.tools,
        governed,
        ToolHistoryReader(governed, storage.audit_repository),
        storage.audit,
        ServerOwners(
            repositories.servers, repositories.visible, repositories.inventory, changes, clock
        ),
        clock=clock,
    )


def build_permissions(
    settings: Settings,
    storage: Storage,
    directory: DirectoryRepository,
    changes: ResourceChanges,
    clock: Clock,
) -> PermissionService:
    """Return the sharing service."""
    from registry.access.service import PermissionService  # noqa: PLC0415

    return PermissionService(
        storage.database,
        storage.repositories.acl,
        storage.repositories.servers,
        directory,
        storage.audit,
        changes,
        clock=clock,
        admin_sees_private=settings.admin_sees_private,
    )


def _call_conditions(
    storage: Storage,
    clock: Clock,
    use: LimitUse | None = None,
    spent: Callable[[str], int] | None = None,
) -> CallConditions:
    from registry.access.budgets.repository import BudgetRepository  # noqa: PLC0415
    from registry.access.conditions import CallConditions  # noqa: PLC0415
    from registry.access.quarantine.repository import QuarantineRepository  # noqa: PLC0415
    from registry.usage.repository import UsageRepository  # noqa: PLC0415

    database = storage.database
    return CallConditions(
        QuarantineRepository(database),
        storage.repositories.limits,
        BudgetRepository(database),
        UsageRepository(database),
        clock,
        use,
        spent,
    )


def build_policies(
    settings: Settings,
    storage: Storage,
    directory: DirectoryRepository,
    changes: PolicyChanges,
    clock: Clock,
    state: CallState | None = None,
    use: LimitUse | None = None,
    spent: Callable[[str], int] | None = None,
) -> PolicyService:
    """Return the policy service."""
    from registry.access.policies.service import PolicyService, PolicyStore  # noqa: PLC0415
    from registry.servers.adapters import PolicyServerReader  # noqa: PLC0415

    repositories = storage.repositories
    return PolicyService(
        storage.database,
        PolicyStore(
            repositories.policies,
            PolicyServerReader(repositories.servers, repositories.visible),
            repositories.tools,
            repositories.acl,
            directory,
            _call_conditions(storage, clock, use, spent),
        ),
        storage.audit,
        changes,
        clock=clock,
        admin_sees_private=settings.admin_sees_private,
        admin_uses_private=settings.admin_uses_private,
        enforces_approvals=settings.approvals == "required",
        state=state,
    )


def _authority(
    settings: Settings, storage: Storage, directory: DirectoryRepository, clock: Clock, what: str
) -> RuleAuthority:
    from registry.access.policies.authority import RuleAuthority  # noqa: PLC0415
    from registry.servers.adapters import PolicyServerReader  # noqa: PLC0415

    repositories = storage.repositories
    return RuleAuthority(
        PolicyServerReader(repositories.servers, repositories.visible),
        repositories.acl,
        directory,
        clock=clock,
        admin_sees_private=settings.admin_sees_private,
        admin_uses_private=settings.admin_uses_private,
        what=what,
    )


def build_quarantine(
    settings: Settings,
    storage: Storage,
    directory: DirectoryRepository,
    changes: TableChanges,
    clock: Clock,
) -> QuarantineService:
    """Return the service of quarantine."""
    from registry.access.quarantine.history import RecordedCalls  # noqa: PLC0415
    from registry.access.quarantine.repository import QuarantineRepository  # noqa: PLC0415
    from registry.access.quarantine.service import QuarantineService  # noqa: PLC0415
    from registry.servers.adapters import PolicyServerReader  # noqa: PLC0415
    from registry.usage.repository import UsageRepository  # noqa: PLC0415

    repositories = storage.repositories
    return QuarantineService(
        storage.database,
        QuarantineRepository(storage.database),
        _authority(settings, storage, directory, clock, "Quarantines"),
        PolicyServerReader(repositories.servers, repositories.visible),
        repositories.tools,
        directory,
        RecordedCalls(UsageRepository(storage.database), clock),
        storage.audit,
        changes,
        clock=clock,
    )


def build_simulation(
    settings: Settings, storage: Storage, directory: DirectoryRepository, clock: Clock
) -> SimulationService:
    """Return the service that tries drafts of rules on recorded calls."""
    from registry.access.simulation.service import (  # noqa: PLC0415
        SimulationService,
        SimulationStore,
    )
    from registry.servers.adapters import PolicyServerReader  # noqa: PLC0415
    from registry.usage.repository import UsageRepository  # noqa: PLC0415

    repositories = storage.repositories
    return SimulationService(
        SimulationStore(
            repositories.policies,
            repositories.limits,
            build_toolsets(settings, storage, directory, NoGateway(), clock),
            PolicyServerReader(repositories.servers, repositories.visible),
            repositories.tools,
            directory,
            _call_conditions(storage, clock),
            UsageRepository(storage.database),
        ),
        _authority(settings, storage, directory, clock, "Policies"),
        _authority(settings, storage, directory, clock, "Limits"),
        clock=clock,
        records_kept=timedelta(days=settings.usage_retention_days),
    )


def build_limit_service(
    settings: Settings,
    storage: Storage,
    directory: DirectoryRepository,
    changes: TableChanges,
    clock: Clock,
) -> LimitService:
    """Return the service of limits."""
    from registry.access.limits.service import LimitService  # noqa: PLC0415

    repositories = storage.repositories
    authority = _authority(settings, storage, directory, clock, "Limits")
    return LimitService(
        storage.database,
        repositories.limits,
        authority,
        storage.audit,
        changes,
        clock=clock,
    )


def build_toolsets(
    settings: Settings,
    storage: Storage,
    directory: DirectoryRepository,
    served: ServedToolsets,
    clock: Clock,
) -> ToolsetService:
    """Return the toolset service."""
    from registry.access.ports import TOOLSET_TYPE  # noqa: PLC0415
    from registry.access.repository import AclRepository  # noqa: PLC0415
    from registry.access.toolsets.repository import ToolsetRepository  # noqa: PLC0415
    from registry.access.toolsets.service import ToolsetService  # noqa: PLC0415
    from registry.servers.adapters import PolicyServerReader  # noqa: PLC0415

    repositories = storage.repositories
    return ToolsetService(
        storage.database,
        ToolsetRepository(storage.database),
        AclRepository(storage.database, TOOLSET_TYPE),
        PolicyServerReader(repositories.servers, repositories.visible),
        repositories.tools,
        directory,
        storage.audit,
        served,
        clock=clock,
        admin_sees_private=settings.admin_sees_private,
    )


def build_toolset_permissions(
    settings: Settings,
    storage: Storage,
    directory: DirectoryRepository,
    changes: ResourceChanges,
    clock: Clock,
) -> PermissionService:
    """Return the sharing service of toolsets."""
    from registry.access.ports import TOOLSET_TYPE  # noqa: PLC0415
    from registry.access.repository import AclRepository  # noqa: PLC0415
    from registry.access.service import PermissionService  # noqa: PLC0415
    from registry.access.toolsets.repository import ToolsetRepository  # noqa: PLC0415
    from registry.access.toolsets.service import SharedToolsets  # noqa: PLC0415

    return PermissionService(
        storage.database,
        AclRepository(storage.database, TOOLSET_TYPE),
        SharedToolsets(ToolsetRepository(storage.database)),
        directory,
        storage.audit,
        changes,
        clock=clock,
        admin_sees_private=settings.admin_sees_private,
        noun="toolset",
    )


def build_budget_service(
    settings: Settings, storage: Storage, directory: DirectoryRepository, clock: Clock
) -> BudgetService:
    """Return the service of budgets."""
    from registry.access.budgets.repository import BudgetRepository  # noqa: PLC0415
    from registry.access.budgets.service import BudgetService  # noqa: PLC0415
    from registry.usage.repository import UsageRepository  # noqa: PLC0415

    return BudgetService(
        storage.database,
        BudgetRepository(storage.database),
        UsageRepository(storage.database),
        directory,
        storage.audit,
        clock=clock,
        is_recorded=settings.usage_retention_days > 0,
    )


class NoGateway:
    """Ignores changes: no gateway runs in this process, and others see them in change streams.

    Implements `ServerChanges`, `ResourceChanges`, `PolicyChanges`, `TableChanges` and
    `ServedToolsets`.
    """

    async def server_changed(self, server_id: str) -> None:
        """Do nothing."""

    async def policy_changed(self, policy_id: str) -> None:
        """Do nothing."""

    async def table_changed(self, collection: str, document_id: str) -> None:
        """Do nothing."""

    def resolved(self, toolset: Toolset, user: UserContext) -> None:
        """Return None: what is served is not known here."""


def build_approval_repository(
    settings: Settings, storage: Storage, clock: Clock
) -> ApprovalRepository:
    """Return the store of requests for approval."""
    from registry.approvals.repository import ApprovalRepository  # noqa: PLC0415

    return ApprovalRepository(
        storage.database,
        storage.cipher,
        clock,
        lifetime=timedelta(hours=settings.approval_lifetime_hours),
        retention=timedelta(days=settings.approval_retention_days),
        announces=settings.approval_webhook_url is not None,
    )


def build_approval_service(
    settings: Settings,
    storage: Storage,
    directory: DirectoryRepository,
    repository: ApprovalRepository,
    changed: Callable[[str], None],
    clock: Clock,
) -> ApprovalService:
    """Return the service of requests for approval."""
    from registry.approvals.service import ApprovalService  # noqa: PLC0415

    return ApprovalService(
        repository,
        storage.repositories.visible,
        storage.audit,
        changed,
        use=build_policies(settings, storage, directory, NoGateway(), clock),
        allows_own=settings.approval_by_requester,
    )


def build_approval_reader(storage: Storage, repository: ApprovalRepository) -> ApprovalReader:
    """Return the reader of requests for approval."""
    from registry.approvals.reading import ApprovalReader  # noqa: PLC0415
    from registry.tools.governance.repository import GovernedTools  # noqa: PLC0415

    repositories = storage.repositories
    return ApprovalReader(
        repository, repositories.visible, repositories.tools, GovernedTools(storage.database)
    )


def build_users(settings: Settings, storage: Storage, clock: Clock) -> UserService:
    """Return the user service."""
    from registry.users.repository import GroupRepository, UserRepository  # noqa: PLC0415
    from registry.users.service import UserService  # noqa: PLC0415

    return UserService(
        storage.database,
        UserRepository(storage.database),
        GroupRepository(storage.database),
        storage.audit,
        clock=clock,
        is_ours=settings.user_directory == "registry",
    )


def build_tokens(
    settings: Settings, storage: Storage, *, clock: Clock, metrics: Metrics
) -> TokenService:
    """Return the service of users' stored tokens."""
    from registry.tokens.service import TokenService  # noqa: PLC0415

    return TokenService(
        storage.database,
        storage.repositories.tokens,
        storage.audit,
        clock=clock,
        metrics=metrics,
        reads_enabled=settings.token_reads_enabled,
    )


def build_sessions(
    settings: Settings,
    storage: Storage,
    directory: DirectoryRepository,
    verifier: TokenVerifier,
    revocations: RevocationList,
    issuer: TokenIssuer,
    *,
    clock: Clock,
    metrics: Metrics,
) -> SessionService:
    """Return the service of issued tokens."""
    from registry.access.toolsets.repository import ToolsetRepository  # noqa: PLC0415
    from registry.tokens.families import FamilyRepository, RevocationWriter  # noqa: PLC0415
    from registry.tokens.sessions import Lifetimes, SessionService, SessionStore  # noqa: PLC0415

    database = storage.database
    return SessionService(
        database,
        SessionStore(
            FamilyRepository(database),
            RevocationWriter(database),
            directory,
            ToolsetRepository(database),
        ),
        storage.audit,
        issuer,
        verifier,
        revocations,
        clock=clock,
        metrics=metrics,
        lifetimes=Lifetimes(settings.token_max_hours, timedelta(days=settings.token_family_days)),
    )
