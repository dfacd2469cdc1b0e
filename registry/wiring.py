"""The composition root: the one place that builds services, pools and background work."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeAlias

import structlog

from packages.database.changes import ChangeFeed, ChangeStream
from packages.database.client import Database, IndexConflict, TopologyError
from packages.database.encryption import Cipher
from packages.database.errors import DatabaseUnavailable
from packages.database.monitoring import CommandTimer, PoolWatcher
from packages.database.polling import Polling, polling_indexes
from packages.database.schema import prepare
from packages.models import check_schema_version
from registry.access.repository import AclRepository
from registry.access.service import PermissionService
from registry.audit.chain import PURPOSE, AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.sealing import Sealer
from registry.audit.service import AuditService
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.audit.verification import AuditVerifier
from registry.auth.bearer import BearerAuthenticator
from registry.auth.identity import UserContext
from registry.auth.jwt import TokenIssuer, TokenVerifier
from registry.auth.keys import SigningKeys, load_signing_keys
from registry.auth.repository import DirectoryRepository, RevocationRepository
from registry.auth.revocation import RevocationList
from registry.ciphertexts import require_matching_keys
from registry.connections.service import ConnectionService
from registry.connections.tracker import ConnectionTracker
from registry.connections.writer import ConnectionWriter
from registry.core.clock import Clock, SystemClock
from registry.core.drain import Drain
from registry.core.json import JsonObject
from registry.core.loop_lag import watch_loop
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.core.tasks import end
from registry.features.repository import FeatureRepository
from registry.gateway.calllog import CallLog
from registry.gateway.endpoint import GatewayEndpoint, Surroundings
from registry.gateway.gates import UpstreamGates, gate_limits
from registry.gateway.loading import SnapshotSources
from registry.gateway.pending import WATCHED
from registry.gateway.ports import Peers
from registry.gateway.recorder import Recorder
from registry.gateway.snapshot import Snapshot
from registry.gateway.suspicion import Suspicions
from registry.governance.history import ToolHistory
from registry.governance.repository import GovernedTools
from registry.governance.service import ToolService
from registry.governance.verification import ToolVerifier
from registry.indexes import EXTRA_INDEXES
from registry.migration.service import Migration
from registry.policies.repository import PolicyRepository
from registry.policies.service import PolicyService, PolicyStore
from registry.servers.credentials import CredentialVault
from registry.servers.directory import ServerDirectory
from registry.servers.health import ServerHealth
from registry.servers.ports import ServerChanges
from registry.servers.reader import ServerReader
from registry.servers.repository import ServerRepository
from registry.servers.service import ServerService
from registry.servers.store import ServerRepositories
from registry.servers.user_keys import UserKeyService
from registry.servers.versions import ServerVersionRepository
from registry.sync.discovery import DiscoveryService
from registry.sync.eras import EraProber
from registry.sync.repository import JobRepository
from registry.sync.rounds import SyncRound
from registry.sync.runner import SyncRunner, Terms
from registry.sync.schedule import Patience
from registry.sync.service import SyncService
from registry.sync.worker import Announcements, SyncWorker, WorkerTerms
from registry.telemetry import tracing
from registry.tokens.families import FamilyRepository, RevocationWriter
from registry.tokens.gauges import TokenGauges
from registry.tokens.plugin_auths import PluginAuthRepository
from registry.tokens.repository import TokenRepository
from registry.tokens.service import TokenService
from registry.tokens.sessions import Lifetimes, SessionService, SessionStore
from registry.tools.repository import ToolRepository
from registry.upstream.guard import UrlGuard
from registry.upstream.pool import create_upstream_session
from registry.usage.batches import BatchPacker
from registry.usage.repository import UsageRepository
from registry.usage.service import UsageService
from registry.usage.writer import UsageWriter
from registry.versions.service import VersionService
from registry.workers.ids import new_worker_id
from registry.workers.peers import Alone, Siblings
from registry.workers.totals import Totals

log = structlog.get_logger()

SLOW_COMMAND_SECONDS = 0.5
"""From here on a database command is logged. A change stream's getMore waits that long idly."""

Work: TypeAlias = tuple[Coroutine[Any, Any, None], Callable[[], Awaitable[None]] | None]
"""What runs as long as the process does, and what is left to do once it was ended."""

