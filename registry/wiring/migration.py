"""What brings the database up to date."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from registry.ciphertexts import require_matching_keys
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.migration.service import Migration
from registry.wiring.database import connected
from registry.wiring.keys import build_cipher
from registry.wiring.storage import build_storage, prepared


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
    async with connected(settings, metrics) as database:
        await database.require_replica_set()
        if changes:
            await prepared(database, cipher)
        else:
            await require_matching_keys(database, cipher)
        storage = build_storage(settings, database, cipher, clock=clock, metrics=metrics)
        yield Migration(database, storage.repositories, storage.audit, clock=clock)
