"""The commands about tools, against a local registry that serves, and one that does not."""

import json
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

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
    titles = ["Tool", "Served", "Review", "Change", "State", "Version", "Id"]
    assert header.split() == titles
    assert {row.split()[0] for row in rows} == {"demo/add", "demo/count", "demo/echo", "demo/now"}
    assert (shown["name"], shown["owner_name"]) == ("echo", "demo")


def test_the_schemas_of_a_tool_can_be_read(local: tuple[Path, RunningRegistry]) -> None:
    shown = json.loads(run(local, "tools", "show", "demo__echo", "--json").stdout)

    printed = run(local, "tools", "show", "demo__echo").stdout

    _, _, rest = printed.partition("\ninput_schema:\n")
    schema, end = json.JSONDecoder().raw_decode(rest)
    assert schema == shown["input_schema"]
    assert rest[:end].splitlines()[1].startswith("  ")


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


def test_a_call_of_a_tool_that_is_confirmed_is_confirmed_by_an_option(
    local: tuple[Path, RunningRegistry],
) -> None:
    export = json.loads(run(local, "export").stdout)
    (demo,) = (one for one in export["servers"] if one["serverName"] == "demo")
    count = next(one for one in demo["tools"] if one["name"] == "count")
    count["tool_metadata"] = {"confirm": "always"}
    file = local[0] / "confirmed.json"
    file.write_text(json.dumps(export))
    run(local, "apply", str(file))
    arguments = ("tools", "call", "demo/count", json.dumps({"to": 1}))

    asked = run(local, *arguments)
    done = run(local, *arguments, "--confirm")

    assert (asked.returncode, done.returncode) == (1, 0)
    assert "mcp-gateway-registry/confirm" in asked.stdout + asked.stderr


def test_a_call_waits_until_it_is_approved_on_the_command_line(
    local: tuple[Path, RunningRegistry],
) -> None:
    export = json.loads(run(local, "export").stdout)
    (demo,) = (one for one in export["servers"] if one["serverName"] == "demo")
    add = next(one for one in demo["tools"] if one["name"] == "add")
    add["tool_metadata"] = {"human_approval_required": True}
    file = local[0] / "approved.json"
    file.write_text(json.dumps(export))
    run(local, "apply", str(file))
    listing = ("approvals", "list", "--state", "pending", "--server", "demo", "--json")

    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(run, local, "tools", "call", "demo/add", '{"a": 1, "b": 2}')
        listed = next(
            found for _ in range(30) if (found := json.loads(run(local, *listing).stdout))
        )
        shown = json.loads(run(local, "approvals", "show", listed[0]["id"], "--json").stdout)
        read = run(local, "approvals", "show", listed[0]["id"]).stdout
        approved = run(local, "approvals", "approve", listed[0]["id"], "--comment", "fine")
        called = calling.result()
    again = run(local, "approvals", "deny", listed[0]["id"])
    unknown = run(local, "approvals", "show", "0" * 24)

    assert (shown["tool"], shown["arguments"]) == ("add", {"a": 1, "b": 2})
    assert '\narguments:\n{\n  "a": 1,\n  "b": 2\n}\n' in read
    assert "approved, 1 of 1 approved" in approved.stdout
    assert (called.returncode, called.stdout.strip()) == (0, "3.0")
    assert (again.returncode, unknown.returncode) == (4, 3)


def test_a_tool_in_quarantine_is_named_as_everywhere(local: tuple[Path, RunningRegistry]) -> None:
    why = ("--reason", "odd", "--json")
    added = json.loads(run(local, "quarantine", "add", "tool", "demo/now", *why).stdout)
    refused = run(local, "tools", "call", "demo/now")
    nobody = run(local, "quarantine", "add", "user", "nobody", *why)
    bad = run(local, "quarantine", "add", "client", "", *why)
    run(local, "quarantine", "lift", added["id"])

    assert (added["kind"], added["name"]) == ("tool", "now of demo")
    assert (refused.returncode, "quarantine" in refused.stdout + refused.stderr) == (1, True)
    assert (nobody.returncode, nobody.stderr) == (3, "registry: there is no user 'nobody'\n")
    assert bad.stderr.startswith("registry: subject: ")


def test_a_call_warns_of_a_token_on_the_command_line_and_says_that_no_registry_serves(
    local: tuple[Path, RunningRegistry],
) -> None:
    nobody = ("--url", "http://127.0.0.1:9")

    result = run(local, "tools", "call", "demo/echo", "--token", "s3cret", *nobody)
    warned, told = result.stderr.splitlines()

    assert result.returncode == 1
    assert warned.startswith(
        "registry: warning: --token: a secret on the command line can be read"
    )
    assert told == (
        "registry: http://127.0.0.1:9/mcp/demo cannot be reached: is the registry running there?"
    )


