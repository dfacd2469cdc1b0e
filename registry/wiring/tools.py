"""What checks the tools in the database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from registry.core.settings import Settings
from registry.governance.repository import GovernedTools
from registry.governance.verification import ToolVerifier
from registry.wiring.database import connected


@asynccontextmanager
async def tool_verifier(settings: Settings) -> AsyncIterator[ToolVerifier]:
    """Return what checks the tools in the database.

    Raises:
        UnsupportedServerError: MongoDB is too old, or a sharded cluster.
        DatabaseUnavailable: MongoDB is not there.
    """
    async with connected(settings) as database:
        yield ToolVerifier(GovernedTools(database))