READY_CHECK_SECONDS = 2.0
"""How long a readiness check may take; probes give up soon after."""


@dataclass(frozen=True, slots=True)
class Components:
    """What a running registry is made of."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    keys: SigningKeys
    issuer: TokenIssuer
    verifier: TokenVerifier
    database: Database
    authenticator: BearerAuthenticator
    servers: ServerService
    connections: ConnectionService
    permissions: PermissionService
    user_keys: UserKeyService
    versions: VersionService
    tokens: TokenService
    sessions: SessionService
    token_gauges: TokenGauges
    snapshot: Snapshot
    gateway: GatewayEndpoint
    peers: Peers
    drain: Drain
    totals: Totals | None
    audit: AuditTrail
    audit_service: AuditService
    usage: UsageService
    tools: ToolService
    policies: PolicyService
    sync: SyncService
    index_conflicts: list[IndexConflict]

    async def database_is_up(self) -> bool:
        """Whether MongoDB answers now."""
        try:
            async with asyncio.timeout(READY_CHECK_SECONDS):
                await self.database.ping()
        except (TimeoutError, DatabaseUnavailable):
            return False
        return True

    async def is_staying(self) -> bool:
        """Whether this process is not on its way out."""
        return not self.drain.is_leaving

    async def metrics_page(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        if self.totals is not None:
            return await self.totals.page()
        await self.token_gauges.refresh()
        return self.metrics.render()

    async def snapshot_is_fresh(self) -> bool:
        """Whether the gateway's view follows the database."""
        return self.snapshot.is_fresh()

    def snapshot_facts(self) -> JsonObject:
        """Return how old the gateway's view is, for people."""
        status = self.snapshot.status()
        return {"age_seconds": status.age_seconds, "mode": status.mode}


def build_cipher(settings: Settings) -> Cipher:
    """Return the cipher for stored credentials."""
    return Cipher(
        settings.creds_key.get_secret_value(),
        settings.creds_iv.get_secret_value(),
        previous_keys=[key.get_secret_value() for key in settings.creds_keys_readable],
    )


def build_keys(settings: Settings) -> SigningKeys:
    """Return the checked key pair.

    Raises:
        KeyPairError: The files cannot be used.
    """
    return load_signing_keys(settings.jwt_private_key_file, settings.jwt_public_key_file)


def build_issuer(settings: Settings, keys: SigningKeys, clock: Clock) -> TokenIssuer:
    """Return the issuer of our own tokens."""
    return TokenIssuer(
        keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience, clock=clock
    )


def build_database(settings: Settings, metrics: Metrics) -> Database:
    """Return a client that reports its commands and connections. Connects on first use."""
    connections = metrics.database_connections
    series = cache(metrics.database_commands.labels)

    def observe(name: str, outcome: str, seconds: float) -> None:
        series(name, outcome).observe(seconds)
        if seconds > SLOW_COMMAND_SECONDS and name != "getMore":
            log.warning("database_command_slow", command=name, duration_ms=round(seconds * 1000))

    timer = CommandTimer(observe)
    watcher = PoolWatcher(
        opened=connections.labels("open").inc,
        in_use=connections.labels("in_use").inc,
        failed=metrics.database_connection_failures.inc,
    )
    return Database(
        settings.mongo_uri.get_secret_value(),
        timeout_ms=settings.mongo_timeout_ms,
        listeners=[timer, watcher],
    )


