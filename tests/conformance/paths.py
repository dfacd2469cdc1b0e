"""The ways on which the suite meets the everything server."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.conformance.suite import REVISIONS, Outcome, run, run_scenario
from tests.fakes.everything.serving import serving_everything
from tests.fakes.registry_process import registry_in_front_of

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


@dataclass(frozen=True, slots=True)
class Findings:
    """What the suite found; paths not served are absent.

    Attributes:
        by_revision: By revision, path and scenario, of the server that lists all tools.
        plain: By path, of `STATELESS` and the server that does not list all.
    """

    plain: dict[str, Outcome] = field(default_factory=dict)
    by_revision: dict[str, dict[str, dict[str, Outcome]]] = field(default_factory=dict)

    def add(self, path: str, found: dict[str, dict[str, Outcome]]) -> None:
        """Add what was found on one path, by revision."""
        for revision, outcomes in found.items():
            self.by_revision.setdefault(revision, {})[path] = outcomes


async def find_all(
    node: str, database_uri: str, key_files: tuple[Path, Path], folder: Path
) -> Findings:
    """Run the suite for every revision on every path that is served."""
    findings = Findings()
    async with (
        serving_everything() as everything,
        serving_everything(unlisted=UNLISTED) as plain,
        registry_in_front_of(SLUG, everything.url, database_uri, key_files, folder) as registry,
    ):
        gateway = registry.url
        urls = {DIRECT: everything.url, ONE_SERVER: f"{gateway}/mcp/{SLUG}"}
        if await _is_served(f"{gateway}/mcp"):
            urls[COMBINED] = f"{gateway}/mcp"
        for number, (path, url) in enumerate(urls.items()):
            findings.add(path, await _find(node, url, folder / f"found-{number}"))
        await registry.register(PLAIN, plain.url)
        registry.give_names_back_of(PLAIN)
        urls |= {DIRECT: plain.url, ONE_SERVER: f"{gateway}/mcp/{PLAIN}"}
        for number, (path, url) in enumerate(urls.items()):
            found = folder / f"plain-{number}"
            findings.plain[path] = await run_scenario(node, url, STATELESS, found)
    return findings


async def _find(node: str, url: str, folder: Path) -> dict[str, dict[str, Outcome]]:
    # The revisions share nothing, and much of a run is waiting.
    async with asyncio.TaskGroup() as tasks:
        running = {
            revision: tasks.create_task(run(node, url, revision, folder / revision))
            for revision in REVISIONS
        }
    return {revision: task.result() for revision, task in running.items()}


async def _is_served(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        answer = await client.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
        return answer.status_code not in {404, 405}
