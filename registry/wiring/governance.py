"""Builds what governs calls: limits and budgets."""

from packages.database.client import Database
from packages.database.server_time import ServerTime
from registry.access.budgets.repository import BudgetRepository
from registry.access.limits.quota_repository import TIME_SECONDS, QuotaRepository
from registry.access.limits.repository import LimitRepository
from registry.access.limits.table import LimitTable
from registry.audit.trail import AuditTrail
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.origin import process_name
from registry.gateway.edge.budgets import Budgets
from registry.gateway.edge.limits import CallLimits
from registry.usage.repository import UsageRepository


def build_limits(
    database: Database, background_tasks: BackgroundTasks, *, clock: Clock, metrics: Metrics
) -> CallLimits:
    """Return what keeps limits on calls; its table is still empty."""
    time = ServerTime(database, now=clock.now, monotonic=clock.monotonic, seconds=TIME_SECONDS)
    return CallLimits(
        LimitTable(LimitRepository(database)),
        QuotaRepository(database, time, clock),
        worker=process_name(),
        background_tasks=background_tasks,
        clock=clock,
        metrics=metrics,
    )


def build_budgets(
    database: Database,
    usage: UsageRepository,
    audit: AuditTrail,
    *,
    clock: Clock,
    metrics: Metrics,
) -> Budgets:
    """Return what keeps budgets; the table is still empty."""
    return Budgets(
        database,
        BudgetRepository(database),
        usage,
        audit,
        clock=clock,
        metrics=metrics,
    )