async def build_feed(settings: Settings, database: Database, clock: Clock) -> ChangeFeed:
    """Return what tells the gateway's view of changes.

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
    return Polling(database, WATCHED, sleep=clock.sleep, seconds=settings.snapshot_poll_seconds)


async def prepared(database: Database, cipher: Cipher) -> list[IndexConflict]:
    """Make what is missing of collections and indexes, and check that the keys fit.

    Returns:
        Indexes that exist with other options, which were left as they are.

    Raises:
        SettingsError: The stored credentials were encrypted with other keys.
        DatabaseUnavailable: MongoDB is not there.
    """
    conflicts = await prepare(database, EXTRA_INDEXES)
    for conflict in conflicts:
        log.warning("index_conflict", collection=conflict.collection, index=conflict.index)
    await require_matching_keys(database, cipher)
    return conflicts


@asynccontextmanager
async def components(settings: Settings, peers: Peers | None = None) -> AsyncIterator[Components]:
    """Build everything, start background work, and take it all down at the end.

    Args:
        settings: Of this process.
        peers: The other workers; None when there are none.

    Raises:
        SchemaVersionError: The generated models are of another release.
        SchemasNotGeneratedError: There are no generated models.
        KeyPairError: The signing keys cannot be used.
        TopologyError: MongoDB is no replica set, and no setting allows that.
        DatabaseUnavailable: MongoDB is not there.
    """
    check_schema_version()
    peers = peers or Alone(new_worker_id())
    drain = Drain()
    clock = SystemClock()
    metrics = Metrics()
    keys = build_keys(settings)
    cipher = build_cipher(settings)
    async with AsyncExitStack() as stack:
        database = build_database(settings, metrics)
        stack.push_async_callback(database.close)
        feed = await build_feed(settings, database, clock)
        conflicts = await prepared(database, cipher)
        known = await build_identities(settings, keys, database, clock=clock, metrics=metrics)
        audit_keys = AuditKeys(cipher.derive_keys(PURPOSE))
        audit_repository = AuditRepository(database, audit_keys)
        audit = AuditTrail(audit_repository, clock=clock, metrics=metrics)
        repositories = build_repositories(settings, database, cipher, audit)
        await Migration(database, repositories, audit, clock=clock).at_start()
        vault = CredentialVault(cipher)
        guard = UrlGuard(settings.upstream_allowed_networks)
        discovery = DiscoveryService(guard, settings=settings, clock=clock, metrics=metrics)
        reader = ServerReader(vault, discovery, repositories.plugin_auths, clock)
        connection_writer, tracker = build_connections(
            settings, database, repositories, clock=clock, metrics=metrics
        )
        suspicions = Suspicions(
            EraProber(
                database,
                repositories,
                reader,
                discovery,
                tracker,
                clock=clock,
                failures_until_error=settings.connection_failures_until_error,
            ).probe,
            clock=clock,
        )
        snapshot = Snapshot(
            feed,
            SnapshotSources(
                servers=repositories.servers,
                tools=repositories.tools,
                features=repositories.features,
                acl=repositories.acl,
                plugin_auths=repositories.plugin_auths,
                policies=repositories.policies,
            ),
            vault,
            clock=clock,
            metrics=metrics,
            settings=settings,
            users_changed=known.authenticator.forget_users,
            revocations_changed=known.revocations.load,
            suspicions=suspicions,
            connections=tracker,
        )
        servers = ServerService(
            database,
            repositories,
            vault,
            discovery,
            snapshot,
            tracker,
            clock=clock,
            metrics=metrics,
            failures_until_error=settings.connection_failures_until_error,
            admin_sees_private=settings.admin_sees_private,
        )
        governed = GovernedTools(database)
        tools = ToolService(
            database,
            repositories,
            governed,
            ToolHistory(governed, audit_repository),
            audit,
            snapshot,
            clock=clock,
        )
        permissions = PermissionService(
            database,
            repositories.acl,
            repositories.servers,
            known.directory,
            audit,
            snapshot,
            clock=clock,
            admin_sees_private=settings.admin_sees_private,
        )
        tokens = TokenService(
            database,
            repositories.tokens,
            audit,
            clock=clock,
            metrics=metrics,
            reads_enabled=settings.token_reads_enabled,
        )
        issuer = build_issuer(settings, keys, clock)
        sessions = SessionService(
            database,
            SessionStore(FamilyRepository(database), RevocationWriter(database), known.directory),
            audit,
            issuer,
            known.verifier,
            known.revocations,
            clock=clock,
            metrics=metrics,
            lifetimes=Lifetimes(
                settings.token_max_hours, timedelta(days=settings.token_family_days)
            ),
        )
        upstream = await stack.enter_async_context(
            create_upstream_session(
                guard,
                connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
                idle_timeout_seconds=settings.gateway_idle_timeout_seconds,
            )
        )
        usage_repository = UsageRepository(database)
        recorder, usage = await build_recorder(
            stack, settings, usage_repository, clock=clock, metrics=metrics
        )
        sync = build_sync(
            settings,
            database,
            repositories,
            cipher,
            reader,
            snapshot,
            connections=tracker,
            clock=clock,
            metrics=metrics,
        )
        gateway = GatewayEndpoint(
            Surroundings(
                routes=snapshot,
                authenticate=known.authenticator,
                session=upstream,
                refusals=audit,
                recorder=recorder,
                gates=UpstreamGates(gate_limits(settings), clock, metrics, tracker),
                peers=peers,
                announced=sync.announcements.heard,
                drain=drain,
                metrics=metrics,
            ),
            sealing_keys=list(cipher.derive_keys("gateway-session").values()),
            settings=settings,
            clock=clock,
        )
        stack.push_async_callback(gateway.close)
        token_gauges = TokenGauges(repositories.tokens, clock=clock, metrics=metrics)
        totals = (
            Totals(metrics.registry, peers, token_gauges.refresh)
            if isinstance(peers, Siblings)
            else None
        )
        await snapshot.load()
        sealer = Sealer(audit_repository, audit_keys, clock=clock)
        work: list[Work] = [
            (snapshot.follow(), None),
            (suspicions.follow(), None),
            (connection_writer.follow(), connection_writer.close),
            (tracker.follow(), None),
            (sealer.follow(audit), audit.flush),
            (watch_loop(clock, metrics.loop_lag), None),
        ]
        if usage is not None:
            work.append((usage.follow(), usage.close))
        # What is read could not be stored on a standalone server.
        if settings.sync_worker and not await database.is_standalone():
            work.append((sync.worker.follow(), None))
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
            connections=ConnectionService(
                tracker,
                ServerDirectory(repositories.servers, clock),
                peers if isinstance(peers, Siblings) else None,
                clock=clock,
                idle_seconds=settings.connection_idle_seconds,
            ),
            permissions=permissions,
            user_keys=UserKeyService(database, repositories, snapshot, tracker, clock=clock),
            versions=VersionService(servers, repositories.versions, vault),
            tokens=tokens,
            sessions=sessions,
            token_gauges=token_gauges,
            snapshot=snapshot,
            gateway=gateway,
            peers=peers,
            drain=drain,
            totals=totals,
            audit=audit,
            audit_service=AuditService(audit_repository),
            usage=UsageService(usage_repository),
            tools=tools,
            policies=PolicyService(
                database,
                PolicyStore(
                    repositories.policies,
                    repositories.servers,
                    repositories.tools,
                    repositories.acl,
                    known.directory,
                ),
                audit,
                snapshot,
                clock=clock,
                admin_sees_private=settings.admin_sees_private,
            ),
            sync=sync.service,
            index_conflicts=conflicts,
        )


def process_name() -> str:
    """Return host and process, as records name who served or read."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Identities:
    """What tells who calls."""

    verifier: TokenVerifier
    directory: DirectoryRepository
    revocations: RevocationList
    authenticator: BearerAuthenticator


