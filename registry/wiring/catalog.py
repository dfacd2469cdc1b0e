"""Builds the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from packages.models.states import CatalogKind
from registry.catalog.fetching import RegistryFetcher
from registry.catalog.importing import ImportRunner
from registry.catalog.jobs import CatalogJobs
from registry.catalog.repository import CatalogRepository
from registry.catalog.service import CatalogChanges, CatalogService, CatalogStore
from registry.catalog.subregistry.service import SubregistryService
from registry.catalog.table import CatalogTable
from registry.catalog.worker import CatalogWorker, CatalogWorkerConfig, LinkFollower
from registry.core.origin import process_name
from registry.sync.schedule import RetryPolicy

if TYPE_CHECKING:
    from registry.core.clock import Clock
    from registry.core.metrics import Metrics
    from registry.core.settings import Settings
    from registry.servers.service import ServerService
    from registry.upstream.guard import UrlGuard
    from registry.wiring.storage import Storage


@dataclass(frozen=True, slots=True)
class CatalogParts:
    """The parts of the catalog."""

    service: CatalogService
    worker: CatalogWorker
    subregistry: SubregistryService


def build_catalog(
    settings: Settings,
    storage: Storage,
    servers: ServerService,
    guard: UrlGuard,
    table: CatalogTable,
    changes: CatalogChanges,
    *,
    clock: Clock,
    metrics: Metrics,
) -> CatalogParts:
    """Return the parts of the catalog; the caller starts its worker."""
    catalog = CatalogRepository(storage.database)
    jobs = CatalogJobs(
        storage.database, retention=timedelta(days=settings.sync_retention_days), clock=clock
    )
    registered = storage.repositories.servers
    lease_seconds = settings.sync_lease_seconds
    imports = ImportRunner(
        storage.database,
        catalog,
        jobs,
        RegistryFetcher(
            guard,
            connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
            total_timeout_seconds=settings.discovery_timeout_seconds,
        ),
        clock=clock,
        lease_seconds=lease_seconds,
    )
    worker = CatalogWorker(
        jobs,
        LinkFollower(catalog, registered, jobs, clock=clock, lease_seconds=lease_seconds),
        imports,
        CatalogWorkerConfig(process_name(), settings.sync_poll_seconds, lease_seconds),
        RetryPolicy(
            settings.sync_max_attempts,
            settings.sync_backoff_seconds,
            settings.sync_backoff_max_seconds,
        ),
        clock=clock,
        metrics=metrics,
    )
    for kind in CatalogKind:
        metrics.catalog_servers.labels(kind.value).set_function(partial(table.count, kind))
    service = CatalogService(
        storage.database,
        CatalogStore(catalog, jobs, imports, table, registered),
        servers,
        storage.audit,
        changes,
        worker.wake,
        clock=clock,
    )
    subregistry = SubregistryService(
        catalog,
        table,
        storage.repositories.visible,
        base_url=settings.base_url,
        left_out=metrics.catalog_left_out,
    )
    return CatalogParts(service, worker, subregistry)
