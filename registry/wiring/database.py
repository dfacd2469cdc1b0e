"""Builds the database client, with metrics and logs of its commands."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import structlog

from packages.database.client import Database
from packages.database.monitoring import CommandTimer, PoolWatcher
from registry.core.metrics import Metrics
from registry.core.settings import Settings

log = structlog.get_logger()

SLOW_COMMAND_SECONDS = 0.5
"""Slower commands are logged. An idle change stream's getMore waits that long."""


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


@asynccontextmanager
async def connected(settings: Settings, metrics: Metrics | None = None) -> AsyncIterator[Database]:
    """Yield a database client, and close its connections at the end.

    Raises:
        UnsupportedServerError: MongoDB is too old, or a sharded cluster.
        MongoAddressError: The name in the connection string leads nowhere.
        DatabaseUnavailable: MongoDB is not there.
    """
    database = build_database(settings, metrics or Metrics())
    try:
        await database.require_supported()
        yield database
    finally:
        await database.close()
