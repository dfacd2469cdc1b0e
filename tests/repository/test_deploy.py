"""deploy/ and the commands for backups: they name what there is, and do what the page says."""

import configparser
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.core.metrics import Metrics
from registry.core.settings import Settings
from tests.repository.files import ROOT

OPERATIONS = (ROOT / "docs/operations.md").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
SETTINGS = Settings.model_fields

METRIC_ROW = re.compile(r"^\| `(\w+)` \| ([^|]*) \|", re.MULTILINE)
HEADING = re.compile(r"^(##|###) (.+)$")
OF_PROMETHEUS = {"up", "job", "instance", "le"}
PROMQL = {
    *("sum", "max", "rate", "increase", "topk", "histogram_quantile"),
    *("by", "or", "label_values"),
}

DOCKER = """#!/bin/sh
echo "docker $*" >> "$RECORD"
[ "$2" = exec ] || exit 0
shift 2
[ "$1" = -T ] && shift
shift
exec "$@"
"""
"""Runs what a container would be asked to run, in the environment that is there."""

TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> "$RECORD"
case "$0" in
    *mongodump) echo archive ;;
    *mongorestore) cat >> "$RECORD" ;;
esac
"""


def exposed() -> dict[str, set[str]]:
    """Return the names of all time series with their labels."""
    labels = {
        name: set(re.findall(r"`(\w+)`", row))
        for name, row in METRIC_ROW.findall(OPERATIONS.partition("\n## Metrics\n")[2])
    }
    found: dict[str, set[str]] = {}
    for family in Metrics().registry.collect():
        known = labels.get(family.name, set())
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        for ending in endings.get(family.type, [""]):
            found[family.name + ending] = known
    return found


def expressions() -> Iterator[str]:
    """Return every expression of the rules and the dashboard."""
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


@pytest.mark.parametrize("expression", list(expressions()))
def test_alerts_and_dashboard_ask_for_series_and_labels_that_exist(expression: str) -> None:
    series = exposed()
    unquoted = re.sub(r'"[^"]*"', '""', expression)
    selectors = re.findall(r"(\w+)\{([^}]*)\}", unquoted)
    grouped = re.findall(r"\bby \(([^)]*)\)", unquoted)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby \([^)]*\)", " ", unquoted)
    named = set(re.findall(r"[a-z_]\w*", bare)) - PROMQL - OF_PROMETHEUS
    of_named = {"job", "instance", "le"}.union(*(series.get(name, set()) for name in named))

    assert named <= set(series)
    assert named or "up" in bare
    for metric, matchers in selectors:
        used = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers))
        assert used <= series.get(metric, set()) | {"job", "instance", "le"}
    for labels in grouped:
        assert set(re.findall(r"\w+", labels)) <= of_named
    assert all(expression.count(a) == expression.count(b) for a, b in ("()", "[]", "{}"))


def test_every_alert_says_how_bad_it_is_and_what_it_is_about() -> None:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]

    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert {rule["labels"]["severity"] for rule in rules} == {"critical", "warning"}
    assert all(rule["annotations"]["summary"] for rule in rules)


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def unit() -> dict[str, list[str]]:
    """Return the options of the service, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "deploy/registry.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_can_be_parsed_and_starts_a_command_that_is_installed() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the module documents
    parser.read(ROOT / "deploy/registry.service")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    program, command = parser["Service"]["ExecStart"].split()

    assert parser.sections() == ["Unit", "Service", "Install"]
    assert Path(program).name in scripts
    assert command == "serve"
    assert f"python3 -m venv {Path(program).parents[1]}\n" in OPERATIONS


def test_the_unit_gives_the_keys_as_credentials_and_time_to_drain() -> None:
    options = unit()
    given = [value.partition(":")[0] for value in options["LoadCredential"]]
    drain = sum(SETTINGS[f"drain_{part}_seconds"].default for part in ("delay", "timeout"))

    assert options["Environment"] == [
        f"JWT_{kind}_KEY_FILE=%d/{file}"
        for kind, file in zip(("PRIVATE", "PUBLIC"), given, strict=True)
    ]
    assert {"jwt_private_key_file", "jwt_public_key_file"} <= set(SETTINGS)
    assert int(options["TimeoutStopSec"][0]) > drain
    assert options["KillMode"] == ["mixed"]


def test_the_unit_is_hardened() -> None:
    options = {name: values[0] for name, values in unit().items()}

    assert options["DynamicUser"] == "yes"
    assert options["ProtectSystem"] == "strict"
    assert options["CapabilityBoundingSet"] == ""
    assert {options[name] for name in options if name.startswith("Private")} == {"yes"}
    assert options["NoNewPrivileges"] == options["ProtectHome"] == "yes"
    assert options["SystemCallFilter"] == "@system-service"


