"""Import of server files: each on its own, once."""

import json
from pathlib import Path
from typing import Any

import pytest

from packages.database.client import Database
from registry.auth.identity import ALL_SCOPES, Role, UserContext
from registry.servers.files.forms import described
from registry.servers.files.seeding import (
    ImportOutcome,
    ImportReport,
    import_servers,
    parse,
    read_files,
)
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService
from tests.fakes.discovery import FakeDiscovery

pytestmark = pytest.mark.wire

AUTHOR = "d" * 24
IMPORTER = UserContext(AUTHOR, "importer", Role.ADMIN, ALL_SCOPES)
URL = "http://127.0.0.1:9999/mcp"
CREATE = {"serverName": "weather", "url": URL, "tags": ["sky"]}
FILE_STORE = {
    "server_name": "Current Time API",
    "description": "Tells the time.",
    "path": "/currenttime/",
    "proxy_pass_url": "http://127.0.0.1:8000/",
    "supported_transports": ["streamable-http"],
    "auth_scheme": "none",
    "tags": ["time"],
    "num_tools": 1,
    "num_stars": 4,
    "is_python": True,
    "license": "MIT",
    "tool_list": [{"name": "now"}],
    "headers": [{"X-Team": "clocks"}],
}


def write(folder: Path, name: str, content: object) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


async def run(servers: ServerService, *paths: Path, dry_run: bool = False) -> list[ImportReport]:
    items = read_files(paths)
    return [item async for item in import_servers(servers, items, IMPORTER, dry_run=dry_run)]


def parsed(content: object) -> ServerCreate:
    (entry,) = described(content)
    return parse(entry)


def outcomes(reports: list[ImportReport]) -> dict[str, ImportOutcome]:
    return {Path(report.source).name: report.outcome for report in reports}


@pytest.mark.requirement("R-320")
@pytest.mark.requirement("R-321")
async def test_files_of_both_forms_are_imported(
    servers: ServerService, root: UserContext, tmp_path: Path
) -> None:
    write(tmp_path, "a.json", CREATE)
    write(tmp_path, "b.json", FILE_STORE)

    reports = await run(servers, tmp_path)

    weather = await servers.find_by_name("weather", root)
    clock = await servers.find_by_name("currenttime", root)
    assert outcomes(reports) == {
        "a.json": ImportOutcome.IMPORTED,
        "b.json": ImportOutcome.IMPORTED,
    }
    assert weather is not None
    assert (weather.author, weather.scope, weather.tags) == (AUTHOR, "shared_app", ("sky",))
    assert clock is not None
    assert clock.config["title"] == "Current Time API"
    assert clock.config["url"] == "http://127.0.0.1:8000/mcp"
    assert clock.config["headers"] == {"X-Team": "clocks"}


@pytest.mark.requirement("R-020")
@pytest.mark.requirement("R-320")
@pytest.mark.requirement("E-21")
async def test_a_second_run_imports_nothing_and_overwrites_nothing(
    servers: ServerService, database: Database, tmp_path: Path
) -> None:
    file = write(tmp_path, "a.json", CREATE)
    await run(servers, file)
    before = await database.collection("mcpservers").find_one({})
    write(tmp_path, "a.json", {**CREATE, "url": "http://127.0.0.1:9999/other"})

    reports = await run(servers, file)

    assert reports == [
        ImportReport(str(file), ImportOutcome.EXISTS, "a server named weather already exists")
    ]
    assert await database.collection("mcpservers").find_one({}) == before


@pytest.mark.requirement("E-21")
async def test_the_same_server_in_two_files_is_imported_once(
    servers: ServerService, tmp_path: Path
) -> None:
    write(tmp_path, "a.json", CREATE)
    write(tmp_path, "b.json", CREATE)

    reports = await run(servers, tmp_path)

    assert outcomes(reports) == {"a.json": ImportOutcome.IMPORTED, "b.json": ImportOutcome.EXISTS}


@pytest.mark.requirement("E-21")
async def test_a_private_server_of_somebody_else_is_not_overwritten(
    servers: ServerService, alice: UserContext, tmp_path: Path
) -> None:
    body = parsed({**CREATE, "scope": "private_user"})
    await servers.register(body, alice, strict=False)

    reports = await run(servers, write(tmp_path, "a.json", CREATE))

    assert outcomes(reports) == {"a.json": ImportOutcome.EXISTS}


