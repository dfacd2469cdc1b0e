"""The registry and the other application on one database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import CREDS_IV, CREDS_KEY, JWT_SECRET
from tests.crossapp import packages
from tests.crossapp.other_application import OtherApplication, start_other_application
from tests.crossapp.upstream import RecordingUpstream, recording_upstream
from tests.fakes.rest import Rest, rest_settings, running
from tests.npm.programs import INSTALL_SECONDS, install, require_program

FIRST_TEST_SECONDS = INSTALL_SECONDS + 60
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say of every test here that it needs Node, and leave the first one time to install."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.node)
            item.add_marker(pytest.mark.timeout(FIRST_TEST_SECONDS))


@pytest.fixture(scope="session", params=packages.NAMES)
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OtherApplication]:
    """Return the other application in one of its releases, connected to nothing yet."""
    node, npm = require_program("node"), require_program("npm")
    other = start_other_application(
        node,
        install(packages.RELEASES / request.param, npm),
        tmp_path_factory.mktemp("other"),
        {"CREDS_KEY": CREDS_KEY, "CREDS_IV": CREDS_IV, "JWT_SECRET": JWT_SECRET},
    )
    yield other
    other.stop()


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
async def other(rest: Rest, started: OtherApplication) -> OtherApplication:
    """Return the other application on the same database, with its default roles seeded."""
    await started.open(rest.parts.settings.mongo_uri.get_secret_value())
    await started.call("methods.seedDefaultRoles")
    return started


@pytest_asyncio.fixture(loop_scope="module")
async def upstream() -> AsyncIterator[RecordingUpstream]:
    """Return an MCP server that offers one tool, `echo`, and remembers what it was sent."""
    async with recording_upstream() as upstream:
        yield upstream
