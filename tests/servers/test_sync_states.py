"""What is written of a reading that finds nothing new, and where."""

from typing import Any

import pytest
from bson import ObjectId

from packages.database.client import Database, Transaction
from registry.auth.identity import UserContext
from registry.servers.errors import DiscoveryFailedError
from registry.servers.reconciliation.store import SETTLED_FOR, ServerRepositories
from registry.servers.schemas import ServerCreate, ServerUpdate
from registry.servers.service import ServerService
from registry.servers.values import ConnectionSpec, Discovered, ServerRecord
from tests.fakes.discovery import FakeDiscovery, RecordedChanges, found, tool

pytestmark = pytest.mark.wire

URL = "http://127.0.0.1:9999/mcp"
SCHEDULED = {"syncMode": "scheduled", "syncIntervalSeconds": 600}


async def registered(servers: ServerService, user: UserContext, **fields: Any) -> ServerRecord:
    request = ServerCreate.model_validate({"serverName": "weather", "url": URL, **fields})
    return await servers.register(request, user, strict=False)


async def document(database: Database, server_id: str) -> dict[str, Any]:
    found = await database.collection("mcpservers").find_one({"_id": ObjectId(server_id)})
    assert found is not None
    return found


async def state(database: Database, server_id: str) -> dict[str, Any] | None:
    return await database.collection("sync_states").find_one({"_id": ObjectId(server_id)})


