"""A servers service on a real database, with upstreams that answer as told."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.core.clock import SystemClock
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.service import ServerService
from tests.fakes.discovery import FakeDiscovery, RecordedChanges
from tests.fakes.plain_upstream import PlainUpstream, plain_upstream
from tests.fakes.rest import Rest, rest_settings, running
from tests.kit.servers import read_and_store, server_service


@pytest.fixture
def discovery() -> FakeDiscovery:
    """Return upstreams that offer one tool, `echo`."""
    return FakeDiscovery()


@pytest.fixture
def changes() -> RecordedChanges:
    """Return a record of what the gateway would have heard."""
    return RecordedChanges()


@pytest.fixture
def servers(
    database: Database,
    repositories: ServerRepositories,
    cipher: Cipher,
    discovery: FakeDiscovery,
    changes: RecordedChanges,
    clock: SystemClock,
) -> ServerService:
    """Return the service under test."""
    upstreams = read_and_store(
        database, repositories, cipher, discovery, clock=clock, changes=changes
    )
    return server_service(repositories, cipher, upstreams, clock=clock)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_rest(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    """Return one real application for all tests of a module."""
    home = tmp_path_factory.mktemp("home")
    async with running(rest_settings(mongo_uri, key_files, home)) as rest:
        yield rest


@pytest_asyncio.fixture(loop_scope="module")
async def rest(module_rest: Rest) -> AsyncIterator[Rest]:
    """Return the real application over HTTP in this process, with an empty database.

    Its tests run in their module's event loop: `pytest.mark.asyncio(loop_scope="module")`.
    """
    yield module_rest
    await module_rest.forget_everything()


@pytest_asyncio.fixture(loop_scope="module")
async def upstream() -> AsyncIterator[PlainUpstream]:
    """Return an MCP server on loopback that offers one tool, `echo`."""
    async with plain_upstream() as upstream:
        yield upstream
