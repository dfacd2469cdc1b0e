"""docs/conformance.md: what the official suite finds, and which clients are tested."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.clients.matrix import MATRIX, GatewayPath, Program, Upstream
from tests.conformance.paths import DIRECT, PATHS, Findings
from tests.conformance.suite import (
    EXTENSION,
    Outcome,
    Requirements,
    client_requirements,
    requirements,
)
from tests.npm.programs import HERE

SUITE = "@modelcontextprotocol/conformance"
PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

HEAD = """\
# Conformance

Written by `make test-conformance`; do not edit.

What the official suite, `{suite}@{version}`, finds:

* `direct`: the suite alone with a server that does everything (`tests/fakes/everything`).
* `/mcp/<server>`: the same server, registered, behind the gateway path of its own.
* `/mcp`: the same server on the combined path, where its tools and prompts have a prefix.

The suite knows which scenarios a revision of the protocol demands; those are scored.
Each cell says whether all checks of the scenario passed.
"""

NAMES = {
    Program.PYTHON: "Python SDK",
    Program.TYPESCRIPT_V1: "TypeScript SDK v1",
    Program.TYPESCRIPT_V2: "TypeScript SDK v2",
    Program.FASTMCP: "FastMCP",
    Program.INSPECTOR: "Inspector's command line",
}

AUTHORIZATION = """\
## Authorization

The suite's scenarios for clients, with the gateway in between: someone registers the suite's
server, calls its tool with the Python SDK's client, and opens the links that come back.

* `auth/basic-cimd` warns because the suite wants the URL of its own document as client id.
* Of the extensions, the registry supports client credentials with a secret.
"""

CLIENTS = """\
## Clients

Real clients do everything through the gateway in `tests/clients`: list, call, progress,
cancellation, prompts, completion, resources, elicitation, sampling, roots, logging.
The columns say which protocol eras the server behind it speaks.
The inspector's command line lists, calls, and reads.
"""


def pinned_version() -> str:
    """Return the version of the suite that is installed."""
    pins = json.loads((HERE / "package.json").read_text())["dependencies"]
    return str(pins[SUITE])


def page(findings: Findings) -> str:
    """Return the text of the page."""
    parts = [HEAD.format(suite=SUITE, version=pinned_version())]
    for revision, by_path in findings.by_revision.items():
        wanted = requirements(revision)
        parts.append(f"## {revision}\n\n{_summary(wanted, by_path)}")
        parts.append("### Scored\n\n" + _table(wanted.scored, by_path))
        direct = by_path[DIRECT]
        unscored = [name for name in wanted.unscored if _is_offered(name, wanted, direct)]
        parts.append("### Not scored\n\n" + _table(unscored, by_path))
        absent = [name for name in wanted.unscored if name not in unscored]
        if absent:
            names = ", ".join(f"`{name}`" for name in absent)
            parts.append(f"The server of the tests does not offer what these need: {names}.\n")
    parts.append(AUTHORIZATION)
    parts += [
        f"### {revision}\n\n{_clients_found(revision, found)}"
        for revision, found in findings.clients.items()
    ]
    parts.append(CLIENTS)
    parts += [f"### `{path}`\n\n{_clients(path)}" for path in MATRIX]
    return "\n".join(parts)


def _clients_found(revision: str, found: Mapping[str, Outcome]) -> str:
    wanted = client_requirements(revision)
    lines = ["| scenario | scored | found |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | yes | {_cell(found[name])} |" for name in wanted.scored]
    lines += [
        f"| `{name}` | no, {why} | {_cell(found[name])} |" for name, why in wanted.unscored.items()
    ]
    return "\n".join(lines) + "\n"


def _clients(path: GatewayPath) -> str:
    lines = [
        "| client | mode | " + " | ".join(f"server: {upstream}" for upstream in Upstream) + " |",
        "| --- | --- |" + " --- |" * len(Upstream),
    ]
    for client, upstreams in MATRIX[path].items():
        cells = ("tested" if upstream in upstreams else "" for upstream in Upstream)
        lines.append(f"| {NAMES[client.program]} | {client.mode} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _summary(wanted: Requirements, by_path: Mapping[str, Mapping[str, Outcome]]) -> str:
    lines = [
        f"* `{path}`: {sum(not found[name].failures for name in wanted.scored)}"
        f" of {len(wanted.scored)} scored scenarios pass.\n"
        for path, found in by_path.items()
    ]
    return "".join(lines)


def _is_offered(name: str, wanted: Requirements, direct: Mapping[str, Outcome]) -> bool:
    # What the server of the tests itself lacks says nothing of the gateway.
    return wanted.unscored[name] != EXTENSION or direct[name].is_clean


def _table(names: Iterable[str], by_path: Mapping[str, Mapping[str, Outcome]]) -> str:
    lines = [
        "| scenario | " + " | ".join(f"`{path}`" for path in PATHS) + " |",
        "| --- |" + " --- |" * len(PATHS),
    ]
    for name in names:
        cells = (_cell(by_path.get(path, {}).get(name)) for path in PATHS)
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not served"
    if outcome.failures:
        return "fails: " + ", ".join(sorted({text.partition(":")[0] for text in outcome.failures}))
    if outcome.warnings:
        return "passes, with a warning"
    return "passes"