def block(name: str) -> str:
    """Return a block of commands of the operations page."""
    found: list[str] = re.findall(
        rf"^```sh {name}\n(.*?)^```$", OPERATIONS, re.MULTILINE | re.DOTALL
    )
    (commands,) = found
    return commands


def run_as_written(name: str, folder: Path, environment: dict[str, str]) -> list[str]:
    """Run a block with programs that record what they are asked, and return their records."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    scripts = {"docker": DOCKER, **dict.fromkeys(("mongodump", "mongorestore", "registry"), TOOL)}
    for program, script in scripts.items():
        (programs / program).write_text(script)
        (programs / program).chmod(0o755)
    record = folder / name
    subprocess.run(
        ["sh", "-eu", "-c", block(name)],  # noqa: S607 - sh is where POSIX says
        cwd=folder,
        env={"PATH": f"{programs}:{os.defpath}", "RECORD": str(record), **environment},
        check=True,
    )
    return record.read_text().splitlines()


def in_mongodb() -> dict[str, str]:
    """Return the environment of the database's container, each variable with a value to know."""
    return {name: f"<{name}>" for name in COMPOSE["services"]["mongodb"]["environment"]}


LOGIN = (
    "--username=<MONGO_INITDB_ROOT_USERNAME> --password=<MONGO_INITDB_ROOT_PASSWORD> "
    "--authenticationDatabase=admin"
)


def test_the_backup_with_compose_works_as_written(tmp_path: Path) -> None:
    records = run_as_written("compose-backup", tmp_path, in_mongodb())

    assert (tmp_path / "registry.archive.gz").read_text() == "archive\n"
    assert [line for line in records if not line.startswith("docker compose exec")] == [
        "docker compose stop registry",
        f"mongodump {LOGIN} --db=<MONGO_INITDB_DATABASE> --archive --gzip",
        "docker compose start registry",
    ]


def test_the_restore_with_compose_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "registry.archive.gz").write_text("archive\n")

    records = run_as_written("compose-restore", tmp_path, in_mongodb())

    assert [line for line in records if not line.startswith("docker compose exec")] == [
        "docker compose up --detach mongodb mongodb-init",
        "docker compose stop registry",
        f"mongorestore {LOGIN} --nsInclude=<MONGO_INITDB_DATABASE>.* --archive --gzip --drop",
        "archive",
        "docker compose up --detach",
        "registry doctor",
    ]


def test_the_commands_name_services_that_exist() -> None:
    commands = block("compose-backup") + block("compose-restore")
    asked = re.findall(
        r"^docker compose (?:exec(?: -T)?|stop|start) (\S+)", commands, re.MULTILINE
    )
    brought_up = re.findall(r"^docker compose up --detach (.+)$", commands, re.MULTILINE)

    assert {*asked, *" ".join(brought_up).split()} == set(COMPOSE["services"])


def test_backup_and_restore_of_a_server_work_as_written(tmp_path: Path) -> None:
    uri = {"MONGO_URI": "mongodb://u:p@host/jarvis?replicaSet=rs0&authSource=admin"}

    dumped = run_as_written("backup", tmp_path, uri)
    restored = run_as_written("restore", tmp_path, uri)

    options = f"--uri={uri['MONGO_URI']} --archive=registry.archive.gz --gzip"
    assert dumped == [f"mongodump {options}"]
    assert restored[0] == f"mongorestore {options} --drop"


def test_the_database_is_told_which_name_to_dump() -> None:
    named = COMPOSE["services"]["mongodb"]["environment"]["MONGO_INITDB_DATABASE"]

    assert named == COMPOSE["services"]["mongodb-init"]["environment"]["MONGO_DATABASE"]


def test_the_table_of_contents_has_every_heading_of_the_page() -> None:
    prose = re.sub(r"^```.*?^```$", "", OPERATIONS, flags=re.MULTILINE | re.DOTALL)
    headings = [match for line in prose.splitlines() if (match := HEADING.match(line))]
    wanted = [
        f"{'  ' if level == '###' else ''}* [{title}](#{anchor(title)})"
        for level, title in (match.groups() for match in headings)
    ]
    listed = [line for line in prose.partition("\n## ")[0].splitlines() if "](#" in line]

    assert listed == wanted


def test_links_within_the_page_lead_somewhere() -> None:
    anchors = {anchor(title) for title in re.findall(r"^#+ (.+)$", OPERATIONS, re.MULTILINE)}

    assert set(re.findall(r"\]\(#([^)]+)\)", OPERATIONS)) <= anchors


def test_the_readme_says_what_to_do_with_servers_that_are_programs() -> None:
    readme = (ROOT / "README.md").read_text()

    assert "(stdio) are not supported" in readme
    assert {"supergateway", "mcp-proxy"} <= set(re.findall(r"\[([\w-]+)\]", readme))


def anchor(title: str) -> str:
    """Return a heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