async def test_a_reading_that_finds_nothing_new_leaves_the_servers_document_alone(
    servers: ServerService, database: Database, changes: RecordedChanges, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    before, known = await document(database, server.id), await state(database, server.id)
    announced = list(changes.changed)

    refreshed = (await servers.refresh(server.id, alice)).server

    after = await state(database, server.id)
    assert await document(database, server.id) == before
    assert known is not None
    assert after is not None
    assert after["last_synced_at"] > known["last_synced_at"]
    assert refreshed.last_connected == after["last_synced_at"]
    assert changes.changed == announced


async def test_a_reading_that_finds_another_tool_writes_both(
    servers: ServerService, database: Database, discovery: FakeDiscovery, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    before = await document(database, server.id)
    discovery.answer = lambda _: found(tool("echo"), tool("new"))

    await servers.refresh(server.id, alice)

    after = await document(database, server.id)
    assert before["config"]["tools"] == "echo"
    assert after["config"]["tools"] == "echo, new"
    assert after["updatedAt"] > before["updatedAt"]


async def test_a_success_after_a_failure_writes_that_the_failure_is_over(
    servers: ServerService, database: Database, discovery: FakeDiscovery, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    answer = discovery.answer

    def away(_: ConnectionSpec) -> Discovered:
        raise DiscoveryFailedError("It is away.")

    discovery.answer = away
    await servers.refresh(server.id, alice)
    failed = await document(database, server.id)
    discovery.answer = answer
    await servers.refresh(server.id, alice)

    known = await state(database, server.id)
    assert failed["errorMessage"] == "It is away."
    assert "errorMessage" not in await document(database, server.id)
    assert known is not None
    assert known["last_sync_status"] == "success"


async def test_a_server_of_the_other_application_gets_its_state_with_its_first_reading(
    servers: ServerService, database: Database, root: UserContext
) -> None:
    server = await registered(servers, root, scope="shared_app")
    await database.collection("sync_states").delete_one({"_id": ObjectId(server.id)})

    await servers.refresh(server.id, root)

    known = await state(database, server.id)
    assert known is not None
    assert (known["source_type"], known["last_sync_status"]) == ("mcp", "success")


async def test_nothing_is_left_of_the_state_of_a_server_that_is_removed(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice)

    await servers.delete(server.id, alice)

    assert await state(database, server.id) is None


async def test_a_reading_of_a_server_that_was_changed_meanwhile_is_made_anew(
    servers: ServerService, discovery: FakeDiscovery, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    before = len(discovery.asked)

    async def changed_meanwhile() -> None:
        discovery.meanwhile = None
        await database.collection("mcpservers").update_one(
            {"_id": ObjectId(server.id)}, {"$currentDate": {"updatedAt": True}}
        )

    discovery.meanwhile = changed_meanwhile
    await servers.refresh(server.id, alice)

    assert len(discovery.asked) - before == 2


async def test_a_schedule_is_kept_in_the_state_and_ends_with_the_mode(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice, **SCHEDULED)
    scheduled = await state(database, server.id)
    stored = await document(database, server.id)

    await servers.update(server.id, ServerUpdate.model_validate({"syncMode": "manual"}), alice)

    manual = await state(database, server.id)
    assert scheduled is not None
    assert manual is not None
    assert "next_sync_at" in scheduled
    assert "next_sync_at" not in manual
    assert not {"next_sync_at", "last_synced_at"} & stored["registry"].keys()


async def test_whoever_reads_one_server_is_told_when_it_was_read(
    servers: ServerService, repositories: ServerRepositories, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    refreshed = (await servers.refresh(server.id, alice)).server

    alone = await servers.get(server.id, alice)
    unchecked = await repositories.servers.get_unchecked(server.id)

    assert unchecked is not None
    assert alone.last_connected == unchecked.last_connected == refreshed.last_connected


async def settled(servers: ServerService, server: ServerRecord, user: UserContext) -> None:
    """Have a server read twice: the first reading finds nothing to do, and says so."""
    await servers.refresh(server.id, user)


async def test_tools_that_agreed_a_moment_ago_are_not_compared_again(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    await settled(servers, server, alice)
    before = await state(database, server.id)
    # Written past the registry, so that comparing would show.
    await database.collection("mcp_tools").delete_many({})

    await servers.refresh(server.id, alice)

    after = await state(database, server.id)
    assert before is not None
    assert after is not None
    assert after["last_synced_at"] > before["last_synced_at"]
    assert after["settled_at"] == before["settled_at"]
    assert await database.collection("mcp_tools").count_documents({}) == 0


async def test_after_an_hour_all_tools_are_compared_whatever_is_known(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    await settled(servers, server, alice)
    await database.collection("mcp_tools").delete_many({})
    known = await state(database, server.id)
    assert known is not None
    await database.collection("sync_states").update_one(
        {}, {"$set": {"settled_at": known["settled_at"] - SETTLED_FOR}}
    )

    await servers.refresh(server.id, alice)

    assert await database.collection("mcp_tools").count_documents({}) == 1


async def test_a_decision_about_a_tool_has_all_of_them_compared_again(
    servers: ServerService,
    repositories: ServerRepositories,
    database: Database,
    alice: UserContext,
) -> None:
    server = await registered(servers, alice)
    await settled(servers, server, alice)

    async def decide(tx: Transaction) -> None:
        batch = database.batch(tx)
        repositories.servers.unsettle(server.id, batch)
        await batch.send()

    await database.transaction(decide)
    await database.collection("mcp_tools").delete_many({})
    await servers.refresh(server.id, alice)

    assert await database.collection("mcp_tools").count_documents({}) == 1


@pytest.mark.parametrize("request_of_change", [{"autoExpose": "none"}, {"onChange": "block"}])
async def test_a_change_of_the_rules_has_all_tools_compared_again(
    servers: ServerService,
    database: Database,
    alice: UserContext,
    request_of_change: dict[str, str],
) -> None:
    server = await registered(servers, alice)
    await settled(servers, server, alice)
    await servers.update(server.id, ServerUpdate.model_validate(request_of_change), alice)
    await database.collection("mcp_tools").delete_many({})

    await servers.refresh(server.id, alice)

    assert await database.collection("mcp_tools").count_documents({}) == 1


async def test_what_the_other_application_did_to_the_projection_is_put_right(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    await settled(servers, server, alice)
    await database.collection("mcpservers").update_one({}, {"$set": {"config.tools": "other"}})

    await servers.refresh(server.id, alice)

    assert (await document(database, server.id))["config"]["tools"] == "echo"


async def test_readings_of_a_server_with_tools_that_wait_are_compared_each_time(
    servers: ServerService, database: Database, discovery: FakeDiscovery, root: UserContext
) -> None:
    server = await registered(servers, root, scope="shared_app")
    discovery.answer = lambda _: found(tool("echo", "Changed."))

    first = await servers.refresh(server.id, root)
    second = await servers.refresh(server.id, root)
    third = await servers.refresh(server.id, root)

    known = await state(database, server.id)
    assert first.held == second.held == third.held == ("echo",)
    assert known is not None
    assert "settled_digest" not in known