async def build_identities(
    settings: Settings, keys: SigningKeys, database: Database, *, clock: Clock, metrics: Metrics
) -> Identities:
    """Return what tells who calls, with what is revoked read.

    Raises:
        DatabaseUnavailable: It cannot be read.
    """
    verifier = TokenVerifier(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        shared_secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else None,
        leeway_seconds=settings.jwt_leeway_seconds,
    )
    directory = DirectoryRepository(database)
    revocations = RevocationList(RevocationRepository(database), clock)
    await revocations.load()
    authenticator = BearerAuthenticator(
        verifier,
        directory,
        revocations,
        clock=clock,
        metrics=metrics,
        user_cache_seconds=settings.user_cache_seconds,
        outage_seconds=settings.gateway_max_staleness_seconds,
        leeway_seconds=settings.jwt_leeway_seconds,
    )
    return Identities(verifier, directory, revocations, authenticator)


@dataclass(frozen=True, slots=True)
class Synchronisation:
    """What has owners read in the background."""

    service: SyncService
    jobs: JobRepository
    runner: SyncRunner
    worker: SyncWorker
    announcements: Announcements


def build_sync(
    settings: Settings,
    database: Database,
    repositories: ServerRepositories,
    cipher: Cipher,
    reader: ServerReader,
    changes: ServerChanges,
    *,
    connections: ConnectionTracker,
    clock: Clock,
    metrics: Metrics,
) -> Synchronisation:
    """Return what has owners read; its worker is still to be started."""
    jobs = JobRepository(
        database, retention=timedelta(days=settings.sync_retention_days), clock=clock
    )
    patience = Patience(
        settings.sync_max_attempts,
        settings.sync_backoff_seconds,
        settings.sync_backoff_max_seconds,
    )
    lease_seconds = settings.sync_lease_seconds
    runner = SyncRunner(
        database,
        repositories,
        jobs,
        reader,
        changes,
        connections,
        Terms(patience, lease_seconds, settings.connection_failures_until_error),
        clock=clock,
        metrics=metrics,
    )
    announcements = Announcements(clock)
    worker = SyncWorker(
        jobs,
        repositories.servers,
        runner,
        announcements,
        WorkerTerms(
            process_name(), settings.sync_at_once, settings.sync_poll_seconds, lease_seconds
        ),
        clock=clock,
        metrics=metrics,
    )
    service = SyncService(database, repositories, jobs, cipher, worker.wake, clock=clock)
    return Synchronisation(service, jobs, runner, worker, announcements)


