"""What the README tells people to do, done as it is written, against a real local registry."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from registry.cli import app

README = Path(__file__).parents[1] / "README.md"
REGISTRY = Path(sys.executable).with_name("registry")
DOCUMENTED = "127.0.0.1:7860"
READY_SECONDS = 40.0

pytestmark = pytest.mark.wire


@dataclass(frozen=True, slots=True)
class Local:
    """A running local registry.

    Attributes:
        folder: Where commands run; `.registry` is in it, as in a checkout.
    """

    folder: Path
    address: str
    token: str

    def run(self, command: list[str]) -> str:
        """Run a command in the folder and return what it prints."""
        return subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True, timeout=30
        ).stdout


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"the README has no block {kind!r}"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("checkout")
    address = f"127.0.0.1:{free_port()}"
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "REGISTRY_PORT": address.rpartition(":")[2],
        "REGISTRY_HOME": ".registry",
    }
    process = subprocess.Popen(
        [REGISTRY, "serve", "--local"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_ready(f"http://{address}/health/ready")
        token = (folder / ".registry" / "admin.token").read_text().strip()
        yield Local(folder, address, token)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:  # refused, closed, or taken but not answered in time
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.05)


def test_the_curl_lines_list_servers_and_call_a_tool(local: Local) -> None:
    (script,) = blocks("bash curl")

    printed = local.run(["bash", "-ec", script.replace(DOCUMENTED, local.address)])

    assert '"serverName":"demo"' in printed
    assert '"text":"5' in printed.replace(" ", "")


@pytest.mark.parametrize("number", [0, 1])
async def test_the_client_configurations_reach_all_servers(local: Local, number: int) -> None:
    text = blocks("json client")[number].replace(DOCUMENTED, local.address)
    configuration = json.loads(text.replace("TOKEN", local.token))
    (servers,) = configuration.values()
    combined = servers["registry"]

    async with (
        httpx2.AsyncClient(headers=combined["headers"], timeout=30) as http,
        Client(streamable_http_client(combined["url"], http_client=http)) as client,
    ):
        tools = await client.list_tools()

    assert "demo__echo" in {tool.name for tool in tools.tools}


def test_the_python_snippet_prints_the_tools_and_a_result(local: Local) -> None:
    (script,) = blocks("python sdk")

    printed = local.run([sys.executable, "-c", script.replace(DOCUMENTED, local.address)])

    names, result = printed.splitlines()
    assert "'demo__add'" in names
    assert float(result) == 5


async def test_a_server_registered_as_written_is_listed(local: Local) -> None:
    (script,) = blocks("bash register")

    printed = await asyncio.to_thread(
        local.run, ["bash", "-ec", script.replace(DOCUMENTED, local.address)]
    )

    server = json.loads(printed)
    assert (server["serverName"], server["path"]) == ("weather", "/mcp/weather")
    assert server["apiKey"]["key"] == "***"
    assert server["status"] == "error"


async def test_an_api_registered_as_written_has_tools(local: Local) -> None:
    (script,) = blocks("bash api")

    printed = await asyncio.to_thread(
        local.run, ["bash", "-ec", script.replace(DOCUMENTED, local.address)]
    )

    api = json.loads(printed)
    assert (api["name"], api["path"], api["status"]) == ("own", "/mcp/own", "active")
    assert "list_servers" in api["tools"].split(", ")
    assert api["apiKey"]["key"] == "***"


async def test_sharing_and_the_trail_work_as_written(local: Local) -> None:
    (script,) = blocks("bash share")

    printed = await asyncio.to_thread(
        local.run, ["bash", "-ec", script.replace(DOCUMENTED, local.address)]
    )

    shared, generated, trail = (json.loads(line) for line in printed.splitlines())
    assert (shared["serverName"], shared["scope"], shared["public"]) == (
        "demo",
        "shared_user",
        False,
    )
    assert generated["tokens"]["scope"] == "read:servers"
    assert {"share", "issue"} <= {record["action"] for record in trail["records"]}


def test_every_command_is_in_the_readme() -> None:
    lines = README.read_text().splitlines()
    rows = [line.split("|")[1] for line in lines if line.startswith("| `registry ")]
    told = {name for row in rows for name in re.findall(r"[a-z][a-z-]*", row)}

    assert command_names(typer.main.get_command(app)) - told == set()


def command_names(command: Any) -> set[str]:
    """Return the names of all commands below one, hidden ones left out."""
    inner = {name: one for name, one in getattr(command, "commands", {}).items() if not one.hidden}
    return set(inner).union(*(command_names(one) for one in inner.values()))
