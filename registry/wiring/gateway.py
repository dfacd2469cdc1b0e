"""Builds the gateway's snapshot and the recorder of its requests."""

from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog

from packages.database.changes import ChangeFeed, ChangeStream
from packages.database.client import Database, TopologyError
from packages.database.polling import Polling, polling_indexes
from registry.access.quarantine.table import QuarantineTable
from registry.connections.tracker import ConnectionTracker
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.origin import process_name
from registry.core.settings import Settings
from registry.gateway.edge.budgets import Budgets
from registry.gateway.edge.ended_sessions import EndedSessions
from registry.gateway.edge.recorder import CallLog, Recorder
from registry.gateway.view.era_probe import EraReprobe
from registry.gateway.view.loading import SnapshotSources
from registry.gateway.view.pending import WATCHED
from registry.gateway.view.snapshot import Snapshot
from registry.gateway.view.tables import FollowedTable
from registry.oauth.ports import CachedTokens
from registry.servers.reconciliation.described import DescribedServers
from registry.servers.reconciliation.orphaned_data import OrphanedServerData
from registry.sync.eras import EraProber
from registry.telemetry import tracing
from registry.usage.batches import BatchPacker
from registry.usage.repository import UsageRepository
from registry.usage.writer import UsageWriter
from registry.wiring.identities import Identities
from registry.wiring.storage import Storage
from registry.wiring.upstreams import Upstreams

log = structlog.get_logger()


async def build_feed(settings: Settings, database: Database, clock: Clock) -> ChangeFeed:
    """Return the change feed for the gateway's snapshot.

    Raises:
        TopologyError: MongoDB is no replica set, and no setting allows that.
        DatabaseUnavailable: MongoDB is not there.
    """
    if not await database.is_standalone():
        return ChangeStream(database, WATCHED)
    if not settings.mongo_standalone_allowed:
        raise TopologyError
    log.warning("database_is_standalone")
    for name, indexes in polling_indexes(WATCHED).items():
        await database.ensure_indexes(name, indexes)
    return Polling(
        database,
        WATCHED,
        now=clock.now,
        sleep=clock.sleep,
        seconds=settings.snapshot_poll_seconds,
    )


def build_view(  # noqa: PLR0913 - collaborators
    settings: Settings,
    storage: Storage,
    feed: ChangeFeed,
    known: Identities,
    upstreams: Upstreams,
    tracker: ConnectionTracker,
    leftovers: OrphanedServerData,
    described: DescribedServers,
    *,
    ended_sessions: EndedSessions,
    tokens: CachedTokens,
    tables: Iterable[FollowedTable],
    quarantines: QuarantineTable,
    clock: Clock,
    metrics: Metrics,
    freed: Callable[[int], None],
) -> tuple[Snapshot, EraReprobe]:
    """Return the gateway's snapshot, still empty, and the era re-probe."""
    repositories = storage.repositories
    prober = EraProber(
        repositories.servers, upstreams.store, upstreams.reader, upstreams.discovery, tracker
    )
    era_reprobe = EraReprobe(prober.probe, clock=clock)
    snapshot = Snapshot(
        feed,
        SnapshotSources(
            inventory=repositories.inventory,
            servers=repositories.servers,
            tools=repositories.tools,
            features=repositories.features,
            acl=repositories.acl,
            plugin_auths=repositories.plugin_auths,
            policies=repositories.policies,
            tokens=tokens,
        ),
        upstreams.vault,
        clock=clock,
        metrics=metrics,
        settings=settings,
        users_changed=known.authenticator.forget_users,
        revocations_changed=known.revocations.load,
        sessions_ended=ended_sessions.apply,
        era_reprobe=era_reprobe,
        connections=tracker,
        servers_missing=leftovers.note,
        freed=freed,
        servers_described=described.note,
        tables=tables,
        quarantines=quarantines,
        via=upstreams.instance.via,
    )
    return snapshot, era_reprobe


async def build_recorder(
    stack: AsyncExitStack,
    settings: Settings,
    repository: UsageRepository,
    budgets: Budgets,
    *,
    clock: Clock,
    metrics: Metrics,
) -> tuple[Recorder, UsageWriter | None]:
    """Return the recorder of gateway requests, and the writer of usage records, if kept.

    Raises:
        SettingsError: Spans are to be sent, but the extra for that is not installed.
    """
    worker = process_name()
    days = settings.usage_retention_days
    usage = None
    if days:
        usage = UsageWriter(
            repository,
            BatchPacker(worker=worker, retention=timedelta(days=days)),
            max_records=settings.usage_buffer_records,
            keep_totals=timedelta(days=settings.usage_totals_retention_days),
            clock=clock,
            metrics=metrics,
        )
    spans = await stack.enter_async_context(tracing(settings, worker))
    call_log = CallLog(settings.call_log)
    recorder = Recorder(
        metrics, clock, notes=usage, call_log=call_log, tracing=spans, budgets=budgets
    )
    return recorder, usage