@pytest.mark.requirement("R-320")
async def test_a_bad_file_is_reported_and_stops_nothing(
    servers: ServerService, tmp_path: Path
) -> None:
    write(tmp_path, "a.json", "{")
    write(tmp_path, "b.json", [])
    write(tmp_path, "c.json", {"serverName": "x"})
    write(tmp_path, "d.json", {**CREATE, "tags": "sky"})
    write(tmp_path, "e.json", {**FILE_STORE, "proxy_pass_url": 7})
    write(tmp_path, "f.json", {**CREATE, "type": "stdio"})
    write(tmp_path, "g.json", "[" * 100_000)
    write(tmp_path, "h.json", '"' + "x" * (4 * 1024 * 1024) + '"')
    (tmp_path / "i.json").write_bytes(b"\xff\xfe")
    (tmp_path / "j.json").mkdir()
    write(tmp_path, "z.json", CREATE)

    reports = await run(servers, tmp_path, tmp_path / "absent.json")

    failed = {report.source: report.message for report in reports if report.outcome.is_failure}
    assert [Path(source).name for source in failed] == [
        *(f"{letter}.json" for letter in "abcdefghij"),
        "absent.json",
    ]
    assert all(message and "\n" not in message for message in failed.values())
    assert outcomes(reports)["z.json"] is ImportOutcome.IMPORTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"serverName": "x"}', "url: Field required, unless the server is a package"),
    ],
)
async def test_a_report_says_what_is_wrong(
    servers: ServerService, tmp_path: Path, content: str, message: str
) -> None:
    (report,) = await run(servers, write(tmp_path, "a.json", content))

    assert report.message == message


@pytest.mark.requirement("R-306")
async def test_a_report_does_not_quote_secrets(servers: ServerService, tmp_path: Path) -> None:
    key = {"key": "s3ntinel", "authorization_type": "magic", "source": "admin"}

    (report,) = await run(servers, write(tmp_path, "a.json", {**CREATE, "apiKey": key}))

    assert report.outcome is ImportOutcome.FAILED
    assert "s3ntinel" not in report.message


async def test_a_dry_run_stores_nothing_and_contacts_nobody(
    servers: ServerService, database: Database, discovery: FakeDiscovery, tmp_path: Path
) -> None:
    file = write(tmp_path, "a.json", CREATE)

    reports = await run(servers, file, dry_run=True)

    assert reports == [ImportReport(str(file), ImportOutcome.WOULD_IMPORT, f"weather from {URL}")]
    assert await database.collection("mcpservers").count_documents({}) == 0
    assert discovery.asked == []


async def test_the_file_stores_own_bookkeeping_is_passed_over(
    servers: ServerService, tmp_path: Path
) -> None:
    write(tmp_path, "server_state.json", {"/weather": True})
    write(tmp_path, "service_index_metadata.json", {})
    write(tmp_path, "readme.txt", "hello")
    write(tmp_path, "folder/a.json", CREATE)

    assert await run(servers, tmp_path) == []


@pytest.mark.requirement("R-124")
async def test_a_server_that_cannot_be_reached_is_imported_with_its_error(
    servers: ServerService, root: UserContext, discovery: FakeDiscovery, tmp_path: Path
) -> None:
    def refuse(_: object) -> Any:
        from registry.servers.errors import DiscoveryFailedError

        raise DiscoveryFailedError("Could not connect: connection refused.")

    discovery.answer = refuse

    (report,) = await run(servers, write(tmp_path, "a.json", CREATE))

    assert report.outcome is ImportOutcome.IMPORTED
    assert report.message == "weather is error (Could not connect: connection refused.)"


@pytest.mark.parametrize(
    ("changed", "url", "kind"),
    [
        ({}, "http://127.0.0.1:8000/mcp", "streamable-http"),
        ({"supported_transports": ["sse"]}, "http://127.0.0.1:8000/sse", "sse"),
        (
            {"supported_transports": ["streamable-http", "sse"]},
            "http://127.0.0.1:8000/mcp",
            "streamable-http",
        ),
        (
            {"proxy_pass_url": "http://127.0.0.1:8000/mcp/"},
            "http://127.0.0.1:8000/mcp/",
            "streamable-http",
        ),
        ({"mcp_endpoint": "http://127.0.0.1:1/x"}, "http://127.0.0.1:1/x", "streamable-http"),
    ],
)
def test_an_endpoint_is_found_as_the_file_store_found_it(
    changed: dict[str, Any], url: str, kind: str
) -> None:
    body = parsed({**FILE_STORE, **changed})

    assert (body.url, body.type) == (url, kind)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "currenttime"),
        ({"path": "/"}, "current-time-api"),
        ({"path": "/team/tool_1/"}, "team-tool_1"),
        ({"path": "/" + "a" * 100}, "a" * 64),
    ],
)
def test_a_server_of_the_file_store_is_named_by_its_path(
    changed: dict[str, Any], name: str
) -> None:
    assert parsed({**FILE_STORE, **changed}).server_name == name
