"""The ways on which the suite meets the everything server."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.conformance.authorizing_client import PROGRAM, playing
from tests.conformance.suite import (
    REVISIONS,
    Outcome,
    client_requirements,
    run,
    run_client,
    run_scenario,
)
from tests.fakes.everything.serving import serving_everything
from tests.fakes.oauth.serving import free_port
from tests.fakes.registry_process import registry_in_front_of
from tests.fakes.rest import rest_settings, running
from tests.gateway.serving import serve

SLUG = "everything"
PLAIN = "plain"
UNLISTED = frozenset({"test_missing_capability", "test_streaming_elicitation"})
"""Called by the suite whether or not a server lists them."""

STATELESS = "server-stateless"
"""The scenario that calls them; to all others a server that does not list them is the same."""

DIRECT = "direct"
ONE_SERVER = "/mcp/<server>"
COMBINED = "/mcp"
PATHS = (DIRECT, ONE_SERVER, COMBINED)

NOT_TESTABLE = {
    "sep-2575-http-server-no-independent-requests-on-stream",
    "sep-2575-missing-capability-http-400",
    "sep-2575-server-rejects-undeclared-capability",
}
"""Checks of `server-stateless` that need tools which a server does not list. What was not listed
was not reviewed, and is unknown at the gateway: docs/gateway.md."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the suite found; paths not served are absent.

    Attributes:
        by_revision: By revision, path and scenario, of the server that lists all tools.
        plain: By path, of `STATELESS` and the server that does not list all.
        clients: By revision and scenario, of a client that authorises through the registry.
    """

    plain: dict[str, Outcome] = field(default_factory=dict)
    by_revision: dict[str, dict[str, dict[str, Outcome]]] = field(default_factory=dict)
    clients: dict[str, dict[str, Outcome]] = field(default_factory=dict)

    def add(self, path: str, found: dict[str, dict[str, Outcome]]) -> None:
        """Add what was found on one path, by revision."""
        for revision, outcomes in found.items():
            self.by_revision.setdefault(revision, {})[path] = outcomes


async def find_all(
    node: str, mongo_uri: str, key_files: tuple[Path, Path], folder: Path
) -> Findings:
    """Run the suite for every revision on every path that is served, and as a client.

    Much of it is waiting, so two things are done at a time; with more, what the suite expects
    within a moment would be late.
    """
    findings = Findings()
    base, question, options = mongo_uri.partition("?")
    database_uri = f"{base.rstrip('/')}/conformance{question}{options}"
    behind = _find_behind_gateway(node, findings, database_uri, key_files, folder)

    async def others() -> None:
        await _find_directly(node, findings, folder / "direct")
        findings.clients.update(await _find_clients(node, mongo_uri, key_files, folder))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(behind)
        tasks.create_task(others())
    return findings


async def _find_directly(node: str, findings: Findings, folder: Path) -> None:
    async with serving_everything() as everything, serving_everything(unlisted=UNLISTED) as plain:
        findings.add(DIRECT, await _find(node, everything.url, folder / "found"))
        outcome = await run_scenario(node, plain.url, STATELESS, folder / "plain")
    findings.plain[DIRECT] = outcome


async def _find_behind_gateway(
    node: str, findings: Findings, database_uri: str, key_files: tuple[Path, Path], folder: Path
) -> None:
    async with (
        serving_everything() as everything,
        serving_everything(unlisted=UNLISTED) as plain,
        registry_in_front_of(SLUG, everything.url, database_uri, key_files, folder) as registry,
    ):
        gateway = registry.url
        urls = {ONE_SERVER: f"{gateway}/mcp/{SLUG}"}
        if await _is_served(f"{gateway}/mcp"):
            urls[COMBINED] = f"{gateway}/mcp"
        for number, (path, url) in enumerate(urls.items()):
            findings.add(path, await _find(node, url, folder / f"found-{number}"))
        await registry.register(PLAIN, plain.url)
        registry.give_names_back_of(PLAIN)
        urls |= {ONE_SERVER: f"{gateway}/mcp/{PLAIN}"}
        for number, (path, url) in enumerate(urls.items()):
            found = folder / f"plain-{number}"
            outcome = await run_scenario(node, url, STATELESS, found)
            if outcome.failed != NOT_TESTABLE:
                # On a busy machine what it expects within a moment comes late.
                outcome = await run_scenario(node, url, STATELESS, found / "again")
            findings.plain[path] = outcome


async def _find_clients(
    node: str, mongo_uri: str, key_files: tuple[Path, Path], folder: Path
) -> dict[str, dict[str, Outcome]]:
    port = free_port()
    home = folder / "home"
    home.mkdir()
    public_url = f"http://127.0.0.1:{port}"
    settings = rest_settings(mongo_uri, key_files, home, public_url=public_url)

    async def find(revision: str) -> dict[str, Outcome]:
        wanted = client_requirements(revision)
        names = frozenset((*wanted.scored, *wanted.unscored))
        async with playing(rest, gateway, names) as control:
            command = f"{node} {PROGRAM} {control}"
            return await run_client(node, command, revision, folder / f"clients-{revision}")

    async with running(settings) as rest, serve(rest.app, port=port) as gateway:
        found = await asyncio.gather(*map(find, REVISIONS))
    return dict(zip(REVISIONS, found, strict=True))


async def _find(node: str, url: str, folder: Path) -> dict[str, dict[str, Outcome]]:
    # The revisions share nothing, and much of a run is waiting.
    async with asyncio.TaskGroup() as tasks:
        running = {
            revision: tasks.create_task(run(node, url, revision, folder / revision))
            for revision in REVISIONS
        }
    return {revision: task.result() for revision, task in running.items()}


async def _is_served(url: str) -> bool:
    async with httpx.AsyncClient(timeout=30) as client:
        answer = await client.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
        return answer.status_code not in {404, 405}
