"""The commands about servers, policies and records, one at a time."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.command import free_port
from tests.kit.command_line import run
from tests.test_cli import ALICE, insert_user, stored_servers
from tests.test_cli import collected as collected  # noqa: PLC0414 - a fixture
from tests.test_cli import environment as environment  # noqa: PLC0414 - a fixture
from tests.test_cli import restored_logging as restored_logging  # noqa: PLC0414 - a fixture

pytestmark = [
    pytest.mark.wire,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture
def weather(environment: None, database_uri: str) -> dict[str, Any]:
    """Return a stored server whose upstream is away."""
    insert_user(database_uri)
    url = f"http://127.0.0.1:{free_port()}/mcp"
    return dict(printed("servers", "add", "weather", url, "--scope", "shared_user"))


def printed(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("by", ["id", "serverName", "path"])
def test_a_server_is_found_by_id_name_and_path(weather: dict[str, Any], by: str) -> None:
    shown = printed("servers", "show", weather[by])

    assert (shown["id"], shown["serverName"]) == (weather["id"], "weather")


def test_a_secret_on_the_command_line_is_warned_of(
    weather: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "s3cret")
    update = ("servers", "update", "weather", "--json")

    shown = run(*update, "--key", "s3cret", "--header", "X-Api-Key=s3cret")
    named = run(*update, "--key", "env:THE_KEY", "--header", "X-Region=eu")

    warned = [line.partition(": a secret on")[0] for line in shown.stderr.splitlines()]
    assert warned == ["registry: warning: --header X-Api-Key", "registry: warning: --key"]
    assert (shown.exit_code, "s3cret" in shown.output, named.stderr) == (0, False, "")


def test_a_server_is_changed(weather: dict[str, Any]) -> None:
    title, tags = ("--title", "The Weather"), ("--tag", "a", "--tag", "b")
    changed = printed("servers", "update", "weather", *title, *tags, "--key", "s3cret")
    closed = printed("servers", "update", "weather", "--default-effect", "deny")
    bad = run("servers", "update", "weather", "--default-effect", "close")
    (exported,) = json.loads(run("export").stdout)["servers"]
    off = printed("servers", "toggle", "weather")
    still_off = printed("servers", "toggle", "weather", "--off")

    assert (changed["title"], changed["tags"]) == ("The Weather", ["a", "b"])
    assert (closed["defaultEffect"], exported["defaultEffect"]) == ("deny", "deny")
    assert (bad.exit_code, "allow" in bad.stderr) == (1, True)
    assert changed["apiKey"] == {
        "key": "***",
        "source": "admin",
        "authorization_type": "bearer",
    }
    assert (off["status"], still_off["status"]) == ("inactive", "inactive")


def test_a_server_that_cannot_be_read_fails_the_refresh(weather: dict[str, Any]) -> None:
    result = run("servers", "refresh", "weather")

    assert result.exit_code == 1
    assert result.stderr.startswith("registry: weather cannot be read: Could not connect to")
    assert result.stderr.count("\n") == 1


def test_a_server_is_removed_when_that_is_meant(
    weather: dict[str, Any], database_uri: str
) -> None:
    asked = run("servers", "remove", "weather")
    kept = len(stored_servers(database_uri))
    removed = run("servers", "remove", "weather", "--yes")

    assert (asked.exit_code, kept) == (1, 1)
    assert (removed.exit_code, removed.stdout) == (0, "weather is removed\n")
    assert stored_servers(database_uri) == []


def test_a_server_is_shared_by_names(weather: dict[str, Any], database_uri: str) -> None:
    insert_user(database_uri, "b" * 24, username="ben", email="ben@example.org", role="USER")

    given = printed("servers", "share", "weather", "--user", "ben=editor", "--role", "USER=viewer")
    taken = printed("servers", "share", "weather", "--remove", "user:ben@example.org")
    listed = run("servers", "share", "weather")

    assert [(one["type"], one["id"], one["role"]) for one in given["principals"]] == [
        ("user", ALICE, "owner"),
        ("user", "b" * 24, "editor"),
        ("role", "USER", "viewer"),
    ]
    assert [one["id"] for one in taken["principals"]] == [ALICE, "USER"]
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["Type", "user", "role"]


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["servers", "show", "nowhere"], 3, "there is no server 'nowhere'"),
        (["servers", "show", "f" * 24], 3, f"there is no server '{'f' * 24}'"),
        (["servers", "update", "weather"], 1, "say what to change"),
        (["servers", "update", "weather", "--scope", "all"], 1, "scope: "),
        (["servers", "list", "--status", "on"], 1, "--status: 'on' is none of active, inactive"),
        (["servers", "share", "weather", "--user", "bob=viewer"], 3, "there is no user 'bob'"),
        (["servers", "share", "weather", "--remove", "bob"], 1, "write --user NAME=viewer"),
        (["tools", "show", "weather"], 1, "'weather' names no tool; write SERVER/TOOL"),
        (["tools", "show", "weather/get"], 3, "weather has no tool 'get'"),
        (["tools", "show", "nowhere__get"], 3, "there is no server 'nowhere'"),
        (["tools", "accept", "f" * 24], 3, "Tool not found"),
        (["tools", "call", "weather/get", "[]"], 1, "the arguments are no JSON object"),
        (["policies", "show", "nothing"], 3, "there is no policy 'nothing'"),
        (["toolsets", "show", "nothing"], 3, "there is no toolset 'nothing'"),
        (["policies", "add", "missing.json"], 1, "missing.json cannot be read"),
        (["limits", "show", "nothing"], 3, "there is no limit 'nothing'"),
        (["limits", "list", "--server", "nowhere"], 3, "there is no server 'nowhere'"),
        (["budgets", "show", "nothing"], 3, "there is no budget 'nothing'"),
        (["budgets", "remove", "f" * 24, "--yes"], 3, "Budget not found"),
        (["audit", "list", "--action", "hack"], 1, "action: "),
        (["audit", "list", "--since", "yesterday"], 1, "since: "),
        (["usage", "--server", "nowhere"], 3, "there is no server 'nowhere'"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_line(
    weather: dict[str, Any], command: list[str], code: int, told: str
) -> None:
    result = run(*command)

    assert result.exit_code == code, result.output
    assert result.stderr.startswith(f"registry: {told}")
    assert result.stderr.count("\n") == 1


def test_policies_are_added_changed_shown_and_removed(
    weather: dict[str, Any], tmp_path: Path
) -> None:
    whole = {
        "name": "no rain",
        "effect": "deny",
        "target": {"owner_id": weather["id"], "tools": ["rain*"]},
        "subjects": {"everyone": True},
    }
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    (tmp_path / "part.json").write_text(json.dumps({"is_enabled": False}))

    added = printed("policies", "add", str(tmp_path / "whole.json"))
    changed = printed("policies", "update", "no rain", str(tmp_path / "part.json"))
    listed = run("policies", "list", "--server", "weather")
    removed = run("policies", "remove", added["id"], "--yes")

    assert (added["name"], added["is_enabled"], changed["is_enabled"]) == ("no rain", True, False)
    assert [line.split()[:4] for line in listed.stdout.splitlines()] == [
        ["Name", "Effect", "Enabled", "Server"],
        ["no", "rain", "deny", "no"],
    ]
    assert removed.exit_code == 0
    assert printed("policies", "list") == []


def test_limits_are_added_changed_shown_and_removed(
    weather: dict[str, Any], tmp_path: Path
) -> None:
    whole = {
        "name": "few",
        "target": {"owner_id": weather["id"], "metadata": {"cost_tier": "high"}},
        "rates": [{"count": 9, "per": "hour"}, {"count": 2, "per": "second"}],
        "per": ["user", "tool"],
    }
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    (tmp_path / "part.json").write_text(json.dumps({"in_flight": 3}))
    (tmp_path / "wrong.json").write_text(json.dumps({"rates": [], "in_flight": None}))

    added = printed("limits", "add", str(tmp_path / "whole.json"))
    wrong = run("limits", "update", "few", str(tmp_path / "wrong.json"))
    changed = printed("limits", "update", "few", str(tmp_path / "part.json"))
    listed = run("limits", "list", "--server", "weather")
    shown = printed("limits", "show", "few")
    (tmp_path / "draft.json").write_text(json.dumps({"limit_id": added["id"]}))
    simulated = printed("access", "simulate", str(tmp_path / "draft.json"))
    told = run("access", "simulate", str(tmp_path / "draft.json"))
    (tmp_path / "whole.json").write_text(json.dumps({"name": "few", "in_flight": 1}))
    other = printed("limits", "add", str(tmp_path / "whole.json"))
    unclear = run("limits", "remove", "few", "--yes")
    run("limits", "remove", other["id"], "--yes")
    removed = run("limits", "remove", added["id"], "--yes")

    assert "more than one limit is called 'few'; give the id of one: " in unclear.stderr
    assert (unclear.exit_code, other["id"] in unclear.stderr) == (1, True)
    assert [rate["per"] for rate in added["rates"]] == ["second", "hour"]
    assert (wrong.exit_code, "give rates, in_flight, or both" in wrong.stderr) == (1, True)
    assert (changed["in_flight"], changed["rates"], shown) == (3, added["rates"], changed)
    assert listed.stdout.splitlines()[1].split()[:5] == ["few", "yes", "2/second,", "9/hour", "3"]
    assert (simulated["kind"], simulated["calls"], simulated["is_complete"]) == ("limit", 0, True)
    assert told.stdout.startswith("0 calls since ")
    assert removed.exit_code == 0
    assert printed("limits", "list") == []


def test_budgets_are_added_changed_shown_and_removed(
    weather: dict[str, Any], tmp_path: Path
) -> None:
    whole = {
        "name": "gpu",
        "amount": 250,
        "subjects": {"roles": ["user"]},
        "billing_tags": ["gpu"],
    }
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    (tmp_path / "part.json").write_text(json.dumps({"amount": 0}))
    (tmp_path / "wrong.json").write_text(json.dumps({"amount": -1}))

    added = printed("budgets", "add", str(tmp_path / "whole.json"))
    wrong = run("budgets", "update", "gpu", str(tmp_path / "wrong.json"))
    changed = printed("budgets", "update", "gpu", str(tmp_path / "part.json"))
    listed = run("budgets", "list")
    shown = printed("budgets", "show", added["id"])
    removed = run("budgets", "remove", "gpu", "--yes")

    assert (added["amount"], added["spent"], weather["id"] in str(added)) == (250, 0, False)
    assert (wrong.exit_code, wrong.stderr.startswith("registry: amount: ")) == (1, True)
    assert (changed["amount"], changed["billing_tags"], shown) == (0, ["gpu"], changed)
    assert listed.stdout.splitlines()[1].split()[:3] == ["gpu", "0.0", "0.0"]
    assert removed.exit_code == 0
    assert printed("budgets", "list") == []


def test_toolsets_are_added_listed_shown_and_removed(
    weather: dict[str, Any], tmp_path: Path
) -> None:
    entry = {"server": "weather", "tool": "rain", "arguments": {"unit": "mm"}}
    whole = {"name": "agent", "title": "For the agent", "entries": [entry]}
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    (tmp_path / "odd.json").write_text(json.dumps({**whole, "entries": [{"server": "weather"}]}))

    added = printed("toolsets", "add", str(tmp_path / "whole.json"))
    odd = run("toolsets", "add", str(tmp_path / "odd.json"))
    shown = printed("toolsets", "show", "agent")
    listed = run("toolsets", "list")
    removed = run("toolsets", "remove", "agent", "--yes")

    assert added["path"] == "/mcp/toolsets/agent"
    assert shown["entries"] == [{**entry, "server": weather["id"]}]
    assert "give one of tool, tag and metadata" in odd.stderr
    assert listed.stdout.splitlines()[1].split()[:5] == ["agent", "For", "the", "agent", "1"]
    assert removed.exit_code == 0
    assert printed("toolsets", "list") == []


def test_what_was_done_is_listed_newest_first(weather: dict[str, Any]) -> None:
    run("servers", "toggle", "weather")

    records = printed("audit", "list", "--type", "server", "--id", weather["id"])
    one = printed("audit", "list", "--limit", "1")
    told = run("audit", "list", "--limit", "1").stderr
    told_all = run("audit", "list", "--limit", "0").stderr
    calls = printed("usage")
    grouped = run("usage", "--by", "caller", "--by", "day,tool")
    unknown = run("usage", "--by", "caller", "--by", "color")

    assert [record["action"] for record in records] == ["update", "create"]
    assert [record["action"] for record in one] == ["update"]
    assert told == "1, and there are more; --limit 0 shows all\n"
    assert told_all.endswith(" in all\n")
    assert calls == []
    assert (grouped.exit_code, grouped.stderr) == (0, "none\n")
    assert unknown.stderr.startswith("registry: group_by: ")


def test_a_configuration_of_a_client_is_imported(
    weather: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "s3cret")
    url = weather["url"]
    content = {
        "mcpServers": {
            "rain": {"url": url, "headers": {"Authorization": "Bearer ${THE_KEY}"}},
            "files": {"command": "npx"},
            "keys": {"url": url, "headers": {"X-Key": "${CREDS_KEY}"}},
            "given": {"url": url, "headers": {"X-Key": "${input:one}"}},
        }
    }
    (tmp_path / "mcp.json").write_text(json.dumps(content))

    imported = run("servers", "import", str(tmp_path / "mcp.json"), "--set", "one=env:THE_KEY")
    rain = printed("servers", "show", "rain")

    assert imported.exit_code == 1
    assert [line.split()[0] for line in imported.stdout.splitlines()] == [
        "imported",
        "skipped",
        "failed",
        "imported",
    ]
    assert "needs CREDS_KEY" in imported.stdout
    assert "s3cret" not in imported.output
    assert (rain["scope"], rain["headers"]) == ("private_user", {"Authorization": "***"})
