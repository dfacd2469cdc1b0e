"""The real application, and upstreams on loopback."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.plain_upstream import PlainUpstream, plain_upstream
from tests.fakes.rest import Rest, rest_settings, running


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
    """Return the real application over HTTP in this process, with an empty database."""
    yield module_rest
    await module_rest.forget_everything()


@pytest_asyncio.fixture(loop_scope="module")
async def upstream_on_loopback() -> AsyncIterator[PlainUpstream]:
    """Return an MCP server that offers one tool, `echo`."""
    async with plain_upstream() as upstream:
        yield upstream
