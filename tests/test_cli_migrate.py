"""The command `migrate`, as people use it."""

import json
from pathlib import Path

import pytest

from tests.kit.command_line import run
from tests.migration.conftest import ROWS, TOOL_ROWS, write_lines, write_sqlite
from tests.test_cli import collected as collected  # noqa: PLC0414 - a fixture
from tests.test_cli import environment as environment  # noqa: PLC0414 - a fixture
from tests.test_cli import insert_user, stored_servers
from tests.test_cli import restored_logging as restored_logging  # noqa: PLC0414 - a fixture

pytestmark = [
    pytest.mark.wire,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


def test_a_dump_is_tried_taken_over_and_taken_over_once(
    environment: None, database_uri: str, tmp_path: Path
) -> None:
    insert_user(database_uri)
    whole = str(write_sqlite(tmp_path / "old.db", ROWS, TOOL_ROWS))
    lines = str(write_lines(tmp_path / "lines", ROWS, TOOL_ROWS))

    tried = run("migrate", whole, "--owner", "alice", "--dry-run")
    before = len(stored_servers(database_uri))
    taken = run("migrate", whole, "--owner", "alice")
    again = run("migrate", lines, "--json")

    assert (tried.exit_code, taken.exit_code, before) == (0, 0, 0)
    assert [line.split()[0] for line in tried.stdout.splitlines()] == [
        *["would_import"] * 4,
    ]
    stored = {one["serverName"]: one["status"] for one in stored_servers(database_uri)}
    assert stored == {"github": "inactive", "Our-Docs": "inactive"}
    listed = json.loads(run("catalog", "list", "--json").stdout)
    assert [(one["name"], one["numTools"]) for one in listed] == [
        ("github", 1),
        ("io.example/time", 1),
    ]
    github = json.loads(run("servers", "show", "github", "--json").stdout)
    assert (github["registryServerName"], github["package"]["registryType"]) == ("github", "oci")
    report = json.loads(again.stdout)
    assert [one["outcome"] for one in report["reports"]] == ["exists"] * 4
    assert report["rows"] == {"mcpserver": 3, "tool": 3}


def test_what_is_no_dump_is_refused_in_a_line(environment: None, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text("x")

    result = run("migrate", str(path))

    assert result.exit_code == 1
    assert "is no SQLite database" in result.stderr
    assert result.stderr.count("\n") == 1
