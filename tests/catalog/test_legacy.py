"""Entries of the older layout: nothing is lost, and what is there is left alone."""

import json
from typing import Any

import pytest

from registry.auth.identity import ALL_SCOPES, OPERATOR, Role, UserContext
from registry.catalog.legacy import LegacyEntries
from registry.catalog.repository import CatalogRepository
from registry.migration.values import OldServer, Outcome, Report, read_rows
from tests.fakes.rest import Rest
from tests.migration.conftest import ROWS, TOOL_ROWS

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
GITHUB, DOCS, TIME = read_rows(ROWS, TOOL_ROWS).servers


async def taken(rest: Rest, *servers: OldServer, dry_run: bool = False) -> list[Report]:
    catalog = CatalogRepository(rest.parts.database)
    entries = LegacyEntries(catalog, rest.parts.catalog, OPERATOR)
    return [await entries.take(server, dry_run=dry_run) for server in servers]


async def stored(rest: Rest) -> list[dict[str, Any]]:
    names = ("mcpservers_registry", "tools_registry", "catalog_versions")
    rows = [await rest.parts.database.collection(one).find({}).to_list() for one in names]
    return [dict(row) for some in rows for row in some]


@pytest.mark.requirement("R-205")
async def test_entries_are_stored_with_whole_tools_and_a_second_run_writes_nothing(
    rest: Rest,
) -> None:
    tried = await taken(rest, GITHUB, DOCS, TIME, dry_run=True)
    nothing = await stored(rest)
    first = await taken(rest, GITHUB, DOCS, TIME)
    before = await stored(rest)
    second = await taken(rest, GITHUB, DOCS, TIME)

    tools = await rest.parts.database.collection("tools_registry").find({}).to_list()
    written = json.loads(TOOL_ROWS[0]["details"])
    written.pop("title")
    kept = next(json.loads(one["definition"]) for one in tools if one["name"] == "create_issue")
    assert ({one.outcome for one in tried}, nothing) == ({Outcome.WOULD_IMPORT}, [])
    assert {one.outcome for one in first} == {Outcome.IMPORTED}
    assert {one.outcome for one in second} == {Outcome.EXISTS}
    assert [one.digest for one in second] == [one.digest for one in first]
    assert (await stored(rest), kept) == (before, written)


async def test_what_is_there_with_other_content_is_told_and_left_alone(rest: Rest) -> None:
    await taken(rest, GITHUB)
    (entry,) = (await rest.ask(ROOT, "GET", "/catalog/servers")).json()["servers"]
    path = f"/catalog/servers/{entry['id']}"
    await rest.ask(ROOT, "PATCH", path, json={"description": "Ours now"})

    (changed,) = await taken(rest, GITHUB)
    await rest.ask(ROOT, "PATCH", path, json={"name": "renamed"})
    (renamed,) = await taken(rest, GITHUB)

    assert (changed.outcome, renamed.outcome) == (Outcome.DIFFERS, Outcome.DIFFERS)
    assert "under the name renamed" in renamed.message


async def test_what_cannot_be_an_entry_fails_alone(rest: Rest) -> None:
    bad = read_rows([{**ROWS[1], "package": None, "url": "mailto:a@b.example"}], []).servers

    reports = await taken(rest, *bad, TIME)

    assert [one.outcome for one in reports] == [Outcome.FAILED, Outcome.IMPORTED]


async def test_a_secret_in_an_address_is_neither_stored_nor_told(rest: Rest) -> None:
    url = "https://me:s3cret@a.example/mcp?api_key=s3cret"
    rows = read_rows([{**ROWS[1], "package": None, "url": url}], []).servers

    (report,) = await taken(rest, *rows)

    assert report.outcome is Outcome.FAILED
    assert "s3cret" not in str(report)
    assert await stored(rest) == []


async def test_a_name_of_another_form_is_kept(rest: Rest) -> None:
    rows = read_rows([{**ROWS[1], "name": "My docs!"}], []).servers

    (report,) = await taken(rest, *rows)

    (entry,) = (await rest.ask(ROOT, "GET", "/catalog/servers")).json()["servers"]
    assert (report.outcome, entry["name"]) == (Outcome.IMPORTED, "My docs!")
