"""Builds bulk synchronisation for the command line, without a gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from packages.models import check_schema_version
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.origin import process_name
from registry.core.settings import Settings
from registry.sync.bulk_sync import BulkSync
from registry.wiring.connections import build_connections
from registry.wiring.database import connected
from registry.wiring.keys import build_cipher
from registry.wiring.services import NoGateway
from registry.wiring.storage import build_storage, prepared
from registry.wiring.sync import build_sync
from registry.wiring.upstreams import build_upstreams


@asynccontextmanager
async def sync_round(settings: Settings, concurrency: int) -> AsyncIterator[BulkSync]:
    """Connect to the database and yield the bulk synchronisation.

    Args:
        settings: Of this installation.
        concurrency: Most servers read side by side.

    Raises:
        SchemaVersionError: The generated models are of another release.
        UnsupportedServerError: MongoDB is too old, or a sharded cluster.
        TopologyError: MongoDB is no replica set.
        DatabaseUnavailable: MongoDB is not there.
    """
    check_schema_version()
    clock, metrics, cipher = SystemClock(), Metrics(), build_cipher(settings)
    async with connected(settings, metrics) as database:
        await database.require_replica_set()
        await prepared(database, cipher)
        storage = build_storage(settings, database, cipher, clock=clock, metrics=metrics)
        upstreams = build_upstreams(settings, storage, clock=clock, metrics=metrics)
        # Readings store their results themselves; connection states are not needed here.
        _, tracker = build_connections(settings, storage, clock=clock, metrics=metrics)
        read_and_store = upstreams.reporting_to(NoGateway(), tracker)
        sync = build_sync(settings, storage, read_and_store, clock=clock, metrics=metrics)
        yield BulkSync(
            storage.repositories.servers,
            sync.jobs,
            sync.runner,
            name=process_name(),
            concurrency=concurrency,
            lease_seconds=settings.sync_lease_seconds,
            clock=clock,
        )
