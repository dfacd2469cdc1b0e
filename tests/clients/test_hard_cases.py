"""What proxies often lose, with servers and clients of others: docs/gateway.md.

Servers: server-everything, server-filesystem, the TypeScript SDKs 1.x and 2.x, FastMCP.
Clients: the TypeScript SDKs 1.x and 2.x, the Python SDKs 1.x and 2.x.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.clients.launching import (
    EVERYTHING,
    FASTMCP,
    PYTHON_SDK_V1,
    TYPESCRIPT,
    TYPESCRIPT_SERVERS,
    python_of,
    run_program,
    running_program,
)
from tests.clients.python_sdk import sampled
from tests.conftest import ALICE, BOB, ROOT
from tests.fakes.command import free_port
from tests.fakes.rest import rest_settings, running
from tests.gateway.serving import serve
from tests.npm.programs import INSTALL_SECONDS, new_node

pytestmark = [
    pytest.mark.node,
    pytest.mark.wire,
    pytest.mark.timeout(INSTALL_SECONDS + 120),
    pytest.mark.asyncio(loop_scope="module"),
]

EVERYTHING_TOOLS = {
    "echo",
    "get-annotated-message",
    "get-env",
    "get-resource-links",
    "get-resource-reference",
    "get-roots-list",
    "get-structured-content",
    "get-sum",
    "get-tiny-image",
    "gzip-file-as-resource",
    "simulate-research-query",
    "toggle-simulated-logging",
    "toggle-subscriber-updates",
    "trigger-elicitation-request",
    "trigger-long-running-operation",
    "trigger-sampling-request",
    "trigger-url-elicitation",
}
"""Seven depend on what the client can do, two of them on tasks, which nobody relays."""

PYTHON_RUN = "Python 1.x"
BIG = 17 * 1024 * 1024
"""More than an event of 16 MiB."""


@dataclass(frozen=True, slots=True)
class Hard:
    """A registry with the servers.

    Attributes:
        url: Base URL of the gateway.
        alice: Token of a user.
        bob: Token of another one.
        folder: Exists; clients name it as their root.
    """

    url: str
    alice: str
    bob: str
    node: str
    folder: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hard(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Hard]:
    """Return a running registry in front of all servers."""
    node, python = await asyncio.gather(
        asyncio.to_thread(new_node), asyncio.to_thread(python_of, FASTMCP)
    )
    settings = rest_settings(mongo_uri, key_files, tmp_path_factory.mktemp("home"))
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        port = free_port()
        everything = {"PORT": str(port)}
        sdks = await start(running_program(node, str(TYPESCRIPT_SERVERS)))
        await start(
            running_program(node, str(EVERYTHING), "streamableHttp", environment=everything)
        )
        fastmcp = await start(running_program(python, str(FASTMCP / "server.py")))
        base = f"http://127.0.0.1:{json.loads(sdks)['port']}"
        rest = await start(running(settings))
        gateway = await start(serve(rest.app))
        urls = {
            "sdk1": f"{base}/v1",
            "sse": f"{base}/sse",
            "sdk2": f"{base}/v2",
            "files": f"{base}/files",
        }
        for name, url in urls.items():
            kind: dict[str, Any] = {"type": "sse"} if name == "sse" else {}
            await rest.register(ALICE, name, url, **kind)
        shared = {
            "common": urls["sdk1"],
            "everything": f"http://127.0.0.1:{port}/mcp",
            "fastmcp": f"http://127.0.0.1:{json.loads(fastmcp)['port']}/mcp",
        }
        for name, url in shared.items():
            await rest.register(ROOT, name, url, scope="shared_app")
        tokens = (rest.token(ALICE), rest.token(BOB))
        yield Hard(gateway, *tokens, node, tmp_path_factory.mktemp("root"))


async def typescript(
    hard: Hard, version: int, mode: str, path: str, *parts: tuple[str, str]
) -> dict[str, Any]:
    """Let a client of a TypeScript SDK do some things, and return what it saw."""
    options = {
        "url": f"{hard.url}{path}",
        "token": hard.alice,
        "mode": mode,
        "parts": parts,
        "entered": {"name": "Ann"},
        "sampled": "Something.",
        "root": hard.folder.as_uri(),
        "characters": BIG,
        "grown": f"grown_{version}_{len(path)}",
        "conversation": f"{version} {path}",
    }
    program = TYPESCRIPT / f"typescript_v{version}.mjs"
    report: dict[str, Any] = await run_program(hard.node, str(program), json.dumps(options))
    return report


async def python_sdk_1(hard: Hard) -> dict[str, Any]:
    """Let a client of the Python SDK 1.x do some things, and return what it saw."""
    python = await asyncio.to_thread(python_of, PYTHON_SDK_V1)
    options = {"url": f"{hard.url}/mcp", "sse": f"{hard.url}/mcp/sse", "token": hard.alice}
    report: dict[str, Any] = await run_program(
        python, str(PYTHON_SDK_V1 / "hard_cases.py"), json.dumps(options)
    )
    return report


def seen(hard: Hard, *parts: str) -> dict[str, Any]:
    """Return what a client must see that does these things."""
    everything: dict[str, Any] = {
        "asks": ["Ann", "Something.", hard.folder.as_uri()],
        "says": ["written", "note://pad"],
        "fails": [True, "The server sdk1 broke the connection.", "nothing"],
        "late": ["not waited", "nothing"],
        "visits": ["accept", "https://example.com/sign-in"],
        "grows": True,
        "big": BIG,
        "resumes": "at last",
        "files": True,
    }
    return {name: everything[name] for name in parts}


OF_SDK1 = ("asks", "says", "fails", "late", "visits")
TYPESCRIPT_RUNS: dict[str, tuple[int, str, str, tuple[tuple[str, str], ...]]] = {
    "TypeScript 1.x on /mcp": (
        *(1, "legacy", "/mcp"),
        (*((name, "sdk1__") for name in (*OF_SDK1, "grows", "big")), ("files", "files__")),
    ),
    "TypeScript 2.x on /mcp": (
        *(2, "auto", "/mcp"),
        (*((name, "sdk1__") for name in OF_SDK1), ("files", "files__")),
    ),
    "TypeScript 1.x, with handshake, to a stateless server": (
        *(1, "legacy", "/mcp/sdk2"),
        tuple((name, "") for name in ("visits", "grows", "big", "resumes")),
    ),
    "TypeScript 2.x, stateless, to a server with sessions": (
        *(2, "auto", "/mcp/sdk1"),
        tuple((name, "") for name in (*OF_SDK1, "grows", "big")),
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reports(hard: Hard) -> dict[str, Any]:
    """Return what programs saw: side by side, because they wait a lot."""
    async with asyncio.TaskGroup() as tasks:
        running = {
            name: tasks.create_task(typescript(hard, version, mode, path, *parts))
            for name, (version, mode, path, parts) in TYPESCRIPT_RUNS.items()
        }
        running[PYTHON_RUN] = tasks.create_task(python_sdk_1(hard))
    return {name: task.result() for name, task in running.items()}


@pytest.mark.parametrize("run", TYPESCRIPT_RUNS)
async def test_a_client_of_the_typescript_sdk_loses_nothing(
    hard: Hard, reports: dict[str, Any], run: str
) -> None:
    assert reports[run] == seen(hard, *(name for name, _ in TYPESCRIPT_RUNS[run][3]))


async def test_the_python_sdk_1_outlives_failures_and_hears_of_tools_over_sse(
    reports: dict[str, Any],
) -> None:
    failed = "The server sdk1 broke the connection."

    assert reports[PYTHON_RUN] == {
        "combined": [failed, "not waited", "Ann", "nothing"],
        "sse": True,
    }


@dataclass(frozen=True, slots=True)
class Say:
    """Calls tools of a server and returns what they say."""

    client: Client

    async def __call__(self, name: str, **arguments: Any) -> str:
        """Call a tool."""
        result: Any = await self.client.call_tool(name, arguments)
        return str(result.content[0].text)

    async def tools(self, prefix: str) -> set[str]:
        """Return the names of a server's tools."""
        names = {tool.name for tool in (await self.client.list_tools()).tools}
        return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


