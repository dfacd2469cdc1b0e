"""What checks the tools in the database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.governance.repository import GovernedTools
from registry.governance.verification import ToolVerifier
from registry.wiring.database import build_database


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