async def _begin(stack: AsyncExitStack, work: Iterable[Work]) -> None:
    """Start background work, which *stack* ends."""
    background = await stack.enter_async_context(asyncio.TaskGroup())
    for doing, finish in work:
        task = background.create_task(doing)
        if finish is not None:
            stack.push_async_callback(finish)
        stack.push_async_callback(end, task)


def build_connections(
    settings: Settings,
    database: Database,
    repositories: ServerRepositories,
    *,
    clock: Clock,
    metrics: Metrics,
) -> tuple[ConnectionWriter, ConnectionTracker]:
    """Return what knows how connections stand, and what tells the database of them."""
    interval_seconds = settings.connection_write_interval_seconds
    writer = ConnectionWriter(
        ServerHealth(
            database,
            repositories.servers,
            repositories.audit,
            failures_until_error=settings.connection_failures_until_error,
            interval_seconds=interval_seconds,
        ),
        interval_seconds=interval_seconds,
        most_servers=settings.connection_state_entries,
        clock=clock,
        metrics=metrics,
    )
    tracker = ConnectionTracker(
        writer,
        remembered_seconds=settings.connection_state_ttl_seconds,
        most_entries=settings.connection_state_entries,
        failures_until_error=settings.connection_failures_until_error,
        clock=clock,
        metrics=metrics,
    )
    return writer, tracker


