"""`registry migrate` as a process, on a real database."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database as SyncDatabase

from packages.database.encryption import Cipher
from tests.conftest import CREDS_IV, CREDS_KEY
from tests.fakes.command import START, run_registry
from tests.migration.older import definition, row, server

pytestmark = pytest.mark.wire

MANY = 1500
PATIENCE_SECONDS = 30
KILLED_SECONDS = 80
"""What a killed process held in a transaction is free again after a minute."""

Documents = SyncDatabase[dict[str, Any]]


@pytest.fixture
def stored(database_uri: str) -> Iterator[Documents]:
    client: MongoClient[dict[str, Any]] = MongoClient(database_uri)
    with client:
        yield client.get_default_database()
        client.drop_database(client.get_default_database().name)


@pytest.fixture
def environment(database_uri: str, key_files: tuple[Path, Path]) -> dict[str, str]:
    return {
        "MONGO_URI": database_uri,
        "CREDS_KEY": CREDS_KEY,
        "CREDS_IV": CREDS_IV,
        "JWT_PRIVATE_KEY_FILE": str(key_files[0]),
        "JWT_PUBLIC_KEY_FILE": str(key_files[1]),
    }


def fill(stored: Documents, tools: int) -> None:
    """Write what the first release wrote, into a database without a single index."""
    listed = [definition(f"get_{number}") for number in range(tools)]
    owner = server("weather")
    stored["mcpservers"].insert_many([owner, server("lost", definition("alpha"))])
    stored["mcp_tools"].insert_many(
        [row(owner["_id"], tool, position=at) for at, tool in enumerate(listed)]
    )


def incomplete(stored: Documents) -> int:
    return stored["mcp_tools"].count_documents({"facets": {"$exists": False}})


def test_it_tells_what_it_would_do_does_it_and_then_has_nothing_to_do(
    tmp_path: Path, environment: dict[str, str], stored: Documents
) -> None:
    fill(stored, 3)
    before = stored.list_collection_names()

    dry = run_registry(tmp_path, environment, "migrate", "--dry-run")
    collections = stored.list_collection_names()
    first = run_registry(tmp_path, environment, "migrate")
    second = run_registry(tmp_path, environment, "migrate")

    assert [run.returncode for run in (dry, first, second)] == [0, 0, 0]
    assert dry.stdout.splitlines() == [
        "Step              Servers     Done    Tools     Done   Left  For example",
        "tools restored          1        0        1        0      0  lost",
        "tools completed         1        0        3        0      0  get_0, get_1, get_2",
        "first versions          2        0        0        0      0  weather, lost",
    ]
    would = "6 documents would be brought up to date (2 servers, 4 tools), 0 left as they are\n"
    assert dry.stderr == would
    assert sorted(collections) == sorted(before)
    assert [line.split()[2:6] for line in first.stdout.splitlines()[1:]] == [
        ["1", "1", "1", "1"],
        ["1", "1", "3", "3"],
        ["2", "2", "0", "0"],
    ]
    was = "6 documents brought up to date (2 servers, 4 tools), 0 left as they are\n"
    nothing = "0 documents brought up to date (0 servers, 0 tools), 0 left as they are\n"
    assert (first.stderr, second.stderr) == (was, nothing)


def test_what_is_left_is_named_and_ends_with_1(
    tmp_path: Path, environment: dict[str, str], stored: Documents
) -> None:
    fill(stored, 1)
    owner = stored["mcpservers"].find_one({}) or {}
    odd = row(owner["_id"], definition("odd"), definition="[]")
    stored["mcp_tools"].insert_one(odd)

    runs = [
        run_registry(tmp_path, environment, "migrate", *arguments)
        for arguments in (["--dry-run"], ["--dry-run", "--json"], ["--json"], [])
    ]

    assert [run.returncode for run in runs] == [1] * 4
    told = "left as it is: has a definition that is no JSON object"
    assert runs[0].stdout.splitlines()[-1] == f"mcp_tools/{odd['_id']} odd: {told}"
    planned, made = json.loads(runs[1].stdout), json.loads(runs[2].stdout)
    assert (planned["dry_run"], made["dry_run"]) == (True, False)
    assert [step["done"] for step in planned["steps"]] == [0, 0, 0]
    assert [(step["step"], step["found"], step["done"]) for step in made["steps"]] == [
        ("tools_restored", 1, 1),
        ("tools_completed", 1, 1),
        ("first_versions", 2, 2),
    ]
    assert [(step["servers"], step["tools"]) for step in made["steps"]] == [
        ({"found": servers, "done": servers}, {"found": tools, "done": tools})
        for servers, tools in ((1, 1), (1, 1), (2, 0))
    ]
    assert made["steps"][1]["left"] == [
        {
            "document": f"mcp_tools/{odd['_id']}",
            "name": "odd",
            "reason": "has a definition that is no JSON object",
        }
    ]


def test_a_migration_that_was_killed_is_finished_by_the_next_one(
    tmp_path: Path, environment: dict[str, str], stored: Documents
) -> None:
    fill(stored, MANY)

    process = subprocess.Popen(
        [sys.executable, "-c", START, "migrate"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while incomplete(stored) >= MANY:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_SECONDS)
    left = incomplete(stored)
    second, third = (
        subprocess.run(
            [sys.executable, "-c", START, "migrate", "--json"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=KILLED_SECONDS,
        )
        for _ in range(2)
    )

    assert (second.returncode, third.returncode) == (0, 0)
    made = {step["step"]: step["done"] for step in json.loads(second.stdout)["steps"]}
    # The database may go on for a moment with what the killed process sent.
    assert 0 < made["tools_completed"] <= left < MANY
    assert (made["tools_restored"], made["first_versions"]) == (0, 2)
    assert incomplete(stored) == 0
    assert sum(step["found"] for step in json.loads(third.stdout)["steps"]) == 0
    assert stored["audit_logs"].count_documents({"action": "migrate"}) == 2


def test_with_other_keys_nothing_is_touched(
    tmp_path: Path, environment: dict[str, str], stored: Documents
) -> None:
    other = Cipher("ee" * 32, CREDS_IV)
    stored["mcpservers"].insert_many(
        [
            server(f"s{number}", config={"apiKey": {"key": other.encrypt_shared("sk")}})
            for number in range(3)
        ]
    )
    before = list(stored["mcpservers"].find({}))

    ended = run_registry(tmp_path, environment, "migrate")

    assert ended.returncode == 1
    assert ended.stderr.startswith("registry: CREDS_KEY, CREDS_IV: none of 3 stored credentials")
    assert list(stored["mcpservers"].find({})) == before


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]], ids=str)
def test_a_database_that_is_away_is_one_line(
    tmp_path: Path, environment: dict[str, str], arguments: list[str]
) -> None:
    away = {"MONGO_URI": "mongodb://127.0.0.1:1/", "MONGO_TIMEOUT_MS": "100"}

    ended = run_registry(tmp_path, environment | away, "migrate", *arguments)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "registry: MONGO_URI: the database cannot be reached\n"
