"""The commands about the catalog, one at a time."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.fakes.command import free_port
from tests.kit.command_line import run
from tests.test_cli import collected as collected  # noqa: PLC0414 - a fixture
from tests.test_cli import environment as environment  # noqa: PLC0414 - a fixture
from tests.test_cli import insert_user, recorded
from tests.test_cli import restored_logging as restored_logging  # noqa: PLC0414 - a fixture

pytestmark = [
    pytest.mark.wire,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

REAL = Path(__file__).parent / "data" / "registries" / "toolhive_upstream_registry.json.gz"
NAME = "io.example/demo"


def printed(*arguments: str, code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """Return a file with one server, which has a URL with a variable and is away."""
    url = f"http://127.0.0.1:{free_port()}/{{team}}/mcp"
    server = {
        "name": NAME,
        "description": "A demo.",
        "version": "1.0.0",
        "remotes": [{"type": "streamable-http", "url": url}],
    }
    path = tmp_path / "demo.json"
    path.write_text(json.dumps({"servers": [{"server": server}]}))
    return path


def test_a_real_file_is_tried_imported_once_and_browsed(database_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "toolhive.json"
    file.write_bytes(gzip.decompress(REAL.read_bytes()))

    tried = printed("catalog", "import", str(file), "--dry-run")
    nothing = printed("catalog", "list")
    first = printed("catalog", "import", str(file), "--source", "toolhive")
    second = printed("catalog", "import", str(file), "--source", "toolhive")
    listed = printed("catalog", "list", "--source", "toolhive", "--kind", "container")
    found = run("catalog", "list", "--query", listed[0]["name"])
    shown = printed("catalog", "show", listed[0]["name"])

    assert (tried["counts"], nothing) == ({"added": 12}, [])
    assert (first["counts"], second["counts"]) == ({"added": 12}, {"unchanged": 12})
    assert {one["kind"] for one in listed} == {"container"}
    assert listed[0]["name"] in found.stdout
    assert shown["server"]["name"] == listed[0]["name"]
    imports = [one for one in recorded(database_uri, "update") if "import" in str(one["changes"])]
    assert [one["username"] for one in imports] == ["operator", "operator"]


def test_a_server_of_the_catalog_is_registered_matched_and_removed(
    database_uri: str, demo: Path
) -> None:
    insert_user(database_uri)
    printed("catalog", "import", str(demo))

    refused = run("catalog", "register", NAME)
    server = printed("catalog", "register", NAME, "--name", "our-demo", "--set", "team=blue")
    linked = printed("catalog", "show", NAME)["linkedServers"]
    matched = printed("catalog", "match", "our-demo")
    asked = run("catalog", "remove", NAME)
    removed = run("catalog", "remove", NAME, "--yes")

    assert (refused.exit_code, "variables.team" in refused.stderr) == (1, True)
    assert (server["serverName"], server["registryServerName"], linked) == ("our-demo", NAME, 1)
    # Its URL is the entry's with a value for the variable.
    assert (matched["unlinked"], matched["unchanged"]) == (0, 1)
    assert (asked.exit_code, removed.stdout) == (1, f"{NAME} is removed\n")
    assert printed("catalog", "list") == []


def test_what_an_entry_asks_for_is_shown_with_the_command(demo: Path) -> None:
    printed("catalog", "import", str(demo))

    result = run("catalog", "show", NAME)

    assert result.exit_code == 0, result.output
    assert "variables.team (required)" in result.stdout
    assert f"registry catalog register {NAME} --set team=VALUE" in result.stdout


def test_a_source_is_removed_with_its_servers(database_uri: str, demo: Path) -> None:
    insert_user(database_uri)
    printed("catalog", "import", str(demo), "--source", "mine")
    many = [
        {"server": {"name": f"io.example/s{n}", "remotes": [{"url": f"https://s{n}.example"}]}}
        for n in range(120)
    ]
    demo.write_text(json.dumps({"servers": many}))
    printed("catalog", "import", str(demo), "--source", "theirs")

    asked = run("catalog", "remove-source", "theirs")
    removed = printed("catalog", "remove-source", "theirs", "--yes")
    again = run("catalog", "remove-source", "theirs", "--yes")

    client: MongoClient[dict[str, Any]] = MongoClient(database_uri)
    with client:
        database = client.get_default_database()
        left = {
            name: database[name].count_documents({})
            for name in ("mcpservers_registry", "catalog_versions", "catalog_sources")
        }
        gone = database["catalog_removals"].count_documents({})
    assert (asked.exit_code, again.exit_code) == (1, 3)
    assert removed == {"source": "theirs", "removed": 120}
    assert [one["name"] for one in printed("catalog", "list")] == [NAME]
    assert (left, gone) == (dict.fromkeys(left, 1), 120)


def test_headers_are_for_urls(demo: Path) -> None:
    result = run("catalog", "import", str(demo), "--header", "Authorization=env:NOTHING")

    assert (result.exit_code, "--header is for the URL" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    "content", ['{"servers": "x"}', '{"servers": null}', "null", '{"data": {"servers": 7}}']
)
def test_what_only_looks_like_a_list_of_servers_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "odd.json"
    file.write_text(content)

    result = run("catalog", "import", str(file))

    assert (result.exit_code, "no list of servers" in result.stderr) == (1, True)


def test_entries_that_cannot_be_read_are_named_and_fail_the_import(tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text(json.dumps({"servers": [{"server": {"name": "io.example/bad"}}]}))

    result = run("catalog", "import", str(file))

    assert result.exit_code == 1
    assert result.stdout == "1 broken\n"
    assert "servers[0]: it has neither a remote" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["show", "nowhere"], 3, "there is no server 'nowhere' in the catalog"),
        (["show", "f" * 24], 3, f"there is no server '{'f' * 24}' in the catalog"),
        (["register", "nowhere", "--owner", "alice"], 3, "in the catalog"),
        (["remove", "nowhere", "--yes"], 3, "in the catalog"),
        (["match", "nowhere"], 3, "there is no server 'nowhere'"),
        (["import", "nowhere.json"], 1, "nowhere.json cannot be read"),
        (["import", "http://10.0.0.1/servers"], 1, "10.0.0.1"),
        (["list", "--kind", "odd"], 1, "--kind: 'odd' is none of remote, container"),
    ],
)
def test_what_is_not_there_is_a_line(arguments: list[str], code: int, told: str) -> None:
    result = run("catalog", *arguments)

    assert (result.exit_code, told in result.stderr) == (code, True)
    assert result.stderr.count("\n") == 1


def test_what_is_no_list_of_servers_stores_nothing(database_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"hello": 1}')

    result = run("catalog", "import", str(file))

    client: MongoClient[dict[str, Any]] = MongoClient(database_uri)
    with client:
        sources = list(client.get_default_database()["catalog_sources"].find({}))
    assert (result.exit_code, sources) == (1, [])
    assert "is no list of servers" in result.stderr