async def build_recorder(
    stack: AsyncExitStack,
    settings: Settings,
    repository: UsageRepository,
    *,
    clock: Clock,
    metrics: Metrics,
) -> tuple[Recorder, UsageWriter | None]:
    """Return what takes note of gateway requests, and what writes the records, if any are kept.

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
            most_records=settings.usage_buffer_records,
            clock=clock,
            metrics=metrics,
        )
    spans = await stack.enter_async_context(tracing(settings, worker))
    call_log = CallLog(settings.call_log)
    return Recorder(metrics, clock, notes=usage, call_log=call_log, tracing=spans), usage


@asynccontextmanager
async def audit_verifier(settings: Settings) -> AsyncIterator[AuditVerifier]:
    """Return what verifies the audit trail, connected to the database.

    Raises:
        DatabaseUnavailable: MongoDB is not there.
    """
    database = build_database(settings, Metrics())
    try:
        await database.ping()
        keys = AuditKeys(build_cipher(settings).derive_keys(PURPOSE))
        yield AuditVerifier(AuditRepository(database, keys), keys)
    finally:
        await database.close()


@asynccontextmanager
async def tool_verifier(settings: Settings) -> AsyncIterator[ToolVerifier]:
    """Return what checks the tools in the database.

    Raises:
        DatabaseUnavailable: MongoDB is not there.
    """
    database = build_database(settings, Metrics())
    try:
        await database.ping()
        yield ToolVerifier(GovernedTools(database))
    finally:
        await database.close()


@asynccontextmanager
async def migration(settings: Settings, *, changes: bool) -> AsyncIterator[Migration]:
    """Return what brings the database up to date.

    Args:
        settings: Where the database is.
        changes: Whether it will be asked to; collections and indexes are made then.

    Raises:
        TopologyError: MongoDB is no replica set.
        SettingsError: The stored credentials were encrypted with other keys.
        DatabaseUnavailable: MongoDB is not there.
    """
    clock, metrics = SystemClock(), Metrics()
    cipher = build_cipher(settings)
    database = build_database(settings, metrics)
    try:
        await database.require_replica_set()
        if changes:
            await prepared(database, cipher)
        else:
            await require_matching_keys(database, cipher)
        audit_repository = AuditRepository(database, AuditKeys(cipher.derive_keys(PURPOSE)))
        audit = AuditTrail(audit_repository, clock=clock, metrics=metrics)
        repositories = build_repositories(settings, database, cipher, audit)
        yield Migration(database, repositories, audit, clock=clock)
    finally:
        await database.close()


@asynccontextmanager
async def sync_round(settings: Settings, at_once: int) -> AsyncIterator[SyncRound]:
    """Return what has many servers read at once, connected to the database.

    Args:
        settings: Of this installation.
        at_once: Most servers read side by side.

    Raises:
        SchemaVersionError: The generated models are of another release.
        TopologyError: MongoDB is no replica set.
        DatabaseUnavailable: MongoDB is not there.
    """
    check_schema_version()
    clock, metrics, cipher = SystemClock(), Metrics(), build_cipher(settings)
    database = build_database(settings, metrics)
    try:
        await database.require_replica_set()
        await prepared(database, cipher)
        keys = AuditKeys(cipher.derive_keys(PURPOSE))
        audit = AuditTrail(AuditRepository(database, keys), clock=clock, metrics=metrics)
        repositories = build_repositories(settings, database, cipher, audit)
        guard = UrlGuard(settings.upstream_allowed_networks)
        reader = ServerReader(
            CredentialVault(cipher),
            DiscoveryService(guard, settings=settings, clock=clock, metrics=metrics),
            repositories.plugin_auths,
            clock,
        )
        sync = build_sync(
            settings,
            database,
            repositories,
            cipher,
            reader,
            NobodyFollows(),
            # What readings show is stored by them; nobody here asks for states.
            connections=build_connections(
                settings, database, repositories, clock=clock, metrics=metrics
            )[1],
            clock=clock,
            metrics=metrics,
        )
        yield SyncRound(
            repositories.servers,
            sync.jobs,
            sync.runner,
            name=process_name(),
            at_once=at_once,
            lease_seconds=settings.sync_lease_seconds,
            clock=clock,
        )
    finally:
        await database.close()


class NobodyFollows:
    """Implements `servers.ports.ServerChanges` where no gateway runs."""

    async def server_changed(self, server_id: str) -> None:
        """Leave it to the change streams of those that serve."""


@asynccontextmanager
async def recorded_rotation(
    database: Database,
    cipher: Cipher,
    operator: UserContext,
    key_id: str,
    outstanding: Mapping[str, int],
) -> AsyncIterator[None]:
    """Record that credentials are about to be encrypted anew, and vouch for the trail afterwards.

    The last seal must be under a key that is at hand, or nobody could tell that it is genuine
    once the former keys are gone.

    Args:
        database: Where the credentials are.
        cipher: Its current key is the one they will be under.
        operator: Who has it done.
        key_id: Fingerprint of that key.
        outstanding: How many values are under former keys, by collection.

    Raises:
        DatabaseUnavailable: It cannot be recorded, so it must not be done.
    """
    clock = SystemClock()
    keys = AuditKeys(cipher.derive_keys(PURPOSE))
    repository = AuditRepository(database, keys)
    if outstanding:
        trail = AuditTrail(repository, clock=clock, metrics=Metrics())
        told: JsonObject = {"key_id": key_id, **outstanding}
        event = AuditEvent(AuditAction.ROTATE, EntityType.CREDENTIALS, changes={"after": told})
        await trail.require(operator, event)
    yield
    await Sealer(repository, keys, clock=clock).seal_new(vouch=True)


def build_repositories(
    settings: Settings, database: Database, cipher: Cipher, audit: AuditTrail
) -> ServerRepositories:
    """Return the repositories of the servers domain."""
    acl = AclRepository(database)
    return ServerRepositories(
        servers=ServerRepository(database, acl, admin_sees_private=settings.admin_sees_private),
        versions=ServerVersionRepository(database, cipher, kept=settings.server_versions_kept),
        tools=ToolRepository(database, versions_kept=settings.tool_versions_kept),
        features=FeatureRepository(database),
        acl=acl,
        tokens=TokenRepository(database, cipher),
        plugin_auths=PluginAuthRepository(database, cipher),
        policies=PolicyRepository(database),
        audit=audit,
    )
