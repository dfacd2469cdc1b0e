"""Builds the tracker of connection state and the writer of health events."""

from registry.auth.repository import DirectoryRepository
from registry.connections.tracker import ConnectionTracker
from registry.connections.writer import ConnectionWriter
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.servers.adapters import OAuthServerReader
from registry.servers.storage.health import ServerHealth
from registry.sync.connector import UpstreamConnector
from registry.wiring.storage import Storage
from registry.wiring.upstreams import Upstreams


def build_connections(
    settings: Settings, storage: Storage, *, clock: Clock, metrics: Metrics
) -> tuple[ConnectionWriter, ConnectionTracker]:
    """Return the writer of health events and the tracker of connection state."""
    interval_seconds = settings.connection_write_interval_seconds
    writer = ConnectionWriter(
        ServerHealth(
            storage.database,
            storage.repositories.servers,
            storage.audit,
            failures_until_error=settings.connection_failures_until_error,
            interval_seconds=interval_seconds,
        ),
        interval_seconds=interval_seconds,
        max_servers=settings.connection_state_max_entries,
        clock=clock,
        metrics=metrics,
    )
    tracker = ConnectionTracker(
        writer,
        remembered_seconds=settings.connection_state_ttl_seconds,
        max_entries=settings.connection_state_max_entries,
        failures_until_error=settings.connection_failures_until_error,
        clock=clock,
        metrics=metrics,
    )
    return writer, tracker


def build_connector(
    settings: Settings,
    storage: Storage,
    upstreams: Upstreams,
    tracker: ConnectionTracker,
    directory: DirectoryRepository,
    clock: Clock,
) -> UpstreamConnector:
    """Return what connects to servers without reading what they offer."""
    repositories = storage.repositories
    return UpstreamConnector(
        repositories.servers,
        OAuthServerReader(
            repositories.servers,
            repositories.acl,
            upstreams.vault,
            clock,
            admin_uses_private=settings.admin_uses_private,
        ),
        upstreams.reader,
        upstreams.discovery,
        tracker,
        directory,
        repositories.tokens,
        clock,
    )