@asynccontextmanager
async def python(hard: Hard, token: str, mode: str, **callbacks: Any) -> AsyncIterator[Say]:
    """Connect a client of the Python SDK 2.x to the combined path."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(
            streamable_http_client(f"{hard.url}/mcp", http_client=http), mode=mode, **callbacks
        ) as client,
    ):
        yield Say(client)


@pytest.mark.parametrize("server", ["common", "fastmcp"])
async def test_sessions_of_one_person_know_nothing_of_each_other_or_of_other_people(
    hard: Hard, server: str
) -> None:
    async with (
        python(hard, hard.alice, "legacy") as alice,
        python(hard, hard.alice, "legacy") as alice_again,
        python(hard, hard.bob, "legacy") as bob,
    ):
        await alice(f"{server}__remember", text="a secret")

        recalled = [await one(f"{server}__recall") for one in (alice, alice_again, bob)]

    assert recalled == ["a secret", "nothing", "nothing"]


async def test_people_know_nothing_of_each_other_without_sessions_either(hard: Hard) -> None:
    async with (
        python(hard, hard.alice, "2026-07-28") as alice,
        python(hard, hard.bob, "2026-07-28") as bob,
    ):
        await alice("common__remember", text="a secret")

        recalled = [await one("common__recall") for one in (alice, bob)]

    assert recalled == ["a secret", "nothing"]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_all_of_server_everything_is_there_and_says_what_a_client_cannot_do(
    hard: Hard, mode: str
) -> None:
    tool = "everything__trigger-sampling-request"
    async with (
        python(hard, hard.alice, mode, sampling_callback=sampled) as capable,
        python(hard, hard.bob, mode) as plain,
    ):
        listed = await capable.tools("everything__"), await plain.tools("everything__")
        said = await capable(tool, prompt="Say something.")
        refused = await plain(tool, prompt="Say something.")

    assert listed == (EVERYTHING_TOOLS, EVERYTHING_TOOLS)
    assert "Something." in said
    assert refused == (
        "MCP error -32602: Tool trigger-sampling-request not found. The server may offer this "
        "tool only to clients with elicitation or roots or sampling, which this client did not "
        "declare."
    )
