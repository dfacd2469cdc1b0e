"""A set-up that lies in a file: written by `registry export`, followed by `registry apply`."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.fakes.command import free_port
from tests.fakes.descriptions import document
from tests.kit.command_line import run
from tests.test_cli import collected as collected  # noqa: PLC0414 - a fixture
from tests.test_cli import environment as environment  # noqa: PLC0414 - a fixture
from tests.test_cli import insert_user, stored_servers
from tests.test_cli import restored_logging as restored_logging  # noqa: PLC0414 - a fixture

pytestmark = [
    pytest.mark.wire,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def administrator(environment: None, database_uri: str) -> None:
    insert_user(database_uri)


@pytest.fixture
def url() -> str:
    """Return an address at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}/mcp"


def done(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def written(folder: Path, *servers: object) -> str:
    file = folder / "servers.json"
    file.write_text(json.dumps({"version": 1, "servers": servers}))
    return str(file)


def outcomes(result: Result) -> list[tuple[str, str]]:
    return [(one["serverName"], one["outcome"]) for one in json.loads(result.stdout)]


@pytest.fixture
def various(url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Store servers with each kind of credentials; return the secrets."""
    monkeypatch.setenv("K1", "first-s3cret")
    monkeypatch.setenv("K2", "second-s3cret")
    done("servers", "add", "bearer", url, "--key", "env:K1", "--title", "A bearer", "--tag", "x")
    done("servers", "add", "users", url, "--user-key", "--scope", "shared_app")
    done(
        "servers",
        "add",
        "headers",
        url,
        "--header",
        "X-Tok=env:K2",
        "--header",
        "Accept-Language=de",
    )
    done("servers", "toggle", "headers", "--off")
    return ["first-s3cret", "second-s3cret"]


def test_what_is_exported_holds_no_secret_and_changes_nothing(
    various: list[str], tmp_path: Path
) -> None:
    exported = done("export")
    (tmp_path / "all.json").write_text(exported)

    again = run("apply", str(tmp_path / "all.json"), "--json")

    content = json.loads(exported)
    assert [secret for secret in various if secret in exported] == []
    assert [server["serverName"] for server in content["servers"]] == [
        "bearer",
        "headers",
        "users",
    ]
    assert content["servers"][0]["apiKey"]["key"] == "${env:BEARER_APIKEY_KEY}"
    assert content["servers"][1]["status"] == "inactive"
    assert {server["owner"] for server in content["servers"]} == {"alice@example.org"}
    assert outcomes(again) == [
        ("bearer", "unchanged"),
        ("headers", "unchanged"),
        ("users", "unchanged"),
    ]


def test_an_export_makes_the_same_servers_elsewhere(
    various: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_uri: str
) -> None:
    exported = done("export")
    (tmp_path / "all.json").write_text(exported)
    for name in ("bearer", "headers", "users"):
        done("servers", "remove", name, "--yes")
    monkeypatch.setenv("BEARER_APIKEY_KEY", "first-s3cret")

    applied = run(
        "apply", str(tmp_path / "all.json"), "--json", "--set", "HEADERS_HEADERS_X_TOK=t"
    )

    assert outcomes(applied) == [
        ("bearer", "created"),
        ("headers", "created"),
        ("users", "created"),
    ]
    assert done("export") == exported
    assert "s3cret" not in json.dumps(stored_servers(database_uri), default=str)


def test_a_change_is_shown_before_it_is_made_and_made_once(
    various: list[str], tmp_path: Path, url: str
) -> None:
    entry = {"serverName": "bearer", "url": url, "title": "Another", "tags": ["x", "y"]}
    file = written(tmp_path, entry)

    shown = run("apply", file, "--dry-run")
    title = json.loads(done("servers", "show", "bearer", "--json"))["title"]
    made = run("apply", file)
    again = run("apply", file)

    changes = "  tags: ['x'] -> ['x', 'y']\n  title: 'A bearer' -> 'Another'\n"
    assert shown.stdout == f"bearer: would be updated\n{changes}"
    assert title == "A bearer"
    assert made.stdout.splitlines()[0].startswith("bearer: updated")
    assert made.stdout.endswith(changes)
    assert again.stdout == "bearer: unchanged\n"


def test_a_secret_that_changed_is_replaced_and_never_shown(
    various: list[str], tmp_path: Path, url: str
) -> None:
    key = {"key": f"${{file:{tmp_path / 'key'}}}"}
    file = written(tmp_path, {"serverName": "bearer", "url": url, "apiKey": key})
    (tmp_path / "key").write_text("first-s3cret\n")

    same = run("apply", file)
    (tmp_path / "key").write_text("third-s3cret\n")
    other = run("apply", file)
    again = run("apply", file)

    assert same.stdout == again.stdout == "bearer: unchanged\n"
    assert other.stdout.splitlines()[1:] == ["  apiKey.key: secret changed"]
    assert "s3cret" not in other.output


def test_a_bad_entry_costs_only_itself(various: list[str], tmp_path: Path, url: str) -> None:
    good = {"serverName": "good", "url": url}
    file = written(
        tmp_path,
        {"serverName": "two words", "url": url},
        7,
        {"serverName": "lacks", "url": url, "apiKey": {"key": "${env:NOWHERE}"}},
        {"serverName": "users", "url": url, "headers": {"X-Tok": "${env:NOWHERE}"}},
        {"serverName": "ours", "url": url, "headers": {"X-Tok": "${env:CREDS_KEY}"}},
        {"serverName": "raw", "url": url, "headers": {"X-Tok": "${HOME}"}},
        {"serverName": "whose", "url": url, "owner": "nobody"},
        good,
        good,
    )

    applied = run("apply", file, "--json")

    reports = json.loads(applied.stdout)
    assert applied.exit_code == 1
    assert [report["outcome"] for report in reports] == [*["failed"] * 7, "created", "failed"]
    messages = [report["message"] for report in reports]
    assert messages[1] == "is no JSON object"
    assert messages[2] == "these have no value: apiKey.key (${env:NOWHERE})"
    assert messages[3] == "these have no value: headers.X-Tok (${env:NOWHERE})"
    assert messages[4] == "these have no value: headers.X-Tok (${env:CREDS_KEY})"
    assert messages[6] == "owner: there is no user 'nobody'"
    assert messages[8] == "is in the file twice"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no list of servers"),
        ('{"servers": []}', "must hold version 1"),
        ('{"version": 1, "servers": [], "policies": []}', "must hold version 1"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "x.json").write_text(content)

    result = run("apply", str(tmp_path / "x.json"))

    assert result.exit_code == 1
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_some_servers_are_exported_to_a_file(various: list[str], tmp_path: Path) -> None:
    file = tmp_path / "some.json"

    result = run("servers", "export", "bearer", "/mcp/users", "--output", str(file))

    content: dict[str, Any] = json.loads(file.read_text())
    assert (result.exit_code, result.stdout) == (0, "")
    assert [server["serverName"] for server in content["servers"]] == ["bearer", "users"]


def test_the_files_of_a_local_description_are_given_with_it(tmp_path: Path, url: str) -> None:
    limit = {"$ref": "parts/limit.json#/limit"}
    secret = {"$ref": "parts/link.json#/secret"}
    paths = {
        "/pets": {"get": {"operationId": "listPets", "parameters": [limit]}},
        "/keys": {"get": {"operationId": "listKeys", "parameters": [secret]}},
    }
    folder = tmp_path / "description"
    (folder / "parts").mkdir(parents=True)
    (folder / "api.json").write_text(document(paths, server=url))
    (folder / "parts" / "limit.json").write_text('{"limit": {"name": "limit", "in": "query"}}')
    (tmp_path / "secret.json").write_text('{"secret": {"name": "secret", "in": "query"}}')
    (folder / "parts" / "link.json").symlink_to(tmp_path / "secret.json")

    tried = run("apis", "try", str(folder / "api.json"), "--json")

    (tool,) = json.loads(tried.stdout)
    assert (tool["name"], [*tool["inputSchema"]["properties"]]) == ("listPets", ["limit"])


def test_a_source_that_is_no_file_is_told_in_words(tmp_path: Path) -> None:
    missing = run("apis", "try", str(tmp_path / "none.json"))
    url = run("apis", "try", f"file://{tmp_path}/none.json")

    assert (missing.exit_code, url.exit_code) == (1, 1)
    assert "No such file or directory; give a URL, or the path of a file" in missing.stderr
    assert "give the path of the file alone" in url.stderr


def test_apis_are_part_of_the_set_up(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K", "api-s3cret")
    (tmp_path / "pets.json").write_text(document())
    options = ["--key", "env:K", "--key-name", "api_key", "--key-in", "query"]
    include = ["--include", "method:get", "--base-url", url]
    done("apis", "add", "pets", str(tmp_path / "pets.json"), *include, *options)
    exported = done("export")
    file = tmp_path / "all.json"
    file.write_text(exported)

    unchanged = run("apply", str(file), "--json")
    (entry,) = json.loads(exported)["apis"]
    # What was decided about a tool that goes would be reported as missing.
    del entry["tools"]
    changed = {**entry, "operations": {"include": [{"id": "listPets"}]}, "title": "Other"}
    file.write_text(json.dumps({**json.loads(exported), "apis": [changed]}))
    narrowed = run("apply", str(file), "--json")
    shown = json.loads(done("apis", "show", "pets", "--json"))
    done("apis", "remove", "pets", "--yes")
    file.write_text(exported)
    missing = run("apply", str(file), "--json")
    again = run("apply", str(file), "--json", "--set", "PETS_APIKEY_KEY=env:K")
    made = json.loads(done("apis", "show", "pets", "--json"))

    assert "api-s3cret" not in exported
    assert entry["document"] == document()
    assert entry["apiKey"]["key"] == "${env:PETS_APIKEY_KEY}"
    assert [(one["api"], one["outcome"]) for one in json.loads(unchanged.stdout)] == [
        ("pets", "unchanged")
    ]
    (report,) = json.loads(narrowed.stdout)
    assert report["message"] == ""
    assert (report["outcome"], len(report["changes"])) == ("updated", 2), report
    assert (shown["tools"], shown["title"]) == ("listPets", "Other")
    assert "apiKey.key (${env:PETS_APIKEY_KEY})" in json.loads(missing.stdout)[0]["message"]
    assert json.loads(again.stdout)[0]["outcome"] == "created", again.stdout
    assert (made["tools"], made["apiKey"]["location"]) == ("listPets, showPet", "query")