def test_the_whole_set_up_lies_in_a_file(local: tuple[Path, RunningRegistry]) -> None:
    run(local, "users", "add", "bob@example.org")
    export = json.loads(run(local, "export").stdout)
    (demo,) = (one for one in export["servers"] if one["serverName"] == "demo")
    before = next(one for one in demo["tools"] if one["name"] == "now")
    demo["sharing"]["principals"] += [
        {"type": "user", "name": "bob", "role": "editor"},
        {"type": "group", "name": "ops", "role": "viewer"},
    ]
    before |= {"display_name": "Clock", "tags": ["time"], "tool_metadata": {"read_only": True}}
    policy: dict[str, Any] = {
        "name": "ops only",
        "effect": "deny",
        "target": {"server": "demo", "tools": ["no_*"]},
        "subjects": {"groups": ["ops"]},
    }
    groups = [{"name": "ops", "description": "On call", "members": ["bob@example.org"]}]
    file = local[0] / "setup.json"
    file.write_text(json.dumps({**export, "groups": groups, "policies": [policy]}))

    made = run(local, "apply", str(file))
    again = run(local, "apply", str(file))
    exported = run(local, "export")
    file.write_text(exported.stdout)
    same = run(local, "apply", str(file), "--json")
    demo["sharing"]["principals"] = [
        one for one in demo["sharing"]["principals"] if one["name"] != "bob"
    ]
    groups[0]["members"] = []
    changed = {**export, "groups": groups, "policies": [{**policy, "effect": "allow"}]}
    file.write_text(json.dumps(changed))
    shown = run(local, "apply", str(file), "--dry-run")

    assert made.stdout.splitlines() == [
        "group ops: created",
        "demo: updated",
        "  sharing: group ops: none -> viewer",
        "  sharing: user bob@example.org: none -> editor",
        "  tool now: display_name: None -> 'Clock'",
        "  tool now: tags: None -> ['time']",
        "  tool now: tool_metadata: None -> {'read_only': True}",
        "policy ops only: created",
    ]
    unchanged = ["group ops: unchanged", "demo: unchanged", "policy ops only: unchanged"]
    assert again.stdout.splitlines() == unchanged
    assert [one["outcome"] for one in json.loads(same.stdout)] == ["unchanged"] * 3
    content = json.loads(exported.stdout)
    assert content["groups"] == [
        {"name": "ops", "members": ["bob@example.org"], "description": "On call"}
    ]
    assert content["policies"][0]["target"] == {**policy["target"], "metadata": {}}
    assert content["policies"][0]["subjects"]["groups"] == ["ops"]
    assert shown.stdout.splitlines() == [
        "group ops: would be updated",
        "  - bob@example.org",
        "demo: would be updated",
        "  sharing: user bob@example.org: editor -> none",
        "policy ops only: would be updated",
        "  effect: 'deny' -> 'allow'",
    ]


def test_a_bad_part_of_a_set_up_costs_only_itself(local: tuple[Path, RunningRegistry]) -> None:
    export = json.loads(run(local, "export", "demo").stdout)
    export["servers"][0] |= {
        "sharing": {"principals": [{"type": "user", "name": "nobody", "role": "viewer"}]},
        "tools": [
            {"name": "nothing", "tags": []},
            {"name": "echo", "exposure_state": "gone"},
            {"name": "echo", "description": "Says it again"},
        ],
    }
    export["groups"] = [{"name": "lost", "members": ["nobody"]}, 7]
    export["policies"] = [{"name": "lost", "effect": "deny", "target": {"server": "nowhere"}}]
    file = local[0] / "bad.json"
    file.write_text(json.dumps(export))

    applied = run(local, "apply", str(file), "--json")

    lost, seven, demo, policy = json.loads(applied.stdout)
    assert (applied.returncode, applied.stderr) == (1, "")
    assert [one["message"] for one in (lost, seven, policy)] == [
        "there is no user 'nobody'",
        "group: is no JSON object",
        "there is no server 'nowhere'",
    ]
    assert demo["outcome"] == "failed"
    assert demo["changes"] == ["tool echo: description: None -> 'Says it again'"]
    assert "sharing: there is no user 'nobody'" in demo["message"]
    assert "tool nothing: the server has no such tool" in demo["message"]
    assert "tool echo: exposure_state: " in demo["message"]
