"""Servers that were read here and whose rows of tools are gone."""

import json

import pytest
from bson import ObjectId

from packages.database.client import Database
from registry.auth.identity import UserContext
from registry.core.settings import Settings
from registry.operations.doctor import DoctorFinding, examine
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService
from tests.servers.test_leftovers import registered

pytestmark = pytest.mark.wire


async def tools_finding(settings: Settings, *, repair: bool) -> DoctorFinding:
    return next(one for one in await examine(settings, repair=repair) if one.check == "tools")


async def test_the_doctor_names_servers_without_their_tools_and_restores_them_once(
    servers: ServerService, database: Database, settings: Settings, alice: UserContext
) -> None:
    lost, kept = [await registered(servers, name, alice) for name in ("lost", "kept")]
    rows, audit = database.collection("mcp_tools"), database.collection("audit_logs")
    owner = {"owner_id": ObjectId(lost)}
    before = await rows.find_one(owner, {"_id": 0})
    before_kept = await rows.find_one({"owner_id": ObjectId(kept)})
    await rows.delete_many(owner)
    # A server that was never read here has no rows to lose.
    foreign = {"serverName": "theirs", "config": {"tools": "a, b"}, "author": ObjectId()}
    await database.collection("mcpservers").insert_one(foreign)
    recorded = await audit.count_documents({})

    told = [await tools_finding(settings, repair=repair) for repair in (False, True, False)]

    assert [one.good for one in told] == [False, True, True]
    assert told[0].message.endswith(f"`registry doctor --repair`: {lost}")
    assert told[1].message == "1 tools of 1 servers restored"
    after = await rows.find_one(owner, {"_id": 0})
    assert before is not None
    assert after is not None
    # The text of a definition need not be the same; what it says is.
    texts = {"definition", "input_schema", "discovery_hash"}
    kept_as_is = {name for name in before if name not in texts and not name.endswith("_at")}
    assert after.keys() == before.keys()
    assert {name: after[name] for name in kept_as_is} == {
        name: before[name] for name in kept_as_is
    }
    assert json.loads(after["definition"]) == json.loads(before["definition"])
    assert await rows.find_one({"owner_id": ObjectId(kept)}) == before_kept
    assert await rows.count_documents({}) == 2
    assert await audit.count_documents({}) == recorded + 1
    assert [tool.name for tool in (await servers.tools(lost, alice))[1]] == ["echo"]


async def test_tools_that_are_described_nowhere_are_left_to_a_refresh(
    servers: ServerService, database: Database, settings: Settings, alice: UserContext
) -> None:
    request = ServerCreate.model_validate({"serverName": "bare", "url": "http://127.0.0.1:9999"})
    server = await servers.register(request, alice, strict=False)
    await database.collection("mcp_tools").delete_many({})
    await database.collection("mcpservers").update_one(
        {"_id": ObjectId(server.id)}, {"$set": {"config.toolFunctions": {}}}
    )

    found = await tools_finding(settings, repair=True)

    assert not found.good
    assert found.message == f"of 1 servers cannot be restored; refresh them: {server.id}"
