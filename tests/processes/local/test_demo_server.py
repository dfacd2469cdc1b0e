import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client
from mcp_types import TextContent

from registry.processes.local import demo_server
from registry.processes.local.children import accepts, available_port
from tests.kit.waiting import until_async

ROOT = Path(__file__).parents[2]
ERAS = pytest.mark.parametrize("era", ["legacy", "auto", "2026-07-28"])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    port = available_port(None)
    command = [sys.executable, "-m", "registry.processes.local.demo_server", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        yield port
        process.terminate()


@pytest.fixture
async def url(port: int) -> str:
    await until_async(lambda: accepts(port))
    return f"http://127.0.0.1:{port}/mcp"


@ERAS
async def test_every_era_lists_the_tools_with_descriptions_and_annotations(
    url: str, era: str
) -> None:
    async with Client(url, mode=era) as client:
        tools = (await client.list_tools()).tools

    assert [tool.name for tool in tools] == ["echo", "add", "now", "count"]
    assert all(tool.description and tool.title for tool in tools)
    assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)


@ERAS
async def test_every_era_calls_the_tools(url: str, era: str) -> None:
    async with Client(url, mode=era) as client:
        echoed = await client.call_tool("echo", {"text": "Grüße 🗝"})
        added = await client.call_tool("add", {"a": 2, "b": 3})

    assert echoed.content == [TextContent(type="text", text="Grüße 🗝")]
    assert added.structured_content == {"result": 5.0}


@ERAS
async def test_count_reports_every_step(url: str, era: str) -> None:
    steps: list[tuple[float, float | None]] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total))

    async with Client(url, mode=era) as client:
        await client.call_tool("count", {"to": 3}, progress_callback=progressed)

    assert steps == [(1, 3), (2, 3), (3, 3)]


async def test_count_refuses_too_many_steps(url: str) -> None:
    async with Client(url) as client:
        result = await client.call_tool("count", {"to": demo_server.MAX_STEPS + 1})

    assert result.is_error


async def test_now_tells_a_time_in_utc(url: str) -> None:
    async with Client(url) as client:
        result = await client.call_tool("now", {})

    assert result.structured_content is not None
    assert result.structured_content["result"].endswith("+00:00")


def test_the_server_loads_nothing_of_the_registry() -> None:
    script = (
        "import runpy, sys\n"
        f"runpy.run_path({demo_server.__file__!r})\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'registry'])"
    )

    loaded = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, check=True, text=True
    )

    assert loaded.stdout == "[]\n"
