"""Runs the jobs of the catalog, one at a time, until the process ends.

A job whose process died is claimed by another when its lease ends, and begins again where it was
noted; each of its writes may be repeated.
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from packages.database.errors import DatabaseUnavailable
from packages.models.states import JobState, RunOutcome
from registry.auth.identity import SYNCHRONISER
from registry.catalog.errors import ImportUnreadableError
from registry.catalog.jobs import CatalogJobRecord, CatalogJobs, CatalogTask
from registry.catalog.links import MAX_DESCRIPTION
from registry.catalog.repository import CatalogRepository
from registry.core.clock import Clock
from registry.core.errors import RegistryError, ValidationFailedError
from registry.core.metrics import Metrics
from registry.servers.storage.repository import ServerRepository
from registry.sync.errors import LeaseLostError
from registry.sync.schedule import RetryPolicy, failed
from registry.sync.values import Ending, SyncJobRecord

log = structlog.get_logger()

LINKS_AT_ONCE = 100
"""Servers that one write renames or unlinks."""

REPAIR_SECONDS = 3_600.0
"""How often all links are compared: what other programs or a restored backup wrote is repaired."""

DATABASE_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class CatalogWorkerConfig:
    """How the worker runs; see `sync.worker.SyncWorkerConfig`."""

    name: str
    poll_seconds: float
    lease_seconds: float


class Imports(Protocol):
    """Runs imports."""

    async def run(self, job: CatalogJobRecord) -> dict[str, int]:
        """Import everything; return the number of entries by outcome.

        Raises:
            LeaseLostError: Another attempt has begun.
            RegistryError: The source cannot be read.
        """


class LinkFollower:
    """Has registered servers follow what becomes of the server of the catalog."""

    def __init__(
        self,
        catalog: CatalogRepository,
        servers: ServerRepository,
        jobs: CatalogJobs,
        *,
        clock: Clock,
        lease_seconds: float,
    ) -> None:
        self._catalog = catalog
        self._servers = servers
        self._jobs = jobs
        self._clock = clock
        self._lease_seconds = lease_seconds

    async def run(self, job: SyncJobRecord) -> int:
        """Write name and description to all linked servers, or unlink them; return how many.

        Raises:
            LeaseLostError: Another attempt has begun.
        """
        total = 0
        while True:
            # Read for each batch: the name may change again meanwhile.
            entry = await self._catalog.get(job.owner_id)
            now = self._clock.now()
            if entry is None:
                done = await self._servers.unlink(job.owner_id, now, LINKS_AT_ONCE)
            else:
                description = entry.description
                done = await self._servers.follow_entry(
                    entry.id,
                    entry.name,
                    None if description is None else description[:MAX_DESCRIPTION],
                    now,
                    LINKS_AT_ONCE,
                )
            total += done
            if done < LINKS_AT_ONCE:
                return total
            if not await self._jobs.renew(job, self._lease_seconds):
                raise LeaseLostError

    async def repair(self) -> int:
        """Open a job for each server of the catalog whose links are not right; return how many."""
        names = {one.id: one.name for one in await self._catalog.rows()}
        wrong: dict[str, str] = {}
        for server in await self._servers.links_unchecked():
            linked = str(server.registry.get("registry_server_id") or "")
            if linked and names.get(linked) != server.registry.get("registry_server_name"):
                wrong[linked] = names.get(linked) or "removed"
        for entry_id, name in wrong.items():
            await self._jobs.ensure_links_later(entry_id, name, SYNCHRONISER)
        return len(wrong)


class CatalogWorker:
    """Claims jobs and runs them."""

    def __init__(
        self,
        jobs: CatalogJobs,
        links: LinkFollower,
        imports: Imports,
        config: CatalogWorkerConfig,
        retries: RetryPolicy,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._jobs = jobs
        self._links = links
        self._imports = imports
        self._config = config
        self._retries = retries
        self._clock = clock
        self._metrics = metrics
        self._woken = asyncio.Event()
        self._repaired_at = -REPAIR_SECONDS

    def wake(self) -> None:
        """Look for jobs at once."""
        self._woken.set()

    async def follow(self) -> None:
        """Run forever."""
        while True:
            self._woken.clear()
            seconds = self._config.poll_seconds
            try:
                await self.run_due()
            except DatabaseUnavailable as exc:
                log.warning("catalog_worker_paused", error=str(exc))
                seconds = DATABASE_RETRY_SECONDS
            except Exception:
                # A job must not stop the others.
                log.exception("catalog_poll_failed")
            try:
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def run_due(self) -> int:
        """Run the jobs that are due; return how many."""
        if self._clock.monotonic() - self._repaired_at >= REPAIR_SECONDS:
            await self._links.repair()
            self._repaired_at = self._clock.monotonic()
        count = 0
        while taken := await self._jobs.claim(1, self._config.name, self._config.lease_seconds):
            for job in taken:
                await self._run(job)
                count += 1
        return count

    async def _run(self, job: SyncJobRecord) -> None:
        task = CatalogTask.LINKS
        try:
            details = await self._jobs.details(job.id)
            if details is not None and details.task is CatalogTask.IMPORT:
                task = CatalogTask.IMPORT
                counts = await self._imports.run(details)
                self._count_import(details, counts)
            else:
                counts = {"servers": await self._links.run(job)}
                self._metrics.catalog_links_changed.inc(counts["servers"])
        except asyncio.CancelledError:
            await asyncio.shield(self._jobs.release(job))
            raise
        except LeaseLostError:
            log.warning("catalog_lease_lost", job_id=job.id)
            return
        except RegistryError as exc:
            log.warning("catalog_job_failed", job_id=job.id, error=exc.message)
            # Neither a document nor an address gets better by itself.
            is_final = isinstance(exc, ImportUnreadableError | ValidationFailedError)
            ending = await self._failed(job, exc.message, is_final=is_final)
        except DatabaseUnavailable:
            # The lease ends, and the job counts one more attempt.
            raise
        except Exception as exc:
            log.exception("catalog_job_crashed", job_id=job.id)
            ending = await self._failed(
                job, f"Failed unexpectedly ({type(exc).__name__}); see the log."
            )
        else:
            log.info("catalog_job_done", job_id=job.id, **counts)
            ending = Ending(JobState.SUCCEEDED, RunOutcome.SUCCESS, counts=counts)
        self._metrics.catalog_jobs.labels(
            task.value, "success" if ending.outcome is RunOutcome.SUCCESS else "failure"
        ).inc()
        try:
            repeat = await self._jobs.end(job, ending, self._clock.now())
        except LeaseLostError:
            log.warning("catalog_lease_lost", job_id=job.id)
            return
        if repeat is not None:
            await self._jobs.ensure_links_later(job.owner_id, job.owner_name, SYNCHRONISER)

    async def _failed(self, job: SyncJobRecord, error: str, *, is_final: bool = False) -> Ending:
        chance = random.random()  # noqa: S311 - spreads retries
        ending = failed(error, job.attempts, self._retries, chance, is_final=is_final)
        # The next attempt goes on from what was noted, and counts on.
        noted = await self._jobs.details(job.id)
        return ending if noted is None else replace(ending, counts=noted.counts)

    def _count_import(self, job: CatalogJobRecord, counts: Mapping[str, int]) -> None:
        # Counts of a job are those of all its attempts; those before were not counted.
        if job.request.get("dry_run") is not True:
            for outcome, count in counts.items():
                self._metrics.catalog_import_entries.labels(outcome).inc(count)
