"""The commands about connections, against a local registry and a provider in processes."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import httpx
import pytest

from tests.fakes.command import Command, RunningRegistry, run_registry
from tests.kit.waiting import until_async

pytestmark = pytest.mark.wire

END_SECONDS = 30.0


@dataclass(frozen=True)
class Local:
    """A local registry, and a server that wants tokens of a provider."""

    folder: Path
    registry: RunningRegistry
    server_url: str

    @property
    def environment(self) -> dict[str, str]:
        """Return what commands need."""
        port = self.registry.url.rpartition(":")[2]
        return {"REGISTRY_HOME": str(self.folder / "home"), "REGISTRY_PORT": port}

    def run(self, *arguments: str) -> CompletedProcess[str]:
        """Run a command."""
        return run_registry(self.folder, self.environment, *arguments)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("local")
    command = [sys.executable, "-m", "tests.fakes.oauth.serving"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as provider,
        RunningRegistry(folder, {"REGISTRY_HOME": str(folder / "home")}, "--local") as registry,
    ):
        assert provider.stdout is not None
        urls = dict(provider.stdout.readline().split() for _ in range(2))
        registry.wait_until_ready()
        yield Local(folder, registry, urls["server"])
        registry.end(signal.SIGTERM)
        provider.kill()


def written_to(log: Path) -> str:
    """Return what a command wrote until now."""
    return log.read_text()


async def consent(log: Path) -> None:
    """Open the address that a command printed, and authorise the registry."""

    async def is_printed() -> bool:
        return "ticket=" in written_to(log) and written_to(log).endswith("\n\n")

    await until_async(is_printed)
    url = next(word for word in written_to(log).split() if "ticket=" in word)
    async with httpx.AsyncClient(follow_redirects=True, timeout=30) as browser:
        page = await browser.get(url)
        done = await browser.post(url)
    assert (page.status_code, done.status_code) == (200, 200), done.text


async def test_a_person_connects_lists_and_disconnects(local: Local) -> None:
    added = local.run("servers", "add", "github", local.server_url, "--oauth")
    before = local.run("connections")
    log = local.folder / "connect.log"
    with (
        log.open("wb") as written,
        Command(
            local.folder, local.environment, "connect", "github", "--no-browser", log=written
        ) as connecting,
    ):
        await consent(log)
        code = connecting.wait(END_SECONDS)
    listed = json.loads(local.run("connections", "--json").stdout)
    again = local.run("connect", "github")
    removed = local.run("disconnect", "github")
    twice = local.run("disconnect", "github")

    assert added.returncode == 0, added.stderr
    header, *rows = [line.split() for line in before.stdout.splitlines()]
    assert header == ["Name", "State", "Authorised", "Problem", "Id"]
    assert ["github", "disconnected", "no"] in [row[:3] for row in rows]
    assert code == 0, log.read_text()
    assert log.read_text().rstrip().endswith("github is connected")
    states = {row["serverName"]: row for row in listed}
    assert (states["github"]["connectionState"], states["github"]["authorized"]) == (
        "connected",
        True,
    )
    assert (again.returncode, again.stdout) == (0, "github is connected\n")
    assert (removed.returncode, removed.stdout) == (0, "the access to github is removed\n")
    assert (twice.returncode, twice.stdout) == (3, "")


def test_a_server_without_oauth_is_connected_to_at_once(local: Local) -> None:
    result = local.run("connect", "demo", "--json")
    plain = local.run("connect", "demo")

    assert json.loads(result.stdout)["connectionStatus"] == "connected"
    assert (plain.returncode, plain.stdout) == (0, "demo is connected\n")


def test_what_cannot_be_connected_to_is_an_error_in_one_line(local: Local) -> None:
    local.run("servers", "add", "away", "http://127.0.0.1:9/mcp")

    away = local.run("connect", "away")
    unknown = local.run("connect", "unknown")
    with tempfile.TemporaryDirectory() as folder:
        nobody = run_registry(
            Path(folder), local.environment, "connections", "--url", "http://127.0.0.1:9"
        )

    assert (away.returncode, away.stdout) == (1, "")
    assert away.stderr.startswith("registry: away cannot be connected to: ")
    assert (unknown.returncode, unknown.stderr) == (3, "registry: there is no server unknown\n")
    assert nobody.returncode == 1
    assert "cannot be reached" in nobody.stderr


def test_a_search_finds_what_is_registered(local: Local) -> None:
    local.run("servers", "add", "sheets", local.server_url, "--description", "Cells in rows")

    found = local.run("search", "rows of cells", "--kind", "server", "--json")
    table = local.run("search", "rows of cells")
    refused = local.run("search", " ")
    narrowed = [
        json.loads(local.run("search", "rows of cells", "--kind", "server", *one, "--json").stdout)
        for one in (
            # It wants an authorization that nobody has given yet.
            ("--status", "error", "--source-type", "mcp"),
            ("--status", "active"),
            ("--source-type", "openapi"),
        )
    ]

    hit = json.loads(found.stdout)["hits"][0]
    assert (hit["kind"], hit["name"], hit["explanation"]["words"]) == (
        "server",
        "sheets",
        ["row", "cell"],
    )
    assert "sheets" in table.stdout
    assert [[one["name"] for one in answer["hits"][:1]] for answer in narrowed] == [
        ["sheets"],
        [],
        [],
    ]
    assert (refused.returncode, "query" in refused.stderr) == (1, True)
