"""What stored documents of servers are read as."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Code, ObjectId, encode
from hypothesis import given, strategies
from pydantic import ValidationError
from structlog.testing import capture_logs

from packages.database.client import Database
from packages.database.stored import EARLIEST, LATEST
from registry.core.json import canonical_json
from registry.servers.presenter import present_detail
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.storage.repository import unchanged_since
from registry.servers.values import ServerRecord, SyncMode, WholeServerRecord
from registry.tools.documents import problems_of, served_tool, stored_tool, tool_row
from registry.tools.projection import restore
from tests.fakes.odd_values import BSON_VALUES, ODD_VALUES, decoded

KEY = ObjectId("b" * 24)
SYNC_MODES = "none of manual, scheduled, webhook; it counts as manual"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERVER_FIELDS = (
    *("serverName", "author", "scope", "status", "path", "tags", "numStars", "config", "registry"),
    *("lastConnected", "lastError", "errorMessage", "createdAt", "updatedAt"),
)
CONFIG_FIELDS = (
    *("url", "type", "title", "capabilities", "tools", "toolFunctions", "headers", "apiKey"),
    *("oauth", "customUserVars", "timeout", "requiresOAuth", "oauthMetadata"),
)
TOOL_FIELDS = (
    *("name", "definition", "presented", "input_schema", "registration_state", "exposure_state"),
    *("facets", "tags", "tool_metadata", "pending_hash", "versions", "display_name", "title"),
)


def server(**fields: object) -> ServerRecord:
    return WholeServerRecord.model_validate(decoded(encode({"_id": KEY, **fields})))


@pytest.mark.requirement("E-22")
@given(
    strategies.dictionaries(strategies.sampled_from(SERVER_FIELDS), BSON_VALUES, max_size=5),
    strategies.dictionaries(strategies.sampled_from(CONFIG_FIELDS), BSON_VALUES, max_size=5),
)
def test_every_document_with_an_id_is_a_server_that_can_be_shown(
    fields: dict[str, Any], config: dict[str, Any]
) -> None:
    record = server(**{"config": config, **fields})

    canonical_json(present_detail(record))
    for tool in restore(record.config, record.server_name).tools:
        assert tool.name


@pytest.mark.requirement("E-22")
@given(strategies.dictionaries(strategies.sampled_from(TOOL_FIELDS), BSON_VALUES, max_size=6))
def test_every_row_is_a_tool_that_can_be_decided_about_or_is_not_served(
    fields: dict[str, Any],
) -> None:
    row = decoded(encode({"_id": KEY, "owner_id": KEY, **fields}))

    stored_tool(row)
    tool_row(row, str(KEY))
    problems_of(row)
    served = served_tool(row)
    assert served is None or served.name


@pytest.mark.requirement("R-322")
def test_a_row_with_what_the_first_release_wrote_and_no_more_is_served() -> None:
    row = {
        "_id": KEY,
        "owner_id": KEY,
        "source_type": "mcp",
        "name": "echo",
        "definition": '{"name":"echo","inputSchema":{"type":"object"}}',
        "input_schema": '{"type":"object"}',
        "registration_state": "selected",
        "exposure_state": "active",
        "discovery_hash": "0",
    }

    stored, listed, served = stored_tool(row), tool_row(row, str(KEY)), served_tool(row)

    assert problems_of(row) == []
    assert (stored.served_version, stored.versions, stored.sync_error) == (1, 1, None)
    assert listed is not None
    assert served is not None
    assert (listed.name, listed.is_served, listed.facets) == ("echo", True, ())
    assert (served.name, served.title, served.description) == ("echo", None, None)


@pytest.mark.requirement("R-047")
@pytest.mark.parametrize(
    ("tools", "shown", "number"),
    [
        ("", "", 0),
        (None, "", 0),
        (" , ", "", 0),
        ("one", "one", 1),
        (" one ,two,three ", "one, two, three", 3),
    ],
)
def test_tools_are_counted_by_their_names_and_not_by_what_is_stored(
    tools: str | None, shown: str, number: int
) -> None:
    record = server(config={"tools": tools}, numTools=9, registry={"auto_expose": "all"})

    detail = present_detail(record)

    assert (detail["tools"], detail["numTools"]) == (shown, number)


@pytest.mark.parametrize("name", [name for name in ODD_VALUES if name != "an id"])
def test_a_document_with_another_id_is_no_server(name: str) -> None:
    with pytest.raises(ValidationError):
        ServerRecord.model_validate(decoded(encode({"_id": ODD_VALUES[name]})))


def test_one_tool_that_json_cannot_say_costs_no_other_one() -> None:
    function = {"type": "function", "function": {"parameters": {"type": "object"}}}
    odd = {"type": "function", "function": {"parameters": {"default": float("inf")}}}
    reference = {"properties": {"a": {"$ref": "#/$defs/a", "$id": "a"}}}

    record = server(
        serverName="s",
        config={
            "toolFunctions": {
                "odd_mcp_s": odd,
                "_mcp_s": function,
                "plain_mcp_s": function,
                "linked_mcp_s": {"type": "function", "function": {"parameters": reference}},
                "no_mcp_s": ["array"],
            }
        },
    )
    functions = record.config["toolFunctions"]
    assert isinstance(functions, dict)
    restored = restore(functions, "s")

    assert [tool.name for tool in restored.tools] == ["plain", "linked"]
    assert [tool.name for tool in restored.rejected] == ["no_mcp_s", ""]
    assert record.problems == ("config.toolFunctions.odd_mcp_s holds a number that is not finite",)


@pytest.mark.parametrize(
    ("ours", "mode", "problems"),
    [
        ({}, SyncMode.MANUAL, ()),
        ({"sync_mode": "scheduled"}, SyncMode.SCHEDULED, ()),
        (
            {"sync_mode": "hourly"},
            SyncMode.MANUAL,
            (f"registry.sync_mode is 'hourly', {SYNC_MODES}",),
        ),
        (
            {"sync_mode": ["manual"]},
            SyncMode.MANUAL,
            (f"registry.sync_mode is no text, {SYNC_MODES}",),
        ),
    ],
)
def test_an_impossible_sync_mode_is_told(
    ours: dict[str, Any], mode: SyncMode, problems: tuple[str, ...]
) -> None:
    record = server(registry=ours)

    assert (record.sync_mode, record.problems) == (mode, problems)
    assert present_detail(record).get("documentProblems", []) == list(problems)


@pytest.mark.parametrize(
    "stored",
    [None, "yesterday", 5, [NOW], {"a": 1}, Code("x"), NOW, LATEST, EARLIEST],
    ids=str,
)
async def test_whatever_its_time_of_change_a_server_is_found_unchanged_until_it_is(
    database: Database, stored: object
) -> None:
    servers = database.collection("mcpservers")
    await servers.insert_one({"_id": KEY, "updatedAt": stored})
    read = await servers.find_one({"_id": KEY})
    assert read is not None
    known = ServerRecord.model_validate(read).updated_at

    found = await servers.count_documents({"_id": KEY, **unchanged_since(known)})
    await servers.update_one(
        {"_id": KEY}, {"$set": {"updatedAt": datetime(2027, 1, 1, tzinfo=UTC)}}
    )
    changed = await servers.count_documents({"_id": KEY, **unchanged_since(known)})

    assert (found, changed) == (1, 0)


async def test_documents_that_are_no_servers_are_named_in_the_log(
    database: Database, repositories: ServerRepositories
) -> None:
    servers = database.collection("mcpservers")
    await servers.insert_many(
        [{"_id": key, "serverName": str(key)} for key in (KEY, "a text", Code("x"))]
    )

    with capture_logs() as logs:
        await repositories.servers.warn_of_odd_ids()

    assert sorted(entry["server_id"] for entry in logs) == ["Code('x', None)", "a text"]
    assert await repositories.servers.ids_unchecked() == [str(KEY)]
