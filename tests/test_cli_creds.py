"""`registry creds` as a process, on a real database and on a local registry."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from packages.database.encryption import Cipher, FieldRef
from registry.processes.local.home import LocalHome
from tests.conftest import CREDS_IV, CREDS_KEY
from tests.fakes.command import START, Command, RunningRegistry, run_registry
from tests.fakes.plain_upstream import plain_upstream

pytestmark = [pytest.mark.wire, pytest.mark.requirement("R-305")]

NEW_KEY = "c4" * 32
OLD, NEW = Cipher(CREDS_KEY, CREDS_IV), Cipher(NEW_KEY, CREDS_IV)
MANY = 4000
PATIENCE_SECONDS = 20
UPSTREAM_KEY = "sk-of-the-upstream"


@pytest.fixture
def tokens(database_uri: str) -> Iterator[Collection[dict[str, Any]]]:
    client: MongoClient[dict[str, Any]] = MongoClient(database_uri)
    with client:
        yield client.get_default_database()["tokens"]
        client.drop_database(client.get_default_database().name)


@pytest.fixture
def environment(database_uri: str, key_files: tuple[Path, Path]) -> dict[str, str]:
    return {
        "MONGO_URI": database_uri,
        "CREDS_KEY": NEW_KEY,
        "CREDS_KEYS_READABLE": CREDS_KEY,
        "CREDS_IV": CREDS_IV,
        "JWT_PRIVATE_KEY_FILE": str(key_files[0]),
        "JWT_PUBLIC_KEY_FILE": str(key_files[1]),
    }


def add(tokens: Collection[dict[str, Any]], cipher: Cipher, count: int) -> list[str]:
    """Store so many tokens and return how they are named."""
    rows = [
        {
            "type": "mcp_oauth",
            "identifier": secrets.token_hex(8),
            "token": cipher.encrypt_shared(f"bearer {number}"),
            "expiresAt": datetime(2099, 1, 1, tzinfo=UTC),
        }
        for number in range(count)
    ]
    return [f"tokens/{key}/token" for key in tokens.insert_many(rows).inserted_ids]


def stored(tokens: Collection[dict[str, Any]]) -> list[str]:
    return [row["token"] for row in tokens.find({}).sort("_id")]


def test_a_rotation_is_told_of_by_collection(
    tmp_path: Path, environment: dict[str, str], tokens: Collection[dict[str, Any]]
) -> None:
    add(tokens, OLD, 3)

    checks = [run_registry(tmp_path, environment, "creds", "check")]
    dry = run_registry(tmp_path, environment, "creds", "rotate", "--dry-run")
    rotated = run_registry(tmp_path, environment, "creds", "rotate")
    checks.append(run_registry(tmp_path, environment, "creds", "check"))

    assert [check.returncode for check in checks] == [1, 0]
    assert checks[0].stdout == f"tokens: 3 under an older key ({OLD.key_id})\n"
    assert checks[0].stderr == "3 stored; 3 under an older key\n"
    assert (dry.returncode, rotated.returncode) == (0, 0)
    assert dry.stdout.splitlines()[0] == "tokens: 3 would be rewritten"
    assert rotated.stdout == (
        f"tokens: 3 rewritten\ntokens: 3 under the current key ({NEW.key_id})\n"
    )
    assert rotated.stderr == checks[1].stderr == "3 stored; all under the current key\n"


def test_a_dry_run_changes_nothing(
    tmp_path: Path, environment: dict[str, str], tokens: Collection[dict[str, Any]]
) -> None:
    add(tokens, OLD, 3)
    before = stored(tokens)

    run_registry(tmp_path, environment, "creds", "rotate", "--dry-run")

    assert stored(tokens) == before


def test_on_a_terminal_the_progress_is_shown(
    tmp_path: Path, environment: dict[str, str], tokens: Collection[dict[str, Any]]
) -> None:
    add(tokens, OLD, 2)
    ours, theirs = os.openpty()

    ended = subprocess.run(
        [sys.executable, "-c", START, "creds", "rotate"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    os.close(theirs)

    assert "Looking at" in shown
    assert "100%" in shown
    assert "Looking at" not in ended.stdout


@pytest.mark.requirement("E-13")
@pytest.mark.parametrize("arguments", [["check"], ["rotate"], ["rotate", "--dry-run"]], ids=str)
def test_without_the_old_key_each_value_is_named_and_none_is_changed(
    tmp_path: Path,
    environment: dict[str, str],
    tokens: Collection[dict[str, Any]],
    arguments: list[str],
) -> None:
    places = add(tokens, OLD, 5)
    before = stored(tokens)

    ended = run_registry(tmp_path, environment | {"CREDS_KEYS_READABLE": ""}, "creds", *arguments)

    assert ended.returncode == 1
    assert ended.stdout.splitlines() == [
        f"{place}: unreadable: CREDS_KEY is not the right key, or the value is damaged"
        for place in places
    ]
    assert ended.stderr == (
        "5 stored; 5 unreadable\nIs the key they were written with in CREDS_KEYS_READABLE?\n"
    )
    assert stored(tokens) == before


@pytest.mark.requirement("R-305")
def test_a_rotation_that_was_killed_is_finished_by_the_next_one(
    tmp_path: Path, environment: dict[str, str], tokens: Collection[dict[str, Any]]
) -> None:
    add(tokens, OLD, MANY)
    before = stored(tokens)

    first = tokens.find_one({"token": before[0]})
    assert first is not None
    with Command(tmp_path, environment, "creds", "rotate"):
        wait_until_replaced(tokens, first["_id"], before[0])
    ended = run_registry(tmp_path, environment, "creds", "rotate")

    assert ended.returncode == 0
    assert 0 < int(ended.stdout.removeprefix("tokens: ").partition(" rewritten")[0]) < MANY
    ref = FieldRef("tokens", "x", "token")
    assert [NEW.decrypt(value, ref) for value in stored(tokens)] == [
        f"bearer {number}" for number in range(MANY)
    ]


def wait_until_replaced(tokens: Collection[dict[str, Any]], key: object, value: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while tokens.count_documents({"_id": key, "token": value}):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("command", ["new-key", "remove-old-keys"])
def test_keys_of_the_environment_are_changed_there(
    tmp_path: Path, environment: dict[str, str], command: str
) -> None:
    ended = run_registry(tmp_path, environment, "creds", command)

    assert ended.returncode == 1
    assert ended.stderr == (
        "registry: MONGO_URI is set: change CREDS_KEY and CREDS_KEYS_READABLE where they are set\n"
    )


@pytest.mark.parametrize("command", ["check", "rotate"])
def test_a_database_that_is_away_is_one_line(
    tmp_path: Path, environment: dict[str, str], command: str
) -> None:
    away = {"MONGO_URI": "mongodb://127.0.0.1:1/", "MONGO_TIMEOUT_MS": "100"}

    ended = run_registry(tmp_path, environment | away, "creds", command)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "registry: MONGO_URI: the database cannot be reached\n"


async def keyed_server(url: str, bearer: str, upstream: str) -> None:
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.post(
            f"{url}/api/v1/servers",
            json={"serverName": "keyed", "url": upstream, "apiKey": {"key": UPSTREAM_KEY}},
            headers={"Authorization": f"Bearer {bearer}"},
        )
    assert answer.status_code == 201, answer.text


async def call(url: str, bearer: str) -> None:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "x"}},
    }
    headers = {
        "Authorization": f"Bearer {bearer}",
        "Accept": "application/json, text/event-stream",
    }
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.post(f"{url}/mcp/keyed", json=body, headers=headers)
    # The fake knows no tools, so this is its own answer, passed on.
    assert "Method not found" in answer.text


@pytest.mark.requirement("R-305")
async def test_the_key_of_a_local_registry_is_changed_over_a_restart(tmp_path: Path) -> None:
    environment = {"REGISTRY_HOME": str(tmp_path / "home")}
    home = LocalHome(tmp_path / "home")
    said: list[tuple[int, str]] = []

    def creds(command: str) -> None:
        ended = run_registry(tmp_path, environment, "creds", command)
        assert "Traceback" not in ended.stderr
        said.append((ended.returncode, ended.stderr))

    async with plain_upstream() as upstream:
        with RunningRegistry(tmp_path, environment, "--local") as first:
            await asyncio.to_thread(first.wait_until_ready)
            bearer = home.read_admin_token() or ""
            await keyed_server(first.url, bearer, upstream.url)
            former = home.read_keys().creds_key
            await asyncio.to_thread(creds, "new-key")
            await asyncio.to_thread(creds, "rotate")
            unchanged = home.read_keys().creds_key
            await asyncio.to_thread(first.end, signal.SIGTERM)
        with RunningRegistry(tmp_path, environment, "--local") as second:
            await asyncio.to_thread(second.wait_until_ready)
            readable = home.read_keys().creds_keys_readable
            for command in ("remove-old-keys", "rotate", "check", "remove-old-keys"):
                await asyncio.to_thread(creds, command)
            await asyncio.to_thread(second.end, signal.SIGTERM)
        with RunningRegistry(tmp_path, environment, "--local") as third:
            await asyncio.to_thread(third.wait_until_ready)
            await call(third.url, bearer)

    waits = "A new key waits for a restart of the registry; run this again then.\n"
    kept = "registry: the former keys are still needed; run `registry creds rotate` first\n"
    assert (unchanged, readable) == (former, (former,))
    assert said == [
        (0, ""),
        (0, f"2 stored; all under the current key\n{waits}"),
        (1, f"2 stored; 2 under an older key\n{kept}"),
        (0, "2 stored; all under the current key\n"),
        (0, "2 stored; all under the current key\n"),
        (0, ""),
    ]
    assert home.read_keys().creds_keys_readable == ()
    assert upstream.seen[-1]["authorization"] == f"Bearer {UPSTREAM_KEY}"
