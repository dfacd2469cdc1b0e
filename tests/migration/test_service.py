"""Migration of the two-table layout: nothing is lost, twice is once, and a kill costs nothing."""

import json
from typing import Any

import pytest

from packages.database.client import Database
from registry.auth.identity import UserContext
from registry.migration.service import Migration
from registry.migration.values import (
    Dump,
    Kind,
    OldServer,
    Outcome,
    Report,
    read_rows,
)
from registry.servers.schemas import ServerUpdate
from registry.servers.service import ServerService
from registry.servers.values import ServerStatus
from tests.fakes.discovery import FakeDiscovery
from tests.migration.conftest import ROWS, TOOL_ROWS

pytestmark = pytest.mark.wire


class FakeCatalog:
    """Implements `CatalogEntries`."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def take(self, server: OldServer, *, dry_run: bool) -> Report:
        """Remember it."""
        self.taken.append(server.name)
        outcome = Outcome.WOULD_IMPORT if dry_run else Outcome.IMPORTED
        return Report(server.id, Kind.CATALOG, outcome, server.name)


async def migrated(
    servers: ServerService, dump: Dump, user: UserContext, *, dry_run: bool = False
) -> list[Report]:
    migration = Migration(servers, FakeCatalog())
    return [one async for one in migration.run(dump, user, scope=None, dry_run=dry_run)]


def outcomes(reports: list[Report]) -> list[tuple[str, Outcome]]:
    return [(one.name, one.outcome) for one in reports if one.kind is Kind.SERVER]


async def documents(database: Database) -> dict[str, int]:
    names = (
        "mcpservers",
        "mcp_tools",
        "acl_entries",
        "audit_logs",
        "mcp_server_versions",
        "mcp_tool_versions",
    )
    return {name: await database.db[name].count_documents({}) for name in names}


async def test_workloads_become_servers_that_are_off_with_all_that_was_known(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    reports = await migrated(servers, read_rows(ROWS, TOOL_ROWS), alice)

    github = await servers.find_by_name("github", alice)
    docs = await servers.find_by_name("Our-Docs", alice)
    assert github is not None
    assert docs is not None
    _, tools = await servers.tools(github.id, alice)
    written: dict[str, Any] = json.loads(TOOL_ROWS[0]["details"])
    written.pop("title")
    assert outcomes(reports) == [("github", Outcome.IMPORTED), ("Our-Docs", Outcome.IMPORTED)]
    assert [json.loads(tool.definition) for tool in tools] == [written]
    image = "ghcr.io/github/github-mcp-server"
    assert github.registry["package"] == {"registry_type": "oci", "identifier": image}
    assert (github.status, github.tags, github.author) == (
        ServerStatus.INACTIVE,
        ("code",),
        alice.user_id,
    )
    assert (docs.config["title"], docs.config["url"], docs.config["type"]) == (
        "Our Docs",
        "https://docs.example.org/sse",
        "sse",
    )
    assert (github.last_connected, discovery.asked) == (None, [])


async def test_a_second_migration_writes_nothing(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    dump = read_rows(ROWS, TOOL_ROWS)
    first = await migrated(servers, dump, alice)
    before = await documents(database)

    again = await migrated(servers, dump, alice)

    assert outcomes(again) == [("github", Outcome.EXISTS), ("Our-Docs", Outcome.EXISTS)]
    assert [one.digest for one in again] == [one.digest for one in first]
    assert await documents(database) == before


async def test_a_dry_run_writes_nothing_and_says_what_would_be(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    before = await documents(database)

    reports = await migrated(servers, read_rows(ROWS, TOOL_ROWS), alice, dry_run=True)

    assert outcomes(reports) == [
        ("github", Outcome.WOULD_IMPORT),
        ("Our-Docs", Outcome.WOULD_IMPORT),
    ]
    assert await documents(database) == before


async def test_what_was_changed_since_is_told_and_left_alone(
    servers: ServerService, alice: UserContext
) -> None:
    dump = read_rows(ROWS, TOOL_ROWS)
    await migrated(servers, dump, alice)
    github = await servers.find_by_name("github", alice)
    assert github is not None
    await servers.update(github.id, ServerUpdate(description="Ours now"), alice)

    again = await migrated(servers, dump, alice)

    kept = await servers.get(github.id, alice)
    assert outcomes(again) == [("github", Outcome.DIFFERS), ("Our-Docs", Outcome.EXISTS)]
    assert kept.config["description"] == "Ours now"


async def test_a_tool_that_cannot_be_stored_is_reported_as_a_loss(
    servers: ServerService, alice: UserContext
) -> None:
    bad = {"id": "t9", "mcpserver_id": "s2", "details": '{"name": "spaced name"}'}

    reports = await migrated(servers, read_rows(ROWS, [*TOOL_ROWS, bad]), alice)

    docs = next(one for one in reports if one.name == "Our-Docs")
    assert (docs.outcome, docs.tools) == (Outcome.FAILED, 1)
    assert "tools that cannot be stored: spaced name" in docs.message


async def test_a_container_without_an_address_is_recorded_with_its_package(
    servers: ServerService, alice: UserContext
) -> None:
    lone = {**ROWS[0], "url": None}

    reports = await migrated(servers, read_rows([lone, ROWS[1]], TOOL_ROWS[:2]), alice)
    again = await migrated(servers, read_rows([lone], TOOL_ROWS[:1]), alice)

    github = await servers.find_by_name("github", alice)
    assert outcomes(reports) == [("github", Outcome.IMPORTED), ("Our-Docs", Outcome.IMPORTED)]
    assert outcomes(again) == [("github", Outcome.EXISTS)]
    assert github is not None
    assert (github.config.get("url"), github.status) == (None, ServerStatus.INACTIVE)


async def test_a_migration_that_was_killed_goes_on_where_it_was(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    whole = read_rows(ROWS, TOOL_ROWS)
    migration = Migration(servers, FakeCatalog())
    running = migration.run(whole, alice, scope=None, dry_run=False)
    async for report in running:
        if report.kind is Kind.SERVER:
            break
    await running.aclose()  # type: ignore[attr-defined]  # a generator
    stored = (await documents(database))["mcpservers"]

    again = await migrated(servers, whole, alice)

    assert stored == 1
    assert outcomes(again) == [("github", Outcome.EXISTS), ("Our-Docs", Outcome.IMPORTED)]
