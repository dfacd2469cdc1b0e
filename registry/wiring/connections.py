"""How connections to servers stand: in memory, and in the database."""

from registry.connections.tracker import ConnectionTracker
from registry.connections.writer import ConnectionWriter
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.servers.storage.health import ServerHealth
from registry.wiring.storage import Storage


def build_connections(
    settings: Settings, storage: Storage, *, clock: Clock, metrics: Metrics
) -> tuple[ConnectionWriter, ConnectionTracker]:
    """Return what knows how connections stand, and what tells the database of them."""
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
        max_servers=settings.connection_state_entries,
        clock=clock,
        metrics=metrics,
    )
    tracker = ConnectionTracker(
        writer,
        remembered_seconds=settings.connection_state_ttl_seconds,
        max_entries=settings.connection_state_entries,
        failures_until_error=settings.connection_failures_until_error,
        clock=clock,
        metrics=metrics,
    )
    return writer, tracker
