"""Run the official conformance suite against one URL and read what it found."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.npm.programs import MODULES

PACKAGE = MODULES / "@modelcontextprotocol" / "conformance"
REVISIONS = ("2025-11-25", "2026-07-28")
RUN_SECONDS = 300
CLIENT_SECONDS = 60
"""For one scenario; they run side by side."""

EXTENSION = "extension"

NEVER_CLEAN = {
    *("server-stateless", "http-header-validation", "auth/basic-cimd"),
    *("auth/client-credentials-jwt", "auth/enterprise-managed-authorization"),
    *("auth/dpop", "auth/dpop-nonce", "auth/wif-jwt-bearer"),
}
"""Scenarios that fail, or are warned of, somewhere at each run; `test_suite.py` says why."""

TASKS = "tasks-"
"""What the names of the scenarios of an extension begin with that no server here has."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a revision asks of servers.

    Attributes:
        scored: Names of the scenarios that count.
        unscored: The others, with the reason why they do not count.
    """

    scored: tuple[str, ...]
    unscored: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one scenario found.

    Attributes:
        passed: How many checks passed.
        failures: The checks that failed, and why.
        warnings: Those that the suite only warns of.
    """

    passed: int
    failures: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def failed(self) -> set[str]:
        """Return the ids of the checks that failed."""
        return {failure.partition(":")[0] for failure in self.failures}

    @property
    def is_clean(self) -> bool:
        """Whether nothing failed, nothing was warned of, and something was checked."""
        return self.passed > 0 and not self.failures and not self.warnings


def requirements(revision: str) -> Requirements:
    """Return what the suite itself says it asks of servers."""
    return _requirements(revision, "server", "")


def client_requirements(revision: str) -> Requirements:
    """Return what the suite itself says it asks of clients that authorise."""
    return _requirements(revision, "client", "auth/")


def _requirements(revision: str, leg: str, prefix: str) -> Requirements:
    told = yaml.safe_load((PACKAGE / "requirements" / f"{revision}.yaml").read_text())
    unscored = {
        entry["scenario"]: entry["reason"]
        for entry in told["not_scored"]
        if entry["leg"] == leg and entry["scenario"].startswith(prefix)
    }
    scored = tuple(name for name in told[leg] if name.startswith(prefix))
    return Requirements(scored, unscored)


async def run(node: str, url: str, revision: str, folder: Path) -> dict[str, Outcome]:
    """Run all scenarios for servers of a revision and return what each found.

    Args:
        node: The Node to run it with.
        url: The server.
        revision: One of `REVISIONS`.
        folder: Where the suite writes its results; empty.
    """
    target = ("server", "--url", url)
    return await _find(node, target, requirements(revision), revision, folder, "server-")


async def run_client(node: str, command: str, revision: str, folder: Path) -> dict[str, Outcome]:
    """Run all scenarios for clients that authorise, and return what each found.

    Args:
        node: The Node to run it with.
        command: The client, without spaces in its parts; gets the URL of a server.
        revision: One of `REVISIONS`.
        folder: Where the suite writes its results; empty.
    """
    target = ("client", "--timeout", str(CLIENT_SECONDS * 1000), "--command", command)
    return await _find(node, target, client_requirements(revision), revision, folder, "")


async def run_scenario(node: str, url: str, scenario: str, folder: Path) -> Outcome:
    """Run one scenario and return what it found; the rest is as with `run`."""
    output = await _run(node, ("server", "--url", url), folder, "--scenario", scenario)
    return _found(f"server-{scenario}", folder, output)


async def _find(
    node: str,
    target: tuple[str, ...],
    wanted: Requirements,
    revision: str,
    folder: Path,
    prefix: str,
) -> dict[str, Outcome]:
    output = await _run(node, target, folder, "--requirements", revision)
    found = {
        name: _found(prefix + name, folder, output) for name in (*wanted.scored, *wanted.unscored)
    }
    for name, outcome in found.items():
        is_never_clean = name in NEVER_CLEAN or name.startswith(TASKS)
        if (outcome.failures or outcome.warnings) and not is_never_clean:
            # On a busy machine what it expects within a moment comes late: once more, alone.
            options = ("--scenario", name, "--spec-version", revision, "--force")
            output = await _run(node, target, folder / "again", *options)
            found[name] = _found(prefix + name, folder / "again", output)
    return found


async def _run(node: str, target: tuple[str, ...], folder: Path, *options: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(node, str(PACKAGE / "dist" / "index.js"), *target),
        *(*options, "--output-dir", str(folder)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode()


def _found(name: str, folder: Path, output: str) -> Outcome:
    # The suite adds the time to the name; scenarios' names may begin alike.
    files = list(folder.glob(f"{name}-20[0-9][0-9]-*/checks.json"))
    assert files, f"{name} was not run: {output[-2000:]}"
    return _outcome(json.loads(files[0].read_text()))


def _outcome(checks: list[dict[str, str]]) -> Outcome:
    def told(status: str) -> tuple[str, ...]:
        return tuple(
            f"{check['id']}: {check.get('errorMessage', '')}"
            for check in checks
            if check["status"] == status
        )

    return Outcome(len(told("SUCCESS")), told("FAILURE"), told("WARNING"))
