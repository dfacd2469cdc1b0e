"""The `registry` command, one command at a time."""

import gc
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from bson import ObjectId
from jose import jwt
from pymongo import MongoClient

from packages.database.client import ServerVersionError
from registry import __version__
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, Scope, default_scopes
from registry.auth.jwt import TokenVerifier
from registry.auth.keys import load_signing_keys
from registry.core.settings import Settings
from registry.processes.local.home import LocalHome
from scripts.seed_database import main as seed_main
from tests.fakes.command import free_port, run_in_new_interpreter, run_registry
from tests.fakes.fake_mongo import fake_mongo, release
from tests.kit.command_line import run

# A command ends while the driver may still be connecting; the driver leaves such sockets to the
# garbage collector.
pytestmark = [
    pytest.mark.wire,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

ALICE = "a" * 24
ROOT = Path(__file__).parents[1]
COMMANDS = [
    ["serve"],
    ["doctor"],
    ["token", "create"],
    ["token", "list"],
    ["token", "revoke"],
    ["schemas", "check"],
    ["servers", "list"],
    ["servers", "add"],
    ["servers", "import"],
    ["creds", "check"],
    ["creds", "rotate"],
    ["creds", "new-key"],
    ["creds", "remove-old-keys"],
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect those sockets before a test that minds them."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def environment(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    database_uri: str,
    key_files: tuple[Path, Path],
) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONGO_URI", database_uri)
    monkeypatch.setenv("CREDS_KEY", "0f" * 32)
    monkeypatch.setenv("CREDS_IV", "1e" * 16)
    monkeypatch.setenv("JWT_PRIVATE_KEY_FILE", str(key_files[0]))
    monkeypatch.setenv("JWT_PUBLIC_KEY_FILE", str(key_files[1]))
    monkeypatch.setenv("UPSTREAM_ALLOWED_NETWORKS", "127.0.0.0/8")


@pytest.fixture
def dead_url() -> str:
    """Return an address at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}/mcp"


def insert_user(uri: str, user_id: str = ALICE, **fields: object) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with client:
        client.get_default_database()["users"].insert_one(
            {
                "_id": ObjectId(user_id),
                "username": "alice",
                "email": "alice@example.org",
                "role": "ADMIN",
                **fields,
            }
        )


def verifier(key_files: tuple[Path, Path]) -> TokenVerifier:
    return TokenVerifier(
        load_signing_keys(*key_files),
        issuer="mcp-gateway-registry",
        audience="mcp-gateway",
        shared_secret=None,
        leeway_seconds=0,
    )


def stored_servers(uri: str) -> list[dict[str, Any]]:
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with client:
        return list(client.get_default_database()["mcpservers"].find({}))


def stored_user(uri: str, *, role: str) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with client:
        user = {"_id": ObjectId(ALICE), "username": "al", "role": role}
        client.get_default_database()["users"].insert_one(user)


def recorded(uri: str, action: str) -> list[dict[str, Any]]:
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with client:
        return list(client.get_default_database()["audit_logs"].find({"action": action}))


@pytest.mark.parametrize(
    "command", [[], ["token"], ["schemas"], ["servers"], ["creds"], *COMMANDS], ids=str
)
def test_every_command_and_group_has_help(command: list[str]) -> None:
    result = run(*command, "--help")

    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_a_command_starts_and_ends_without_looking_for_garbage(tmp_path: Path) -> None:
    # What is registered first is called last.
    told = (
        "import atexit, gc;"
        "looked = [];"
        "atexit.register(lambda: print('looked', len(looked), 'spared', gc.get_freeze_count()));"
        "look = lambda phase, info: info['generation'] == 2 and looked.append(phase);"
        "gc.callbacks.append(look);"
        "from registry.__main__ import main; main()"
    )

    ended = subprocess.run(
        [sys.executable, "-c", told, "--help"],
        check=True,
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
    )

    *_, looked, _, spared = ended.stdout.split()
    assert int(looked) == 0
    assert int(spared) > 10_000


def test_the_command_is_a_program(tmp_path: Path) -> None:
    ended = run_in_new_interpreter(tmp_path, {}, "--help")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "A registry and gateway for MCP servers." in ended.stdout


def test_a_command_that_is_interrupted_while_it_loads_ends_quietly(tmp_path: Path) -> None:
    interrupted = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'registry.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from registry.__main__ import main; main()"
    )

    ended = subprocess.run(
        [sys.executable, "-c", interrupted], check=False, cwd=tmp_path, capture_output=True
    )

    assert (ended.returncode, ended.stderr) == (130, b"")


@pytest.mark.requirement("R-240")
@pytest.mark.parametrize(
    ("arguments", "role", "scopes"),
    [
        ([], Role.USER, USER_SCOPES),
        (["--role", "admin"], Role.ADMIN, ALL_SCOPES),
        (
            ["--scope", "read:servers", "--scope", "invoke:tools"],
            Role.USER,
            {Scope.READ_SERVERS, Scope.INVOKE_TOOLS},
        ),
        (["--scope", "confirm:tools"], Role.USER, {Scope.CONFIRM_TOOLS}),
        (["--scope", "approve:tools"], Role.USER, {Scope.APPROVE_TOOLS}),
    ],
)
def test_a_created_token_verifies(
    key_files: tuple[Path, Path], arguments: list[str], role: Role, scopes: frozenset[Scope]
) -> None:
    result = run("token", "create", "--user-id", ALICE.upper(), "--username", "al", *arguments)

    verified = verifier(key_files).verify(result.stdout.removesuffix("\n"))
    assert (verified.user_id, verified.username) == (ALICE, "al")
    assert (verified.role, verified.scopes) == (role, scopes)


def test_a_created_token_is_recorded_listed_and_revoked(database_uri: str) -> None:
    created = run("token", "create", "--user-id", ALICE, "--description", "for automation")
    jti = jwt.get_unverified_claims(created.stdout.strip())["jti"]
    listed = run("token", "list", "--json")
    others = run("token", "list", "--user", "b" * 24)
    revoked_once = run("token", "revoke", "--jti", jti)
    table = run("token", "list")

    assert f"no user {ALICE} is stored" in created.stderr
    (record,) = recorded(database_uri, "issue")
    assert (record["username"], record["changes"]["after"]["token_id"]) == ("operator", jti)
    (row,) = json.loads(listed.stdout)
    assert (row["jti"], row["user_id"], row["description"]) == (jti, ALICE, "for automation")
    assert (row["is_renewable"], row["revoked"]) == (False, False)
    assert (others.stdout, others.stderr) == ("", "none\n")
    assert revoked_once.stdout == "Revoked.\n"
    assert "Token expires" in table.stdout
    expires = json.loads(listed.stdout)[0]["access_expires_at"]
    shown = rf"^{jti} +{ALICE} +user +revoked +{expires} +- +for automation"
    assert re.search(shown, table.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--scope", "read:audit"], "read:audit: beyond the role user"),
        (["--hours", "721"], "must not be over 720"),
    ],
)
def test_the_command_issues_no_more_than_the_api(
    database_uri: str, arguments: list[str], told: str
) -> None:
    stored_user(database_uri, role="ADMIN")

    refused = run("token", "create", "--user", "al", *arguments)

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert told in refused.stderr
    assert recorded(database_uri, "issue") == []


def test_tokens_of_a_user_are_listed_and_revoked_by_name(database_uri: str) -> None:
    stored_user(database_uri, role="USER")
    run("token", "create", "--user", "al")

    listed = json.loads(run("token", "list", "--user", "al", "--json").stdout)
    revoked_all = run("token", "revoke", "--user", "al")

    assert [row["user_id"] for row in listed] == [ALICE]
    assert revoked_all.stdout == "Revoked.\n"
    assert revoked(database_uri) == [f"user:{ALICE}"]


def test_a_token_gets_no_role_above_the_stored_one(database_uri: str) -> None:
    stored_user(database_uri, role="USER")

    refused = run("token", "create", "--user-id", ALICE, "--role", "admin")
    allowed = run("token", "create", "--user-id", ALICE)

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "No token with the role admin" in refused.stderr
    assert (allowed.exit_code, allowed.stderr) == (0, "")
    assert len(recorded(database_uri, "issue")) == 1


def test_an_administrator_who_is_stored_as_one_gets_such_a_token(database_uri: str) -> None:
    stored_user(database_uri, role="ADMIN")

    created = run("token", "create", "--user-id", ALICE, "--role", "admin")

    claims = jwt.get_unverified_claims(created.stdout.strip())
    assert (claims["role"], claims["username"]) == ("admin", "al")


def test_no_token_is_made_that_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_URI", f"mongodb://127.0.0.1:{free_port()}/jarvis")
    monkeypatch.setenv("MONGO_TIMEOUT_MS", "200")

    result = run("token", "create", "--user-id", ALICE)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "registry: MONGO_URI: the database cannot be reached\n"


@pytest.mark.parametrize("user_id", ["", "alice", "g" * 24, "a" * 25])
def test_a_token_is_made_only_for_a_user_or_an_id(user_id: str) -> None:
    result = run("token", "create", "--user-id", user_id)

    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"registry: there is no user {user_id!r}\n"


def test_a_command_without_settings_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CREDS_KEY")
    monkeypatch.delenv("CREDS_IV")

    result = run("servers", "list")

    assert result.exit_code == 1
    assert [line.partition(" is")[0] for line in result.stderr.splitlines()] == [
        "registry: CREDS_KEY:",
        "registry: CREDS_IV:",
    ]


@pytest.mark.requirement("R-313")
def test_the_schemas_are_checked() -> None:
    result = run("schemas", "check")

    assert result.exit_code == 0
    assert "The models are generated from" in result.stdout


def test_the_doctor_is_content_with_a_registry_that_ran(database_uri: str) -> None:
    run("token", "revoke", "--jti", "abc")

    result = run("doctor")

    assert result.exit_code == 0, result.output
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        "ok    schemas",
        "ok    keys",
        "ok    workers",
        "ok    embeddings",
        "ok    database",
        "ok    replica set",
        "ok    indexes",
        "ok    documents",
        "ok    credentials",
        "ok    orphaned data",
        "ok    tools",
        "ok    environment",
    ]


def test_the_doctor_fails_when_something_is_wrong(database_uri: str) -> None:
    run("token", "revoke", "--jti", "abc")
    with MongoClient[dict[str, object]](database_uri) as client:
        client.get_default_database()["mcp_tools"].drop_indexes()

    result = run("doctor")

    assert result.exit_code == 1
    assert "FAIL  indexes: missing or with other options: " in result.stdout


def test_a_database_on_which_nothing_was_started_is_no_fault() -> None:
    result = run("doctor")

    assert result.exit_code == 0, result.output
    assert "ok    indexes: none yet: no registry was started on this database" in result.stdout


NEEDED = ("MONGO_URI", "CREDS_KEY", "CREDS_IV", "JWT_PRIVATE_KEY_FILE", "JWT_PUBLIC_KEY_FILE")


def test_before_the_first_start_the_doctor_says_how_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_HOME", str(tmp_path / "new"))
    for name in NEEDED:
        monkeypatch.delenv(name, raising=False)

    result = run("doctor")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("ok    start: nothing was started here yet; `registry serve")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["servers list", "token list", "client-config"])
def test_before_the_first_start_every_command_says_how_to_start(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_HOME", str(tmp_path / "new"))
    for name in NEEDED:
        monkeypatch.delenv(name, raising=False)

    result = run(*command.split())

    assert result.exit_code == 1
    assert result.stderr.startswith("registry: nothing was started here yet; `registry serve")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_half_of_the_settings_is_no_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_HOME", str(tmp_path / "new"))
    for name in NEEDED[2:]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MONGO_URI", raising=False)
    monkeypatch.setenv("CREDS_KEY", "0f" * 32)

    result = run("doctor")

    assert result.exit_code == 1
    assert "MONGO_URI" in result.output


def test_an_added_server_is_listed(dead_url: str, database_uri: str) -> None:
    insert_user(database_uri)

    added = run("servers", "add", "weather", dead_url)
    listed = run("servers", "list")
    as_json = run("servers", "list", "--json")

    assert added.exit_code == 0, added.output
    assert added.stdout.startswith("weather is error: Could not connect to")
    assert added.stdout.endswith("; 0 tools at /mcp/weather\n")
    header, row = listed.stdout.splitlines()
    assert header.split() == ["Name", "Status", "Tools", "Scope", "Path", "URL", "Id"]
    assert row.split()[:6] == ["weather", "error", "0", "private_user", "/mcp/weather", dead_url]
    assert listed.stderr == "1 in all\n"
    (server,) = json.loads(as_json.stdout)
    assert (server["serverName"], server["scope"]) == ("weather", "private_user")
    assert server["author"] == ALICE


def test_a_server_is_added_with_all_that_the_api_takes(
    dead_url: str, database_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    insert_user(database_uri)
    monkeypatch.setenv("WEATHER_KEY", "s3cret")
    (tmp_path / "region").write_text("north\n")

    added = run(
        *("servers", "add", "weather", dead_url, "--json", "--owner", "alice@example.org"),
        *("--title", "The Weather", "--description", "Rain.", "--tag", "a", "--tag", "b"),
        *("--scope", "shared_app", "--path", "/mcp/rain", "--type", "sse"),
        *("--key", "env:WEATHER_KEY", "--key-type", "custom", "--key-header", "X-Key"),
        *("--header", f"X-Region=file:{tmp_path / 'region'}"),
    )

    assert added.exit_code == 0, added.output
    shown = json.loads(added.stdout)
    wanted = {
        "title": "The Weather",
        "description": "Rain.",
        "tags": ["a", "b"],
        "scope": "shared_app",
        "path": "/mcp/rain",
        "type": "sse",
        "apiKey": {
            "key": "***",
            "source": "admin",
            "authorization_type": "custom",
            "custom_header": "X-Key",
        },
        "headers": {"X-Region": "north"},
        "author": ALICE,
    }
    assert {name: shown[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--key", "env:NOT_SET"], "--key: the environment has no NOT_SET"),
        (["--key", "file:missing"], "--key: missing cannot be read (No such file or directory)"),
        (["--key", "k", "--user-key"], "give either --key or --user-key"),
        (["--header", "X-Region"], "--header: 'X-Region' has no value; write NAME=VALUE"),
    ],
)
def test_a_value_that_is_not_given_is_one_line(
    dead_url: str, database_uri: str, arguments: list[str], told: str
) -> None:
    insert_user(database_uri)

    result = run("servers", "add", "weather", dead_url, *arguments)

    assert (result.exit_code, result.stderr) == (1, f"registry: {told}\n")
    assert stored_servers(database_uri) == []


@pytest.mark.parametrize(
    ("users", "arguments", "code", "told"),
    [
        (0, [], 1, "there is no administrator whose it could be"),
        (2, [], 1, "there are several administrators"),
        (1, ["--owner", "nobody"], 3, "there is no user 'nobody'"),
        (2, ["--owner", "alice"], 1, "more than one user is called 'alice'"),
    ],
)
def test_a_server_is_added_for_a_user_that_there_is(
    dead_url: str, database_uri: str, users: int, arguments: list[str], code: int, told: str
) -> None:
    for number in range(users):
        insert_user(database_uri, f"{number}" * 24, email=f"{number}@example.org")

    result = run("servers", "add", "weather", dead_url, *arguments)

    assert result.exit_code == code
    assert result.stderr.startswith(f"registry: {told}")
    assert stored_servers(database_uri) == []


def test_a_server_that_cannot_be_read_is_refused_when_asked_to(
    dead_url: str, database_uri: str
) -> None:
    insert_user(database_uri)

    result = run("servers", "add", "weather", dead_url, "--strict")

    assert result.exit_code == 1
    assert result.stderr.startswith("registry: Could not connect to")
    assert stored_servers(database_uri) == []


def test_commands_that_read_make_nothing(database_uri: str) -> None:
    listed = run("servers", "list")

    client: MongoClient[dict[str, Any]] = MongoClient(database_uri)
    with client:
        made = client.get_default_database().list_collection_names()
    assert (listed.exit_code, listed.stdout, listed.stderr) == (0, "", "none\n")
    assert made == []


SERVING = {
    "mcp",
    "aiohttp",
    "fastapi",
    "uvicorn",
    "registry.gateway.values",
    "registry.processes.serving",
}
CHANGING = {"registry.servers.schemas", "registry.tokens.sessions", "registry.users.service"}
LIBRARIES = {"pymongo", "beanie", "structlog", "cryptography", "pydantic_settings", "uvloop"}


@pytest.mark.parametrize(
    ("line", "barred"),
    [
        ("--help", SERVING | CHANGING | LIBRARIES),
        ("servers list --help", SERVING | CHANGING | LIBRARIES),
        ("COMPLETION", SERVING | CHANGING | LIBRARIES),
        ("--version", SERVING | CHANGING | LIBRARIES),
        ("servers list", SERVING | CHANGING),
        ("tools list", SERVING),
    ],
    ids=["help", "help of a command", "completion", "version", "servers", "tools"],
)
@pytest.mark.usefixtures("key_files", "database_uri")
def test_commands_that_read_load_what_they_need(
    monkeypatch: pytest.MonkeyPatch, line: str, barred: set[str]
) -> None:
    # Each library takes up to half of a second, which every command would take longer.
    told = (
        f"import sys; sys.argv = ['registry', *{line!r}.split()]\n"
        "try: from registry.__main__ import main; main()\n"
        f"finally: print(sorted({barred!r} & set(sys.modules)), file=sys.stderr)"
    )
    if line == "COMPLETION":
        monkeypatch.setenv("_REGISTRY_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "registry ser")
        monkeypatch.setenv("COMP_CWORD", "1")

    ended = subprocess.run(
        [sys.executable, "-c", told], check=False, cwd=ROOT, capture_output=True, text=True
    )

    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (0, "[]")


def test_what_servers_are_called_cannot_command_a_terminal(
    dead_url: str, database_uri: str
) -> None:
    insert_user(database_uri)
    run("servers", "add", "weather", dead_url)
    client: MongoClient[dict[str, Any]] = MongoClient(database_uri)
    with client:
        servers = client.get_default_database()["mcpservers"]
        servers.update_one({}, {"$set": {"serverName": "a\x1b[2J\x9b1mb"}})

    tables, as_json = run("servers", "list"), run("servers", "list", "--json")

    assert tables.stdout.splitlines()[1].startswith("a [2J 1mb  ")
    assert "\x1b" not in as_json.stdout
    assert "\x9b" not in as_json.stdout


def test_the_version_is_told() -> None:
    result = run("--version")

    assert (result.exit_code, result.stdout) == (0, f"{__version__}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(shell: str, tmp_path: Path) -> None:
    environment = {"_REGISTRY_COMPLETE": f"source_{shell}"}

    ended = run_registry(tmp_path, environment)

    assert ended.returncode == 0
    assert "_REGISTRY_COMPLETE" in ended.stdout


def test_a_token_may_carry_scopes_that_only_policies_know(key_files: tuple[Path, Path]) -> None:
    result = run("token", "create", "--user-id", ALICE, "--custom-scope", "finance:read")

    verified = verifier(key_files).verify(result.stdout.strip())
    assert verified.custom_scopes == {"finance:read"}
    assert verified.scopes == default_scopes(Role.USER)


@pytest.mark.parametrize(
    "name", ["", "two words", 'quo"te', "read:tools", "read:catalog", "approve:tools", "ü"]
)
def test_what_is_no_scope_of_ones_own_is_refused(name: str) -> None:
    result = run("token", "create", "--user-id", ALICE, "--custom-scope", name)

    assert result.exit_code == 1
    assert "--custom-scope" in result.output


@pytest.mark.requirement("R-041")
@pytest.mark.parametrize(
    ("arguments", "member"),
    [(["--type", "stdio"], "type"), (["--scope", "everyone"], "scope"), (["--path", "x"], "path")],
)
def test_a_malformed_server_is_one_line(dead_url: str, arguments: list[str], member: str) -> None:
    result = run("servers", "add", "weather", dead_url, *arguments)

    assert result.exit_code == 1
    assert result.stderr.startswith(f"registry: {member}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.requirement("R-320")
def test_files_are_imported_once(tmp_path: Path, dead_url: str, database_uri: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps({"serverName": "weather", "url": dead_url}))
    (folder / "b.json").write_text("{")

    dry = run("servers", "import", "--dry-run", str(folder))
    nothing = stored_servers(database_uri)
    first = run("servers", "import", str(folder))
    second = run("servers", "import", str(folder))

    assert nothing == []
    assert [result.exit_code for result in (dry, first, second)] == [1, 1, 1]
    assert [line.split()[0] for line in dry.stdout.splitlines()] == ["would_import", "failed"]
    assert [line.split()[0] for line in first.stdout.splitlines()] == ["imported", "failed"]
    assert [line.split()[0] for line in second.stdout.splitlines()] == ["exists", "failed"]
    assert len(stored_servers(database_uri)) == 1


@pytest.mark.requirement("R-320")
def test_the_seeding_script_is_the_same_command(
    tmp_path: Path,
    dead_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    database_uri: str,
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"serverName": "weather", "url": dead_url}))
    monkeypatch.setattr("sys.argv", ["seed_database.py", str(file)])

    with pytest.raises(SystemExit) as ended:
        seed_main()

    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"imported  {file}: weather is error (Could not")
    assert [server["serverName"] for server in stored_servers(database_uri)] == ["weather"]


def test_a_database_that_is_away_is_one_line(tmp_path: Path, key_files: tuple[Path, Path]) -> None:
    # A process of its own, since the driver leaves sockets of failed attempts behind.
    environment = {
        "MONGO_URI": "mongodb://127.0.0.1:1/",
        "MONGO_TIMEOUT_MS": "100",
        "CREDS_KEY": "0f" * 32,
        "CREDS_IV": "1e" * 16,
        "JWT_PRIVATE_KEY_FILE": str(key_files[0]),
        "JWT_PUBLIC_KEY_FILE": str(key_files[1]),
    }

    ended = run_registry(tmp_path, environment, "servers", "list")

    assert ended.returncode == 1
    assert ended.stderr == "registry: MONGO_URI: the database cannot be reached\n"


@pytest.mark.parametrize(
    "command", ["servers list", "tools verify", "creds check", "audit verify"]
)
def test_a_database_of_an_older_release_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"buildInfo": lambda _: {"ok": 1, "version": "5.0.31"}}
    with fake_mongo({**release(13), "setName": "rs0"}, answers) as server:
        monkeypatch.setenv("MONGO_URI", server.uri)
        ended = run(*command.split())

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == f"registry: {ServerVersionError('5.0.31')}\n"


def test_adding_a_name_that_is_taken_fails(dead_url: str, database_uri: str) -> None:
    insert_user(database_uri)
    run("servers", "add", "weather", dead_url)

    again = run("servers", "add", "weather", f"{dead_url}/other")

    assert again.exit_code == 4
    assert again.stderr == "registry: A server with serverName 'weather' already exists\n"


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    folder.mkdir()

    imported = run("servers", "import", str(folder))

    assert (imported.exit_code, imported.stderr) == (0, "There is nothing to import.\n")


@pytest.mark.parametrize(
    "command", [["serve"], ["doctor"], ["token", "create", "--user-id", ALICE]]
)
def test_models_that_are_not_generated_are_one_line(tmp_path: Path, command: list[str]) -> None:
    for package in ("packages", "registry"):
        generated = shutil.ignore_patterns("_generated", "__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=generated)

    ended = run_in_new_interpreter(tmp_path, {}, *command)

    assert ended.returncode == 1
    assert "make schemas" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_local_registry_that_is_stopped_is_one_line(tmp_path: Path) -> None:
    home = LocalHome(tmp_path / "home")
    with home.locked():
        home.prepare()
        home.write_mongo_uri("mongodb://registry:x@127.0.0.1:1/jarvis?authSource=admin")
    environment = {"REGISTRY_HOME": str(home.path), "MONGO_TIMEOUT_MS": "100"}

    ended = run_registry(tmp_path, environment, "servers", "list")

    assert ended.returncode == 1
    assert ended.stderr == (
        "registry: the local registry's database does not answer: start it with "
        f"`registry serve --local` and leave that running (REGISTRY_HOME is {home.path})\n"
    )


def revoked(uri: str) -> list[str]:
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with client:
        rows = client.get_default_database()["revoked_tokens"].find({}).sort("_id")
        return [row["_id"] for row in rows]


@pytest.mark.requirement("R-267")
def test_tokens_are_revoked(database_uri: str) -> None:
    results = [
        run("token", "revoke", "--jti", "abc", "--unrecorded"),
        run("token", "revoke", "--jti", "abc"),
        run("token", "revoke", "--user-id", ALICE),
    ]

    assert [result.exit_code for result in results] == [0, 0, 0]
    assert [result.stdout for result in results] == [
        "Revoked.\n",
        "It was revoked before.\n",
        "Revoked.\n",
    ]
    assert revoked(database_uri) == ["token:abc", f"user:{ALICE}"]


def test_revoking_a_token_that_is_not_on_record_says_so(database_uri: str) -> None:
    result = run("token", "revoke", "--jti", "abc")

    assert (result.exit_code, result.stdout) == (3, "")
    assert "no issued token with the jti 'abc' is on record" in result.stderr
    assert revoked(database_uri) == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 1, "either --jti or --user"),
        (["--jti", "a", "--user-id", ALICE], 1, "either --jti or --user"),
        (["--user-id", "alice"], 3, "there is no user 'alice'"),
        (["--jti", ""], 1, "jti: "),
    ],
)
def test_a_revocation_names_one_thing(arguments: list[str], code: int, told: str) -> None:
    result = run("token", "revoke", *arguments)

    assert result.exit_code == code
    assert told in result.stderr
