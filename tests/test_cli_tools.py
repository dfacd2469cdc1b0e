"""The commands about tools, against a local registry that serves, and one that does not."""

import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.fakes.command import RunningRegistry, run_registry

pytestmark = pytest.mark.wire

DENIED = {
    "name": "no echo",
    "effect": "deny",
    "target": {"tools": ["echo"]},
    "subjects": {"everyone": True},
}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RunningRegistry]]:
    folder = tmp_path_factory.mktemp("local")
    with RunningRegistry(folder, {"REGISTRY_HOME": str(folder / "home")}, "--local") as registry:
        registry.wait_until_ready()
        yield folder, registry
        registry.end(signal.SIGTERM)


def run(
    local: tuple[Path, RunningRegistry], *arguments: str, more: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    folder, registry = local
    port = registry.url.rpartition(":")[2]
    environment = {"REGISTRY_HOME": str(folder / "home"), "REGISTRY_PORT": port, **(more or {})}
    return run_registry(folder, environment, *arguments)


def test_tools_are_listed_and_shown(local: tuple[Path, RunningRegistry]) -> None:
    listed = run(local, "tools", "list", "--server", "demo")
    shown = json.loads(run(local, "tools", "show", "demo__echo", "--json").stdout)

    header, *rows = listed.stdout.splitlines()
    assert header.split() == ["Tool", "Served", "Review", "State", "Version", "Id"]
    assert {row.split()[0] for row in rows} == {"demo/add", "demo/count", "demo/echo", "demo/now"}
    assert (shown["name"], shown["owner_name"]) == ("echo", "demo")


def test_a_tool_is_called_through_the_gateway(local: tuple[Path, RunningRegistry]) -> None:
    called = run(local, "tools", "call", "demo/add", '{"a": 1, "b": 2}', "--json")
    failed = run(local, "tools", "call", "demo/add", '{"a": "one"}')

    assert (called.returncode, called.stderr) == (0, "")
    assert json.loads(called.stdout)["structuredContent"] == {"result": 3.0}
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr


def test_a_call_is_decided_by_policies(local: tuple[Path, RunningRegistry]) -> None:
    file = local[0] / "denied.json"
    file.write_text(json.dumps(DENIED))
    said = run(local, "tools", "call", "demo/echo", '{"text": "hello"}')

    run(local, "users", "add", "ada@example.org")
    token = run(local, "token", "create", "--user", "ada").stdout.strip()
    added = run(local, "policies", "add", str(file))
    arguments = ("demo/echo", '{"text": "hello"}', "--token", "env:ADAS")
    denied = run(local, "tools", "call", *arguments, more={"ADAS": token})
    run(local, "policies", "remove", "no echo", "--yes")

    assert (said.returncode, said.stdout) == (0, "hello\n")
    assert added.returncode == 0
    assert (denied.returncode, denied.stdout) == (1, "")
    assert denied.stderr.count("\n") == 1


def test_without_a_registry_that_serves_a_call_says_so(
    local: tuple[Path, RunningRegistry],
) -> None:
    nobody = ("--url", "http://127.0.0.1:9")

    result = run(local, "tools", "call", "demo/echo", *nobody)

    assert result.returncode == 1
    assert result.stderr == (
        "registry: http://127.0.0.1:9/mcp/demo cannot be reached: is the registry running there?\n"
    )
