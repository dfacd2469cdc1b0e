"""A database bound to the documents of the shared collections."""

from collections.abc import AsyncIterator

import pytest

from packages.database.client import Database
from packages.models import DOCUMENTS


@pytest.fixture
async def shared(database_uri: str) -> AsyncIterator[Database]:
    """Return an empty database without indexes or validators."""
    database = Database(database_uri, timeout_ms=5000)
    await database.bind(DOCUMENTS)
    yield database
    await database.client.drop_database(database.db.name)
    await database.close()
