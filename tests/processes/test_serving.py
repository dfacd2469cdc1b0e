"""`registry serve`, with and without a database of its own, as a process."""

import asyncio
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import httpx2
import pytest
from bson import ObjectId
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic import SecretStr
from pymongo import MongoClient

from packages.database.client import ServerVersionError, TopologyError
from packages.database.encryption import Cipher
from packages.database.errors import MongoLoginError
from registry.core.settings import Settings
from registry.processes.local.home import found_settings
from registry.wiring.application import components
from tests.fakes.command import RunningRegistry, run_registry, wait_until_gone
from tests.fakes.fake_mongo import fake_mongo, release
from tests.fakes.keys import write_key_pair
from tests.fakes.mongo_daemon import start_daemon

pytestmark = pytest.mark.wire

REQUIRED = ("MONGO_URI", "CREDS_KEY", "CREDS_IV", "JWT_PRIVATE_KEY_FILE", "JWT_PUBLIC_KEY_FILE")
ANSWER_SECONDS = 30.0
"""Longer than an answer takes of a process that has just started, on a busy machine."""


@pytest.fixture
def environment(database_uri: str, key_files: tuple[Path, Path]) -> dict[str, str]:
    return {
        "MONGO_URI": database_uri,
        "MONGO_TIMEOUT_MS": "10000",
        "REGISTRY_PORT": "0",
        "CREDS_KEY": "0f" * 32,
        "CREDS_IV": "1e" * 16,
        "JWT_PRIVATE_KEY_FILE": str(key_files[0]),
        "JWT_PUBLIC_KEY_FILE": str(key_files[1]),
    }


def refusal(folder: Path, environment: dict[str, str], *arguments: str) -> list[str]:
    """Return the lines that `registry serve` ends with."""
    ended = run_registry(folder, environment, "serve", *arguments)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert all(line.startswith("registry: ") for line in lines), ended.stderr
    return [line.removeprefix("registry: ") for line in lines]


