"""Builds a running registry from its parts, and shuts it down."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias

from packages.models import check_schema_version
from packages.models.states import SourceType
from registry.access.policies.ports import CallState
from registry.access.ports import TOOLSET_TYPE
from registry.access.quarantine.repository import QuarantineRepository
from registry.access.quarantine.table import QuarantineTable
from registry.access.repository import AclRepository
from registry.access.toolsets.repository import ToolsetRepository
from registry.approvals.reading import WaitingRequests
from registry.audit.sealing import Sealer
from registry.audit.service import AuditService
from registry.catalog.repository import CatalogRepository
from registry.catalog.table import CatalogTable
from registry.connections.reconnection import Reconnection
from registry.connections.service import ConnectionService
from registry.core.background_tasks import BackgroundTasks, end
from registry.core.clock import SystemClock
from registry.core.drain import Drain
from registry.core.memory import FreedMemory
from registry.core.metrics import Metrics, watch_loop
from registry.core.settings import Settings
from registry.gateway.building import GatewayBuilder
from registry.gateway.edge.ended_sessions import EndedSessionRepository, EndedSessions
from registry.gateway.edge.spent_states import SpentStateRepository, SpentStates
from registry.gateway.ports import Peers
from registry.gateway.transport.bulkhead import Bulkheads, bulkhead_limits
from registry.gateway.view.toolsets import ExplainedToolsets, Toolsets
from registry.servers.adapters import VisibleServerDirectory
from registry.servers.apis.service import ApiService
from registry.servers.reconciliation.described import DescribedServers
from registry.servers.reconciliation.orphaned_data import OrphanedServerData
from registry.servers.user_keys.service import UserKeyService
from registry.servers.versions.service import VersionService
from registry.sync.authorized import AuthorizedServers
from registry.tokens.metrics import TokenGauges
from registry.upstream.pool import create_upstream_session
from registry.upstream.webhook import webhook_receiver
from registry.usage.repository import UsageRepository
from registry.usage.service import UsageService
from registry.wiring.approvals import build_approval_webhook, build_approvals
from registry.wiring.catalog import build_catalog
from registry.wiring.components import Components
from registry.wiring.connections import build_connections, build_connector
from registry.wiring.database import connected
from registry.wiring.gateway import build_feed, build_recorder, build_view
from registry.wiring.governance import build_budgets, build_limits
from registry.wiring.identities import build_identities
from registry.wiring.keys import build_cipher, build_issuer, build_keys
from registry.wiring.oauth import build_oauth
from registry.wiring.search import build_search
from registry.wiring.services import (
    build_approval_reader,
    build_budget_service,
    build_limit_service,
    build_permissions,
    build_policies,
    build_quarantine,
    build_servers,
    build_sessions,
    build_simulation,
    build_tokens,
    build_tools,
    build_toolset_permissions,
    build_toolsets,
    build_users,
)
from registry.wiring.storage import build_storage, prepared
from registry.wiring.sync import build_sync
from registry.wiring.upstreams import build_upstreams
from registry.wiring.vectors import build_vectors
from registry.workers.metric_totals import MetricTotals
from registry.workers.peers import SingleWorker, WorkerPeers
from registry.workers.runtime_directory import new_worker_id

Work: TypeAlias = tuple[Coroutine[Any, Any, None], Callable[[], Awaitable[None]] | None]
"""A background task of the process, and its cleanup after it was cancelled."""


@asynccontextmanager
async def components(  # noqa: PLR0915 - one statement for each part
    settings: Settings, peers: Peers | None = None
) -> AsyncIterator[Components]:
    """Build all parts, start background tasks, and shut everything down at the end.

    Args:
        settings: Of this process.
        peers: The other workers; None when there are none.

    Raises:
        SchemaVersionError: The generated models are of another release.
        SchemasNotGeneratedError: There are no generated models.
        KeyPairError: The signing keys cannot be used.
        UnsupportedServerError: MongoDB is too old, or a sharded cluster.
        TopologyError: MongoDB is no replica set, and no setting allows that.
        DatabaseUnavailable: MongoDB is not there.
    """
    check_schema_version()
    peers = peers or SingleWorker(new_worker_id())
    drain = Drain()
    clock = SystemClock()
    metrics = Metrics()
    keys = build_keys(settings)
    cipher = build_cipher(settings)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(connected(settings, metrics))
        feed = await build_feed(settings, database, clock)
        await prepared(database, cipher)
        known = await build_identities(settings, keys, database, clock=clock, metrics=metrics)
        storage = build_storage(settings, database, cipher, clock=clock, metrics=metrics)
        repositories, audit = storage.repositories, storage.audit
        memory = FreedMemory(clock)
        upstreams = build_upstreams(
            settings, storage, clock=clock, metrics=metrics, freed=memory.note
        )
        connection_writer, tracker = build_connections(
            settings, storage, clock=clock, metrics=metrics
        )
        ended_sessions = EndedSessions(
            peers,
            EndedSessionRepository(database),
            lifetime=timedelta(hours=settings.gateway_session_hours),
            clock=clock,
        )
        described = DescribedServers(database, repositories, clock=clock)
        issuer = build_issuer(settings, keys, clock)
        background_tasks = BackgroundTasks()
        authorizations = await build_oauth(
            stack,
            settings,
            storage,
            upstreams.guard,
            upstreams.vault,
            issuer,
            background_tasks,
            clock=clock,
            metrics=metrics,
        )
        upstreams = upstreams.with_tokens(authorizations.tokens)
        leftovers = OrphanedServerData(
            database, repositories, clock=clock, removals=authorizations.unregistration
        )
        usage_repository = UsageRepository(database)
        budgets = build_budgets(database, usage_repository, audit, clock=clock, metrics=metrics)
        quarantines = QuarantineTable(QuarantineRepository(database), clock)
        limits = build_limits(database, background_tasks, clock=clock, metrics=metrics)
        approvals = build_approvals(settings, storage, known.directory, clock)
        toolsets = Toolsets(
            clock, ToolsetRepository(database), AclRepository(database, TOOLSET_TYPE)
        )
        catalog_table = CatalogTable(CatalogRepository(database))
        snapshot, era_reprobe = build_view(
            settings,
            storage,
            feed,
            known,
            upstreams,
            tracker,
            leftovers,
            described,
            ended_sessions=ended_sessions,
            tokens=authorizations.tokens,
            clock=clock,
            metrics=metrics,
            freed=memory.note,
            tables=(
                quarantines,
                limits.table,
                approvals.notices,
                toolsets,
                budgets,
                catalog_table,
            ),
            quarantines=quarantines,
        )
        read_and_store = upstreams.reporting_to(snapshot, tracker, authorizations.unregistration)
        servers, api_servers = (
            build_servers(
                settings,
                storage,
                upstreams.vault,
                read_and_store,
                clock=clock,
                metrics=metrics,
                source_type=source_type,
            )
            for source_type in (SourceType.MCP, SourceType.OPENAPI)
        )
        catalog = build_catalog(
            settings,
            storage,
            servers,
            upstreams.guard,
            catalog_table,
            snapshot,
            clock=clock,
            metrics=metrics,
        )
        upstream = await stack.enter_async_context(
            create_upstream_session(
                upstreams.guard,
                connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
                idle_timeout_seconds=settings.gateway_idle_timeout_seconds,
            )
        )
        explained = CallState(
            ExplainedToolsets(
                toolsets, snapshot.view, admin_uses_private=settings.admin_uses_private
            ),
            WaitingRequests(approvals.repository),
        )
        vectors = build_vectors(stack, settings, peers, clock=clock, metrics=metrics)
        search = build_search(
            settings,
            snapshot,
            repositories.inventory,
            toolsets,
            catalog_table,
            CatalogRepository(database),
            clock=clock,
            metrics=metrics,
            vectors=vectors.queries,
        )
        recorder, usage = await build_recorder(
            stack,
            settings,
            usage_repository,
            budgets,
            clock=clock,
            metrics=metrics,
        )
        connector = build_connector(settings, storage, upstreams, tracker, known.directory, clock)
        reconnection = Reconnection(
            connector,
            tracker,
            at_start=settings.connection_checks_at_start,
            clock=clock,
        )
        sync = build_sync(settings, storage, read_and_store, clock=clock, metrics=metrics)
        builder = GatewayBuilder(
            settings=settings,
            routes=snapshot,
            authenticate=known.authenticator,
            session=upstream,
            refusals=audit,
            recorder=recorder,
            bulkheads=Bulkheads(bulkhead_limits(settings), clock, metrics, tracker),
            peers=peers,
            ended_sessions=ended_sessions,
            spent_states=SpentStates(SpentStateRepository(database), clock),
            requires_sync=sync.announcements.add,
            drain=drain,
            background_tasks=background_tasks,
            metrics=metrics,
            instance=upstreams.instance,
            sealing_keys=list(cipher.derive_keys("gateway-session").values()),
            authorization_keys=list(cipher.derive_keys("gateway-authorization").values()),
            tokens=authorizations.tokens,
            links=authorizations.links,
            limits=limits,
            quarantines=quarantines,
            approvals=approvals,
            budgets=budgets,
            clock=clock,
            toolsets=toolsets,
            finder=None if search is None else search.service,
        )
        gateway = builder.build()
        stack.push_async_callback(gateway.close)
        token_gauges = TokenGauges(repositories.tokens, clock=clock, metrics=metrics)
        totals = (
            MetricTotals(metrics.registry, peers, token_gauges.refresh)
            if isinstance(peers, WorkerPeers)
            else None
        )
        await snapshot.load()
        sealer = Sealer(storage.audit_repository, storage.audit_keys, clock=clock)
        work: list[Work] = [
            (snapshot.follow(), None),
            (limits.follow(), None),
            (budgets.follow(), None),
            (era_reprobe.follow(), None),
            (connection_writer.follow(), connection_writer.close),
            (tracker.follow(), None),
            (reconnection.follow(), None),
            (sealer.follow(audit), audit.flush),
            (watch_loop(clock, metrics.loop_lag), None),
            (memory.follow(), None),
            (builder.approved_calls.follow(), None),
        ]
        if search is not None:
            work += [(search.feed.follow(), None), (search.catalog_feed.follow(), None)]
            tasks = vectors.feed(search.index, database, clock=clock, metrics=metrics)
            work += [(task, None) for task in tasks]
        if usage is not None:
            work.append((usage.follow(), usage.close))
        if settings.approval_webhook_url is not None:
            receiver = await stack.enter_async_context(
                webhook_receiver(
                    upstreams.guard,
                    settings.approval_webhook_url,
                    connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
                )
            )
            webhook = build_approval_webhook(settings, approvals.repository, receiver, clock)
            work.append((webhook.follow(), None))
        if not await database.is_standalone():
            # On one nothing that is read could be stored, nor what is left removed.
            work.append((leftovers.follow(), None))
            if settings.sync_worker_enabled:
                work += [
                    (sync.worker.follow(), None),
                    (described.follow(), None),
                    (catalog.worker.follow(), None),
                ]
        await _begin(stack, work)
        yield Components(
            settings=settings,
            clock=clock,
            metrics=metrics,
            keys=keys,
            issuer=issuer,
            verifier=known.verifier,
            database=database,
            authenticator=known.authenticator,
            servers=servers,
            catalog=catalog.service,
            subregistry=catalog.subregistry,
            apis=ApiService(api_servers, upstreams.vault),
            connections=ConnectionService(
                tracker,
                VisibleServerDirectory(repositories.visible, clock),
                peers if isinstance(peers, WorkerPeers) else None,
                authorizations=authorizations.tokens,
                clock=clock,
                idle_seconds=settings.connection_idle_seconds,
            ),
            reconnection=reconnection,
            permissions=build_permissions(settings, storage, known.directory, snapshot, clock),
            user_keys=UserKeyService(database, repositories, snapshot, tracker, clock=clock),
            versions=VersionService(servers, repositories.versions, upstreams.vault),
            api_versions=VersionService(api_servers, repositories.versions, upstreams.vault),
            tokens=build_tokens(settings, storage, clock=clock, metrics=metrics),
            sessions=build_sessions(
                settings,
                storage,
                known.directory,
                known.verifier,
                known.revocations,
                issuer,
                clock=clock,
                metrics=metrics,
            ),
            token_gauges=token_gauges,
            snapshot=snapshot,
            gateway=gateway,
            peers=peers,
            drain=drain,
            totals=totals,
            audit=audit,
            audit_service=AuditService(storage.audit_repository, storage.repositories.visible),
            usage=UsageService(usage_repository, storage.repositories.visible),
            tools=build_tools(storage, snapshot, clock),
            policies=build_policies(
                settings,
                storage,
                known.directory,
                snapshot,
                clock,
                explained,
                limits,
                budgets.spent_of,
            ),
            quarantines=quarantines,
            quarantine=build_quarantine(settings, storage, known.directory, snapshot, clock),
            simulation=build_simulation(settings, storage, known.directory, clock),
            budgets=build_budget_service(settings, storage, known.directory, clock),
            limits=build_limit_service(settings, storage, known.directory, snapshot, clock),
            toolsets=build_toolsets(settings, storage, known.directory, snapshot, clock),
            toolset_permissions=build_toolset_permissions(
                settings, storage, known.directory, snapshot, clock
            ),
            search=None if search is None else search.service,
            users=build_users(settings, storage, clock),
            sync=sync.service,
            approvals=approvals.service,
            approval_reader=build_approval_reader(storage, approvals.repository),
            vectors=vectors,
            authorizations=authorizations.service(
                settings,
                storage,
                known.directory,
                AuthorizedServers(
                    repositories.servers, read_and_store, connector, tracker, background_tasks
                ),
                clock=clock,
                metrics=metrics,
            ),
        )


async def _begin(stack: AsyncExitStack, work: Iterable[Work]) -> None:
    """Start background tasks, which *stack* ends."""
    background = await stack.enter_async_context(asyncio.TaskGroup())
    for doing, finish in work:
        task = background.create_task(doing)
        if finish is not None:
            stack.push_async_callback(finish)
        stack.push_async_callback(end, task)
