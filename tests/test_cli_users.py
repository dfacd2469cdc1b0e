"""The commands about users and groups."""

import json
from typing import Any

import pytest

from registry.auth.identity import USER_SCOPES, Role
from tests.kit.command_line import run
from tests.test_cli import collected as collected  # noqa: PLC0414 - a fixture
from tests.test_cli import environment as environment  # noqa: PLC0414 - a fixture
from tests.test_cli import restored_logging as restored_logging  # noqa: PLC0414 - a fixture
from tests.test_cli import verifier

pytestmark = [
    pytest.mark.wire,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def our_directory(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER_DIRECTORY", "registry")


def add(email: str, *arguments: str) -> dict[str, Any]:
    result = run("users", "add", email, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_users_are_added_changed_and_listed() -> None:
    ada = add("ada@example.org", "--name", "Ada L.", "--role", "admin")
    add("ben@example.org")

    changed = run("users", "update", "ben", "--role", "admin", "--username", "benny")
    disabled = run("users", "disable", "ada@example.org")
    listed = run("users", "list")

    assert [changed.exit_code, disabled.exit_code] == [0, 0]
    assert [line.split()[:7] for line in listed.stdout.splitlines()] == [
        ["Address", "Username", "Name", "Role", "Disabled", "Provider", "Id"],
        ["ada@example.org", "ada", "Ada", "L.", "admin", "yes", "registry"],
        ["ben@example.org", "benny", "ben", "admin", "no", "registry", listed.stdout.split()[-1]],
    ]
    enabled = json.loads(run("users", "enable", ada["id"], "--json").stdout)
    assert enabled["disabled"] is False


def test_groups_are_added_and_their_members_changed() -> None:
    add("ada@example.org")
    add("ben@example.org")

    added = run("groups", "add", "People", "--member", "ada", "--description", "All of us.")
    changed = run("groups", "members", "People", "--add", "ben", "--remove", "ada@example.org")
    members = json.loads(run("groups", "members", "People", "--json").stdout)
    listed = run("groups", "list")

    assert (added.exit_code, changed.exit_code) == (0, 0), added.output
    assert [member["username"] for member in members] == ["ben"]
    header, row = listed.stdout.splitlines()
    assert header.split() == ["Name", "Members", "Source", "Description", "Id"]
    assert row.split()[:6] == ["People", "1", "local", "All", "of", "us."]


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["users", "add", "ada@localhost"], 1, "email: must be an address like ada@example.org"),
        (["users", "add", "ada@example.org"], 4, "A user with email 'ada@example.org' already"),
        (["users", "update", "ada"], 1, "say what to change"),
        (["users", "disable", "nobody"], 3, "there is no user 'nobody'"),
        (["users", "disable", "ada"], 4, "The last administrator cannot be removed"),
        (["groups", "members", "Nobodies"], 3, "there is no group 'Nobodies'"),
        (["groups", "add", "People", "--member", "nobody"], 3, "there is no user 'nobody'"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_line(command: list[str], code: int, told: str) -> None:
    add("ada@example.org", "--role", "admin")

    result = run(*command)

    assert result.exit_code == code, result.output
    assert result.stderr.startswith(f"registry: {told}")
    assert result.stderr.count("\n") == 1


def test_a_token_is_issued_by_name(key_files: Any) -> None:
    ada = add("ada@example.org")

    result = run("token", "create", "--user", "ada@example.org")

    verified = verifier(key_files).verify(result.stdout.removesuffix("\n"))
    assert (verified.user_id, verified.username) == (ada["id"], "ada")
    assert (verified.role, verified.scopes) == (Role.USER, USER_SCOPES)


def test_where_another_application_keeps_users_none_is_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("USER_DIRECTORY")

    result = run("users", "add", "ada@example.org")

    assert result.exit_code == 1
    assert "USER_DIRECTORY=shared" in result.stderr
    assert result.stderr.count("\n") == 1