async def add(url: str, token: str) -> object:
    """Call a tool of the demo server through the gateway."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"{url}/mcp/demo", http_client=http)
        async with Client(transport) as client:
            return (await client.call_tool("add", {"a": 1, "b": 2})).structured_content


@pytest.mark.requirement("R-001")
def test_local_mode_serves_and_keeps_everything_over_a_kill(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {"REGISTRY_HOME": str(home)}
    token_file = home / "admin.token"

    with RunningRegistry(tmp_path, environment, "--local") as first:
        first.wait_until_ready()
        token = token_file.read_text()
        listed = httpx.get(
            f"{first.url}/api/v1/servers",
            headers={"Authorization": f"Bearer {token}"},
            timeout=ANSWER_SECONDS,
        )
        called = asyncio.run(add(first.url, token))
        orphans = first.descendants()
        first.end(signal.SIGKILL)
    left = wait_until_gone(orphans)

    with RunningRegistry(tmp_path, environment, "--local") as second:
        second.wait_until_ready()
        called_again = asyncio.run(add(second.url, token))
        children = second.descendants()
        code = second.end(signal.SIGTERM)

    assert [server["serverName"] for server in listed.json()["servers"]] == ["demo"]
    assert called == called_again == {"result": 3.0}
    assert token == token.strip() == token_file.read_text()
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert len(orphans) >= 2
    assert left == set()
    assert (code, wait_until_gone(children)) == (0, set())
    assert f"{second.url}/mcp/demo" in second.output
    assert "Traceback" not in first.output + second.output


def test_server_mode_serves_and_ends_on_a_signal(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with RunningRegistry(tmp_path, environment) as registry:
        registry.wait_until_ready()
        refused = httpx.get(f"{registry.url}/api/v1/servers", timeout=ANSWER_SECONDS)
        keys = httpx.get(f"{registry.url}/.well-known/jwks.json", timeout=ANSWER_SECONDS)
        code = registry.end(signal.SIGINT)

    assert refused.status_code == 401
    assert len(keys.json()["keys"]) == 1
    assert code == 0
    assert "Traceback" not in registry.output


@pytest.mark.requirement("R-300")
def test_without_settings_each_missing_one_is_a_line(tmp_path: Path) -> None:
    lines = refusal(tmp_path, {})

    assert [line.partition(":")[0] for line in lines] == list(REQUIRED)


@pytest.mark.requirement("R-300")
def test_every_problem_is_a_line_of_its_own(tmp_path: Path, environment: dict[str, str]) -> None:
    bad = {"CREDS_KEY": "short", "REGISTRY_HOST": "0.0.0.0", "REGISTRY_PORT": "many"}  # noqa: S104 - refused
    bad |= {"JWT_PRIVATE_KEY_FILE": "/nowhere", "JWT_PUBLIC_KEY_FILE": __file__}

    lines = refusal(tmp_path, {**environment, **bad})

    assert sorted(line.partition(":")[0] for line in lines) == [
        "CREDS_KEY",
        "JWT_PRIVATE_KEY_FILE",
        "JWT_PUBLIC_KEY_FILE",
        "PUBLIC_URL",
        "REGISTRY_PORT",
    ]


def test_keys_that_are_no_pair_are_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    _, other = write_key_pair(tmp_path)

    (line,) = refusal(tmp_path, {**environment, "JWT_PUBLIC_KEY_FILE": str(other)})

    assert "are not one key pair" in line


@pytest.mark.requirement("E-02")
def test_a_standalone_database_is_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    with fake_mongo(release(21)) as server:
        (line,) = refusal(tmp_path, {**environment, "MONGO_URI": server.uri})

    assert line == str(TopologyError())


async def test_nothing_is_written_to_a_database_that_is_too_old(settings: Settings) -> None:
    answers = {"buildInfo": lambda _: {"ok": 1, "version": "5.0.31"}}
    with fake_mongo({**release(13), "setName": "rs0"}, answers) as server:
        older = settings.model_copy(update={"mongo_uri": SecretStr(server.uri)})

        with pytest.raises(ServerVersionError):
            async with components(older):
                pass

    assert {*server.asked} <= {"ismaster", "hello", "buildInfo", "endSessions"}


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("mongodb://127.0.0.1:1/", "MONGO_URI: the database cannot be reached"),
        ("mongodb://u:s3ntinel:x@h/", "MONGO_URI: is not a valid MongoDB connection string"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(
    tmp_path: Path, environment: dict[str, str], uri: str, problem: str
) -> None:
    (line,) = refusal(tmp_path, {**environment, "MONGO_URI": uri, "MONGO_TIMEOUT_MS": "1000"})

    assert line.startswith(problem)
    assert "s3ntinel" not in line


@pytest.mark.parametrize("login", ["", "nobody:s3ntinel@"])
def test_a_login_that_is_missing_or_wrong_is_one_line(
    tmp_path: Path, environment: dict[str, str], login: str
) -> None:
    with start_daemon(tmp_path / "mongo", "--auth") as daemon:
        uri = daemon.uri.replace("://", f"://{login}")
        (line,) = refusal(tmp_path, {**environment, "MONGO_URI": uri})

    assert line == str(MongoLoginError())


@pytest.mark.parametrize("arguments", [(), ("--local",)])
def test_a_taken_port_is_one_line(
    tmp_path: Path, environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        (line,) = refusal(tmp_path, {**environment, "REGISTRY_PORT": port}, *arguments)

    assert line == (
        f"REGISTRY_HOST, REGISTRY_PORT: cannot listen on 127.0.0.1:{port} (Address already in use)"
    )


def test_local_mode_refuses_to_serve_other_machines(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {"REGISTRY_HOST": "0.0.0.0", "REGISTRY_HOME": str(home)}  # noqa: S104 - refused

    (line,) = refusal(tmp_path, environment, "--local")

    assert line.startswith("REGISTRY_HOST: local mode listens on loopback only")
    assert not home.exists()


@pytest.mark.parametrize(("stored", "starts"), [(2, "yes"), (3, "")])
def test_keys_that_decrypt_none_of_several_credentials_stop_the_start(
    tmp_path: Path, environment: dict[str, str], database_uri: str, stored: int, starts: str
) -> None:
    other = Cipher("ab" * 32, "cd" * 16)
    with MongoClient[dict[str, object]](database_uri) as client:
        client.get_default_database()["mcpservers"].insert_many(
            {
                "serverName": f"s{number}",
                "author": ObjectId(),
                "config": {"apiKey": {"source": "admin", "key": other.encrypt_shared("k")}},
            }
            for number in range(stored)
        )

    if starts:
        with RunningRegistry(tmp_path, environment) as registry:
            registry.wait_until_ready()
    else:
        (line,) = refusal(tmp_path, environment)
        assert line == (
            "CREDS_KEY, CREDS_IV: none of 3 stored credentials can be decrypted with these"
        )


def test_a_process_that_only_supervises_others_loads_no_data_plane() -> None:
    program = "import sys; import registry.processes.serving; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()

    assert {"aiohttp", "beanie", "fastapi", "mcp", "pymongo"}.isdisjoint(loaded)


def test_commands_of_another_shell_know_where_the_local_registry_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    with RunningRegistry(tmp_path, {"REGISTRY_HOME": str(home)}, "--local") as running:
        running.wait_until_ready()
        port = running.url.rpartition(":")[2]
    monkeypatch.setenv("REGISTRY_HOME", str(home))
    monkeypatch.delenv("REGISTRY_PORT", raising=False)

    assert found_settings().registry_port == int(port)
