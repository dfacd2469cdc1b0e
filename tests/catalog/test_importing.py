"""Imports of lists that others publish."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from registry.auth.identity import ALL_SCOPES, Role, UserContext
from registry.catalog.errors import ImportUnreadableError
from registry.catalog.formats import BrokenEntry, ReadEntry, entries_in
from tests.fakes.rest import FINISHED, Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
FILES = Path(__file__).parents[1] / "data" / "registries"
REAL = {
    "docker_npm_registry_servers.json": {"added": 100},
    "toolhive_upstream_registry.json": {"added": 12},
    # Seven entries have no name, and two are of one package.
    "official_seed_2025_05_16.json": {"added": 463, "duplicates": 1, "broken": 7},
}


async def imported(rest: Rest, document: Any, **body: Any) -> dict[str, Any]:
    asked = {"source": "test", "document": document, **body}
    answer = await rest.ask(ROOT, "POST", "/catalog/imports", json=asked)
    assert answer.status_code == 202, answer.text
    return await finished(rest, answer.json()["id"])


async def finished(rest: Rest, job_id: str, states: frozenset[str] = FINISHED) -> dict[str, Any]:
    """Wait until an import is in one of some states, and return it."""
    async with asyncio.timeout(60):
        while True:
            job: dict[str, Any] = (
                await rest.ask(ROOT, "GET", f"/catalog/imports/{job_id}")
            ).json()
            if job["state"] in states:
                await rest.follow()
                return job
            await rest.parts.clock.sleep(0.02)


async def revisions(rest: Rest) -> list[Any]:
    names = ("mcpservers_registry", "tools_registry", "catalog_versions")
    return [
        sorted(str(row) for row in await rest.parts.database.collection(name).find({}).to_list())
        for name in names
    ]


@pytest.mark.parametrize("name", REAL)
async def test_counts_agree_with_the_file_and_a_second_import_writes_nothing(
    rest: Rest, name: str
) -> None:
    document = json.loads(gzip.decompress((FILES / f"{name}.gz").read_bytes()))
    expected = REAL[name]

    tried = await imported(rest, document, dryRun=True)
    nothing = await revisions(rest)
    first = await imported(rest, document)
    before = await revisions(rest)
    second = await imported(rest, document)

    left = {one: count for one, count in expected.items() if one != "added"}
    assert (tried["counts"], nothing) == (expected, [[], [], []])
    assert (first["state"], first["counts"]) == ("succeeded", expected)
    assert len(before[0]) == expected["added"]
    assert second["counts"] == {"unchanged": expected["added"], **left}
    assert await revisions(rest) == before


async def test_a_broken_entry_costs_only_itself_and_is_reported_with_its_place(
    rest: Rest,
) -> None:
    good = {"name": "io.example/good", "remotes": [{"url": "https://a.example"}]}
    entries: list[Any] = [{"server": good}, 7, {"server": {"name": "io.example/bad"}}]

    job = await imported(rest, {"servers": entries})

    assert job["counts"] == {"added": 1, "broken": 2}
    assert [one["place"] for one in job["problems"]] == ["servers[1]", "servers[2]"]
    assert job["problems"][0]["reason"] == "it has no name"


async def test_imports_and_what_they_read_are_counted(rest: Rest) -> None:
    entries: list[Any] = [
        {"name": "io.example/good", "remotes": [{"url": "https://a.example"}]},
        7,
    ]
    before = (await rest.client.get("/metrics")).text

    await imported(rest, {"servers": entries}, dryRun=True)
    await imported(rest, {"servers": entries})

    after = (await rest.client.get("/metrics")).text
    names = (
        'catalog_jobs_total{outcome="success",task="import"}',
        'catalog_import_entries_total{outcome="added"}',
        'catalog_import_entries_total{outcome="broken"}',
    )
    assert [value_of(after, name) - value_of(before, name) for name in names] == [2, 1, 1]
    assert value_of(after, 'catalog_servers{kind="remote"}') == 1


def value_of(page: str, name: str) -> float:
    found = [line for line in page.splitlines() if line.startswith(f"{name} ")]
    return float(found[0].split()[-1]) if found else 0.0


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("description", "\ud800", "cannot be stored"),
        ("remotes", [{"url": "https://me:secret@a.example/mcp"}], "a URL with a secret"),
        ("remotes", [{"url": "https://a.example/mcp?api_key=secret"}], "a URL with a secret"),
        ("remotes", [{"url": "https://a.example:99999/mcp"}], "none of http"),
        ("remotes", [{"url": "https://a b.example/mcp"}], "none of http"),
        ("name", "a b", "a name that is not"),
        ("name", "io.ex/../../x", "a name that is not"),
        ("name", "io.ex/..", "a name that is not"),
        ("version", "latest", "a version that is 'latest'"),
    ],
)
async def test_an_odd_entry_is_broken_and_the_next_one_read(
    member: str, value: object, reason: str
) -> None:
    good = {"name": "io.example/one", "version": "1.0.0", "remotes": [{"url": "https://a.b/mcp"}]}
    document = {"servers": [{"server": {**good, member: value}}, {"server": good}]}

    broken, read = entries_in(json.dumps(document).encode()).read()

    assert isinstance(broken, BrokenEntry)
    assert reason in broken.reason
    assert isinstance(read, ReadEntry)


async def test_a_document_is_not_dropped_for_an_import_that_is_open(rest: Rest) -> None:
    # Its address does not answer, so it is tried again for long.
    stuck = {"source": "test", "url": "http://127.0.0.1:9/servers"}
    first = await rest.ask(ROOT, "POST", "/catalog/imports", json=stuck)
    again = await rest.ask(ROOT, "POST", "/catalog/imports", json=stuck)

    other = await rest.ask(
        ROOT, "POST", "/catalog/imports", json={"source": "test", "document": {"servers": []}}
    )

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 409)
    assert again.json()["alreadyOpen"] is True
    assert other.json()["import_id"] == first.json()["id"]


async def test_aliases_of_yaml_do_not_multiply_an_import(rest: Rest) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]

    with pytest.raises(ImportUnreadableError, match="with its aliases"):
        entries_in("\n".join(bomb).encode())


async def test_a_new_version_updates_and_keeps_the_former(rest: Rest) -> None:
    server = {"name": "io.example/one", "version": "1.9.0", "remotes": [{"url": "https://a.b"}]}
    await imported(rest, {"servers": [{"server": server}]})
    newer = {"server": {**server, "version": "1.10.0", "description": "Newer."}}

    job = await imported(rest, {"servers": [newer, {"server": server}]})

    (entry,) = (await rest.ask(ROOT, "GET", "/catalog/servers")).json()["servers"]
    path = f"/catalog/servers/{entry['id']}/versions"
    versions = (await rest.ask(ROOT, "GET", path)).json()["versions"]
    assert job["counts"] == {"updated": 1, "unchanged": 1}
    assert (entry["version"], entry["description"]) == ("1.10.0", "Newer.")
    assert [(one["version"], one["isLatest"]) for one in versions] == [
        ("1.10.0", True),
        ("1.9.0", False),
    ]


async def test_files_of_toolhive_and_docker_are_read(rest: Rest) -> None:
    toolhive = {
        "servers": {"fetch": {"image": "ghcr.io/x/fetch:1", "tools": ["fetch"], "tags": ["web"]}},
        "remote_servers": {"docs": {"url": "https://docs.example/mcp", "transport": "sse"}},
    }
    docker = {"registry": {"time": {"image": "mcp/time", "tools": [{"name": "now"}]}}}

    await imported(rest, toolhive)
    await imported(rest, docker, source="docker")

    listed = (await rest.ask(ROOT, "GET", "/catalog/servers")).json()["servers"]
    assert [(one["name"], one["kind"], one["numTools"], one["source"]) for one in listed] == [
        ("docs", "remote", 0, "test"),
        ("fetch", "container", 1, "test"),
        ("time", "container", 1, "docker"),
    ]


async def test_what_is_no_list_of_servers_is_refused(rest: Rest) -> None:
    body = {"source": "test", "document": {"hello": "world"}}

    answer = await rest.ask(ROOT, "POST", "/catalog/imports", json=body)

    assert answer.status_code == 422
