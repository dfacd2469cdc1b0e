"""An empty database."""

from collections.abc import AsyncIterator

import pytest

from packages.database.client import Database


@pytest.fixture
async def shared(database_uri: str) -> AsyncIterator[Database]:
    """Return an empty database without indexes or validators."""
    database = Database(database_uri, timeout_ms=5000)
    yield database
    await database.client.drop_database(database.db.name)
    await database.close()
