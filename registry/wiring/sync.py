"""Builds background synchronisation."""

from dataclasses import dataclass
from datetime import timedelta

from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.origin import process_name
from registry.core.settings import Settings
from registry.servers.reconciliation.read_and_store import ReadAndStore
from registry.sync.repository import JobRepository
from registry.sync.runner import SyncRunner, SyncRunnerConfig
from registry.sync.schedule import RetryPolicy
from registry.sync.service import SyncService
from registry.sync.worker import Announcements, SyncWorker, SyncWorkerConfig
from registry.wiring.storage import Storage


@dataclass(frozen=True, slots=True)
class Synchronisation:
    """The parts of background synchronisation."""

    service: SyncService
    jobs: JobRepository
    runner: SyncRunner
    worker: SyncWorker
    announcements: Announcements


def build_sync(
    settings: Settings,
    storage: Storage,
    upstreams: ReadAndStore,
    *,
    clock: Clock,
    metrics: Metrics,
) -> Synchronisation:
    """Return the parts of synchronisation; the caller starts its worker."""
    database, repositories = storage.database, storage.repositories
    jobs = JobRepository(
        database, retention=timedelta(days=settings.sync_retention_days), clock=clock
    )
    retry_policy = RetryPolicy(
        settings.sync_max_attempts,
        settings.sync_backoff_seconds,
        settings.sync_backoff_max_seconds,
    )
    lease_seconds = settings.sync_lease_seconds
    runner = SyncRunner(
        repositories.servers,
        jobs,
        upstreams,
        SyncRunnerConfig(retry_policy, lease_seconds),
        clock=clock,
        metrics=metrics,
    )
    announcements = Announcements(clock)
    worker = SyncWorker(
        jobs,
        repositories.servers,
        runner,
        announcements,
        SyncWorkerConfig(
            process_name(), settings.sync_concurrency, settings.sync_poll_seconds, lease_seconds
        ),
        clock=clock,
        metrics=metrics,
    )
    service = SyncService(database, repositories, jobs, storage.cipher, worker.wake, clock=clock)
    return Synchronisation(service, jobs, runner, worker, announcements)
