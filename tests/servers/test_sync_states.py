"""What is written of a reading that finds nothing new, and where."""

from typing import Any

import pytest
from bson import ObjectId

from packages.database.client import Database
from registry.auth.identity import UserContext
from registry.core.paging import PageRequest
from registry.servers.errors import DiscoveryFailedError
from registry.servers.schemas import ServerCreate, ServerUpdate
from registry.servers.service import ServerService
from registry.servers.store import ServerRepositories
from registry.servers.values import ConnectionSpec, Discovered, ServerFilter, ServerRecord
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


async def test_lists_tell_the_same_time_of_the_last_connection_as_the_server_itself(
    servers: ServerService, repositories: ServerRepositories, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    refreshed = (await servers.refresh(server.id, alice)).server

    page = await servers.list_page(alice, ServerFilter(), PageRequest(1, 20))
    alone = await servers.get(server.id, alice)
    unchecked = await repositories.servers.get_unchecked(server.id)

    assert unchecked is not None
    assert [item.last_connected for item in page.items] == [refreshed.last_connected]
    assert alone.last_connected == unchecked.last_connected == refreshed.last_connected
