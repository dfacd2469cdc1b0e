"""How many versions of a tool are kept, and which are whatever their age."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest, rest_settings, running
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture
from tests.tools.governance.test_tools_api import (
    ROOT,
    do,
    history,
    listed,
    offered,
    refresh,
    served,
)

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_rest(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    """Return a registry that keeps three versions of each tool."""
    home = tmp_path_factory.mktemp("home")
    async with running(rest_settings(mongo_uri, key_files, home, tool_versions_kept=3)) as rest:
        yield rest


async def offer(rest: Rest, upstream: PlainUpstream, server: dict[str, Any], *told: str) -> None:
    """Have several definitions offered and read, one after the other."""
    for description in told:
        upstream.tools = offered("sum", "other", description=description)
        await refresh(rest, server)


async def numbers(rest: Rest, tool: dict[str, Any]) -> list[int]:
    return [version["version"] for version in await history(rest, tool)]


async def test_the_newest_are_kept_and_each_can_be_served_again(
    rest: Rest, upstream: PlainUpstream
) -> None:
    upstream.tools = offered("sum", "other")
    server = await rest.register(ROOT, "sums", upstream.url)
    tool = (await listed(rest))["sum"]

    await offer(rest, upstream, server, "2", "3", "4", "5")
    dropped = await do(rest, tool, "rollback", version=2)
    back = await do(rest, tool, "rollback", version=3)

    assert await numbers(rest, tool) == [5, 4, 3]
    assert (dropped.status_code, back.status_code) == (404, 200)
    assert (await served(rest))["sum"]["description"] == "3"
    assert (await listed(rest))["sum"]["versions"] == 5


async def test_what_is_served_waits_or_was_served_before_is_kept_whatever_its_age(
    rest: Rest, upstream: PlainUpstream
) -> None:
    upstream.tools = offered("sum", "other")
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    tool = (await listed(rest))["sum"]

    await offer(rest, upstream, server, "2", "3", "4", "5", "6")
    while_held = await numbers(rest, tool)
    (held,) = (await listed(rest, review="change")).values()
    await do(rest, held, "accept")
    await offer(rest, upstream, server, "7", "8", "9", "10")
    later = await numbers(rest, tool)
    back = await do(rest, tool, "rollback", version=1)

    assert while_held == [6, 5, 4, 1]
    # Served is 6, and 1 was when that came.
    assert later == [10, 9, 8, 6, 1]
    assert back.json()["served_version"] == 1
    assert (await listed(rest, review="change"))["sum"]["pending_version"] == 10
